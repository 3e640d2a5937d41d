"""The spool: what recording a call costs the gateway, and how fast the ingester carries spans into the lake.

    python benchmarks/spool.py [--spans 20000]

prints JSON. A span of a gateway call with about 3 kB of content is encoded and appended; CPU time is this process's,
the best of three rounds; the latency of `append` alone is by the wall clock, every call counted. Ingestion is the whole
way from the segment files into the lake, in batches of 1,000.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import msgspec

import spans as generated
from detent.kernel.clock import SystemClock
from detent.kernel.telemetry import Span
from detent.store.lake import open_lake
from detent.traces.ingest import Ingester
from detent.traces.otlp import PROTOBUF, read_otlp
from detent.traces.spool import Spool, encode_span

BEGIN = 1_767_225_600 * generated.SECOND
ROUNDS = 3


def main() -> None:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spans", type=int, default=20_000)
    count = parser.parse_args().spans
    calls = [
        msgspec.structs.replace(span, attributes={"gen_ai.request.temperature": 0.2})
        for request, _ in generated.requests(count, begin=BEGIN)
        for span in read_otlp(request, PROTOBUF, project="bench").batch.spans
    ]
    with tempfile.TemporaryDirectory(prefix="detent-spool-") as temporary:
        folder = Path(temporary)
        result = {"spans": count, "record_bytes": round(sum(len(encode_span(span)) for span in calls) / count)}
        rounds = [write(folder / f"spool{number}", calls) for number in range(ROUNDS)]
        result["write"] = {name: min(measured[name] for measured in rounds) for name in rounds[0]}
        for number in range(1, ROUNDS):
            shutil.rmtree(folder / f"spool{number}")
        result["ingest"] = ingest(folder / "spool0", folder / "lake", count)
        print(json.dumps(result, indent=2))


def write(folder: Path, calls: list[Span]) -> dict[str, float]:
    """Encode and append every span; microseconds each."""
    spool = Spool(folder, writer="bench", max_bytes=16 << 30)
    cpu = time.process_time()
    records = [encode_span(span) for span in calls]
    encoded = time.process_time() - cpu
    took = []
    cpu = time.process_time()
    for record in records:
        begun = time.perf_counter()
        spool.append(record)
        took.append(time.perf_counter() - begun)
    appended = time.process_time() - cpu
    begun = time.perf_counter()
    spool.sync()
    synced = time.perf_counter() - begun
    spool.close()
    took.sort()
    return {
        "encode_cpu_us": round(encoded / len(calls) * 1e6, 2),
        "append_cpu_us": round(appended / len(calls) * 1e6, 2),
        "append_p50_us": round(took[len(took) // 2] * 1e6, 2),
        "append_p99_us": round(took[int(len(took) * 0.99)] * 1e6, 2),
        "append_max_us": round(took[-1] * 1e6, 2),
        "sync_all_ms": round(synced * 1000, 1),
    }


def ingest(spool: Path, lake_folder: Path, count: int) -> dict[str, float]:
    """Everything from the spool into the lake."""
    lake = open_lake(lake_folder, clock=SystemClock())
    ingester = Ingester(spool, lake, clock=SystemClock())
    cpu, wall = time.process_time(), time.perf_counter()
    done = 0
    while moved := ingester.poll():
        done += moved
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    stored = sum(part.spans for part in lake.partitions())
    assert done == stored == count, (done, stored, count)
    ingester.close()
    lake.close()
    return {"spans_per_second": round(count / wall), "spans_per_cpu_second": round(count / cpu)}


if __name__ == "__main__":
    main()

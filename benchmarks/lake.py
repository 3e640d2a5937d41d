"""The lake: OTLP requests in, questions out, bytes on disk.

    python benchmarks/lake.py [--spans 20000] [--days 7] [--senders 4] [--keep FOLDER]

prints JSON. Requests of 200 spans (about 3.3 kB of protobuf each, see spans.py) are generated to a file first. A
process of its own reads them, decodes them and writes them to the lake from several threads at once; its wall time, CPU
time (`time.process_time`, all threads) and the time of each request are taken there. Every question is asked of a lake
just opened: `cold` with its files dropped from the page cache (where the system allows it), `warm` the median of the
repetitions after it. HTTP is not part of this.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import spans as generated
from detent.kernel.clock import SystemClock
from detent.kernel.telemetry import MetricQuery, SpanFilter
from detent.store.lake import open_lake
from detent.traces.otlp import PROTOBUF, read_otlp

BEGIN = 1_767_225_600 * generated.SECOND
PROJECT = "bench"
_HEAD = struct.Struct("<II")


def main() -> None:
    """Measure, or one part of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spans", type=int, default=20_000)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--senders", type=int, default=4)
    parser.add_argument("--keep", type=Path, help="use this folder and leave it there")
    parser.add_argument("--part", choices=("load", "ask", "seal"), help="one measurement, in a process of its own")
    arguments = parser.parse_args()
    if arguments.part:
        part = {"load": load, "ask": ask, "seal": seal}[arguments.part]
        print(json.dumps(part(arguments.keep, arguments)))
        return
    with tempfile.TemporaryDirectory(prefix="detent-lake-") as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        size = generate(folder / "requests", arguments.spans, arguments.days)
        result: dict[str, Any] = {
            "spans": arguments.spans,
            "days": arguments.days,
            "protobuf_bytes_per_span": round(size / arguments.spans),
        }
        result["load"] = run("load", folder, arguments)
        (folder / "requests").unlink()
        result["hot"] = run("ask", folder, arguments)
        result["seal"] = run("seal", folder, arguments)
        result["sealed"] = run("ask", folder, arguments)
        print(json.dumps(result, indent=2))


def run(part: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """One measurement in a fresh process."""
    command = [sys.executable, __file__, "--part", part, "--keep", str(folder)]
    for name in ("spans", "days", "senders"):
        command += [f"--{name}", str(getattr(arguments, name))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def generate(path: Path, spans: int, days: int) -> int:
    """Write the requests with their length and number of spans; bytes of protobuf."""
    size = 0
    with path.open("wb") as file:
        for request, count in generated.requests(spans, begin=BEGIN, days=days):
            file.write(_HEAD.pack(len(request), count) + request)
            size += len(request)
    return size


def load(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Decode and write everything."""
    lake = open_lake(folder / "lake", clock=SystemClock())
    lock, took, stored = threading.Lock(), [], []
    with (folder / "requests").open("rb") as file:

        def send() -> None:
            while True:
                with lock:
                    head = file.read(_HEAD.size)
                    if not head:
                        return
                    body = file.read(_HEAD.unpack(head)[0])
                begun = time.perf_counter()
                read = read_otlp(body, PROTOBUF, project=PROJECT)
                stored.append(lake.write(read.batch).inserted)
                took.append(time.perf_counter() - begun)

        cpu, wall = time.process_time(), time.perf_counter()
        senders = [threading.Thread(target=send) for _ in range(arguments.senders)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    lake.close()
    assert sum(stored) == arguments.spans, sum(stored)
    size = sum(path.stat().st_size for path in (folder / "lake").rglob("*") if path.is_file())
    took.sort()
    return {
        "spans_per_second": round(arguments.spans / wall),
        "spans_per_cpu_second": round(arguments.spans / cpu),
        "request_p50_ms": ms(took[len(took) // 2]),
        "request_p99_ms": ms(took[int(len(took) * 0.99)]),
        "bytes_per_span": round(size / arguments.spans),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def ask(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every question, cold and warm."""
    lake = open_lake(folder / "lake", clock=SystemClock())
    everything = SpanFilter(project=PROJECT)
    middle = lake.traces(everything, limit=1, after=f"{BEGIN + arguments.days * generated.DAY // 2}-{'f' * 32}").rows[0]
    text = lake.trace(PROJECT, middle.trace_id)[0].input
    rare = text[text.index("Order A-") + 8 :][:9]
    week = MetricQuery(
        project=PROJECT,
        since=BEGIN,
        until=BEGIN + arguments.days * generated.DAY,
        bucket=generated.HOUR,
        group_by=("model",),
    )
    lake.close()

    questions: dict[str, Callable[[Any], Any]] = {
        "latest_50": lambda lake: lake.traces(everything).rows,
        "text_rare": lambda lake: lake.traces(SpanFilter(project=PROJECT, text=rare)).rows,
        "text_common": lambda lake: lake.traces(SpanFilter(project=PROJECT, text="order")).rows,
        "text_phrase": lambda lake: lake.traces(SpanFilter(project=PROJECT, text=f'"order a {rare}"')).rows,
        "errors": lambda lake: lake.traces(SpanFilter(project=PROJECT, status="error")).rows,
        "session": lambda lake: lake.traces(SpanFilter(project=PROJECT, session_id=middle.root.session_id)).rows,
        "attribute": lambda lake: lake.traces(SpanFilter(project=PROJECT, attributes={"app.tenant": "tenant-7"})).rows,
        "trace": lambda lake: lake.trace(PROJECT, middle.trace_id),
        "metrics_model_hour": lambda lake: lake.metrics(week),
        "values_model": lambda lake: lake.values(PROJECT, "model"),
    }
    found: dict[str, Any] = {}
    for name, question in questions.items():
        forget(folder / "lake")
        lake = open_lake(folder / "lake", clock=SystemClock())
        begun, cpu = time.perf_counter(), time.process_time()
        rows = question(lake)
        cold, cpu = time.perf_counter() - begun, time.process_time() - cpu
        assert rows, name
        warm = []
        for _ in range(9):
            begun = time.perf_counter()
            question(lake)
            warm.append(time.perf_counter() - begun)
        lake.close()
        found[name] = {"cold_ms": ms(cold), "cold_cpu_ms": ms(cpu), "warm_ms": ms(median(warm)), "rows": len(rows)}
    return found


def seal(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every day to Parquet."""
    lake = open_lake(folder / "lake", clock=SystemClock())
    begun, cpu = time.perf_counter(), time.process_time()
    for part in lake.partitions():
        lake.seal(part.project, part.day)
    wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
    lake.close()
    files = [path for path in (folder / "lake").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    parquet = sum(path.stat().st_size for path in files if path.suffix == ".parquet")
    return {
        "bytes_per_span": round(size / arguments.spans),
        "parquet_bytes_per_span": round(parquet / arguments.spans),
        "spans_per_second": round(arguments.spans / wall),
        "spans_per_cpu_second": round(arguments.spans / cpu),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def forget(folder: Path) -> None:
    """Drop the files from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def ms(seconds: float) -> float:
    """Milliseconds, rounded."""
    return round(seconds * 1000, 2)


if __name__ == "__main__":
    main()

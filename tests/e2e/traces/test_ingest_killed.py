"""kill -9 of the gateway's side and of the ingester, again and again: every spooled span is in the lake, once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from detent.kernel.clock import SystemClock
from detent.kernel.telemetry import MetricQuery, SpanFilter
from detent.store.lake import open_lake
from detent.traces.ingest import Ingester

pytestmark = pytest.mark.e2e

_SPOOL = """
import sys, time
from pathlib import Path
from detent.kernel.telemetry import Span
from detent.traces.spool import Spool, encode_span
spool = Spool(Path(sys.argv[1]), writer=sys.argv[2], segment_bytes=30_000)
number = int(sys.argv[3])
while True:
    start = 1_767_225_600 * 10**9 + number * 10**9
    span = Span(trace_id=f"{number + 1:032x}", span_id=f"{number + 1:016x}", name="chat", operation="chat",
                start=start, end=start + 1, cost=1, input='"%s"' % ("word " * 20))
    if spool.append(encode_span(span)):
        print(number, flush=True)
        number += 1
    time.sleep(0.001)
"""

_INGEST = """
import sys, threading
from pathlib import Path
from detent.kernel.clock import SystemClock
from detent.store.lake import open_lake
from detent.traces.ingest import Ingester
lake = open_lake(Path(sys.argv[2]), clock=SystemClock())
ingester = Ingester(Path(sys.argv[1]), lake, clock=SystemClock(), batch=7)
print("begin", flush=True)
ingester.run(threading.Event())
"""


def test_kill_9_loses_and_doubles_nothing(tmp_path: Path) -> None:
    spool, lake_folder = tmp_path / "spool", tmp_path / "lake"
    acknowledged: set[int] = set()
    for attempt in range(10):
        write = [sys.executable, "-c", _SPOOL, str(spool), f"w{attempt % 2}", str(attempt * 100_000)]
        ingest = [sys.executable, "-c", _INGEST, str(spool), str(lake_folder)]
        with (
            subprocess.Popen(write, stdout=subprocess.PIPE) as writer,
            subprocess.Popen(ingest, stdout=subprocess.PIPE) as ingester,
        ):
            assert writer.stdout is not None
            assert ingester.stdout is not None
            acknowledged |= {int(writer.stdout.readline()) for _ in range(20)}
            ingester.stdout.readline()
            time.sleep(0.02 * attempt)
            first, second = (writer, ingester) if attempt % 2 else (ingester, writer)
            first.send_signal(signal.SIGKILL)
            time.sleep(0.01)
            second.send_signal(signal.SIGKILL)
            acknowledged |= {int(line) for line in writer.stdout if line.endswith(b"\n")}
    lake = open_lake(lake_folder, clock=SystemClock())
    last = Ingester(spool, lake, clock=SystemClock())
    assert last.drain(30)
    assert last.backlog().records_lag == last.backlog().refused == last.backlog().shed == 0
    assert list(spool.glob("*.seg")) == []
    stored, after = [], ""
    while True:
        page = lake.traces(SpanFilter(project="default"), limit=1000, after=after)
        stored += [int(row.trace_id, 16) - 1 for row in page.rows]
        assert all(row.spans == 1 for row in page.rows)
        after = page.after
        if not after:
            break
    assert len(stored) == len(set(stored))
    assert acknowledged <= set(stored)
    assert len(stored) <= len(acknowledged) + 10  # written, and killed before the word got out
    (total,) = lake.metrics(MetricQuery(project="default", since=0, until=2**62))
    assert (total.requests, total.cost) == (len(stored), len(stored))
    last.close()
    lake.close()

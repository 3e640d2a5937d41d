"""The lake under kill -9, under cuts of its log as a power loss makes them, and with several processes at once."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from detent.kernel.clock import DAY, SECOND, FixedClock
from detent.kernel.telemetry import Batch, MetricQuery, Span, SpanFilter
from detent.store.lake import SqliteLake, files, open_lake

pytestmark = pytest.mark.e2e

T0 = 1_767_225_600 * SECOND
EVERYTHING = SpanFilter(project="default")

_WRITE = """
import sys, threading
from pathlib import Path
from detent.kernel.clock import SystemClock
from detent.kernel.telemetry import Batch, Span
from detent.store.lake import open_lake

lake = open_lake(Path(sys.argv[1]), clock=SystemClock())
first, count = int(sys.argv[2]), int(sys.argv[3])
lock = threading.Lock()

def span(number):
    start = 1_767_225_600 * 10**9 + number * 10**12
    return Span(trace_id=f"{number // 5 + 1:032x}", span_id=f"{number + 1:016x}", name="chat", operation="chat",
                start=start, end=start + 10**9, cost=1, input=f'"question {number}"')

def work(offset):
    number = first + offset * 10
    while number < first + count:
        lake.write(Batch(tuple(map(span, range(number, number + 10)))))
        with lock:
            print(number, flush=True)
        number += 30

threads = [threading.Thread(target=work, args=(offset,)) for offset in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
lake.close()
"""


def start_writer(folder: Path, first: int = 0, count: int = 10**6) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _WRITE, str(folder), str(first), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def acknowledged(writer: subprocess.Popen[bytes]) -> list[int]:
    assert writer.stdout is not None
    return [int(line) + n for line in writer.stdout if line.endswith(b"\n") for n in range(10)]


def check_whole(lake: SqliteLake, at_least: set[int]) -> set[int]:
    """Everything acknowledged is there once, and all tables of the lake agree on what is there."""
    rows, after = [], ""
    while True:
        page = lake.traces(EVERYTHING, limit=1000, after=after)
        rows += page.rows
        after = page.after
        if not after:
            break
    numbers: list[int] = []
    for row in rows:
        spans = lake.trace("default", row.trace_id)
        numbers += [int(span.span_id, 16) - 1 for span in spans]
        assert all(span.input == f'"question {int(span.span_id, 16) - 1}"' for span in spans)
        assert (row.spans, row.cost) == (len(spans), len(spans))
    assert len(numbers) == len(set(numbers))
    assert at_least <= set(numbers)
    measured = lake.metrics(MetricQuery(project="default", since=0, until=T0 + 4000 * DAY))
    assert sum(row.requests for row in measured) == len(numbers) == sum(row.cost for row in measured)
    assert sum(part.spans for part in lake.partitions()) == len(numbers)
    for number in sorted(numbers)[:: max(len(numbers) // 20, 1)]:
        hits = lake.traces(SpanFilter(project="default", text=f"question {number}")).rows
        assert [row.trace_id for row in hits] == [f"{number // 5 + 1:032x}"]
    return set(numbers)


def test_kill_9_while_writing_loses_nothing_acknowledged(tmp_path: Path) -> None:
    known: set[int] = set()
    for attempt in range(10):
        with start_writer(tmp_path / "lake", first=10_000 * (attempt // 2)) as writer:
            assert writer.stdout is not None
            early = [int(writer.stdout.readline()) for _ in range(3 + 2 * attempt)]
            writer.send_signal(signal.SIGKILL)
            known |= {number + n for number in early for n in range(10)} | set(acknowledged(writer))
        if attempt % 3 == 2:
            lake = open_lake(tmp_path / "lake", clock=FixedClock())
            known = check_whole(lake, known)
            lake.close()
    lake = open_lake(tmp_path / "lake", clock=FixedClock())
    check_whole(lake, known)
    lake.close()


def test_several_processes_write_and_read_at_once(tmp_path: Path) -> None:
    # The first two write the same spans, the third others.
    writers = [start_writer(tmp_path / "lake", first, 300) for first in (0, 0, 1000)]
    lake = open_lake(tmp_path / "lake", clock=FixedClock())
    seen = 0
    while any(writer.poll() is None for writer in writers):
        count = sum(part.spans for part in lake.partitions())
        assert count >= seen
        seen = count
        lake.traces(EVERYTHING)
        time.sleep(0.02)
    for writer in writers:
        with writer:
            assert len(acknowledged(writer)) == 300
        assert writer.returncode == 0
    assert check_whole(lake, set(range(300)) | set(range(1000, 1300))) == {*range(300), *range(1000, 1300)}
    lake.close()


def test_a_power_loss_leaves_whole_batches(tmp_path: Path) -> None:
    """A log cut at any point holds a prefix of the commits: spans, totals and words of each, or nothing of it."""
    lake = open_lake(tmp_path / "lake", clock=FixedClock())
    for batch in range(12):
        spans = []
        for number in range(batch * 5, batch * 5 + 5):
            start = T0 + number * SECOND
            ids = {"trace_id": f"{number // 5 + 1:032x}", "span_id": f"{number + 1:016x}"}
            content = f'"question {number}"'
            spans.append(Span(**ids, name="chat", operation="chat", start=start, end=start + 1, cost=1, input=content))
        lake.write(Batch(tuple(spans)))
    image = tmp_path / "image"
    shutil.copytree(tmp_path / "lake", image, ignore=shutil.ignore_patterns("*-shm"))
    lake.close()
    (log,) = (image / "default").glob("*.db-wal")
    whole = log.read_bytes()
    counts = set()
    for cut in (*range(0, len(whole), max(len(whole) // 40, 1)), len(whole)):
        copy = tmp_path / f"cut{cut}"
        shutil.copytree(image, copy)
        (copied,) = (copy / "default").glob("*.db-wal")
        copied.write_bytes(whole[:cut])
        opened = open_lake(copy, clock=FixedClock())
        numbers = check_whole(opened, set())
        assert numbers == set(range(len(numbers)))
        assert len(numbers) % 5 == 0
        counts.add(len(numbers))
        opened.close()
    assert {0, 60} <= counts
    assert len(counts) > 8


def test_a_commit_waits_for_the_disk(tmp_path: Path) -> None:
    """In WAL mode `synchronous = FULL` (2) means: the log is synced before a commit returns."""
    opened = files.Files(tmp_path).writer("p", "2026-01-01")
    assert opened.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert opened.connection.execute("PRAGMA synchronous").fetchone() == (2,)
    opened.close()


_SEAL = """
import sys
from pathlib import Path
from detent.kernel.clock import DAY, SECOND, FixedClock
from detent.store.lake import open_lake
lake = open_lake(Path(sys.argv[1]), clock=FixedClock(1_767_225_600 * SECOND + 9 * DAY))
print("begin", flush=True)
lake.seal("default", "2026-01-01")
"""


def test_kill_9_while_sealing_leaves_the_day_whole(tmp_path: Path) -> None:
    lake = open_lake(tmp_path / "lake", clock=FixedClock(T0 + 9 * DAY))
    spans = []
    for number in range(3000):
        ids = {"trace_id": f"{number // 5 + 1:032x}", "span_id": f"{number + 1:016x}"}
        start, content = T0 + number * SECOND, f'"question {number}"'
        spans.append(Span(**ids, name="chat", operation="chat", start=start, end=start + 1, cost=1, input=content))
    lake.write(Batch(tuple(spans)))
    for attempt in range(6):
        command = [sys.executable, "-c", _SEAL, str(tmp_path / "lake")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as sealer:
            assert sealer.stdout is not None
            sealer.stdout.readline()
            time.sleep(0.03 * attempt)
            sealer.send_signal(signal.SIGKILL)
        sample = lake.trace("default", f"{attempt + 1:032x}")
        assert [span.input for span in sample] == [span.input for span in spans[attempt * 5 : attempt * 5 + 5]]
    assert lake.seal("default", "2026-01-01").sealed
    check_whole(lake, set(range(3000)))
    kept = [path.name for path in (tmp_path / "lake" / "default").iterdir() if path.is_dir()]
    assert len(kept) == 1
    lake.close()


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    lake = open_lake(tmp_path / "lake", clock=FixedClock())
    start = T0
    lake.write(Batch((Span(trace_id="1" * 32, span_id="1" * 16, name="x", start=start, end=start),)))
    lake.close()
    (path,) = (tmp_path / "lake" / "default").glob("*.db")
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    lake = open_lake(tmp_path / "lake", clock=FixedClock())
    with pytest.raises(files.StorageFailed, match="schema 99"):
        lake.traces(EVERYTHING)
    with pytest.raises(files.StorageFailed, match="schema 99"):
        lake.write(Batch((Span(trace_id="1" * 32, span_id="2" * 16, name="x", start=start, end=start),)))
    lake.close()

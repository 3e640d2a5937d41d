"""The writer pushes back when it is behind, says who is in the way, and never leaves a caller waiting for ever."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from detent.kernel.clock import SystemClock
from detent.kernel.errors import BugError, StorageFailed, TooMany
from detent.kernel.telemetry import Batch, Span, SpanFilter, Written
from detent.store.lake import committer, files
from detent.store.lake.files import Files
from detent.store.lake.sqlite import SqliteLake

T0 = 1_767_225_600 * 10**9


def span(number: int) -> Span:
    return Span(trace_id=f"{number:032x}", span_id=f"{number:016x}", name="chat", start=T0, end=T0 + 1)


def test_a_writer_that_is_behind_says_when_to_come_back(tmp_path: Path) -> None:
    lake = SqliteLake(Files(tmp_path), clock=SystemClock(), max_waiting=5)
    lake.write(Batch((span(1),)))
    blocker = lake._files.writer("default", "2026-01-01")
    blocker.connection.execute("BEGIN IMMEDIATE")
    results: list[Any] = []
    waiting = threading.Thread(target=lambda: results.append(lake.write(Batch(tuple(map(span, range(2, 6)))))))
    waiting.start()
    while not lake._committer._waiting:
        time.sleep(0.005)
    with pytest.raises(TooMany) as refused:
        lake.write(Batch((span(6), span(7))))
    assert refused.value.retry_after is not None
    assert refused.value.retry_after >= 1
    blocker.connection.execute("COMMIT")
    waiting.join()
    assert results == [Written(4, 0)]
    assert lake.write(Batch((span(6), span(7)))) == Written(2, 0)
    # A batch that is larger than the bound is taken when nothing else waits.
    assert lake.write(Batch(tuple(map(span, range(10, 30))))) == Written(20, 0)
    blocker.close()
    lake.close()


def test_a_file_that_another_process_holds_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BUSY_SECONDS", 0.05)
    lake = SqliteLake(Files(tmp_path), clock=SystemClock())
    lake.write(Batch((span(1),)))
    blocker = lake._files.writer("default", "2026-01-01")
    blocker.connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(TooMany):
        lake.write(Batch((span(2),)))
    blocker.connection.execute("ROLLBACK")
    assert lake.write(Batch((span(1), span(2)))) == Written(1, 1)
    blocker.close()
    lake.close()


def test_a_failing_disk_is_told_and_the_next_write_tries_again(tmp_path: Path) -> None:
    lake = SqliteLake(Files(tmp_path), clock=SystemClock())
    lake.write(Batch((span(1),)))
    # The smallest number of pages that the file may have: SQLite then says that the disk is full.
    for database in lake._committer._open.values():
        database.connection.execute("PRAGMA max_page_count = 1")
    with pytest.raises(StorageFailed, match="full"):
        lake.write(Batch(tuple(map(span, range(2, 2000)))))
    assert lake.write(Batch(tuple(map(span, range(1, 2000))))) == Written(1998, 1)
    lake.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_the_writer_reaches_every_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = SqliteLake(Files(tmp_path), clock=SystemClock())

    def broken(*_: Any) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(committer.writing, "add_spans", broken)
    with pytest.raises(BugError):
        lake.write(Batch((span(1),)))
    with pytest.raises(StorageFailed):
        lake.write(Batch((span(1),)))
    lake.close()


def test_closing_commits_what_waits(tmp_path: Path) -> None:
    lake = SqliteLake(Files(tmp_path), clock=SystemClock())
    results: list[Written] = []

    def write(number: int) -> None:
        with contextlib.suppress(StorageFailed):  # who comes after the end is told so
            results.append(lake.write(Batch((span(number),))))

    writers = [threading.Thread(target=write, args=(number,)) for number in range(1, 9)]
    for writer in writers:
        writer.start()
    while len(results) < 1:
        time.sleep(0.001)
    lake.close()
    for writer in writers:
        writer.join()
    assert sum(written.inserted for written in results) == len(results)
    again = SqliteLake(Files(tmp_path), clock=SystemClock())
    assert sum(part.spans for part in again.partitions()) == len(results)
    again.close()


def test_a_damaged_file_is_named_not_crashed_on(tmp_path: Path) -> None:
    lake = SqliteLake(Files(tmp_path), clock=SystemClock())
    lake.write(Batch((span(1),)))
    lake.close()
    (path,) = (tmp_path / "default").glob("*.db")
    path.write_bytes(b"no database at all" * 1000)
    lake = SqliteLake(Files(tmp_path), clock=SystemClock())
    for ask in (
        lambda: lake.traces(SpanFilter(project="default")),
        lambda: lake.trace("default", "1" * 32),
        lambda: lake.write(Batch((span(2),))),
        lambda: lake.seal("default", "2026-01-01"),
        lambda: lake.retain("default", before="2027-01-01"),
        lake.partitions,
    ):
        with pytest.raises(StorageFailed):
            ask()
    lake.close()

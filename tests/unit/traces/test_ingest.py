"""Ingestion: what the lake takes is forgotten, what it cannot take now comes again, what it never takes is counted."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest

from detent.kernel.clock import FixedClock
from detent.kernel.errors import InvalidInput, StorageFailed, TooMany
from detent.kernel.ports import Lake
from detent.kernel.telemetry import Batch, Score, Span, Written
from detent.traces import ingest
from detent.traces.ingest import Backlog, Ingester
from detent.traces.spool import Spool, encode_score, encode_span


def span(number: int) -> Span:
    return Span(trace_id=f"{number:032x}", span_id=f"{number:016x}", name="chat", start=number, end=number)


class List:
    """A lake that is a list, and refuses what it is told to."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.bad: set[int] = set()
        self.failures: list[Exception] = []

    def write(self, batch: Batch) -> Written:
        if self.failures:
            raise self.failures.pop(0)
        if any(each.start in self.bad for each in batch.spans):
            raise InvalidInput("No.")
        self.batches.append(batch)
        return Written(len(batch.spans) + len(batch.scores), 0)

    @property
    def starts(self) -> list[int]:
        return [each.start for batch in self.batches for each in batch.spans]


@pytest.fixture
def lake() -> List:
    return List()


@pytest.fixture
def ingester(tmp_path: Path, lake: List) -> Ingester:
    spool = Spool(tmp_path, writer="w")
    for number in range(1, 21):
        assert spool.append(encode_span(span(number)))
    return Ingester(tmp_path, cast("Lake", lake), clock=FixedClock(), batch=8)


def test_batch_by_batch_until_nothing_is_left(ingester: Ingester, lake: List) -> None:
    assert ingester.backlog().records_lag == 20
    assert [ingester.poll() for _ in range(4)] == [8, 8, 4, 0]
    assert lake.starts == list(range(1, 21))
    assert ingester.backlog() == Backlog(0, 0, 0)


def test_scores_travel_too(ingester: Ingester, lake: List, tmp_path: Path) -> None:
    score = Score(id="s", name="thumbs", value=True, source="user", time=1, trace_id="1" * 32)
    Spool(tmp_path, writer="v").append(encode_score(score))
    assert ingester.drain(5)
    assert [given for batch in lake.batches for given in batch.scores] == [score]


@pytest.mark.parametrize("failure", [TooMany("Later.", retry_after=0.01), StorageFailed("Full.")])
def test_what_the_lake_cannot_take_now_comes_again(ingester: Ingester, lake: List, failure: Exception) -> None:
    lake.failures = [failure]
    with pytest.raises(type(failure)):
        ingester.poll()
    assert ingester.backlog().records_lag == 20
    assert ingester.drain(5)
    assert lake.starts == list(range(1, 21))


def test_what_the_lake_never_takes_is_left_out_and_counted(ingester: Ingester, lake: List, tmp_path: Path) -> None:
    lake.bad = {3, 4, 17}
    Spool(tmp_path, writer="x").append(b"?nothing we know")
    assert ingester.drain(5)
    assert sorted(lake.starts) == [number for number in range(1, 21) if number not in lake.bad]
    assert ingester.backlog() == Backlog(0, 0, 0, refused=4)


def test_it_runs_until_told_and_waits_out_failures(
    ingester: Ingester, lake: List, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "_REST", 0.01)
    lake.failures = [StorageFailed("Full."), TooMany("Later.", retry_after=0.01)]
    stop = threading.Event()
    thread = threading.Thread(target=ingester.run, args=(stop,))
    thread.start()
    for _ in range(500):
        if len(lake.starts) == 20:
            break
        time.sleep(0.01)
    stop.set()
    thread.join()
    assert lake.starts == list(range(1, 21))


def test_a_second_ingester_waits_for_the_first_to_leave(ingester: Ingester, lake: List, tmp_path: Path) -> None:
    assert ingester.poll() == 8
    other: Any = Ingester(tmp_path, cast("Lake", lake), clock=FixedClock())
    assert other.poll() == 0
    assert other.backlog().records_lag == 12
    ingester.close()
    assert other.poll() == 12
    assert lake.starts == list(range(1, 21))

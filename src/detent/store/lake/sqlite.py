"""The Lake port on SQLite day files.

What survives what: when `write` returns, the spans stand in the day's write-ahead log and the log is on the disk
(fsync), so neither kill -9 nor a power loss takes them. A write is one transaction per day it touches; one that failed
half-way is repeated as a whole and changes nothing twice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import date, timedelta
from pathlib import Path
from typing import Any, TypeVar

import orjson

from detent.kernel.clock import DAY, HOUR, Clock, day_of
from detent.kernel.errors import InvalidInput, NotFound, StorageFailed
from detent.kernel.ports import GroupField
from detent.kernel.telemetry import (
    Batch,
    MetricQuery,
    MetricRow,
    Partition,
    Score,
    Span,
    SpanFilter,
    TracePage,
    TraceRow,
    Written,
)
from detent.store.lake import keeping
from detent.store.lake.committer import MAX_WAITING, Committer
from detent.store.lake.files import Database, Files, Vanished
from detent.store.lake.measuring import measure
from detent.store.lake.prepare import prepare
from detent.store.lake.reading import Day, Part
from detent.store.lake.sealed import SealedContent
from detent.store.lake.text import Question
from detent.store.lake.writing import FIELDS

_RECENT_DAYS = 7
_MAX_LIMIT = 1000
_NEWEST = (2**63 - 1, b"\xff" * 16)
_ATTEMPTS = 5
T = TypeVar("T")


class SqliteLake:
    """Telemetry in one folder. Several processes may have it open, and write."""

    def __init__(self, files: Files, *, clock: Clock, max_waiting: int = MAX_WAITING) -> None:
        self._files = files
        self._clock = clock
        self._sealed = SealedContent()
        self._committer = Committer(files, clock=clock, max_waiting=max_waiting)

    def write(self, batch: Batch) -> Written:
        """Durable and queryable when it returns; idempotent by trace and span id, and by score id.

        Raises:
            InvalidInput: something in the batch cannot be stored; nothing of it is.
            TooMany: the writer is behind; come back after `retry_after`.
            StorageFailed: the disk refuses.
        """
        return self._committer.write(prepare(batch))

    def traces(self, where: SpanFilter, *, limit: int = 50, after: str = "") -> TracePage:
        """Traces that hold at least one matching span, newest first.

        Rows carry no content but a snippet: around the hit, each wanted word between two asterisks, when text was asked
        for; else the beginning of what the root was asked last.
        A trace that runs over midnight stands where its part of the newest day with a match begins.
        """
        limit = min(max(limit, 1), _MAX_LIMIT)
        before = _cursor(after) if after else _NEWEST
        return self._steadily(lambda: _Listing(self, where).page(limit, before))

    def trace(self, project: str, trace_id: str) -> tuple[Span, ...]:
        """All spans of a trace with their content, by start time; empty when there is none."""
        try:
            key = bytes.fromhex(trace_id)
        except ValueError:
            return ()

        def read() -> tuple[Span, ...]:
            spans: list[Span] = []
            for path in self._files.days(project).values():
                with self._files.reading(path) as database:
                    spans += Day(database, project, self._sealed).trace(key)
            return tuple(sorted(spans, key=lambda span: (span.start, span.span_id)))

        return self._steadily(read)

    def metrics(self, query: MetricQuery) -> tuple[MetricRow, ...]:
        """Totals and percentiles from the hourly roll-ups of model calls; `since` and `until` are widened to hours.

        Raises:
            InvalidInput: the bucket is no multiple of an hour.
        """
        if query.bucket < 0 or query.bucket % HOUR:
            raise InvalidInput("A bucket is a multiple of an hour.", field="bucket")

        def read() -> tuple[MetricRow, ...]:
            days = (path for day, path in self._files.days(query.project).items() if _overlaps(day, query))
            return measure(self._files, query, days)

        return self._steadily(read)

    def scores(self, project: str, *, trace_id: str = "", name: str = "", limit: int = 100) -> tuple[Score, ...]:
        """Scores, newest first."""

        def read() -> tuple[Score, ...]:
            try:
                with self._files.reading(self._files.scores_path(project)) as database:
                    found = _scores(database, trace_id, name, max(limit, 0))
            except Vanished:
                return ()
            return tuple(
                Score(
                    id=row[0],
                    trace_id=row[1],
                    span_id=row[2],
                    session_id=row[3],
                    name=row[4],
                    value=orjson.loads(row[5]),
                    source=row[6],
                    author=row[7],
                    comment=row[8],
                    time=row[9],
                    project=project,
                )
                for row in found
            )

        return self._steadily(read)

    def values(self, project: str, field: GroupField, *, limit: int = 100) -> tuple[str, ...]:
        """Distinct values of a field over the last seven days with data, most frequent first."""
        if field not in FIELDS:
            raise InvalidInput(f"There is no field {field!r}.", hint=f"Use {', '.join(FIELDS)}.", field="field")

        def read() -> tuple[str, ...]:
            counts: dict[str, int] = {}
            for path in list(self._files.days(project).values())[:_RECENT_DAYS]:
                with self._files.reading(path) as database:
                    for text, count in database.connection.execute(
                        "SELECT n.text, t.count FROM tally t JOIN name n ON n.id = t.value WHERE t.field = ? "
                        "ORDER BY t.count DESC LIMIT ?",
                        (FIELDS.index(field), 10 * max(limit, 1)),
                    ):
                        counts[text] = counts.get(text, 0) + count
            return tuple(sorted(counts, key=lambda text: (-counts[text], text))[: max(limit, 0)])

        return self._steadily(read)

    def partitions(self) -> tuple[Partition, ...]:
        """What is stored, by project and day, newest day first."""
        return self._steadily(
            lambda: tuple(
                keeping.partition(self._files, project, day, path)
                for project in self._files.projects()
                for day, path in self._files.days(project).items()
            )
        )

    def seal(self, project: str, day: str) -> Partition:
        """Turn a closed day into Parquet; it stays queryable, and still takes late spans.

        Raises:
            Conflict: the day is not over.
            NotFound: there is no such day.
        """
        today = day_of(self._clock.now())
        try:
            return keeping.seal(self._files, self._sealed, project, _day(day), today=today)
        except (Vanished, FileNotFoundError):
            raise NotFound(f"The day {day} was dropped meanwhile.", field="day") from None
        except (sqlite3.Error, OSError) as error:
            raise _failed(error) from error

    def retain(self, project: str, *, before: str) -> int:
        """Drop all partitions of days before `before` (YYYY-MM-DD), and scores given before it; how many days."""
        before = _day(before)
        try:
            scores = self._files.scores_path(project)
            if scores.exists():
                database = self._files.writer(project)
                try:
                    database.connection.execute("DELETE FROM score WHERE time < ?", (_start_of(before),))
                finally:
                    database.close()
            old = [path for day, path in self._files.days(project).items() if day < before]
            return sum(keeping.drop(self._files, project, path) for path in old)
        except (sqlite3.Error, OSError) as error:
            raise _failed(error) from error

    def close(self) -> None:
        """Commit what waits and give everything back."""
        self._committer.close()
        self._files.close()

    def _steadily(self, read: Callable[[], T]) -> T:
        """Read, and again if a day was dropped or sealed in the middle of it."""
        for _ in range(_ATTEMPTS):
            try:
                return read()
            except (Vanished, FileNotFoundError):
                continue
            except (sqlite3.Error, OSError) as error:
                raise _failed(error) from error
        raise StorageFailed("The lake's files change faster than they can be read.", hint="Try again.")


def _scores(database: Database, trace_id: str, name: str, limit: int) -> list[Any]:
    """Rows of scores, newest first, by the index that fits."""
    run = database.connection.execute
    if trace_id:
        return run(
            "SELECT * FROM score WHERE trace_id = ? AND (?2 = '' OR name = ?2) ORDER BY time DESC, id DESC LIMIT ?3",
            (trace_id, name, limit),
        ).fetchall()
    if name:
        return run("SELECT * FROM score WHERE name = ? ORDER BY time DESC, id DESC LIMIT ?", (name, limit)).fetchall()
    return run("SELECT * FROM score ORDER BY time DESC, id DESC LIMIT ?", (limit,)).fetchall()


class _Listing:
    """One list of traces, over all days."""

    def __init__(self, lake: SqliteLake, where: SpanFilter) -> None:
        self._lake = lake
        self._where = where
        self._question = Question(where)
        self._paths = lake._files.days(where.project)
        self._days: dict[str, Day] = {}

    def page(self, limit: int, before: tuple[int, bytes]) -> TracePage:
        with ExitStack() as self._stack:
            found: list[TraceRow] = []
            last = before
            for day in self._paths:
                if not _overlaps(day, self._where) or _start_of(day) > before[0]:
                    continue
                for part in self._day(day).matches(self._question, before):
                    if self._stands_in_newer(day, part.trace_id):
                        continue
                    if len(found) == limit:
                        return TracePage(tuple(found), f"{last[0]}-{last[1].hex()}")
                    found.append(self._row(day, part))
                    last = (part.start, part.trace_id)
            return TracePage(tuple(found))

    def _day(self, day: str) -> Day:
        known = self._days.get(day)
        if known is None:
            database = self._stack.enter_context(self._lake._files.reading(self._paths[day]))
            known = self._days[day] = Day(database, self._where.project, self._lake._sealed)
        return known

    def _next_to(self, day: str, step: int) -> Iterator[Day]:
        """The days that follow each other without a gap from the one after (or before) `day`."""
        while (day := (date.fromisoformat(day) + timedelta(step)).isoformat()) in self._paths:
            yield self._day(day)

    def _stands_in_newer(self, day: str, trace_id: bytes) -> bool:
        for newer in self._next_to(day, 1):
            if trace_id not in newer.parts([trace_id]):
                return False
            if newer.holds(self._question, trace_id):
                return True
        return False

    def _row(self, day: str, part: Part) -> TraceRow:
        parts = [part]
        for step in (1, -1):
            for other in self._next_to(day, step):
                found = other.parts([part.trace_id])
                if not found:
                    break
                parts += found.values()
        first = min(parts, key=lambda each: each.rank)
        costs = [each.cost for each in parts if each.cost is not None]
        return TraceRow(
            trace_id=part.trace_id.hex(),
            root=first.root,
            spans=sum(each.spans for each in parts),
            errors=sum(each.errors for each in parts),
            input_tokens=sum(each.input_tokens for each in parts),
            output_tokens=sum(each.output_tokens for each in parts),
            cost=sum(costs) if costs else None,
            unpriced=sum(each.unpriced for each in parts),
            end=max(each.end for each in parts),
            snippet=(self._question.snippet(part.hit) if part.hit is not None else "") or first.preview,
        )


def _failed(error: Exception) -> StorageFailed:
    return StorageFailed(f"The lake cannot be used: {error}.", hint="Check the disk and the files of the lake.")


def _cursor(after: str) -> tuple[int, bytes]:
    start, _, trace_id = after.partition("-")
    try:
        return int(start), bytes.fromhex(trace_id)
    except ValueError:
        raise InvalidInput("The page marker is not one of ours.", field="after") from None


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise InvalidInput(f"{text!r} is no day.", hint="Write YYYY-MM-DD.", field="day") from None


def _start_of(day: str) -> int:
    return (date.fromisoformat(day) - date(1970, 1, 1)).days * DAY


def _overlaps(day: str, where: SpanFilter | MetricQuery) -> bool:
    start = _start_of(day)
    return start + DAY > where.since and (not where.until or start < where.until)


def open_lake(folder: Path, *, clock: Clock) -> SqliteLake:
    """Open the lake in a folder, made if need be.

    Raises:
        StorageFailed: the folder cannot be made.
    """
    return SqliteLake(Files(folder), clock=clock)

"""The Lake port on SQLite day files.

What survives what: when `write` returns, the spans stand in the day's write-ahead log and the log is on the disk
(fsync), so neither kill -9 nor a power loss takes them. A write is one transaction per day it touches; one that failed
half-way is repeated as a whole and changes nothing twice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import orjson

from detent.kernel.clock import HOUR, Clock, day_of
from detent.kernel.errors import InvalidInput, NotFound, StorageFailed
from detent.kernel.ports import GroupField
from detent.kernel.telemetry import (
    Batch,
    MetricQuery,
    MetricRow,
    Partition,
    Repriced,
    Score,
    Span,
    SpanFilter,
    TracePage,
    Written,
)
from detent.store.lake import keeping, repricing
from detent.store.lake.committer import MAX_WAITING, Committer
from detent.store.lake.files import Database, Files, Vanished
from detent.store.lake.listing import Listing, overlaps, position_of, start_of
from detent.store.lake.measuring import measure
from detent.store.lake.prepare import prepare
from detent.store.lake.reading import Day
from detent.store.lake.sealed import SealedContent
from detent.store.lake.writing import FIELDS

_RECENT_DAYS = 7
_MAX_LIMIT = 1000
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
        """Durable and queryable when it returns; idempotent by trace and span id on a day, and by score id.

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
        before = position_of(after)
        return self._steadily(lambda: Listing(self._files, self._sealed, where).page(limit, before))

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
            days = (path for day, path in self._files.days(query.project).items() if overlaps(day, query))
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

    def reprice(
        self,
        project: str,
        day: str,
        cost_of: Callable[[Span], int | None],
        *,
        since: int = 0,
        until: int = 0,
        dry_run: bool = False,
    ) -> Repriced:
        """Give a day's model calls that started in `[since, until)` the cost that `cost_of` says; 0 is no bound.

        Raises:
            NotFound: there is no such day.
            InvalidInput: a cost is none that can be stored.
        """
        path = self._files.days(project).get(_day(day))
        try:
            if path is None:
                raise Vanished(day)
            return repricing.reprice(
                self._files, self._sealed, project, path, cost_of, since=since, until=until, dry_run=dry_run
            )
        except (Vanished, FileNotFoundError):
            raise NotFound(f"There is nothing stored of {day}.", field="day") from None
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
                    database.connection.execute("DELETE FROM score WHERE time < ?", (start_of(before),))
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


def _failed(error: Exception) -> StorageFailed:
    return StorageFailed(f"The lake cannot be used: {error}.", hint="Check the disk and the files of the lake.")


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise InvalidInput(f"{text!r} is no day.", hint="Write YYYY-MM-DD.", field="day") from None


def open_lake(folder: Path, *, clock: Clock) -> SqliteLake:
    """Open the lake in a folder, made if need be.

    Raises:
        StorageFailed: the folder cannot be made.
    """
    return SqliteLake(Files(folder), clock=clock)

"""Group commit: callers hand in what they made ready and wait; one thread commits what has gathered.

While one transaction is put on the disk the next gathers, so under load a commit carries many callers' batches and
at rest a lone caller waits for nobody. Nobody is told "written" before the disk has it.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import OrderedDict, deque

from detent.kernel.clock import SECOND, Clock
from detent.kernel.errors import BugError, DetentError, StorageFailed, TooMany
from detent.kernel.telemetry import Score, Written
from detent.store.lake import writing
from detent.store.lake.files import Database, Files, Vanished
from detent.store.lake.prepare import Chunk, Order

MAX_WAITING = 20_000
"""Spans that may wait for the disk; beyond it callers are told to come back."""

_GROUP_SPANS = 4000
_OPEN_FILES = 6
_IDLE_SECONDS = 1.0


class _Job:
    """One caller's order on its way."""

    __slots__ = ("done", "error", "order", "size", "written")

    def __init__(self, order: Order) -> None:
        self.order = order
        self.size = order.spans + sum(map(len, order.scores.values()))
        self.done = threading.Event()
        self.error: DetentError | None = None
        self.written = Written(0, 0)

    def add(self, written: Written) -> None:
        self.written = Written(self.written.inserted + written.inserted, self.written.duplicates + written.duplicates)


class Committer:
    """The one writer of this process. Its thread starts with the first write."""

    def __init__(self, files: Files, *, clock: Clock, max_waiting: int = MAX_WAITING) -> None:
        self._files = files
        self._clock = clock
        self._max_waiting = max_waiting
        self._wake = threading.Condition()
        self._jobs: deque[_Job] = deque()
        self._waiting = 0
        self._rate = 5000.0
        self._open: OrderedDict[tuple[str, str], Database] = OrderedDict()
        self._thread: threading.Thread | None = None
        self._closing = False

    def write(self, order: Order) -> Written:
        """Commit an order; returns when it is on the disk.

        Raises:
            TooMany: too much waits already.
            StorageFailed: the disk or the file refuses, or another process holds the file for too long.
        """
        job = _Job(order)
        with self._wake:
            if self._closing:
                raise StorageFailed("The lake is closed.")
            if self._waiting and self._waiting + job.size > self._max_waiting:
                raise TooMany(
                    f"{self._waiting} spans wait to be written.",
                    hint="Send again later; nothing of this batch was stored.",
                    retry_after=max(round(self._waiting / self._rate, 1), 1.0),
                )
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="lake-writer", daemon=True)
                self._thread.start()
            self._jobs.append(job)
            self._waiting += job.size
            self._wake.notify_all()
        job.done.wait()
        if job.error is not None:
            raise job.error
        return job.written

    def close(self) -> None:
        """Commit what waits, then stop."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join()

    # The thread

    def _work(self) -> None:
        jobs: list[_Job] = []
        try:
            while jobs := self._gather():
                begun = self._clock.monotonic()
                self._commit(jobs)
                size = sum(job.size for job in jobs)
                took = max(self._clock.monotonic() - begun, 1) / SECOND
                self._rate = max(0.8 * self._rate + 0.2 * min(size / took, 1e6), 1.0)
                with self._wake:
                    self._waiting -= size
                for job in jobs:
                    job.done.set()
        finally:
            # Also when we are at fault: a caller gets an error, never silence.
            with self._wake:
                self._closing = True
                left = [job for job in (*jobs, *self._jobs) if not job.done.is_set()]
            for job in left:
                job.error = job.error or BugError("The lake's writer stopped on an error of its own.")
                job.done.set()
            for database in self._open.values():
                database.close()

    def _gather(self) -> list[_Job]:
        """What waits, up to the size of a good transaction; empty when it is time to stop."""
        with self._wake:
            while not self._jobs and not self._closing:
                if not self._wake.wait(_IDLE_SECONDS) and not self._jobs:
                    self._tidy()
            jobs: list[_Job] = []
            size = 0
            while self._jobs and (not jobs or size + self._jobs[0].size <= _GROUP_SPANS):
                job = self._jobs.popleft()
                jobs.append(job)
                size += job.size
            return jobs

    def _tidy(self) -> None:
        """In a quiet moment bring the logs back into their files, if no reader is in the way, and let the files go."""
        while self._open:
            _, database = self._open.popitem()
            try:
                database.connection.execute("PRAGMA busy_timeout = 0")
                database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except sqlite3.Error:
                pass
            database.close()

    def _commit(self, jobs: list[_Job]) -> None:
        places: dict[tuple[str, str], list[tuple[_Job, Chunk]]] = {}
        scores: dict[str, list[tuple[_Job, list[Score]]]] = {}
        for job in jobs:
            for place, chunks in job.order.chunks.items():
                places.setdefault(place, []).extend((job, chunk) for chunk in chunks)
            for project, given in job.order.scores.items():
                scores.setdefault(project, []).append((job, given))
        for (project, day), entries in places.items():
            self._commit_day(project, day, entries)
        for project, orders in scores.items():
            for job, given in orders:
                try:
                    job.add(writing.add_scores(self._database(project, ""), given))
                except (sqlite3.Error, OSError, DetentError) as error:
                    self._forget(project, "")
                    job.error = _told(error)

    def _commit_day(self, project: str, day: str, entries: list[tuple[_Job, Chunk]]) -> None:
        chunks = [chunk for _, chunk in entries]
        for attempt in (1, 2, 3):
            try:
                written = writing.add_spans(self._database(project, day), chunks)
            except Vanished:
                # Dropped by somebody else between two of our transactions: begin the day anew.
                self._forget(project, day)
                if attempt < 3:
                    continue
                failure: DetentError = StorageFailed("The day is dropped again and again while it is written.")
            except (sqlite3.Error, OSError, DetentError) as error:
                self._forget(project, day)
                failure = _told(error)
            else:
                for (job, _), done in zip(entries, written, strict=True):
                    job.add(done)
                return
            for job, _ in entries:
                job.error = failure
            return

    def _database(self, project: str, day: str) -> Database:
        key = (project, day)
        database = self._open.pop(key, None)
        if database is None or not database.is_current():
            if database is not None:
                database.close()
            database = self._files.writer(project, day)
        self._open[key] = database
        while len(self._open) > _OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        return database

    def _forget(self, project: str, day: str) -> None:
        database = self._open.pop((project, day), None)
        if database is not None:
            database.close()


def _told(error: Exception) -> DetentError:
    if isinstance(error, DetentError):
        return error
    if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
        return TooMany("Another process holds the day's file.", hint="Send again.", retry_after=1.0)
    return StorageFailed(f"The lake cannot write: {error}.", hint="Check the disk's space and rights, then try again.")

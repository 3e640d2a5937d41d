"""Time comes from outside, so that tests are exact and a clock that jumps back is noticed in one place."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR


class Clock(Protocol):
    """What reads the time."""

    def now(self) -> int:
        """Wall time, nanoseconds since the Unix epoch, UTC."""
        ...

    def monotonic(self) -> int:
        """Nanoseconds from an arbitrary origin; never goes back. For durations only."""
        ...


class SystemClock:
    """The machine's clocks."""

    __slots__ = ()

    def now(self) -> int:
        return time.time_ns()

    def monotonic(self) -> int:
        return time.monotonic_ns()


class FixedClock:
    """A clock for tests: stands still until `advance` is called, and may tick by a fixed step on each reading.

    Args:
        start: nanoseconds since the epoch; the default is 2026-01-01T00:00:00Z.
        step: nanoseconds added after every `now()`.
    """

    __slots__ = ("_elapsed", "_start", "step")

    def __init__(self, start: int = 1_767_225_600 * SECOND, step: int = 0) -> None:
        self._start = start
        self._elapsed = 0
        self.step = step

    def now(self) -> int:
        current = self._start + self._elapsed
        self._elapsed += self.step
        return current

    def monotonic(self) -> int:
        return self._elapsed

    def advance(self, nanoseconds: int) -> None:
        """Move on; negative values move the wall clock back, as a real one may."""
        self._elapsed += nanoseconds


def iso(nanoseconds: int) -> str:
    """RFC 3339 in UTC with milliseconds, for people and JSON: `2026-03-03T10:04:00.000Z`."""
    moment = datetime.fromtimestamp(nanoseconds // SECOND, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds % SECOND // 1_000_000:03d}Z"


def parse_iso(text: str) -> int:
    """Nanoseconds since the epoch from RFC 3339 text; a time without zone is taken as UTC.

    Raises:
        ValueError: the text is no date or time.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    whole = int(moment.replace(microsecond=0).timestamp())
    return whole * SECOND + moment.microsecond * 1000


def day_of(nanoseconds: int) -> str:
    """The UTC day `YYYY-MM-DD` that a time falls on; lake partitions are named by it."""
    return datetime.fromtimestamp(nanoseconds // SECOND, UTC).strftime("%Y-%m-%d")

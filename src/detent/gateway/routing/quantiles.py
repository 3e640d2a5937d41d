"""Live quantiles of durations: a histogram with logarithmic buckets, and one that forgets.

Buckets grow by a constant factor, so that any quantile is off by at most 2 % of itself, and two histograms add up
bucket by bucket (the idea of DDSketch, Masson et al., VLDB 2019, with bounds fixed in advance).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from math import ceil, log
from typing import Final

RELATIVE_ERROR: Final = 0.02
"""How far a quantile may be off, as a share of the true value, between `SHORTEST` and `LONGEST`."""

SHORTEST: Final = 1e-4
LONGEST: Final = 7200.0

_GROWTH: Final = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_SCALE: Final = 1 / log(_GROWTH)
_OFFSET: Final = -log(SHORTEST) * _SCALE
_BUCKETS: Final = ceil(log(LONGEST / SHORTEST) * _SCALE)
_LAST: Final = _BUCKETS - 1
_VALUES: Final = tuple(SHORTEST * _GROWTH**i * (1 + RELATIVE_ERROR) for i in range(_BUCKETS))


def bucket_of(seconds: float) -> int:
    """Where a duration is counted; what is out of bounds falls into the first or last bucket."""
    if seconds <= SHORTEST:
        return 0
    return min(int(log(seconds) * _SCALE + _OFFSET), _LAST)


class Histogram:
    """Counts of durations by bucket.

    Attributes:
        count: how many there are.
    """

    __slots__ = ("_buckets", "count")

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self._buckets = [0] * _BUCKETS
        self.count = 0
        if counts:
            self._change(counts, 1)

    def add(self, seconds: float) -> None:
        """Count a duration."""
        self._buckets[bucket_of(seconds)] += 1
        self.count += 1

    def merge(self, other: Histogram) -> None:
        """Add another's counts, such as another worker's."""
        self._change(other.counts(), 1)

    def counts(self) -> dict[int, int]:
        """Counts of the buckets that hold any."""
        return {index: count for index, count in enumerate(self._buckets) if count}

    def quantile(self, q: float) -> float | None:
        """The duration that a share `q` (0 to 1) of all does not exceed; None when there are none."""
        return next(self.quantiles(q))

    def quantiles(self, *qs: float) -> Iterator[float | None]:
        """Several at once, in one pass; `qs` must rise."""
        if not self.count:
            yield from (None for _ in qs)
            return
        ranks = iter(max(ceil(q * self.count), 1) for q in qs)
        rank = next(ranks, 0)
        for index, reached in enumerate(accumulate(self._buckets)):
            while rank and reached >= rank:
                yield _VALUES[index]
                rank = next(ranks, 0)
            if not rank:
                return

    def _change(self, counts: Mapping[int, int], sign: int) -> None:
        for index, count in counts.items():
            self._buckets[index] += sign * count
            self.count += sign * count


class SlidingHistogram:
    """A histogram of the last `seconds`, which are forgotten slice by slice.

    Args:
        seconds: how far back it looks, at most; at least all but one slice of it.
        slices: into how many it is divided.
    """

    __slots__ = ("_buckets", "_current", "_now", "_per_second", "_ring", "_total")

    def __init__(self, seconds: float = 60.0, slices: int = 6) -> None:
        self._per_second = slices / seconds
        self._total = Histogram()
        self._buckets = self._total._buckets
        self._ring: list[dict[int, int]] = [{} for _ in range(slices)]
        self._current = self._ring[0]
        self._now = 0

    def add(self, now: float, seconds: float) -> None:
        """Count a duration that ended now (monotonic seconds)."""
        if int(now * self._per_second) != self._now:
            self._turn(now)
        index = 0 if seconds <= SHORTEST else min(int(log(seconds) * _SCALE + _OFFSET), _LAST)
        current = self._current
        current[index] = current.get(index, 0) + 1
        self._buckets[index] += 1
        self._total.count += 1

    def at(self, now: float) -> Histogram:
        """What is in the window now; read it, and keep it no longer than until the next `add`."""
        self._turn(now)
        return self._total

    def _turn(self, now: float) -> None:
        number = int(now * self._per_second)
        passed = number - self._now
        if passed <= 0:
            return
        size = len(self._ring)
        for step in range(1, min(passed, size) + 1):
            index = (self._now + step) % size
            if self._ring[index]:
                self._total._change(self._ring[index], -1)
                self._ring[index] = {}
        self._now = number
        self._current = self._ring[number % size]

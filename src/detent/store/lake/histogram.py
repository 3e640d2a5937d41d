"""Mergeable histograms with logarithmic buckets: percentiles within 1 % of the true value, whatever is merged.

Bucket `i >= 1` holds the whole numbers in (g^(i-2), g^(i-1)] with g = 1.01 / 0.99, bucket 0 the number 0. Any number in
a bucket is at most 1 % away from the one that stands for it (Masson, Rim and Lee, "DDSketch", 2019). Adding two
histograms adds their counts, so hours add up to days without further error.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping

_ACCURACY = 0.01
_GROWTH = (1 + _ACCURACY) / (1 - _ACCURACY)
_LOG = math.log(_GROWTH)
_ENTRY = 6
"""Bytes of one bucket when stored: its number (2) and its count (4)."""

Histogram = dict[int, int]
"""Bucket to count."""


def bucket_of(value: int) -> int:
    """The bucket that a number falls into; negative ones count as 0."""
    return math.ceil(math.log(value) / _LOG) + 1 if value > 0 else 0


def value_of(bucket: int) -> int:
    """The number that stands for a bucket."""
    return round(2 * math.exp((bucket - 1) * _LOG) / (_GROWTH + 1)) if bucket else 0


def pack(histogram: Mapping[int, int]) -> bytes:
    """The stored form: bucket numbers, then counts, little-endian."""
    count = len(histogram)
    numbers = sorted(histogram)
    return struct.pack(f"<{count}H{count}I", *numbers, *(min(histogram[n], 2**32 - 1) for n in numbers))


def merge(into: Histogram, packed: bytes) -> None:
    """Add a stored histogram."""
    count = len(packed) // _ENTRY
    fields = struct.unpack(f"<{count}H{count}I", packed)
    if not into:
        into.update(zip(fields[:count], fields[count:], strict=True))
        return
    get = into.get
    for bucket, more in zip(fields[:count], fields[count:], strict=True):
        into[bucket] = get(bucket, 0) + more


def percentiles(histogram: Mapping[int, int], fractions: Iterable[float]) -> tuple[int, ...] | None:
    """For each fraction q, in rising order, the value of rank ceil(q * n) within 1 %; None when nothing was counted."""
    total = sum(histogram.values())
    if not total:
        return None
    found: list[int] = []
    ranks = [max(math.ceil(fraction * total), 1) for fraction in fractions]
    seen = 0
    for bucket in sorted(histogram):
        seen += histogram[bucket]
        while len(found) < len(ranks) and seen >= ranks[len(found)]:
            found.append(value_of(bucket))
    return tuple(found)

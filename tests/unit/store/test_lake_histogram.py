"""Histograms: whatever is merged in whatever order, percentiles stay within 2 % of the true ones."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from detent.store.lake import histogram

values = st.integers(0, 2**47) | st.integers(0, 5) | st.integers(900, 1100)


def counted(numbers: list[int]) -> histogram.Histogram:
    found: histogram.Histogram = {}
    for number in numbers:
        bucket = histogram.bucket_of(number)
        found[bucket] = found.get(bucket, 0) + 1
    return found


@given(values)
def test_a_bucket_stands_for_its_numbers(value: int) -> None:
    assert abs(histogram.value_of(histogram.bucket_of(value)) - value) <= 0.01 * value + 0.5


@given(st.lists(st.lists(values, max_size=30), min_size=1, max_size=6))
def test_merged_percentiles_are_within_two_percent(parts: list[list[int]]) -> None:
    merged: histogram.Histogram = {}
    for part in parts:
        histogram.merge(merged, histogram.pack(counted(part)))
    numbers = sorted(number for part in parts for number in part)
    assert merged == counted(numbers)
    found = histogram.percentiles(merged, (0.5, 0.95, 0.99))
    if not numbers:
        assert found is None
        return
    assert found is not None
    for fraction, got in zip((0.5, 0.95, 0.99), found, strict=True):
        exact = numbers[max(math.ceil(fraction * len(numbers)), 1) - 1]
        assert abs(got - exact) <= 0.02 * exact


@given(st.lists(values, max_size=50), st.lists(values, max_size=50))
def test_merging_is_commutative_and_changes_no_count(one: list[int], other: list[int]) -> None:
    forth, back = counted(one), counted(other)
    histogram.merge(forth, histogram.pack(counted(other)))
    histogram.merge(back, histogram.pack(counted(one)))
    assert forth == back
    assert sum(forth.values()) == len(one) + len(other)

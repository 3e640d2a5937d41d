"""Quantiles that forget."""

from __future__ import annotations

import pytest

from detent.gateway.routing.quantiles import LONGEST, SHORTEST, Histogram, SlidingHistogram


def test_nothing_seen_is_nothing_known() -> None:
    assert list(SlidingHistogram().at(5.0).quantiles(0.5, 0.99)) == [None, None]


def test_several_quantiles_in_one_pass() -> None:
    seen = Histogram()
    for i in range(1, 1001):
        seen.add(i / 1000)
    assert list(seen.quantiles(0.0, 0.5, 0.5, 0.95, 0.99, 1.0)) == [
        pytest.approx(value, rel=0.02) for value in (0.001, 0.5, 0.5, 0.95, 0.99, 1.0)
    ]


def test_what_is_out_of_bounds_is_counted_at_the_bounds() -> None:
    seen = Histogram()
    for seconds in (0.0, -1.0, SHORTEST / 10):
        seen.add(seconds)
    assert seen.quantile(1.0) == pytest.approx(SHORTEST, rel=0.05)
    seen.add(float("1e12"))
    assert seen.quantile(1.0) == pytest.approx(LONGEST, rel=0.05)


def test_workers_add_up() -> None:
    one, two = Histogram(), Histogram()
    for seconds in (0.1, 0.2, 0.3):
        one.add(seconds)
        two.add(seconds * 10)
    one.merge(two)
    merged = Histogram(one.counts())
    assert (merged.count, merged.quantile(0.5)) == (6, pytest.approx(0.3, rel=0.02))


def test_a_minute_later_it_is_forgotten() -> None:
    sliding = SlidingHistogram(60.0, 6)
    sliding.add(1005.0, 9.0)
    sliding.add(1055.0, 0.1)
    assert sliding.at(1059.9).quantile(1.0) == pytest.approx(9.0, rel=0.02)
    assert sliding.at(1060.0).quantile(1.0) == pytest.approx(0.1, rel=0.02)
    assert sliding.at(1060.0).count == 1
    assert sliding.at(999_999.0).count == 0
    sliding.add(999_999.0, 0.5)
    assert sliding.at(999_999.0).quantile(0.5) == pytest.approx(0.5, rel=0.02)


def test_time_that_goes_back_loses_nothing() -> None:
    sliding = SlidingHistogram(60.0, 6)
    sliding.add(1000.0, 1.0)
    sliding.add(900.0, 2.0)
    assert sliding.at(1000.0).count == 2

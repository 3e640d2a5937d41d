"""Copies: which calls, and for how much money."""

from __future__ import annotations

import random

import pytest

from detent.gateway.model import Shadow
from detent.gateway.routing import ShadowPurse, copied
from detent.kernel.clock import DAY

NOON = 20_000 * DAY + DAY // 2


def test_the_coin_falls_the_same_way_for_a_trace_and_by_the_share() -> None:
    rng = random.Random(5)
    traces = [f"{rng.getrandbits(128):032x}" for _ in range(4000)]
    shadow = Shadow("new", share=0.1)
    chosen = {trace for trace in traces if copied(shadow, trace)}
    assert len(chosen) / 4000 == pytest.approx(0.1, abs=0.02)
    assert chosen == {trace for trace in traces if copied(shadow, trace)}
    assert chosen < {trace for trace in traces if copied(Shadow("new", share=0.2), trace)}
    other = {trace for trace in traces if copied(Shadow("other", share=0.1), trace)}
    assert len(chosen & other) < 80  # the coins of two shadows are two coins
    assert [copied(Shadow("new", share=share), traces[0]) for share in (0.0, -1.0, 1.0, 2.0)] == [
        False,
        False,
        True,
        True,
    ]


def test_trace_ids_that_are_not_random_are_spread_too() -> None:
    shadow = Shadow("new", share=0.5)
    assert 400 < sum(copied(shadow, f"{i:032x}") for i in range(1000)) < 600


def test_a_day_costs_no_more_than_its_budget() -> None:
    purse = ShadowPurse()
    assert [purse.take(NOON, 40, 100) for _ in range(3)] == [True, True, False]
    purse.settle(NOON, NOON, 40, 10)
    assert purse.spent(NOON) == 50
    assert purse.take(NOON, 40, 100)
    purse.settle(NOON, NOON, 40, None)  # it failed, or cost nothing that is known
    assert purse.spent(NOON) == 50


def test_an_unpriced_copy_is_sent_only_where_there_is_no_bound() -> None:
    purse = ShadowPurse()
    assert [purse.take(NOON, None, limit) for limit in (0, 100)] == [True, False]


def test_tomorrow_is_another_day() -> None:
    purse, midnight = ShadowPurse(), 20_001 * DAY
    assert purse.take(midnight - 1, 100, 100)
    assert purse.take(midnight, 60, 100)
    purse.settle(midnight, midnight - 1, 100, 30)  # yesterday's copy ends today: its cost is today's
    assert purse.spent(midnight) == 90

"""Pauses, budgets, hedges."""

from __future__ import annotations

import pytest

from detent.gateway.model import Breaker, Hedge, Retry
from detent.gateway.routing import Fleet, HedgeClock, RetryBudget, pause
from detent.gateway.routing.hedging import MIN_SAMPLES
from detent.gateway.routing.retries import FLOOR

RETRY = Retry(attempts=4, backoff_ms=100, budget=0.2)


@pytest.mark.parametrize(
    ("failures", "drawn", "retry_after", "remaining", "seconds"),
    [
        (1, 0.5, None, 60.0, 0.05),
        (2, 0.5, None, 60.0, 0.1),
        (3, 0.5, None, 60.0, 0.2),
        (3, 0.0, None, 60.0, 0.0),
        (4, 0.5, None, 60.0, None),  # that was the last try
        (1, 0.5, 2.0, 60.0, 2.05),  # never shorter than asked for, and not all at once
        (1, 0.0, 2.0, 60.0, 2.0),
        (1, 0.0, 2.0, 2.0, None),  # beyond the deadline: go on at once
        (1, 0.5, None, 0.01, None),
        (1, 0.5, None, -1.0, None),
        (1, 0.5, -3.0, 60.0, 0.05),
    ],
)
def test_pauses(
    failures: int, drawn: float, retry_after: float | None, remaining: float, seconds: float | None
) -> None:
    found = pause(RETRY, failures, lambda: drawn, remaining=remaining, retry_after=retry_after)
    assert found == (None if seconds is None else pytest.approx(seconds))


def test_a_pause_does_not_grow_without_end() -> None:
    assert pause(Retry(attempts=10_000), 5000, lambda: 1.0, remaining=60.0) == 10.0


def test_retries_are_held_to_a_share_of_the_calls() -> None:
    budget = RetryBudget()
    granted = 0
    for i in range(1000):
        now = 100.0 + i / 1000
        budget.called(now)
        granted += budget.retry(now, RETRY)
        granted += budget.retry(now, RETRY)
    assert granted == FLOOR + 200
    assert budget.spent(101.0) == (1000, FLOOR + 200, 0)
    assert budget.spent(111.0) == (0, 0, 0)


def test_a_route_with_few_calls_can_retry_at_all() -> None:
    budget = RetryBudget()
    budget.called(100.0)
    assert [budget.retry(100.0, RETRY) for _ in range(FLOOR + 1)] == [True] * FLOOR + [False]
    assert budget.retry(111.0, RETRY)


def test_hedges_have_a_cap_of_their_own_and_take_from_the_budget() -> None:
    budget, hedge = RetryBudget(), Hedge(quantile=0.95, max_extra=0.05)
    for _ in range(19):
        budget.called(100.0)
    assert not budget.hedge(100.0, hedge, RETRY)
    for _ in range(81):
        budget.called(100.0)
    assert [budget.hedge(100.0, hedge, RETRY) for _ in range(6)] == [True] * 5 + [False]
    assert sum(budget.retry(100.0, RETRY) for _ in range(100)) == FLOOR + 20 - 5
    for _ in range(100):
        budget.called(100.0)
    assert budget.spent(100.0) == (200, FLOOR + 20, 5)
    assert not budget.hedge(100.0, hedge, Retry(budget=0.0))


def test_a_call_is_late_after_the_live_quantile() -> None:
    it = Fleet(lambda: 0.0).candidate("p/a/m", Breaker(), 0.0)
    clock = HedgeClock(it.health, Hedge(quantile=0.95))
    assert clock.delay(100.0) is None
    for i in range(MIN_SAMPLES):
        trial = it.begin(100.0)
        assert trial is not None
        assert clock.delay(101.0 + i) is None
        trial.answered(100.0 + (i + 1) / 10)
        trial.succeeded(110.0)
    assert clock.delay(125.0) == pytest.approx(1.9, rel=0.02)
    assert clock.delay(125.0, streamed=False) == pytest.approx(10.0, rel=0.02)
    assert clock.delay(300.0) is None  # all forgotten
    assert HedgeClock(it.health, Hedge(quantile=0.0)).delay(125.0) is None


def test_the_quantile_is_looked_up_twice_a_second_at_most() -> None:
    it = Fleet(lambda: 0.0).candidate("p/a/m", Breaker(), 0.0)
    clock = HedgeClock(it.health, Hedge(quantile=0.5))
    for _ in range(MIN_SAMPLES):
        it.health.first.add(100.0, 1.0)
    assert clock.delay(100.0) == pytest.approx(1.0, rel=0.02)
    for _ in range(10 * MIN_SAMPLES):
        it.health.first.add(100.0, 3.0)
    assert clock.delay(100.4) == pytest.approx(1.0, rel=0.02)
    assert clock.delay(100.6) == pytest.approx(3.0, rel=0.02)

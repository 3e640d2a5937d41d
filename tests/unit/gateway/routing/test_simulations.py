"""The mechanics together, in simulated time with fixed seeds."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

from detent.gateway.model import Breaker, Policy, Retry, Route
from detent.gateway.routing import Fleet, RetryBudget, Trial, order, pause


def ninety_fifth(policy: Policy, latency: Callable[[int, float, random.Random], float]) -> float:
    """p95 of the time to first output over four replicas, 40 calls a second for a minute."""
    rng = random.Random(42)
    fleet = Fleet(rng.random)
    of = [fleet.candidate(f"p/{i}/m", Breaker(error_rate=0.0), 0.0) for i in range(4)]
    rules = Route(name="r", project="p", targets=(), policy=policy)
    now, number = 1000.0, 0
    due: list[tuple[float, int, bool, Trial]] = []
    seen = []
    while now < 1060.0:
        now += rng.expovariate(40.0)
        while due and due[0][0] <= now:
            at, _, ends, trial = heapq.heappop(due)
            if ends:
                trial.succeeded(at)
            else:
                trial.answered(at)
        i = order(rules, of, now=now, draw=rng.random)[0]
        trial_now = of[i].begin(now)
        assert trial_now is not None
        # A replica with much to do is slower: twice as slow at ten calls in flight.
        first = latency(i, now, rng) * (1 + of[i].health.in_flight / 10)
        seen.append(first)
        number += 2
        heapq.heappush(due, (now + first, number, False, trial_now))
        heapq.heappush(due, (now + 2 * first, number + 1, True, trial_now))
    seen.sort()
    return seen[int(len(seen) * 0.95)]


def test_two_choices_beat_chance_when_one_replica_is_slow() -> None:
    def slow(i: int, now: float, rng: random.Random) -> float:
        return (2.0 if i == 0 else 0.1) * rng.uniform(0.8, 1.2)

    assert ninety_fifth("least_latency", slow) < 0.2 * ninety_fifth("weighted", slow)


def test_two_choices_beat_chance_when_a_replica_is_slow_for_a_while() -> None:
    def pauses(i: int, now: float, rng: random.Random) -> float:
        return (3.0 if i == int(now / 15) % 4 else 0.1) * rng.uniform(0.8, 1.2)

    assert ninety_fifth("least_latency", pauses) < 0.2 * ninety_fifth("weighted", pauses)


def test_an_outage_is_not_amplified_beyond_the_budget() -> None:
    rng = random.Random(1)
    budget, retry = RetryBudget(), Retry(attempts=3, backoff_ms=50, budget=0.2)
    calls = attempts = 0
    now = 1000.0
    while now < 1100.0:
        now += rng.expovariate(20.0)
        budget.called(now)
        calls += 1
        attempts += 1
        failures = 1
        while pause(retry, failures, rng.random, remaining=60.0) is not None and budget.retry(now, retry):
            attempts += 1
            failures += 1
    floor = 3 * 10  # in each of ten windows
    assert attempts <= calls * 1.2 + floor
    assert attempts > calls * 1.15


def test_traffic_leaves_a_dead_target_and_comes_back() -> None:
    rng = random.Random(9)
    fleet = Fleet(rng.random)
    of = [fleet.candidate(f"p/{i}/m", Breaker(min_calls=5, open_seconds=2.0), 0.0) for i in range(2)]
    rules = Route(name="r", project="p", targets=(), policy="ordered")
    asked: dict[str, list[int]] = {"before": [0, 0], "dead": [0, 0], "after": [0, 0]}
    lost = 0
    for step in range(1200):
        now = 1000.0 + step / 10
        phase = "before" if step < 300 else "dead" if step < 600 else "after"
        for i in order(rules, of, now=now, draw=rng.random):
            trial = of[i].begin(now)
            if trial is None:
                continue
            asked[phase][i] += 1
            if phase == "dead" and i == 0:
                trial.failed(now + 0.01, "unavailable")
                continue
            trial.succeeded(now + 0.05)
            break
        else:
            lost += 1
    assert lost == 0
    assert asked["before"] == [300, 0]
    assert asked["dead"][1] == 300
    # Fifteen fail until half of the last half minute's calls have; after that only probes do.
    assert asked["dead"][0] < 170
    assert asked["after"][0] > 150
    assert fleet.status(1120.0)[0].breaker == "closed"

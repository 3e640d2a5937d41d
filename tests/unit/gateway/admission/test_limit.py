"""The adaptive limit: what it learns from whom. Upstreams are simulated, in windows or call by call."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

import pytest

from detent.gateway.admission.limit import START, AdaptiveLimit


def limit(*, most: int = 0, first: float = 10.0, pace: float = 0.0) -> AdaptiveLimit:
    made = AdaptiveLimit()
    made.configure(most=most, first=first, pace=pace)
    return made


class Upstream:
    """Poisson arrivals to an upstream whose latency is a function of how many it has; who finds no room is counted."""

    def __init__(self, latency: Callable[[int, random.Random], float], seed: int = 1) -> None:
        self.latency = latency
        self.rng = random.Random(seed)
        self.limit = limit()
        self.now = 0.0
        self.running: list[tuple[float, float]] = []
        self.peak = 0
        self.turned_away = 0
        self.came = 0

    def run(self, rate: float, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += self.rng.expovariate(rate)
            while self.running and self.running[0][0] <= self.now:
                self.finish()
            self.came += 1
            if len(self.running) >= self.limit.room:
                self.turned_away += 1
                continue
            end = self.now + self.latency(len(self.running) + 1, self.rng)
            heapq.heappush(self.running, (end, self.now))
            self.peak = max(self.peak, len(self.running))

    def finish(self) -> None:
        end, began = heapq.heappop(self.running)
        if self.limit.saw_first(began, end - began, self.peak, end):
            self.peak = len(self.running)


def test_it_starts_generous() -> None:
    assert limit().room == START == 64


def test_a_healthy_upstream_is_never_limited_while_the_load_doubles() -> None:
    upstream = Upstream(lambda _running, _rng: 0.05)
    for doubling in range(8):  # 100/s to 12,800/s: 640 at once
        upstream.run(100 * 2**doubling, 2.0)
    assert upstream.came > 40_000
    assert upstream.turned_away == 0


@pytest.mark.parametrize("sigma", [0.3, 0.8])
def test_noise_is_no_overload(sigma: float) -> None:
    upstream = Upstream(lambda _running, rng: 0.3 * rng.lognormvariate(0, sigma))
    for seconds in (100, 100):
        upstream.run(100, seconds)  # 30 to 41 at once, of 64
    assert upstream.turned_away == 0


def test_an_upstream_that_queues_is_held_near_what_it_can_do() -> None:
    """Twenty at once are served in 0.2 s; more only wait."""
    upstream = Upstream(lambda running, _rng: 0.2 * max(running / 20, 1.0))
    upstream.run(400, 60)
    assert 20 <= upstream.limit.room <= 64


def test_it_grows_back_when_the_upstream_recovers() -> None:
    slots = 5
    upstream = Upstream(lambda running, _rng: 0.1 * max(running / slots, 1.0))
    upstream.run(500, 20)
    low = upstream.limit.room
    slots = 100
    upstream.run(500, 40)
    assert low <= 20
    assert upstream.limit.room >= 45


def test_slowness_that_is_not_ours_is_taken_for_normal() -> None:
    """The upstream becomes ten times slower, whatever we do: fewer calls would help nobody."""
    speed = 0.1
    upstream = Upstream(lambda _running, rng: speed * rng.lognormvariate(0, 0.2))
    upstream.run(200, 20)
    speed = 1.0
    upstream.run(40, 200)
    before = upstream.turned_away
    upstream.run(40, 60)
    assert upstream.turned_away == before
    assert upstream.limit.room >= 40


def test_an_overload_lowers_once_per_round_trip() -> None:
    one = limit()
    assert one.saw_overload(0.0, 64, 1.0)
    assert one.room == 44
    assert not one.saw_overload(0.5, 64, 1.1), "it began before the decrease"
    assert one.room == 44
    assert one.saw_overload(1.05, 44, 1.2)
    assert one.room == 31


def test_an_overload_counts_from_what_was_really_used() -> None:
    one = limit()
    one.saw_overload(0.0, 5, 1.0)
    assert one.room == 7


def test_it_never_falls_below_one_and_comes_back_from_there() -> None:
    one = limit()
    for second in range(50):
        one.saw_overload(float(second), 1, second + 0.5)
    assert one.room == 1
    now = 100.0
    for _ in range(200):
        one.saw_first(now, 0.1, one.room, now + 0.1)
        now += 0.1
    assert one.room > 10


def test_after_an_outage_it_grows_fast_up_to_what_was_known_to_work() -> None:
    one = limit()
    for second in range(20):
        one.saw_overload(float(second), 64, second + 0.5)
    now, windows = 100.0, 0
    while one.room < 40 and windows < 12:
        while not one.saw_first(now, 0.1, one.room, now + 0.1):
            now += 0.01
        now += 0.2
        windows += 1
    assert windows <= 7


def test_a_bound_holds() -> None:
    one = limit(most=8)
    assert one.room == 8
    now = 0.0
    for _ in range(500):
        one.saw_first(now, 0.1, 8, now + 0.1)
        now += 0.1
    assert one.room == 8
    one.configure(most=0, first=10.0, pace=0.0)
    assert one.room == 8
    one.configure(most=3, first=10.0, pace=0.0)
    assert one.room == 3


def test_what_is_not_used_does_not_grow() -> None:
    one = limit()
    now = 0.0
    for _ in range(500):
        one.saw_first(now, 0.1, 10, now + 0.1)
        now += 0.1
    assert one.room == 64


def test_a_stated_pace_is_kept() -> None:
    """A step of the batch takes 10 ms and 5 ms for each sequence: 60 ms hold ten, of which a tenth is kept back."""
    one = limit(pace=0.06)
    now = 0.0
    for _ in range(3000):
        running = one.room
        one.saw_first(now, 0.1, running, now + 0.1)
        one.saw_pace(now, 0.010 + 0.005 * running, running, now + 1.0)
        now += 1.0 / running
    assert 7 <= one.room <= 10


def test_a_pace_that_cannot_be_kept_does_not_strangle() -> None:
    one = limit(pace=0.01)
    now, low = 0.0, []
    for _ in range(5000):
        running = one.room
        one.saw_pace(now, 0.08, running, now + 1.0)
        now += 0.1
        low.append(one.room)
    assert sum(room >= 20 for room in low) > 2500


def test_answers_in_one_piece_count_too() -> None:
    one = limit()
    now = 0.0
    for seconds in [0.2] * 102 + [5.0] * 12:
        one.saw_whole(now, seconds, 30, now + seconds)
        now += seconds
    assert one.room == 15


def test_who_gave_up_waiting_counts_as_slow() -> None:
    one = limit()
    assert not one.still_waiting(0.0, 100.0, 64, 100.0), "nothing is known yet"
    for _ in range(12):
        one.saw_first(100.0, 0.1, 20, 100.5)
    assert not one.still_waiting(101.0, 0.2, 64, 101.2), "that may have been a matter of seconds"
    assert any(one.still_waiting(101.0, 3.0, 64, 104.0) for _ in range(12))
    assert one.room < 64


def full(tested: AdaptiveLimit, factor: float, calls: int, now: float = 0.0) -> float:
    """Calls of a deployment that is full and has a pace by how many it has, times a factor; the time after them."""
    for _ in range(calls):
        now += 0.1
        tested.saw_first(now - 0.05, 0.05, tested.room, now)
        tested.saw_pace(now - 0.05, factor * (0.012 + 0.005 * tested.room), tested.room, now)
    return now


def test_when_the_pace_is_good_again_what_held_before_is_back_soon() -> None:
    tested = limit(first=1.0, pace=0.06)
    now = full(tested, 1.0, 300)
    held = tested.room
    assert 6 <= held <= 9
    now = full(tested, 2.0, 30, now)
    assert tested.room <= held / 2
    full(tested, 1.0, 24, now)
    assert tested.room >= 0.7 * held


def test_a_pace_that_takes_no_time_at_all_is_no_reason_to_grow_beyond_what_held() -> None:
    tested = limit(first=1.0, pace=0.06)
    now = full(tested, 1.0, 300)
    held = tested.room
    for _ in range(12):
        now += 0.1
        tested.saw_pace(now - 0.05, 0.0, tested.room, now)
    assert held <= tested.room <= held + 1

"""When a deployment is left alone, and when it is asked again."""

from __future__ import annotations

import pytest

from detent.gateway.model import Breaker
from detent.gateway.routing.breaker import PROBE_SECONDS, Circuit

RULES = Breaker(error_rate=0.5, min_calls=4, window_seconds=10.0, open_seconds=5.0, probes=2)


def circuit(rules: Breaker = RULES, jitter: float = 0.0) -> Circuit:
    return Circuit(rules, lambda: jitter)


def run(it: Circuit, now: float, outcomes: str) -> None:
    """Calls one after another: `+` good, `-` bad, `s` slow."""
    for outcome in outcomes:
        entered = it.enter(now)
        assert entered is not None
        if outcome == "-":
            it.bad(now, entered)
        else:
            it.good(now, entered, 9.0 if outcome == "s" else 0.1)


@pytest.mark.parametrize(
    ("rules", "outcomes", "state"),
    [
        (RULES, "---", "closed"),  # below min_calls
        (RULES, "----", "open"),
        (RULES, "+++-", "closed"),
        (RULES, "++--", "open"),
        (RULES, "---+", "open"),  # the fourth call completes the picture
        (Breaker(error_rate=0.0, min_calls=1), "-----", "closed"),
        (Breaker(slow_rate=0.5, slow_seconds=2.0, min_calls=4), "++ss", "open"),
        (Breaker(slow_rate=0.5, slow_seconds=0.0, min_calls=4), "ssss", "closed"),
        (Breaker(slow_rate=0.0, slow_seconds=2.0, min_calls=4), "ssss", "closed"),
        (Breaker(error_rate=0.5, slow_rate=0.5, slow_seconds=2.0, min_calls=4), "-s++", "closed"),  # not added up
    ],
)
def test_when_it_opens(rules: Breaker, outcomes: str, state: str) -> None:
    it = circuit(rules)
    run(it, 100.0, outcomes)
    assert it.state(100.0) == state


def test_what_is_older_than_the_window_does_not_count() -> None:
    it = circuit()
    run(it, 100.0, "---")
    run(it, 111.0, "-")
    assert it.state(111.0) == "closed"
    assert it.rates(111.0) == (1, 1.0, 0.0)
    assert it.rates(200.0) == (0, 0.0, 0.0)


def test_good_probes_close_it_and_the_past_is_forgotten() -> None:
    it = circuit()
    run(it, 100.0, "----")
    assert (it.allows(104.9), it.state(104.9), it.retry_at) == (False, "open", 105.0)
    assert it.state(105.0) == "half_open"
    first, second = it.enter(105.0), it.enter(105.0)
    assert (it.allows(105.0), it.enter(105.0), it.enter(105.0, force=True)) == (False, None, -1)
    assert first is not None
    assert second is not None
    it.good(106.0, first, 0.1)
    assert (it.state(106.0), it.allows(106.0)) == ("half_open", False)
    it.good(106.0, second, 0.1)
    assert (it.state(106.0), it.since, it.opened) == ("closed", 106.0, 1)
    run(it, 106.0, "---")
    assert it.state(106.0) == "closed"


def test_bad_probes_double_the_time_sixteen_times_at_most() -> None:
    it = circuit()
    run(it, 100.0, "----")
    times, last = [], 100.0
    for _ in range(7):
        times.append(it.retry_at - last)
        last = it.retry_at
        run(it, last, "-")
    assert times == [5.0, 10.0, 20.0, 40.0, 80.0, 80.0, 80.0]
    assert it.since == 100.0
    run(it, it.retry_at, "++")
    run(it, it.retry_at + 1, "----")
    assert it.retry_at - it.since == 5.0


def test_jitter_only_makes_it_longer() -> None:
    it = circuit(jitter=0.999)
    run(it, 100.0, "----")
    assert 105.9 < it.retry_at < 106.0


def test_a_slow_probe_is_a_bad_one() -> None:
    it = circuit(Breaker(slow_rate=0.5, slow_seconds=2.0, min_calls=2, open_seconds=5.0))
    run(it, 100.0, "ss")
    run(it, 105.0, "s")
    assert (it.state(105.0), it.retry_at) == ("open", 115.0)


def test_a_probe_that_is_abandoned_gives_its_place_back() -> None:
    it = circuit()
    run(it, 100.0, "----")
    for _ in range(10):
        entered = it.enter(105.0)
        assert entered is not None
        it.leave(entered)
    run(it, 105.0, "++")
    assert it.state(105.0) == "closed"


def test_a_probe_that_never_reports_does_not_block_for_ever() -> None:
    it = circuit()
    run(it, 100.0, "----")
    lost = [it.enter(105.0), it.enter(105.0)]
    assert not it.allows(105.0 + PROBE_SECONDS - 0.1)
    late = 105.0 + PROBE_SECONDS
    assert it.allows(late)
    run(it, late, "+")
    for entered in lost:  # they report after all: nobody is waiting for them any more
        assert entered is not None
        it.bad(late, entered)
    assert it.state(late) == "half_open"
    run(it, late, "+")
    assert it.state(late) == "closed"


def test_calls_from_before_change_nothing_while_it_is_shut() -> None:
    it = circuit()
    old = it.enter(100.0)
    assert old is not None
    run(it, 100.0, "----")
    it.bad(101.0, old)
    it.good(101.0, old, 0.1)
    it.bad(106.0, old)
    it.relapse(106.0, old)
    assert (it.retry_at, it.state(106.0), it.opened) == (105.0, "half_open", 1)


def test_a_call_that_is_forced_through_is_no_evidence() -> None:
    it = circuit()
    run(it, 100.0, "----")
    forced = it.enter(101.0, force=True)
    assert forced is not None
    it.bad(101.0, forced)
    assert it.retry_at == 105.0
    run(it, 105.0, "++")
    it.bad(105.0, forced)
    assert it.rates(105.0) == (0, 0.0, 0.0)


def test_a_stream_that_breaks_off_after_a_good_start_counts() -> None:
    it = circuit()
    for _ in range(4):
        it.relapse(100.0, 0)
    assert it.state(100.0) == "open"
    probe = it.enter(105.0)
    assert probe is not None
    it.good(105.0, probe, 0.1)
    it.relapse(107.0, probe)
    assert (it.state(107.0), it.retry_at) == ("open", 117.0)

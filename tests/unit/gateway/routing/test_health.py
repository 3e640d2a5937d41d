"""What is known of a deployment, and how attempts report."""

from __future__ import annotations

import random
from math import exp, inf

import pytest

from detent.gateway.model import Breaker, Failure
from detent.gateway.routing import Candidate, DeploymentStatus, Fleet, Quantiles, Trial, soonest
from detent.gateway.routing.health import UNKNOWN
from detent.gateway.routing.quantiles import bucket_of

RULES = Breaker(min_calls=2, open_seconds=5.0, probes=1)


def fleet() -> Fleet:
    return Fleet(lambda: 0.0)


def candidate(name: str = "p/a/m", rules: Breaker = RULES) -> Candidate:
    return fleet().candidate(name, rules, 0.0)


def begun(it: Candidate, now: float, *, streamed: bool = True, force: bool = False) -> Trial:
    trial = it.begin(now, streamed=streamed, force=force)
    assert trial is not None
    return trial


def call(it: Candidate, now: float, first: float) -> None:
    trial = begun(it, now)
    trial.answered(now + first)
    trial.succeeded(now + first + 1)


def fail(it: Candidate, now: float, failure: Failure | None = "unavailable", retry_after: float | None = None) -> None:
    begun(it, now).failed(now + 0.01, failure, retry_after=retry_after)


def test_a_peak_is_believed_at_once_and_fades_slowly() -> None:
    it = candidate()
    call(it, 100.0, 0.1)
    call(it, 101.0, 3.0)
    assert it.health.streamed.seconds(104.0) == 3.0
    call(it, 113.9, 0.1)
    assert it.health.streamed.seconds(114.0) == pytest.approx(3.0 * exp(-1) + 0.1 * (1 - exp(-1)))
    assert it.health.streamed.seconds(1000.0) < 1e-9  # what was slow once is tried again


def test_cost_grows_with_the_load() -> None:
    it = candidate()
    call(it, 100.0, 0.5)
    trial = begun(it, 100.5)
    assert it.health.cost(100.5) == pytest.approx(1.0)
    trial.abandoned()
    assert it.health.cost(100.5) == pytest.approx(0.5)


def test_unknown_is_tried_first_but_by_one_call_at_a_time() -> None:
    it = candidate()
    assert it.health.cost(100.0) == 0.0
    trial = begun(it, 100.0)
    assert it.health.cost(100.0) == UNKNOWN + 1
    trial.answered(100.2)
    assert it.health.cost(100.2) == pytest.approx(0.4)


def test_a_deployment_that_hangs_gets_dear_before_any_time_out() -> None:
    it = candidate()
    call(it, 100.0, 0.1)
    waiting = [begun(it, 102.0 + i) for i in range(3)]
    assert it.health.cost(132.0) == pytest.approx(30.0 * 4)
    waiting[0].answered(132.0)
    for trial in waiting:
        trial.abandoned()
    assert it.health.in_flight == 0
    assert it.health.cost(132.0) == pytest.approx(30.0)


def test_streams_and_whole_answers_are_told_apart() -> None:
    it = candidate()
    call(it, 100.0, 0.2)
    begun(it, 100.0, streamed=False).succeeded(108.0)
    assert it.health.streamed.seconds(100.2) == pytest.approx(0.2)
    assert it.health.whole.seconds(108.0) == pytest.approx(8.0)
    assert (it.health.first.at(108.0).count, it.health.total.at(108.0).count) == (1, 2)


def test_errors_that_come_fast_do_not_attract() -> None:
    it = candidate()
    call(it, 100.0, 0.1)
    fail(it, 100.5)
    assert it.health.cost(100.51) == pytest.approx(5.0)


@pytest.mark.parametrize("failure", ["context_length", "content_filter", None])
def test_what_the_request_is_to_blame_for_does_not_count(failure: Failure | None) -> None:
    it = candidate()
    for _ in range(10):
        fail(it, 100.0, failure)
    assert it.circuit.state(100.0) == "closed"
    assert it.health.cost(100.0) == 0.0
    status = it.health.status(100.0)
    assert (status.error_rate, status.calls) == (0.0, 10)


def test_a_probe_that_the_client_is_to_blame_for_shows_that_somebody_is_there() -> None:
    it = candidate()
    fail(it, 100.0)
    fail(it, 100.0)
    assert it.circuit.state(100.1) == "open"
    fail(it, 106.0, None)
    assert it.circuit.state(106.1) == "closed"


def test_a_probe_is_good_with_its_first_output() -> None:
    it = candidate()
    fail(it, 100.0)
    fail(it, 100.0)
    probe = begun(it, 106.0)
    assert (probe.probe, it.begin(106.0)) == (True, None)
    probe.answered(106.5)
    assert it.circuit.state(106.5) == "closed"
    probe.succeeded(170.0)
    assert it.circuit.rates(170.0) == (0, 0.0, 0.0)


def test_streams_that_break_off_count_too() -> None:
    it = candidate()
    for _ in range(2):
        trial = begun(it, 100.0)
        trial.answered(100.2)
        trial.failed(101.0, "unavailable")
    assert it.circuit.state(101.0) == "open"
    assert it.health.first.at(101.0).quantile(1.0) == pytest.approx(0.2, rel=0.02)


def test_retry_after_is_not_before_and_never_shortened() -> None:
    it = candidate()
    fail(it, 100.0, "rate_limited", 20.0)
    fail(it, 100.0, "rate_limited", 3.0)
    assert [it.allows(now) for now in (100.1, 120.0, 120.02)] == [False, False, True]
    assert soonest([it], 100.01) == pytest.approx(20.0)
    assert soonest([it, candidate("p/b/m")], 100.01) == 0.0
    assert soonest([], 0.0) == inf


def test_only_the_first_end_counts() -> None:
    it = candidate()
    trial = begun(it, 100.0)
    trial.succeeded(101.0)
    trial.succeeded(102.0)
    trial.failed(103.0, "timeout", retry_after=60.0)
    trial.abandoned()
    trial.answered(104.0)
    assert (it.health.in_flight, it.health.not_before) == (0, 0.0)
    assert it.health.outcomes == {"succeeded": 1, "abandoned": 0, "outrun": 0, "refused": 0}


def test_routes_with_the_same_rules_share_a_breaker() -> None:
    them = fleet()
    one, same = (them.candidate("p/a/m", Breaker(min_calls=2), 0.0) for _ in range(2))
    other = them.candidate("p/a/m", Breaker(min_calls=50), 0.0)
    fail(one, 100.0)
    fail(same, 100.0, retry_after=7.0)
    assert [c.circuit.state(101.0) for c in (one, same, other)] == ["open", "open", "closed"]
    assert [c.allows(103.0) for c in (one, same, other)] == [False, False, False]  # it asked to be left alone itself
    assert [status.breaker for status in them.status(101.0)] == ["open"]


def test_health_outlives_a_swap_for_what_is_still_there() -> None:
    them = fleet()
    stays = them.candidate("p/a/m", RULES, 0.0)
    them.candidate("p/b/m", RULES, 0.0)
    budget = them.budget("p/r")
    them.budget("p/gone")
    fail(stays, 100.0)
    fail(stays, 100.0)
    fresh = them.candidate("p/a/m", RULES, 101.0, weight=3)
    looser = them.candidate("p/a/m", Breaker(), 101.0)
    them.keep([fresh], ["p/r"])
    assert fresh.circuit is stays.circuit
    assert them.budget("p/r") is budget
    assert [status.name for status in them.status(101.0)] == ["p/a/m"]
    assert them.candidate("p/a/m", Breaker(), 101.0).circuit is not looser.circuit


def test_status_says_it_all() -> None:
    it = candidate(rules=Breaker(min_calls=100))
    for i in range(10):
        call(it, 100.0 + i, 0.25)
    begun(it, 109.0).failed(110.0, "timeout")
    begun(it, 110.0).abandoned()
    begun(it, 110.0)
    status = it.health.status(111.0)
    quarter, long = pytest.approx(0.25, rel=0.02), pytest.approx(1.25, rel=0.02)
    assert status.first_quantiles == Quantiles(quarter, *[pytest.approx(1.0, rel=0.02)] * 2)
    assert status.total_quantiles == Quantiles(long, long, long)
    assert status.error_rate == 1 / 11
    assert status == DeploymentStatus(
        name="p/a/m",
        breaker="closed",
        since_seconds=111.0,
        opened=0,
        retry_seconds=0.0,
        not_before_seconds=0.0,
        in_flight=1,
        ewma=pytest.approx(5.0 * exp(-0.1)),
        ewma_whole=None,
        first={bucket_of(0.25): 10, bucket_of(1.0): 1},
        total={bucket_of(1.25): 10},
        calls=11,
        failed=1,
        outcomes={"succeeded": 10, "abandoned": 1, "outrun": 0, "refused": 0, "timeout": 1},
    )


def test_workers_statuses_add_up() -> None:
    one, two = candidate(), candidate()
    call(one, 100.0, 0.2)
    fail(two, 100.0, retry_after=9.0)
    fail(two, 100.0)
    begun(two, 100.5, force=True)
    for merged in (
        one.health.status(101.5).merged(two.health.status(101.5)),
        two.health.status(101.5).merged(one.health.status(101.5)),
    ):
        assert (merged.breaker, merged.opened, merged.in_flight) == ("open", 1, 1)
        assert (merged.calls, merged.failed, merged.first) == (3, 2, {bucket_of(0.2): 1})
        assert merged.outcomes == {"succeeded": 1, "abandoned": 0, "outrun": 0, "refused": 0, "unavailable": 2}
        assert (merged.not_before_seconds, merged.retry_seconds) == (pytest.approx(7.51), pytest.approx(3.51))
        assert merged.ewma == pytest.approx(5.0 * exp(-0.149))


def test_who_is_outrun_by_a_hedge_was_at_least_so_slow() -> None:
    it = candidate(rules=Breaker(slow_rate=0.5, slow_seconds=2.0, min_calls=2))
    call(it, 100.0, 0.1)
    begun(it, 101.0).outrun(102.5)
    assert it.health.streamed.seconds(102.5) == pytest.approx(1.5)
    assert it.health.first.at(102.5).quantile(1.0) == pytest.approx(1.5, rel=0.02)
    assert it.circuit.rates(102.5) == (1, 0.0, 0.0)  # not slow, as far as one can see
    begun(it, 101.0).outrun(104.0)
    assert it.circuit.state(104.0) == "open"
    assert (it.health.in_flight, it.health.outcomes["outrun"]) == (0, 2)
    begun(it, 104.0, force=True).outrun(104.5)
    assert it.health.streamed.seconds(104.5) == pytest.approx(3.0 * exp(-0.05))  # "at least half a second" is no news
    late = begun(it, 104.0, force=True)
    late.answered(104.1)
    late.outrun(104.2)  # both answered at once: this one is given up, and was not slow
    assert it.health.outcomes["abandoned"] == 1


def test_nothing_leaks_whatever_is_reported() -> None:
    rng = random.Random(7)
    it = candidate(rules=Breaker(min_calls=5, open_seconds=1.0))
    now, open_trials = 100.0, []
    for _ in range(3000):
        now += rng.random() / 10
        if rng.random() < 0.5:
            open_trials.append(begun(it, now, streamed=rng.random() < 0.5, force=True))
        elif open_trials:
            trial = open_trials.pop(rng.randrange(len(open_trials)))
            for report in rng.choices("asfro", k=3):
                if report == "a":
                    trial.answered(now)
                elif report == "s":
                    trial.succeeded(now)
                elif report == "o":
                    trial.outrun(now)
                else:
                    trial.failed(now, "timeout" if report == "f" else None)
            trial.abandoned()
    for trial in open_trials:
        trial.abandoned()
    assert it.health.in_flight == it.health.streamed.waiting == it.health.whole.waiting == 0

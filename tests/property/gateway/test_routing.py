"""Routing holds whatever happens: random histories of a breaker, random durations, random fleets."""

from __future__ import annotations

from math import ceil
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from detent.gateway.model import Breaker, Policy, Route
from detent.gateway.routing import Fleet, Histogram, SlidingHistogram, Trial, order, rejected_class
from detent.gateway.routing.breaker import PROBE_SECONDS, Circuit
from detent.gateway.routing.quantiles import LONGEST, RELATIVE_ERROR, SHORTEST

DURATIONS = st.lists(st.floats(SHORTEST, LONGEST), min_size=1, max_size=200)


@given(DURATIONS, st.floats(0, 1))
def test_a_quantile_is_off_by_two_percent_at_most(durations: list[float], q: float) -> None:
    seen = Histogram()
    for seconds in durations:
        seen.add(seconds)
    true = sorted(durations)[max(ceil(q * len(durations)), 1) - 1]
    found = seen.quantile(q)
    assert found is not None
    assert abs(found - true) <= true * (RELATIVE_ERROR + 1e-9)


@given(DURATIONS, DURATIONS)
def test_histograms_merged_are_one_histogram(one: list[float], two: list[float]) -> None:
    first, second, both = Histogram(), Histogram(), Histogram()
    for seconds in one:
        first.add(seconds)
        both.add(seconds)
    for seconds in two:
        second.add(seconds)
        both.add(seconds)
    first.merge(second)
    assert first.counts() == both.counts()
    assert first.count == both.count


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(SHORTEST, LONGEST)), max_size=100))
def test_a_sliding_histogram_is_the_histogram_of_its_window(steps: list[tuple[float, float]]) -> None:
    sliding, history, now = SlidingHistogram(60.0, 6), [], 1000.0
    for pause, seconds in steps:
        now += pause
        sliding.add(now, seconds)
        history.append((int(now * 0.1), seconds))
    plain = Histogram()
    for slice_, seconds in history:
        if slice_ > int(now * 0.1) - 6:
            plain.add(seconds)
    assert sliding.at(now).counts() == plain.counts()


class BreakerHistory(RuleBasedStateMachine):
    """Any calls in any order, at any pace."""

    calls = Bundle("calls")

    @initialize(
        min_calls=st.integers(1, 8),
        probes=st.integers(1, 4),
        error_rate=st.sampled_from([0.1, 0.5, 1.0]),
        drawn=st.floats(0, 0.99),
    )
    def begin(self, min_calls: int, probes: int, error_rate: float, drawn: float) -> None:
        self.rules = Breaker(error_rate=error_rate, min_calls=min_calls, probes=probes, open_seconds=5.0)
        self.circuit = Circuit(self.rules, lambda: drawn)
        self.now = 1000.0
        self.probing: dict[int, float] = {}
        self.reported = 0
        self.opened = 0

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=calls, force=st.booleans())
    def enter(self, force: bool) -> int:
        state = self.circuit.state(self.now)
        allowed = self.circuit.allows(self.now)
        entered = self.circuit.enter(self.now, force=force)
        assert (entered is not None) == (allowed or force)
        if entered is None or entered < 0:
            return -1
        assert (entered > 0) == (state == "half_open")
        if entered > 0:
            self.probing[entered] = self.now + PROBE_SECONDS
        return entered

    def note(self, entered: int) -> None:
        self.probing.pop(entered, None)
        if self.circuit.opened != self.opened:
            self.opened = self.circuit.opened
            self.probing.clear()

    @rule(entered=consumes(calls), well=st.booleans())
    def report(self, entered: int, well: bool) -> None:
        was = self.circuit.shut
        self.reported = 0 if was else self.reported + (entered >= 0)
        if well:
            self.circuit.good(self.now, entered, 0.1)
        else:
            self.circuit.bad(self.now, entered)
        if self.circuit.shut and not was:
            assert self.reported >= self.rules.min_calls, "it opened on too little"
        self.note(entered)

    @rule(entered=consumes(calls))
    def abandon(self, entered: int) -> None:
        self.circuit.leave(entered)
        self.note(entered)

    @invariant()
    @precondition(lambda self: hasattr(self, "circuit"))
    def never_more_probes_than_allowed(self) -> None:
        alive = sum(lease > self.now for lease in self.probing.values())
        assert not self.circuit.shut or alive <= self.rules.probes

    @invariant()
    @precondition(lambda self: hasattr(self, "circuit"))
    def never_open_for_longer_than_it_may_be(self) -> None:
        longest = self.rules.open_seconds * 16 * 1.2
        assert not self.circuit.shut or self.circuit.retry_at <= self.now + longest

    def teardown(self) -> None:
        """Once the deployment is good again it recovers, whoever never reported."""
        if not hasattr(self, "circuit"):
            return
        self.now += max(self.rules.open_seconds * 16 * 1.2, PROBE_SECONDS)
        for _ in range(self.rules.probes):
            entered = self.circuit.enter(self.now)
            assert entered is not None
            self.circuit.good(self.now, entered, 0.1)
        assert self.circuit.state(self.now) == "closed"


TestBreakerHistory = BreakerHistory.TestCase
TestBreakerHistory.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)

REPORTS = st.sampled_from(["succeeded", "timeout", "unavailable", "context_length", "abandoned", "answered", "lost"])


@settings(deadline=None)
@given(
    st.integers(1, 5),
    st.sampled_from(["ordered", "weighted", "least_latency", "cheapest", "prefix_affinity"]),
    st.lists(st.tuples(st.floats(0, 10), REPORTS, st.sampled_from([None, 0.5, 30.0])), max_size=60),
    st.sampled_from(["", "session"]),
    st.randoms(use_true_random=False),
)
def test_somebody_is_always_asked_unless_all_want_to_be_left_alone(
    count: int, policy: Policy, history: list[tuple[float, str, float | None]], sticky: str, rng: Random
) -> None:
    draw = rng.random
    fleet = Fleet(draw)
    of = [fleet.candidate(f"p/{i}/m", Breaker(min_calls=2, probes=1), 0.0) for i in range(count)]
    rules = Route(name="r", project="p", targets=(), policy=policy)
    now = 1000.0
    for step, report, retry_after in history:
        now += step
        chosen = order(rules, of, now=now, draw=draw, sticky_key=sticky, prefix_key=sticky.encode())
        assert len(set(chosen)) == len(chosen)
        assert bool(chosen) == any(now >= it.health.not_before for it in of)
        assert all(of[i].allows(now) for i in chosen) or len(chosen) == 1
        if not chosen:
            continue
        trial = of[chosen[0]].begin(now, force=True)
        assert isinstance(trial, Trial)
        if report == "succeeded":
            trial.succeeded(now + 1)
        elif report == "abandoned":
            trial.abandoned()
        elif report == "answered":
            trial.answered(now + 0.1)
        elif report != "lost":
            trial.failed(now + 1, report, retry_after=retry_after)  # type: ignore[arg-type]
    fleet.status(now)


@given(st.integers(400, 499), st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode()))
def test_any_body_is_survived(status: int, body: bytes) -> None:
    rejected_class(status, body)

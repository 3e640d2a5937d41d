"""How a deployment is doing, as this worker sees it: load, latency, outcomes, breakers.

A `Fleet` holds the health of every deployment by name and outlives the snapshots. A `Candidate` is a deployment as one
route sees it. Each attempt at it is a `Trial`, which reports once when the first output comes and once at its end.

All times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from math import exp, inf
from typing import Final, TypeVar

import msgspec

from detent.gateway.model import Breaker, Failure
from detent.gateway.routing.breaker import Circuit, State, Tally
from detent.gateway.routing.failures import COUNTED
from detent.gateway.routing.quantiles import Histogram, SlidingHistogram
from detent.gateway.routing.retries import RetryBudget
from detent.kernel.money import Price

DECAY_SECONDS: Final = 10.0
"""In which a latency that was seen loses 63 % of its weight."""

FAILURE_SECONDS: Final = 5.0
"""What a failed call counts for as latency, at least: errors come fast, and speed must not make them attractive."""

UNKNOWN: Final = 1e6
"""What a call in flight costs at a deployment that has answered nothing yet."""

_WINDOW_SECONDS: Final = 60.0
K = TypeVar("K", int, str)
_WORST: Final[dict[State, int]] = {"closed": 0, "half_open": 1, "open": 2}


class PeakEwma:
    """A moving average of latency that jumps up to a peak at once and comes down slowly.

    As in Finagle's and linkerd's balancers (`PeakEwma`), with one thing more: while calls wait and none is answered,
    the latency is at least the time since the last answer. A deployment that hangs gets dear before any time-out.
    """

    __slots__ = ("_last", "_stamp", "_value", "known", "waiting")

    def __init__(self) -> None:
        self.known = False
        self.waiting = 0
        self._value = 0.0
        self._stamp = 0.0
        self._last = 0.0

    def wait(self, now: float) -> None:
        """A call begins to wait."""
        if not self.waiting:
            self._last = now
        self.waiting += 1

    def observe(self, now: float, seconds: float) -> None:
        """A latency was seen."""
        weight = exp((self._stamp - now) / DECAY_SECONDS) if now > self._stamp else 1.0
        if seconds >= self._value * weight or not self.known:
            self._value = seconds
        else:
            self._value = self._value * weight + seconds * (1.0 - weight)
        self.known = True
        self._stamp = now
        self._last = now

    def seconds(self, now: float) -> float:
        """The estimate: it fades while nothing happens, so that what was slow is tried again."""
        faded = self._value * exp((self._stamp - now) / DECAY_SECONDS) if now > self._stamp else self._value
        if self.waiting:
            return max(faded, now - self._last)
        return faded


class Health:
    """One deployment.

    Attributes:
        name: `project/provider/model`.
        in_flight: calls begun and not over.
        not_before: until when the deployment asked to be left alone (`Retry-After`).
        streamed: latency of streams, to their first output.
        whole: latency of answers in one piece.
        first: quantiles of the time to first output, of streams.
        total: quantiles of the time to the end, of all.
        outcomes: how many calls ended how, since the worker began.
    """

    __slots__ = (
        "_circuits",
        "_draw",
        "_tally",
        "first",
        "in_flight",
        "name",
        "not_before",
        "outcomes",
        "streamed",
        "total",
        "whole",
    )

    def __init__(self, name: str, draw: Callable[[], float]) -> None:
        self.name = name
        self.in_flight = 0
        self.not_before = 0.0
        self.streamed = PeakEwma()
        self.whole = PeakEwma()
        self.first = SlidingHistogram(_WINDOW_SECONDS)
        self.total = SlidingHistogram(_WINDOW_SECONDS)
        self.outcomes: dict[str, int] = {"succeeded": 0, "abandoned": 0, "outrun": 0, "refused": 0}
        self._tally = Tally(_WINDOW_SECONDS)
        self._circuits: dict[Breaker, Circuit] = {}
        self._draw = draw

    def circuit(self, rules: Breaker, now: float) -> Circuit:
        """The breaker for these rules. Routes whose rules are alike share it; others judge for themselves."""
        found = self._circuits.get(rules)
        if found is None:
            found = self._circuits[rules] = Circuit(rules, self._draw, now)
        return found

    def keep_circuits(self, rules: set[Breaker]) -> None:
        """Forget the breakers of rules that no route has any more."""
        self._circuits = {key: circuit for key, circuit in self._circuits.items() if key in rules}

    def cost(self, now: float, *, streamed: bool = True) -> float:
        """What one more call would cost: the latency, times the calls that would then be in flight.

        A deployment of which nothing is known costs nothing, until one call is on its way to it.
        """
        ewma = self.streamed if streamed else self.whole
        if not ewma.known:
            return UNKNOWN + self.in_flight if ewma.waiting else 0.0
        return ewma.seconds(now) * (self.in_flight + 1)

    def status(self, now: float) -> DeploymentStatus:
        """All of it, for people and metrics."""
        circuits = self._circuits.values()
        circuit = max(circuits, key=lambda c: _WORST[c.state(now)], default=None)
        first, total = self.first.at(now).counts(), self.total.at(now).counts()
        self._tally.turn(now)
        calls = self._tally.calls
        return DeploymentStatus(
            name=self.name,
            breaker=circuit.state(now) if circuit is not None else "closed",
            since_seconds=max(now - circuit.since, 0.0) if circuit is not None else 0.0,
            opened=sum(c.opened for c in circuits),
            retry_seconds=max(circuit.retry_at - now, 0.0) if circuit is not None and circuit.shut else 0.0,
            not_before_seconds=max(self.not_before - now, 0.0),
            in_flight=self.in_flight,
            ewma=self.streamed.seconds(now) if self.streamed.known else None,
            ewma_whole=self.whole.seconds(now) if self.whole.known else None,
            first=first,
            total=total,
            calls=calls,
            failed=self._tally.failed,
            outcomes=dict(self.outcomes),
        )

    def _ended(self, now: float, outcome: str, *, failed: bool) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        self._tally.add(now, failed=failed)


class Quantiles(msgspec.Struct, frozen=True):
    """Of a duration in the last minute, in seconds; None when nothing was seen."""

    p50: float | None
    p95: float | None
    p99: float | None


class DeploymentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment's health at a moment, as one worker sees it.

    Attributes:
        name: `project/provider/model`.
        breaker: the state of its breaker; the worst one, where routes have rules of their own.
        since_seconds: for how long it has been closed, or has not been.
        opened: how often it has opened since the worker began.
        retry_seconds: until probes are let through.
        not_before_seconds: for how long the deployment asked to be left alone.
        in_flight: calls now.
        ewma, ewma_whole: peak EWMA in seconds, of streams to their first output and of answers in one piece.
        first, total: time to first output (streams) and to the end (all) in the last minute, as a histogram's counts.
        calls: that ended in the last minute, those given up left out.
        failed: how many of them failed in a way that counts.
        outcomes: calls by how they ended, since the worker began: `succeeded`, `abandoned` (the client went away),
            `outrun` (a hedge answered first), `refused` (the client's own mistake), or the class of failure.
    """

    name: str
    breaker: State
    since_seconds: float
    opened: int
    retry_seconds: float
    not_before_seconds: float
    in_flight: int
    ewma: float | None
    ewma_whole: float | None
    first: dict[int, int]
    total: dict[int, int]
    calls: int
    failed: int
    outcomes: dict[str, int]

    @property
    def error_rate(self) -> float:
        """The share of the last minute's calls that failed."""
        return self.failed / self.calls if self.calls else 0.0

    @property
    def first_quantiles(self) -> Quantiles:
        """Of the time to first output."""
        return Quantiles(*Histogram(self.first).quantiles(0.5, 0.95, 0.99))

    @property
    def total_quantiles(self) -> Quantiles:
        """Of the time to the end."""
        return Quantiles(*Histogram(self.total).quantiles(0.5, 0.95, 0.99))

    def merged(self, other: DeploymentStatus) -> DeploymentStatus:
        """The same deployment as two workers see it: sums, the worse state, the longer wait and the higher latency."""
        worse = self if _WORST[self.breaker] >= _WORST[other.breaker] else other
        return DeploymentStatus(
            name=self.name,
            breaker=worse.breaker,
            since_seconds=worse.since_seconds,
            opened=self.opened + other.opened,
            retry_seconds=worse.retry_seconds,
            not_before_seconds=max(self.not_before_seconds, other.not_before_seconds),
            in_flight=self.in_flight + other.in_flight,
            ewma=_higher(self.ewma, other.ewma),
            ewma_whole=_higher(self.ewma_whole, other.ewma_whole),
            first=_sum(self.first, other.first),
            total=_sum(self.total, other.total),
            calls=self.calls + other.calls,
            failed=self.failed + other.failed,
            outcomes=_sum(self.outcomes, other.outcomes),
        )


def _higher(one: float | None, other: float | None) -> float | None:
    return max((value for value in (one, other) if value is not None), default=None)


def _sum(one: dict[K, int], other: dict[K, int]) -> dict[K, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in one | other}


class Trial:
    """One attempt's reports. The first report of an end counts, later ones are ignored.

    Attributes:
        probe: whether it is a probe of a half-open breaker.
    """

    __slots__ = ("_began", "_circuit", "_entered", "_ewma", "_first", "_health", "_over", "_streamed")

    def __init__(self, health: Health, circuit: Circuit, entered: int, now: float, streamed: bool) -> None:  # noqa: FBT001
        self._health = health
        self._circuit = circuit
        self._entered = entered
        self._began = now
        self._streamed = streamed
        self._first = -1.0
        self._over = False
        ewma = self._ewma = health.streamed if streamed else health.whole
        health.in_flight += 1
        ewma.wait(now)

    @property
    def probe(self) -> bool:
        return self._entered > 0

    def answered(self, now: float) -> None:
        """The first real output came. For a probe this is the verdict: a long stream holds up no recovery."""
        if self._over or self._first >= 0:
            return
        seconds = self._first = max(now - self._began, 0.0)
        ewma = self._ewma
        ewma.waiting -= 1
        ewma.observe(now, seconds)
        if self._streamed:
            self._health.first.add(now, seconds)
        if self._entered > 0:
            self._circuit.good(now, self._entered, seconds)

    def succeeded(self, now: float) -> None:
        """The answer is complete."""
        if self._over:
            return
        if self._first < 0:
            self.answered(now)
        self._over = True
        health = self._health
        health.in_flight -= 1
        health.total.add(now, max(now - self._began, 0.0))
        health._ended(now, "succeeded", failed=False)
        if self._entered == 0:
            self._circuit.good(now, 0, self._first)

    def failed(self, now: float, failure: Failure | None, *, retry_after: float | None = None) -> None:
        """The provider answered badly, or not at all.

        Args:
            failure: its class; None for the client's own mistake, which does not count. What never reached the
                provider is `abandoned`.
            retry_after: seconds for which the provider asked to be left alone.
        """
        if self._over:
            return
        if retry_after is not None and retry_after > 0:
            self._health.not_before = max(self._health.not_before, now + retry_after)
        if failure not in COUNTED:
            self._end()
            # It was answered, if not with what the client hoped for: a probe has shown that somebody is there.
            if self._entered > 0 and self._first < 0:
                self._circuit.good(now, self._entered, 0.0)
            self._health._ended(now, failure or "refused", failed=False)
            return
        assert failure is not None
        began_well = self._first >= 0
        self._end()
        seconds = max(now - self._began, 0.0)
        self._ewma.observe(now, max(seconds, FAILURE_SECONDS))
        if failure == "timeout" and not began_well:
            self._late(now, seconds)
        self._health._ended(now, failure, failed=True)
        if began_well:
            self._circuit.relapse(now, self._entered)
        else:
            self._circuit.bad(now, self._entered)

    def outrun(self, now: float) -> None:
        """A hedge answered first, and this attempt was given up.

        How long it would have taken is unknown, but not less than it has: this counts as its latency. Otherwise what
        is slow would never be seen to be slow, and hedges would come ever earlier.
        """
        if self._over or self._first >= 0:
            self.abandoned()
            return
        seconds = max(now - self._began, 0.0)
        self._end()
        if seconds > self._ewma.seconds(now):
            self._ewma.observe(now, seconds)
        self._late(now, seconds)
        self._health.outcomes["outrun"] += 1
        self._circuit.late(now, self._entered, seconds)

    def abandoned(self) -> None:
        """The client went away, or the provider was never asked: neither good nor bad."""
        if self._over:
            return
        self._end()
        self._circuit.leave(self._entered)
        self._health.outcomes["abandoned"] += 1

    def _late(self, now: float, seconds: float) -> None:
        """It had not answered after so long, and will not: the least that can be said of its latency."""
        (self._health.first if self._streamed else self._health.total).add(now, seconds)

    def _end(self) -> None:
        self._over = True
        self._health.in_flight -= 1
        if self._first < 0:
            self._ewma.waiting -= 1


class Candidate:
    """A deployment as a route sees it.

    Attributes:
        health: of the deployment; shared by all routes that lead to it.
        circuit: the breaker for the route's rules.
        weight: its share; 0 leaves it to be fallen back to.
        price: None when unpriced.
        seed: what its name contributes to hashing.
    """

    __slots__ = ("circuit", "health", "price", "seed", "weight")

    def __init__(self, health: Health, circuit: Circuit, *, weight: int = 1, price: Price | None = None) -> None:
        self.health = health
        self.circuit = circuit
        self.weight = weight
        self.price = price
        self.seed = int.from_bytes(blake2b(health.name.encode(), digest_size=8).digest(), "big")

    def allows(self, now: float) -> bool:
        """Whether it may be asked now."""
        circuit = self.circuit
        return now >= self.health.not_before and (not circuit.shut or circuit.allows(now))

    def begin(self, now: float, *, streamed: bool = True, force: bool = False) -> Trial | None:
        """Begin an attempt; None when its breaker has no room (another call took the last probe).

        Args:
            streamed: whether a stream is asked for.
            force: ask in spite of the breaker, because there is nobody else.
        """
        circuit = self.circuit
        if not circuit.shut:
            return Trial(self.health, circuit, 0, now, streamed)
        entered = circuit.enter(now, force=force)
        return None if entered is None else Trial(self.health, circuit, entered, now, streamed)


class Fleet:
    """The health of every deployment and the retry budget of every route, in one worker. It outlives the snapshots.

    Args:
        draw: gives numbers evenly from [0, 1): the `random` of a `random.Random`.
    """

    __slots__ = ("_budgets", "_draw", "_healths")

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw
        self._healths: dict[str, Health] = {}
        self._budgets: dict[str, RetryBudget] = {}

    def health(self, name: str) -> Health:
        """Of a deployment, by `project/provider/model`; begun when it is new."""
        found = self._healths.get(name)
        if found is None:
            found = self._healths[name] = Health(name, self._draw)
        return found

    def candidate(
        self, name: str, rules: Breaker, now: float, *, weight: int = 1, price: Price | None = None
    ) -> Candidate:
        """A deployment as a route with these rules sees it. Make it once per snapshot, not per call."""
        health = self.health(name)
        return Candidate(health, health.circuit(rules, now), weight=weight, price=price)

    def budget(self, route: str) -> RetryBudget:
        """Retries and hedges of a route, by `project/name`."""
        found = self._budgets.get(route)
        if found is None:
            found = self._budgets[route] = RetryBudget()
        return found

    def keep(self, candidates: Iterable[Candidate], routes: Iterable[str]) -> None:
        """After a swap: forget what the new snapshot does not know. Calls in flight keep what they hold."""
        rules: dict[str, set[Breaker]] = {}
        for candidate in candidates:
            rules.setdefault(candidate.health.name, set()).add(candidate.circuit.rules)
        self._healths = {n: health for n, health in self._healths.items() if n in rules or health.in_flight}
        for name, health in self._healths.items():
            health.keep_circuits(rules.get(name, set()))
        kept = set(routes)
        self._budgets = {name: budget for name, budget in self._budgets.items() if name in kept}

    def status(self, now: float) -> tuple[DeploymentStatus, ...]:
        """Of all deployments, by name."""
        return tuple(self._healths[name].status(now) for name in sorted(self._healths))


def soonest(candidates: Iterable[Candidate], now: float) -> float:
    """Seconds until the first of them may be asked; 0 when one may be now. For a `Retry-After` of our own."""
    return max(
        min(
            (max(c.health.not_before, c.circuit.retry_at if c.circuit.shut else 0.0) for c in candidates),
            default=inf,
        )
        - now,
        0.0,
    )

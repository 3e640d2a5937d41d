"""Deployments as the console shows them: what the workers wrote down of each, and what the lake knows of its day."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from detent.gateway.admission import GateStatus
from detent.gateway.model import Band, Route
from detent.gateway.routing import DeploymentStatus
from detent.gateway.routing.health import Quantiles
from detent.gateway.standing import GatewayStanding, read_standing
from detent.kernel.clock import DAY, SECOND
from detent.kernel.identity import Permission
from detent.kernel.telemetry import MetricQuery, MetricRow
from detent.web.table import Table
from detent.web.visit import Visit
from detent.web.words import duration, percent

State = Literal["healthy", "failing", "resting", "probing", "asked to wait", "idle", "not called yet"]
Latencies = tuple[int, int, int]

_FAILING: Final = 0.1
_FEWEST: Final = 5
"""Calls in the last minute without which an error rate says nothing."""


class Today(msgspec.Struct, frozen=True, kw_only=True):
    """Since midnight, UTC: calls, tokens, and nano-dollars of what is priced."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0
    unpriced: int = 0


class DeploymentLine(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment in a table, all workers together.

    Attributes:
        routes: that may send calls there.
        state, why: its health in a word, and in a sentence where there is more to say.
        breaker: its breaker's state; the worst where routes have rules of their own.
        probe: ns until its breaker lets probes through, or until it may be called again; 0 when it may be.
        limit: calls at once that admission allows now; null when nothing is known of it.
        waiting: calls in line, by band.
        first, total: p50, p95, p99 of the last minute in ns: to the first output of streams, and to the end.
        calls, failed: that ended in the last minute.
        opened: how often its breaker opened since the workers began.
    """

    provider: str
    model: str
    routes: tuple[str, ...]
    state: State
    why: str
    breaker: str
    probe: int
    in_flight: int
    limit: int | None
    waiting: dict[Band, int]
    oldest_wait: int
    refused: int
    shed: int
    first: Latencies | None
    total: Latencies | None
    calls: int
    failed: int
    opened: int
    today: Today

    @property
    def name(self) -> str:
        """As a target is written."""
        return f"{self.provider}/{self.model}"

    @property
    def waits(self) -> int:
        """Calls in line, all bands."""
        return sum(self.waiting.values())


def standing_of(visit: Visit) -> GatewayStanding:
    """What all workers wrote last."""
    return read_standing(visit.platform.settings.folder / "run", visit.now)


def deployments(visit: Visit, standing: GatewayStanding, routes: Iterable[Route]) -> tuple[DeploymentLine, ...]:
    """The deployments that routes lead to or that workers know of, by name; only those of the visitor's project."""
    users: dict[str, list[str]] = {}
    for route in routes:
        for target in route.targets:
            users.setdefault(str(target), []).append(route.name)
    prefix = f"{visit.caller.project}/"
    found = {d.name.removeprefix(prefix): d for d in standing.deployments if d.name.startswith(prefix)}
    gates = {name.removeprefix(prefix): gate for name, gate in standing.gates.items() if name.startswith(prefix)}
    names = sorted({*users, *found, *gates})
    days = _days(visit, names)
    return tuple(
        _line(name, tuple(users.get(name, ())), found.get(name), gates.get(name), days.get(name, Today()))
        for name in names
    )


def _line(
    name: str, routes: tuple[str, ...], health: DeploymentStatus | None, gate: GateStatus | None, today: Today
) -> DeploymentLine:
    provider, _slash, model = name.partition("/")
    state, why, probe = _state(health)
    return DeploymentLine(
        provider=provider,
        model=model,
        routes=routes,
        state=state,
        why=why,
        breaker=health.breaker if health else "closed",
        probe=probe,
        in_flight=gate.in_flight if gate else health.in_flight if health else 0,
        limit=gate.limit if gate else None,
        waiting={band: count for band, count in gate.waiting.items() if count} if gate else {},
        oldest_wait=round(gate.oldest_wait * SECOND) if gate else 0,
        refused=gate.refused if gate else 0,
        shed=gate.shed if gate else 0,
        first=_latencies(health.first_quantiles) if health else None,
        total=_latencies(health.total_quantiles) if health else None,
        calls=health.calls if health else 0,
        failed=health.failed if health else 0,
        opened=health.opened if health else 0,
        today=today,
    )


def _state(health: DeploymentStatus | None) -> tuple[State, str, int]:
    """A deployment's health: a word, why, and ns until it is tried again."""
    if health is None:
        return "not called yet", "", 0
    probe = round(health.retry_seconds * SECOND)
    if health.breaker == "open":
        return "resting", f"breaker open, probes in {duration(probe)}" if probe else "breaker open, probes next", probe
    if health.breaker == "half_open":
        return "probing", "breaker half open", probe
    if health.not_before_seconds:
        wait = round(health.not_before_seconds * SECOND)
        return "asked to wait", f"for {duration(wait)} more", wait
    if health.calls >= _FEWEST and health.error_rate >= _FAILING:
        return "failing", f"{percent(health.failed, health.calls)} of the last minute's calls", 0
    if not health.calls and not health.in_flight:
        return "idle", "quiet for a minute", 0
    return "healthy", "", 0


def _latencies(seconds: Quantiles) -> Latencies | None:
    if seconds.p50 is None or seconds.p95 is None or seconds.p99 is None:
        return None
    return round(seconds.p50 * SECOND), round(seconds.p95 * SECOND), round(seconds.p99 * SECOND)


def _days(visit: Visit, names: list[str]) -> dict[str, Today]:
    """What each deployment did today. Providers answer with a model's full name (`gpt-4o-mini-2024-07-18`): such a one
    counts for the deployment whose name it begins with, the longest where there are several."""
    if not visit.may(Permission.TRACES_READ):
        return {}
    query = MetricQuery(
        project=visit.caller.project,
        since=visit.now // DAY * DAY,
        until=visit.now + 1,
        group_by=("provider", "model"),
    )
    days: dict[str, Today] = {}
    for row in visit.platform.traces.metrics(visit.caller, query):
        served = f"{row.group.get('provider', '')}/{row.group.get('model', '')}"
        name = max((name for name in names if served.startswith(name)), key=len, default=served)
        days[name] = _added(days.get(name, Today()), row)
    return days


def _added(today: Today, row: MetricRow) -> Today:
    return Today(
        requests=today.requests + row.requests,
        input_tokens=today.input_tokens + row.input_tokens,
        output_tokens=today.output_tokens + row.output_tokens,
        cost=today.cost + row.cost,
        unpriced=today.unpriced + row.unpriced,
    )


def deployments_table(lines: Iterable[DeploymentLine]) -> Table:
    """Deployments to take away."""
    nothing = (None, None, None)
    return Table(
        (
            "provider",
            "model",
            "routes",
            "state",
            "breaker",
            "probe_ns",
            "in_flight",
            "limit",
            "waiting",
            "oldest_wait_ns",
            "refused",
            "shed",
            "first_p50_ns",
            "first_p95_ns",
            "first_p99_ns",
            "total_p50_ns",
            "total_p95_ns",
            "total_p99_ns",
            "calls_last_minute",
            "failed_last_minute",
            "breaker_opened",
            "requests_today",
            "input_tokens_today",
            "output_tokens_today",
            "cost_today_nano_usd",
            "unpriced_today",
        ),
        [
            (
                d.provider,
                d.model,
                " ".join(d.routes),
                d.state,
                d.breaker,
                d.probe,
                d.in_flight,
                d.limit,
                d.waits,
                d.oldest_wait,
                d.refused,
                d.shed,
                *(d.first or nothing),
                *(d.total or nothing),
                d.calls,
                d.failed,
                d.opened,
                d.today.requests,
                d.today.input_tokens,
                d.today.output_tokens,
                d.today.cost,
                d.today.unpriced,
            )
            for d in lines
        ],
    )

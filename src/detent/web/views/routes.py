"""Routes: the names that clients send as `model`, and the rules by which their calls go."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from detent.gateway.checks import leads_to
from detent.gateway.limits.spending import Spent
from detent.gateway.model import Fallback, Route, Shadow
from detent.kernel.clock import DAY, HOUR
from detent.kernel.identity import Permission
from detent.kernel.telemetry import MetricQuery, SpanFilter
from detent.web.page import Action, Goto, Outcome, Page
from detent.web.table import Table
from detent.web.views.deployments import DeploymentLine, deployments, deployments_table, standing_of
from detent.web.views.home import Figures, figures
from detent.web.views.rules import POLICIES, Rule, fallback_words, rules_of, shadow_words, short_rules
from detent.web.views.traces import TraceLine, trace_line
from detent.web.views.usage import usage_of
from detent.web.visit import Form, Visit
from detent.web.words import money

_TROUBLE = frozenset({"failing", "resting", "asked to wait"})
_RECENT = 8


class TargetName(msgspec.Struct, frozen=True):
    """A target in short."""

    provider: str
    model: str
    weight: int


class RouteLine(msgspec.Struct, frozen=True, kw_only=True):
    """A route in the list; figures are of the last 24 hours.

    Attributes:
        rules: what is other than the default, in few words.
        well: how many of its targets are not in trouble.
    """

    name: str
    builtin: bool
    policy: str
    targets: tuple[TargetName, ...]
    rules: tuple[str, ...]
    well: int
    figures: Figures
    changed: int


class RoutesView(msgspec.Struct, frozen=True, kw_only=True):
    """All routes by name."""

    routes: tuple[RouteLine, ...]


class FallbackLine(msgspec.Struct, frozen=True):
    """Where calls go when no target answered, and after which failures."""

    route: str
    on: str


class RouteView(msgspec.Struct, frozen=True, kw_only=True):
    """One route.

    Attributes:
        targets: in order, with how each deployment stands.
        weights: of the targets, in the same order.
        shadow, shadow_says: where copies go and how many; empty for nowhere.
        used_by: routes that fall back to it or shadow it.
        spent: limits and budgets that count its calls by themselves.
        figures: of the last 24 hours.
    """

    name: str
    builtin: bool
    policy: str
    targets: tuple[DeploymentLine, ...]
    weights: tuple[int, ...]
    rules: tuple[Rule, ...]
    fallbacks: tuple[FallbackLine, ...]
    shadow: str
    shadow_says: str
    used_by: tuple[str, ...]
    spent: tuple[Spent, ...]
    figures: Figures
    recent: tuple[TraceLine, ...]
    changed: int

    @property
    def total_weight(self) -> int:
        """Of all targets."""
        return sum(self.weights)


def view(visit: Visit) -> RoutesView:
    """All routes: where their calls go, by which rules, and how the last 24 hours went."""
    routes = visit.platform.gateway.routes(visit.caller)
    lines = {line.name: line for line in deployments(visit, standing_of(visit), routes)}
    days = _days(visit)
    return RoutesView(
        routes=tuple(
            RouteLine(
                name=route.name,
                builtin=not route.changed,
                policy=POLICIES[route.policy],
                targets=tuple(TargetName(t.provider, t.model, t.weight) for t in route.targets),
                rules=short_rules(route),
                well=sum(lines[str(target)].state not in _TROUBLE for target in route.targets),
                figures=days.get(route.name, Figures()),
                changed=route.changed,
            )
            for route in routes
        )
    )


def view_one(visit: Visit) -> RouteView:
    """A route's targets and their health, its rules in words, its last 24 hours, and its recent calls."""
    caller, gateway, name = visit.caller, visit.platform.gateway, visit.args["name"]
    route = gateway.route(caller, name)
    routes = gateway.routes(caller)
    standing = standing_of(visit)
    lines = {line.name: line for line in deployments(visit, standing, routes)}
    recent = (
        visit.platform.traces.list(caller, SpanFilter(project=caller.project, route=name), limit=_RECENT).rows
        if caller.may(Permission.TRACES_READ)
        else ()
    )
    return RouteView(
        name=name,
        builtin=not route.changed,
        policy=POLICIES[route.policy],
        targets=tuple(lines[str(target)] for target in route.targets),
        weights=tuple(target.weight for target in route.targets),
        rules=rules_of(route),
        fallbacks=tuple(_fallback(fallback) for fallback in route.fallbacks),
        shadow=route.shadow.route if route.shadow else "",
        shadow_says=_shadow(route.shadow, standing.shadow_spent.get(f"{caller.project}/{name}", 0)),
        used_by=_used_by(route, routes),
        spent=usage_of(visit, "route", name),
        figures=_days(visit).get(name, Figures()),
        recent=tuple(trace_line(row) for row in recent),
        changed=route.changed,
    )


def _fallback(fallback: Fallback) -> FallbackLine:
    return FallbackLine(fallback.route, fallback_words(fallback.on))


def _shadow(shadow: Shadow | None, spent: int) -> str:
    if shadow is None:
        return ""
    return shadow_words(shadow.share, shadow.daily_budget) + (f"; {money(spent)} today" if spent else "")


def _used_by(route: Route, routes: tuple[Route, ...]) -> tuple[str, ...]:
    return tuple(other.name for other in routes if route.name in leads_to(other))


def _days(visit: Visit) -> dict[str, Figures]:
    """The last 24 hours by route."""
    if not visit.may(Permission.TRACES_READ):
        return {}
    until = -(-visit.now // HOUR) * HOUR
    query = MetricQuery(project=visit.caller.project, since=until - DAY, until=until, group_by=("route",))
    return {row.group.get("route", ""): figures(row) for row in visit.platform.traces.metrics(visit.caller, query)}


def remove(visit: Visit, form: Form) -> Outcome:
    """Remove a route."""
    visit.platform.gateway.remove_route(visit.caller, visit.args["name"], reason=form.get("reason"))
    return Goto("/routes", "route-removed")


def tables(view: RoutesView) -> Mapping[str, Table]:
    """The list."""
    return {
        "routes": Table(
            (
                "name",
                "policy",
                "targets",
                "rules",
                "targets_well",
                "requests_24h",
                "errors_24h",
                "cost_24h_nano_usd",
                "changed_ns",
            ),
            [
                (
                    r.name,
                    r.policy,
                    " ".join(f"{t.provider}/{t.model}={t.weight}" for t in r.targets),
                    ", ".join(r.rules),
                    r.well,
                    r.figures.requests,
                    r.figures.errors,
                    r.figures.cost,
                    r.changed,
                )
                for r in view.routes
            ],
        )
    }


def tables_one(view: RouteView) -> Mapping[str, Table]:
    """Its targets."""
    return {"targets": deployments_table(view.targets)}


PAGE = Page("/routes", Permission.PROVIDERS_READ, "routes.html", view, tables)
ONE = Page("/routes/{name}", Permission.PROVIDERS_READ, "route.html", view_one, tables_one)
ACTIONS = (Action("/routes/{name}/remove", Permission.ROUTES_WRITE, ONE, remove),)

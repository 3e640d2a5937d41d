"""Limits, budgets, and the shares that projects have of what they all want at once."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Response

from detent.api.border import (
    Caller,
    IfMatch,
    InstallationCaller,
    Name,
    OnlyNew,
    ThePlatform,
    expected_of,
    nouns,
    tag,
    tag_next,
)
from detent.api.schemas.common import Page, ReasonText, Removed
from detent.api.schemas.rules import (
    BudgetIn,
    BudgetOut,
    LimitIn,
    LimitOut,
    NewBudgetIn,
    NewLimitIn,
    WeightIn,
    WeightOut,
)
from detent.app.http import needs
from detent.app.platform import Platform
from detent.gateway.model import Budget, Limit
from detent.kernel.identity import Permission, Principal
from detent.kernel.money import read_usd

routes = nouns("limits")
Project = Annotated[str, Path(min_length=1, max_length=64, description="The project's name.")]


@routes.get("/limits")
@needs(Permission.PROVIDERS_READ)
def list_limits(caller: Caller, platform: ThePlatform) -> Page[LimitOut]:
    """All limits by name."""
    return Page(items=[LimitOut.of(limit) for limit in platform.gateway.limits(caller)])


@routes.post("/limits", status_code=201)
@needs(Permission.ROUTES_WRITE)
def add_limit(body: NewLimitIn, caller: Caller, platform: ThePlatform) -> LimitOut:
    """Add a limit; 409 when the name is taken."""
    return LimitOut.of(_set_limit(platform, caller, body.name, body, replace=False))


@routes.get("/limits/{name}")
@needs(Permission.PROVIDERS_READ)
def read_limit(name: Name, caller: Caller, platform: ThePlatform, response: Response) -> LimitOut:
    """One limit."""
    tag(response, platform.gateway.version(caller.project, "limit", name))
    return LimitOut.of(platform.gateway.limit(caller, name))


@routes.put("/limits/{name}")
@needs(Permission.ROUTES_WRITE)
def set_limit(
    name: Name,
    body: LimitIn,
    caller: Caller,
    platform: ThePlatform,
    response: Response,
    if_none_match: OnlyNew = None,
    if_match: IfMatch = None,
) -> LimitOut:
    """Add a limit or change it; what is left out takes its default."""
    expected = expected_of(if_match)
    saved = _set_limit(platform, caller, name, body, replace=if_none_match != "*", expected=expected)
    tag_next(response, expected)
    return LimitOut.of(saved)


@routes.delete("/limits/{name}")
@needs(Permission.ROUTES_WRITE)
def remove_limit(
    name: Name,
    caller: Caller,
    platform: ThePlatform,
    reason: Annotated[ReasonText, Query()] = "",
    if_match: IfMatch = None,
) -> Removed:
    """Remove a limit."""
    platform.gateway.remove_limit(caller, name, reason=reason, expected=expected_of(if_match))
    return Removed(removed=name)


@routes.get("/budgets", tags=["budgets"])
@needs(Permission.PROVIDERS_READ)
def list_budgets(caller: Caller, platform: ThePlatform) -> Page[BudgetOut]:
    """All budgets by name."""
    return Page(items=[BudgetOut.of(budget) for budget in platform.gateway.budgets(caller)])


@routes.post("/budgets", status_code=201, tags=["budgets"])
@needs(Permission.ROUTES_WRITE)
def add_budget(body: NewBudgetIn, caller: Caller, platform: ThePlatform) -> BudgetOut:
    """Add a budget; 409 when the name is taken."""
    return BudgetOut.of(_set_budget(platform, caller, body.name, body, replace=False))


@routes.get("/budgets/{name}", tags=["budgets"])
@needs(Permission.PROVIDERS_READ)
def read_budget(name: Name, caller: Caller, platform: ThePlatform, response: Response) -> BudgetOut:
    """One budget."""
    tag(response, platform.gateway.version(caller.project, "budget", name))
    return BudgetOut.of(platform.gateway.budget(caller, name))


@routes.put("/budgets/{name}", tags=["budgets"])
@needs(Permission.ROUTES_WRITE)
def set_budget(
    name: Name,
    body: BudgetIn,
    caller: Caller,
    platform: ThePlatform,
    response: Response,
    if_none_match: OnlyNew = None,
    if_match: IfMatch = None,
) -> BudgetOut:
    """Add a budget or change it; what is left out takes its default."""
    expected = expected_of(if_match)
    saved = _set_budget(platform, caller, name, body, replace=if_none_match != "*", expected=expected)
    tag_next(response, expected)
    return BudgetOut.of(saved)


@routes.delete("/budgets/{name}", tags=["budgets"])
@needs(Permission.ROUTES_WRITE)
def remove_budget(
    name: Name,
    caller: Caller,
    platform: ThePlatform,
    reason: Annotated[ReasonText, Query()] = "",
    if_match: IfMatch = None,
) -> Removed:
    """Remove a budget."""
    platform.gateway.remove_budget(caller, name, reason=reason, expected=expected_of(if_match))
    return Removed(removed=name)


@routes.get("/weights", tags=["weights"])
@needs(Permission.PROVIDERS_READ)
def list_weights(caller: InstallationCaller, platform: ThePlatform) -> Page[WeightOut]:
    """The shares that were set, by project. Concerns the whole installation."""
    return Page(items=[WeightOut.of(weight) for weight in platform.gateway.weights(caller)])


@routes.put("/weights/{project}", tags=["weights"])
@needs(Permission.ROUTES_WRITE)
def set_weight(project: Project, body: WeightIn, caller: InstallationCaller, platform: ThePlatform) -> WeightOut:
    """Give a project a share of deployments that several projects want at once. Concerns the whole installation."""
    return WeightOut.of(platform.gateway.set_weight(caller, project, body.weight))


def _set_limit(
    platform: Platform, caller: Principal, name: str, body: LimitIn, *, replace: bool, expected: int | None = None
) -> Limit:
    return platform.gateway.set_limit(
        caller,
        name,
        scope=body.scope,
        subject=body.subject,
        unit=body.unit,
        amount=body.amount,
        window_seconds=body.window_seconds,
        replace=replace,
        expected=expected,
    )


def _set_budget(
    platform: Platform, caller: Principal, name: str, body: BudgetIn, *, replace: bool, expected: int | None = None
) -> Budget:
    return platform.gateway.set_budget(
        caller,
        name,
        scope=body.scope,
        subject=body.subject,
        amount=read_usd(body.usd),
        period=body.period,
        alerts=tuple(body.alerts),
        hard=body.hard,
        replace=replace,
        expected=expected,
    )

"""A whole configuration, and plans of changing it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field

from detent.api.schemas.common import In, NameText, Out, ReasonText, TimeText
from detent.gateway.planning.document import MAX_BYTES
from detent.gateway.planning.model import Plan
from detent.gateway.planning.report import plan_json


class ConfigurationIn(In):
    """A whole configuration: as the text of a `gateway.toml`, or as the same tables in JSON."""

    toml: Annotated[str, Field(max_length=MAX_BYTES)] | None = None
    document: dict[str, Any] | None = Field(
        default=None, description="Tables `providers`, `routes`, `limits`, `budgets`, `prices` by name, as in the file."
    )
    keep: bool = Field(default=False, description="Leave alone what it does not name; else that is removed.")
    credentials: Annotated[dict[NameText, Annotated[str, Field(max_length=8192)]], Field(max_length=1000)] = Field(
        default={}, description="By provider. `credential_env` is never looked up on the server."
    )


class PlanIn(ConfigurationIn):
    """What to plan."""

    since: TimeText = Field(
        default="", description="Try it on the calls recorded since then: RFC 3339, or 24h, 7d ago."
    )


class ApplyIn(ConfigurationIn):
    """What to apply."""

    expect: Annotated[str, Field(max_length=80)] = Field(
        default="", description="The plan's digest: exactly that is applied, or nothing."
    )
    reason: ReasonText = ""


class ConfigurationOut(Out):
    """Everything that is set, without secrets."""

    toml: str


class FieldChangeOut(Out):
    """A field that differs; null where it is not there."""

    field: str
    before: Any
    after: Any


class ChangeOut(Out):
    """Something that is added, changed or removed."""

    noun: Literal["provider", "route", "limit", "budget", "price"]
    name: str
    action: Literal["added", "changed", "removed"]
    fields: list[FieldChangeOut]


class TargetShareOut(Out):
    """Calls that a target is expected to get."""

    route: str
    target: str
    calls: float


class LimitEffectOut(Out):
    """Calls that a limit refused."""

    name: str
    refused: int


class BudgetEffectOut(Out):
    """Calls that a budget refused, the most spent in a period, and the alerts reached."""

    name: str
    refused: int
    most_spent_usd: float
    alerts: list[int]


class ReplayedOut(Out):
    """Recorded calls under one configuration."""

    answered: int
    refused: int
    not_found: dict[str, int]
    targets: list[TargetShareOut]
    limits: list[LimitEffectOut]
    budgets: list[BudgetEffectOut]
    cost_usd: float
    unpriced: int


class LostAccessOut(Out):
    """Routes that a key could call and cannot any more."""

    key_id: str
    name: str
    routes: list[str]
    calls: int


class ExampleOut(Out):
    """A recorded call that would have gone another way."""

    trace_id: str
    asked: str
    before: str
    after: str
    cost_before_usd: float | None
    cost_after_usd: float | None


class DryRunOut(Out):
    """Recorded traffic under the configuration that is and the one that is wanted."""

    since: str
    until: str
    calls: int
    complete: bool
    recorded_cost_usd: float
    before: ReplayedOut
    after: ReplayedOut
    keys_losing_access: list[LostAccessOut]
    examples: list[ExampleOut]
    assumptions: list[str]


class PlanOut(Out):
    """What applying a configuration would change; `dry_run` is null when no traffic was looked at."""

    base: str
    digest: str
    changes: list[ChangeOut]
    warnings: list[str]
    dry_run: DryRunOut | None

    @classmethod
    def of(cls, plan: Plan) -> Self:
        """From the domain's plan."""
        return cls.model_validate(plan_json(plan))

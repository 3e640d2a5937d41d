"""Limits, budgets and weights."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field

from detent.api.schemas.common import AmountText, In, NameText, Out, time_of
from detent.gateway.model import Budget, Limit, Period, Scope, Unit, Weight
from detent.kernel.money import write_usd

SubjectText = Annotated[
    str,
    Field(
        max_length=200,
        description="Only this key's id, user, route or model (PROVIDER/MODEL); empty for each of them by itself.",
    ),
]


class LimitIn(In):
    """At most so many requests or tokens in any window of that length, or so many calls at once."""

    scope: Scope = Field(description="Whose calls count together.")
    subject: SubjectText = ""
    unit: Unit
    amount: Annotated[int, Field(ge=1, le=10**15)]
    window_seconds: Annotated[int, Field(ge=0, le=31 * 86_400, description="The sliding window.")] = 60


class NewLimitIn(LimitIn):
    """A limit to add."""

    name: NameText


class LimitOut(Out):
    """A limit; a window of 0 seconds with `concurrency`."""

    name: str
    scope: Scope
    subject: str
    unit: Unit
    amount: int
    window_seconds: int
    changed: str | None

    @classmethod
    def of(cls, limit: Limit) -> Self:
        """From the domain's limit."""
        return cls(
            name=limit.name,
            scope=limit.scope,
            subject=limit.subject,
            unit=limit.unit,
            amount=limit.amount,
            window_seconds=limit.window_seconds,
            changed=time_of(limit.changed),
        )


class BudgetIn(In):
    """At most so much money in a day or month (UTC)."""

    scope: Scope = Field(description="Whose calls count together.")
    subject: SubjectText = ""
    usd: AmountText
    period: Period = "month"
    alerts: Annotated[
        list[Annotated[int, Field(ge=1, le=1000)]],
        Field(max_length=20, description="Percentages at which an alert is raised, once per period each."),
    ] = Field(default=[50, 80, 100])
    hard: bool = Field(default=True, description="Whether calls are refused when it is spent; else it only alerts.")


class NewBudgetIn(BudgetIn):
    """A budget to add."""

    name: NameText


class BudgetOut(Out):
    """A budget; `usd` is exact text."""

    name: str
    scope: Scope
    subject: str
    usd: str
    period: Period
    alerts: list[int]
    hard: bool
    changed: str | None

    @classmethod
    def of(cls, budget: Budget) -> Self:
        """From the domain's budget."""
        return cls(
            name=budget.name,
            scope=budget.scope,
            subject=budget.subject,
            usd=write_usd(budget.amount),
            period=budget.period,
            alerts=list(budget.alerts),
            hard=budget.hard,
            changed=time_of(budget.changed),
        )


class WeightIn(In):
    """A project's share."""

    weight: Annotated[int, Field(ge=1, le=1000)]


class WeightOut(Out):
    """A project's share of deployments that several projects want at once; 1 where none is set."""

    project: str
    weight: int
    changed: str | None

    @classmethod
    def of(cls, weight: Weight) -> Self:
        """From the domain's weight."""
        return cls(project=weight.project, weight=weight.weight, changed=time_of(weight.changed))

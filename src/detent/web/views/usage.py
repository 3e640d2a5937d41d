"""What is used of limits and budgets: the rules that count somebody's calls, each with how far it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from detent.gateway.limits.rules import period_of
from detent.gateway.limits.spending import Spent
from detent.gateway.model import Budget, Limit, Scope
from detent.kernel.errors import StorageFailed
from detent.web.visit import Visit


class Usage(msgspec.Struct, frozen=True):
    """All rows of a project, or why there are none."""

    rows: tuple[Spent, ...]
    problem: str = ""


def read_usage(visit: Visit) -> Usage:
    """How far all limits and budgets of the visitor's project are."""
    try:
        return Usage(visit.platform.spending.spent(visit.caller))
    except StorageFailed as error:
        return Usage((), f"{error.message} {error.hint}".strip())


def usage_of(visit: Visit, scope: Scope, subject: str) -> tuple[Spent, ...]:
    """How far the rules are that count this key's, user's, route's or model's calls by themselves; also those of which
    it has used nothing yet."""
    caller, gateway = visit.caller, visit.platform.gateway
    rows: dict[tuple[str, str], Spent] = {
        (r.kind, r.name): r for r in read_usage(visit).rows if r.scope == scope and r.subject == subject
    }
    rules: tuple[Budget | Limit, ...] = (*gateway.budgets(caller), *gateway.limits(caller))
    return tuple(_found(rules, rows, scope, subject, visit.now))


def _found(
    rules: Iterable[Budget | Limit], rows: dict[tuple[str, str], Spent], scope: Scope, subject: str, now: int
) -> Iterator[Spent]:
    for rule in rules:
        if rule.scope == scope and rule.subject in {"", subject}:
            kind = "budget" if isinstance(rule, Budget) else "limit"
            yield rows.get((kind, rule.name)) or unused(rule, subject, now)


def unused(rule: Budget | Limit, subject: str, now: int) -> Spent:
    """The row of a rule of which nothing was used."""
    if isinstance(rule, Budget):
        return Spent(
            kind="budget",
            name=rule.name,
            scope=rule.scope,
            subject=subject,
            unit="money",
            used=0,
            held=0,
            limit=rule.amount,
            period=rule.period,
            resets=period_of(rule.period, now).ends,
        )
    return Spent(
        kind="limit",
        name=rule.name,
        scope=rule.scope,
        subject=subject,
        unit=rule.unit,
        used=0,
        held=0,
        limit=rule.amount,
        window_seconds=rule.window_seconds,
    )

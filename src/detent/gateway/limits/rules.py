"""Limits and budgets as counters: whose calls a rule counts together, under which key, until when."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import msgspec

from detent.gateway.model import Budget, Limit
from detent.kernel.clock import SECOND
from detent.kernel.quotas import GREATEST, LONGEST_KEY, SEPARATOR, Counter

Measure = Literal["requests", "tokens", "concurrency", "money"]
Rule = Limit | Budget

SHORTEST_WINDOW: Final = 1
LONGEST_WINDOW: Final = 31 * 24 * 3600
"""Seconds; beyond it a budget's period is what is meant."""


class Asked(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A call, as far as limits and budgets go.

    Attributes:
        id: unique; settling by it is idempotent.
        project, key, user, route: whose call it is and where it goes; `user` is empty when the call names none.
        model: the deployment as `PROVIDER/MODEL`; empty while it is not chosen: rules of that scope are left out then.
        only_model: leave out all other scopes, because they are reserved already; for each attempt of a call.
        tokens: what it may take: the prompt's, and the answer's at most or as expected.
        cost: nano-dollars for those; None when no price is known.
    """

    id: str
    project: str
    key: str
    user: str = ""
    route: str = ""
    model: str = ""
    only_model: bool = False
    tokens: int = 0
    cost: int | None = 0


class Period(msgspec.Struct, frozen=True):
    """A UTC day or month: its name (`2026-03`, `2026-03-01`), and the ns in which it begins and ends."""

    name: str
    begins: int
    ends: int


def measure(rule: Rule) -> Measure:
    """What a rule counts."""
    return "money" if isinstance(rule, Budget) else rule.unit


def period_of(kind: Literal["day", "month"], now: int) -> Period:
    """The period that a time falls in."""
    moment = datetime.fromtimestamp(now // SECOND, UTC)
    first = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if kind == "day":
        following = first + timedelta(days=1)
        name = f"{first:%Y-%m-%d}"
    else:
        first = first.replace(day=1)
        following = (first + timedelta(days=32)).replace(day=1)
        name = f"{first:%Y-%m}"
    return Period(name, int(first.timestamp()) * SECOND, int(following.timestamp()) * SECOND)


def counter_of(rule: Rule, subject: str, now: int) -> Counter:
    """The counter that a rule has for a subject at a time.

    A changed amount goes on with what was used; another window, unit or period counts anew.
    """
    limit = min(rule.amount, GREATEST)
    if isinstance(rule, Budget):
        period = period_of(rule.period, now)
        key = _key(rule, subject, period.name)
        return Counter(key, rule.project, limit, until=period.ends, hard=rule.hard)
    window = 0 if rule.unit == "concurrency" else min(max(rule.window_seconds, SHORTEST_WINDOW), LONGEST_WINDOW)
    return Counter(_key(rule, subject, str(window)), rule.project, limit, window=window * SECOND)


class Place(msgspec.Struct, frozen=True):
    """What a counter's key says. A subject that cannot stand in it is there as its digest."""

    measure: str
    name: str
    scope: str
    when: str
    subject: str


def place_of(key: str) -> Place:
    """Read a counter's key."""
    _project, *parts = key.split(SEPARATOR, 5)
    return Place(*parts)


def _key(rule: Rule, subject: str, when: str) -> str:
    parts = [rule.project, measure(rule), rule.name, rule.scope, when]
    if subject.isprintable():
        key = SEPARATOR.join([*parts, subject])
        if len(key.encode()) <= LONGEST_KEY:
            return key
    digest = hashlib.sha256(subject.encode(errors="surrogatepass")).hexdigest()
    return SEPARATOR.join([*parts, f"sha256:{digest}"])


def subject_of(rule: Rule, asked: Asked) -> str | None:
    """Whom a rule counts the call for; None when it does not concern it.

    Calls that name no user count together as those of the user without a name, so leaving the name out evades nothing.
    """
    if rule.scope == "model":
        subject = asked.model
        if not subject:
            return None
    elif asked.only_model:
        return None
    elif rule.scope == "project":
        return ""
    else:
        subject = {"key": asked.key, "user": asked.user, "route": asked.route}[rule.scope]
    return None if rule.subject and rule.subject != subject else subject


def rules_by_project(
    limits: Mapping[str, Iterable[Limit]], budgets: Mapping[str, Iterable[Budget]]
) -> dict[str, tuple[Rule, ...]]:
    """All rules of each project that has any."""
    found: dict[str, list[Rule]] = {}
    for project, some in limits.items():
        found.setdefault(project, []).extend(some)
    for project, others in budgets.items():
        found.setdefault(project, []).extend(others)
    return {project: tuple(rules) for project, rules in found.items() if rules}

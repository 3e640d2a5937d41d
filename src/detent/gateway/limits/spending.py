"""What is used of limits and budgets, for people; and the alerts of budgets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final, Literal

import msgspec

from detent.gateway.facts import BudgetAlerted
from detent.gateway.limits.rules import Measure, Rule, counter_of, measure, period_of, place_of
from detent.gateway.model import Budget, Limit, Period, Scope
from detent.gateway.views import BUDGETS, LIMITS
from detent.kernel.clock import Clock
from detent.kernel.errors import Conflict
from detent.kernel.facts import NEW_STREAM, Draft, Fact
from detent.kernel.identity import Permission, Principal, system
from detent.kernel.ports import Ledger, Quotas
from detent.kernel.quotas import Level

_DIGITS: Final = 16


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """How far a limit or budget is, for one of those whom it counts by themselves.

    Attributes:
        kind, name: of the rule.
        scope, subject: whose calls; the subject is empty for the project's, and for calls that name no user.
        unit: what is counted; money in nano-dollars.
        used: in the window or period.
        held: reserved by calls in flight and by workers' slices.
        limit: how much is allowed.
        window_seconds: of a limit on requests or tokens; else 0.
        period: of a budget; else empty.
        resets: when a budget's period ends, ns since the epoch; 0 for what slides.
    """

    kind: Literal["limit", "budget"]
    name: str
    scope: Scope
    subject: str
    unit: Measure
    used: int
    held: int
    limit: int
    window_seconds: int = 0
    period: Period | Literal[""] = ""
    resets: int = 0

    @property
    def percent(self) -> float:
        """Of the limit that is used."""
        return 100 * self.used / self.limit if self.limit else 100.0


def spent_of(rules: Iterable[Rule], levels: Iterable[Level], now: int) -> tuple[Spent, ...]:
    """Rules beside their counters. A rule for one subject is there also before its first call; one that counts each of
    many by themselves has a row for each that was seen, the fullest first."""
    found = {level.key: level for level in levels}
    rows: list[Spent] = []
    for rule in rules:
        whole = rule.subject or rule.scope == "project"
        if whole:
            key = counter_of(rule, rule.subject, now).key
            rows.append(_spent(rule, rule.subject, found.get(key, Level(key, 0, 0)), now))
            continue
        pattern = place_of(counter_of(rule, "", now).key)
        each = []
        for key, level in found.items():
            place = place_of(key)
            if msgspec.structs.replace(place, subject="") == pattern:
                each.append(_spent(rule, place.subject, level, now))
        rows += sorted(each, key=lambda row: (-row.used, row.subject))
    return tuple(rows)


class Spending:
    """What is used of a project's limits and budgets."""

    def __init__(self, ledger: Ledger, quotas: Quotas, *, clock: Clock) -> None:
        self._ledger = ledger
        self._quotas = quotas
        self._clock = clock

    def spent(self, caller: Principal) -> tuple[Spent, ...]:
        """How far the project's limits and budgets are, budgets first.

        Raises:
            StorageFailed: the counters cannot be reached.
        """
        caller.require(Permission.PROVIDERS_READ)
        rules: list[Rule] = [
            *_by_name(self._ledger.rows(BUDGETS, project=caller.project).values()),
            *_by_name(self._ledger.rows(LIMITS, project=caller.project).values()),
        ]
        return spent_of(rules, self._quotas.levels(caller.project), self._clock.now()) if rules else ()


class Alerts:
    """Notices budgets whose thresholds are crossed. Each is a fact, first of its own stream, so that it is said once
    however many control processes look and however often they start."""

    def __init__(self, ledger: Ledger, quotas: Quotas, *, clock: Clock) -> None:
        self._ledger = ledger
        self._quotas = quotas
        self._clock = clock
        self._said: set[str] = set()

    def check(self) -> tuple[Fact, ...]:
        """Look at all budgets; the facts that were new.

        Raises:
            StorageFailed: the counters or the ledger cannot be reached.
        """
        now = self._clock.now()
        projects: dict[str, list[Rule]] = {}
        for budget in self._ledger.rows(BUDGETS).values():
            if budget.alerts:
                projects.setdefault(budget.project, []).append(budget)
        new: list[Fact] = []
        for project, rules in projects.items():
            alerts = {rule.name: rule.alerts for rule in rules if isinstance(rule, Budget)}
            for row in spent_of(rules, self._quotas.levels(project), now):
                for draft in _drafts(row, alerts[row.name], project, now):
                    new += self._say(draft, project)
        return tuple(new)

    def _say(self, draft: Draft, project: str) -> tuple[Fact, ...]:
        if draft.stream in self._said:
            return ()
        facts: tuple[Fact, ...] = ()
        if not self._ledger.stream_version(draft.stream):
            try:
                facts = self._ledger.append([draft], actor=system("budgets").actor, project=project)
            except Conflict:  # another control process was faster
                facts = ()
        self._said.add(draft.stream)
        return facts


def _drafts(row: Spent, percents: Iterable[int], project: str, now: int) -> Iterator[Draft]:
    if row.period == "":
        return
    period = period_of(row.period, now).name
    subject = row.subject
    if row.scope == "user" and subject:  # a person's name stands in no fact
        subject = "sha256:" + hashlib.sha256(subject.encode()).hexdigest()[:_DIGITS]
    of = hashlib.sha256(f"{row.scope}/{row.subject}".encode()).hexdigest()[:_DIGITS]
    for percent in sorted(percents):
        if row.used * 100 >= percent * row.limit:
            body = BudgetAlerted(
                name=row.name,
                scope=row.scope,
                subject=subject,
                percent=percent,
                period=period,
                spent=row.used,
                amount=row.limit,
            )
            yield Draft(f"alert/{project}/{row.name}/{of}/{period}/{percent}", body, NEW_STREAM)


def _spent(rule: Rule, subject: str, level: Level, now: int) -> Spent:
    if isinstance(rule, Budget):
        return Spent(
            kind="budget",
            name=rule.name,
            scope=rule.scope,
            subject=subject,
            unit="money",
            used=level.used,
            held=level.held,
            limit=rule.amount,
            period=rule.period,
            resets=period_of(rule.period, now).ends,
        )
    return Spent(
        kind="limit",
        name=rule.name,
        scope=rule.scope,
        subject=subject,
        unit=measure(rule),
        used=level.used,
        held=level.held,
        limit=rule.amount,
        window_seconds=0 if rule.unit == "concurrency" else rule.window_seconds,
    )


def _by_name(rules: Iterable[Limit] | Iterable[Budget]) -> list[Rule]:
    return sorted(rules, key=lambda rule: rule.name)

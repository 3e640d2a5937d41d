"""The job that works out the cost of past calls anew, after a price was set late or corrected."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec

from detent.gateway.costing import cost_of
from detent.gateway.facts import PricesRecalculated
from detent.gateway.prices import Own, PriceTable, own_prices, shipped_prices
from detent.gateway.views import PRICES
from detent.kernel.clock import day_of
from detent.kernel.errors import Conflict, InvalidInput, NotFound
from detent.kernel.facts import NEW_STREAM, Draft
from detent.kernel.identity import DEFAULT_PROJECT, Permission, Principal, system
from detent.kernel.money import DatedPrice
from detent.kernel.ports import Job, JobContext, Jobs, Lake, Ledger, Workflow
from detent.kernel.telemetry import Span

RECALCULATE: Final = "prices.recalculate"


class Range(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which calls: those that started in `[since, until)` (ns), of a provider and model or of all."""

    since: int
    until: int
    provider: str = ""
    model: str = ""
    dry_run: bool = False


class ModelTotal(msgspec.Struct):
    """What the calls of one model cost before and after, in nano-dollars; unpriced ones are counted, not summed."""

    provider: str
    model: str
    calls: int = 0
    changed: int = 0
    before: int = 0
    after: int = 0
    unpriced_before: int = 0
    unpriced_after: int = 0


def start_recalculation(jobs: Jobs, caller: Principal, wanted: Range) -> Job:
    """Queue the job for the caller's project.

    Raises:
        InvalidInput: the range is empty.
        Forbidden: the caller may set no prices.
    """
    caller.require(Permission.ROUTES_WRITE)
    _check(wanted)
    return jobs.start(RECALCULATE, msgspec.to_builtins(wanted), project=caller.project)


def _check(wanted: Range) -> None:
    if not 0 <= wanted.since < wanted.until < 2**63:
        raise InvalidInput("The range is empty.", hint="Give a time before the end of it.", field="since")


def recalculation(ledger: Ledger, lake: Lake) -> Workflow:
    """The workflow: prices are read once, then each day is looked at and changed; days that are done stay done."""

    def run(context: JobContext, arguments: dict[str, Any]) -> dict[str, Any]:
        """Work out the cost of past calls anew at the prices that held when they were made, day by day."""
        try:
            wanted = msgspec.convert(arguments, Range)
        except msgspec.ValidationError as error:
            raise InvalidInput(f"The arguments cannot be used: {error}.", field="arguments") from None
        _check(wanted)
        project = context.project or DEFAULT_PROJECT
        first, last = day_of(wanted.since), day_of(wanted.until - 1)

        def read_prices() -> list[Any]:
            own = own_prices(ledger.rows(PRICES, project=project).values())
            return [[*key, msgspec.to_builtins(history)] for key, history in sorted(own.items())]

        def choose() -> list[str]:
            return sorted(
                part.day for part in lake.partitions() if part.project == project and first <= part.day <= last
            )

        context.progress(0.0, "prices")
        own = {
            (provider, model): msgspec.convert(history, tuple[DatedPrice, ...])
            for provider, model, history in context.step("prices", read_prices)
        }
        days = context.step("days", choose)
        pricing = _Pricing(lake, project, wanted, shipped_prices(), own)
        totals: dict[tuple[str, str], ModelTotal] = {}
        for number, day in enumerate(days):
            context.progress(number / len(days), day)
            seen = context.step(f"look {day}", partial(pricing.look, day))
            if not wanted.dry_run and any(line["changed"] for line in seen):
                context.step(f"change {day}", partial(pricing.change, day))
            _add(totals, msgspec.convert(seen, list[ModelTotal]))
        result = _result(wanted, days, totals)
        if not wanted.dry_run:
            context.step("record", partial(_record, ledger, project, context.id, wanted, result))
        return result

    return run


class _Pricing:
    """One job's look at the lake."""

    def __init__(self, lake: Lake, project: str, wanted: Range, table: PriceTable, own: Own) -> None:
        self._lake = lake
        self._project = project
        self._wanted = wanted
        self._table = table
        self._own = own

    def look(self, day: str) -> list[dict[str, Any]]:
        """What a day's calls cost and would cost, by model. What is counted here is what the job tells."""
        totals: dict[tuple[str, str], ModelTotal] = {}

        def count(span: Span) -> int | None:
            cost = self._cost(span)
            if self._concerns(span):
                _count(totals, span, cost)
            return cost

        self._reprice(day, count, dry_run=True)
        return [msgspec.to_builtins(total) for _, total in sorted(totals.items())]

    def change(self, day: str) -> int:
        """Change them; how many."""
        return self._reprice(day, self._cost, dry_run=False)

    def _reprice(self, day: str, cost: Callable[[Span], int | None], *, dry_run: bool) -> int:
        wanted = self._wanted
        try:
            found = self._lake.reprice(
                self._project, day, cost, since=wanted.since, until=wanted.until, dry_run=dry_run
            )
        except NotFound:
            return 0  # dropped by retention meanwhile
        return found.changed

    def _concerns(self, span: Span) -> bool:
        wanted = self._wanted
        return wanted.provider in ("", span.provider) and wanted.model in ("", span.request_model)

    def _cost(self, span: Span) -> int | None:
        return cost_of(span, self._table, self._own) if self._concerns(span) else span.cost


def _count(totals: dict[tuple[str, str], ModelTotal], span: Span, cost: int | None) -> None:
    key = (span.provider, span.request_model)
    total = totals.get(key)
    if total is None:
        total = totals[key] = ModelTotal(*key)
    total.calls += 1
    total.changed += cost != span.cost
    total.before += span.cost or 0
    total.after += cost or 0
    total.unpriced_before += span.cost is None
    total.unpriced_after += cost is None


def _add(totals: dict[tuple[str, str], ModelTotal], more: list[ModelTotal]) -> None:
    for line in more:
        total = totals.setdefault((line.provider, line.model), ModelTotal(line.provider, line.model))
        for field in ("calls", "changed", "before", "after", "unpriced_before", "unpriced_after"):
            setattr(total, field, getattr(total, field) + getattr(line, field))


def _result(wanted: Range, days: list[str], totals: dict[tuple[str, str], ModelTotal]) -> dict[str, Any]:
    lines = [total for _, total in sorted(totals.items())]
    return {
        "dry_run": wanted.dry_run,
        "days": len(days),
        "calls": sum(line.calls for line in lines),
        "changed": sum(line.changed for line in lines),
        "before": sum(line.before for line in lines),
        "after": sum(line.after for line in lines),
        "models": [msgspec.to_builtins(line) for line in lines],
    }


def _record(ledger: Ledger, project: str, job_id: str, wanted: Range, result: dict[str, Any]) -> bool:
    body = PricesRecalculated(
        since=wanted.since,
        until=wanted.until,
        provider=wanted.provider,
        model=wanted.model,
        spans=result["calls"],
        changed=result["changed"],
        before=result["before"],
        after=result["after"],
    )
    actor = system("worker", project).actor
    try:
        ledger.append([Draft(f"recalculation/{job_id}", body, NEW_STREAM)], actor=actor, project=project)
    except Conflict:
        return False  # recorded before a crash that came too soon for the step to be kept
    return True

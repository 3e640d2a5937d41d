"""Home: is it well, what happened lately, and what does it cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from detent.app.status import LakeStatus, LedgerStatus, Part, SpoolStatus
from detent.kernel.clock import DAY, HOUR
from detent.kernel.identity import Permission
from detent.kernel.telemetry import MetricQuery, MetricRow, SpanFilter
from detent.web.page import Page
from detent.web.table import Table
from detent.web.views.facts import FactLine, fact_line, names_of
from detent.web.views.traces import TraceLine, trace_line
from detent.web.visit import Visit

RANGES: Final[Mapping[str, tuple[str, int, int]]] = {
    "24h": ("24 hours", DAY, HOUR),
    "7d": ("7 days", 7 * DAY, 6 * HOUR),
    "30d": ("30 days", 30 * DAY, DAY),
}
"""Range to its name, its length, and the length of a bucket."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured over some time: counts, sums, and percentiles (50, 95, 99) in ns."""

    requests: int = 0
    errors: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0
    unpriced: int = 0
    duration: tuple[int, int, int] | None = None
    ttft: tuple[int, int, int] | None = None


class Bucket(msgspec.Struct, frozen=True):
    """One step of the charts."""

    start: int
    figures: Figures


class GroupFigures(msgspec.Struct, frozen=True):
    """The figures of one route and model."""

    route: str
    model: str
    figures: Figures


class HomeView(msgspec.Struct, frozen=True, kw_only=True):
    """The home page. What the visitor may not see is empty."""

    range: str
    range_name: str
    since: int
    until: int
    bucket: int
    total: Figures
    before: Figures
    buckets: tuple[Bucket, ...]
    groups: tuple[GroupFigures, ...]
    parts: tuple[Part, ...]
    gateway_url: str
    version: str
    ledger: LedgerStatus
    lake: LakeStatus
    spool: SpoolStatus
    security: tuple[str, ...]
    changes: tuple[FactLine, ...]
    traces: tuple[TraceLine, ...]

    @property
    def well(self) -> bool:
        """Whether every part runs and nothing was lost."""
        return all(part.state == "running" for part in self.parts) and not self.spool.shed


def view(visit: Visit) -> HomeView:
    """Everything the home page shows."""
    platform, caller = visit.platform, visit.caller
    name = visit.choice("range", tuple(RANGES), "24h")
    words, length, bucket = RANGES[name]
    until = -(-visit.now // bucket) * bucket
    since = until - length

    def measure(start: int, end: int, *, step: int = 0, group: bool = False) -> tuple[MetricRow, ...]:
        query = MetricQuery(
            project=caller.project, since=start, until=end, bucket=step, group_by=("route", "model") if group else ()
        )
        return platform.traces.metrics(caller, query)

    by_start = {row.start: figures(row) for row in measure(since, until, step=bucket)}
    status = platform.status()
    facts = platform.audit.log(caller, limit=8) if caller.may(Permission.LEDGER_READ) else ()
    names = names_of(visit)
    latest = platform.traces.list(caller, SpanFilter(project=caller.project), limit=6)
    return HomeView(
        range=name,
        range_name=words,
        since=since,
        until=until,
        bucket=bucket,
        total=_one(measure(since, until)),
        before=_one(measure(since - length, since)),
        buckets=tuple(Bucket(start, by_start.get(start, Figures())) for start in range(since, until, bucket)),
        groups=tuple(
            sorted(
                (
                    GroupFigures(row.group.get("route", ""), row.group.get("model", ""), figures(row))
                    for row in measure(since, until, group=True)
                ),
                key=lambda g: (-g.figures.requests, g.route, g.model),
            )
        ),
        parts=status.parts,
        gateway_url=status.gateway_url,
        version=status.version,
        ledger=status.ledger,
        lake=status.lake,
        spool=status.spool,
        security=status.security if caller.may(Permission.SETTINGS_READ) else (),
        changes=tuple(fact_line(fact, names) for fact in facts),
        traces=tuple(trace_line(row) for row in latest.rows),
    )


def _one(rows: tuple[MetricRow, ...]) -> Figures:
    return figures(rows[0]) if rows else Figures()


def figures(row: MetricRow) -> Figures:
    """A row of metrics without its time and group."""
    return Figures(
        requests=row.requests,
        errors=row.errors,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        cost=row.cost,
        unpriced=row.unpriced,
        duration=row.duration,
        ttft=row.ttft,
    )


_COLUMNS: Final = (
    "requests",
    "errors",
    "input_tokens",
    "output_tokens",
    "cost_nano_usd",
    "unpriced",
    "duration_p50_ns",
    "duration_p95_ns",
    "duration_p99_ns",
    "ttft_p50_ns",
    "ttft_p95_ns",
    "ttft_p99_ns",
)


def _cells(f: Figures) -> tuple[int | None, ...]:
    nothing = (None, None, None)
    return (
        f.requests,
        f.errors,
        f.input_tokens,
        f.output_tokens,
        f.cost,
        f.unpriced,
        *(f.duration or nothing),
        *(f.ttft or nothing),
    )


def tables(view: HomeView) -> Mapping[str, Table]:
    """What the charts draw, and the figures by route and model."""
    return {
        "over-time": Table(("start_ns", *_COLUMNS), [(b.start, *_cells(b.figures)) for b in view.buckets]),
        "by-model": Table(("route", "model", *_COLUMNS), [(g.route, g.model, *_cells(g.figures)) for g in view.groups]),
    }


PAGE = Page("/", Permission.TRACES_READ, "home.html", view, tables)

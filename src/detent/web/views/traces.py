"""Traces: the list with its filters and live tail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from detent.kernel.clock import DAY, HOUR, parse_iso
from detent.kernel.errors import InvalidInput
from detent.kernel.identity import Permission
from detent.kernel.money import NANO
from detent.kernel.telemetry import SpanFilter, TraceRow
from detent.web.page import Page
from detent.web.table import Table
from detent.web.visit import Visit

SINCE: Final[Mapping[str, int]] = {"15m": HOUR // 4, "1h": HOUR, "24h": DAY, "7d": 7 * DAY, "30d": 30 * DAY}
STATUSES: Final = ("ok", "error", "cancelled")
LIMITS: Final = ("25", "50", "100", "200")
_EXACT: Final = {
    "model": "model",
    "route": "route",
    "provider": "provider",
    "key": "key_id",
    "release": "release",
    "session": "session_id",
    "user": "user_id",
    "error": "error_type",
    "operation": "operation",
}
"""Filters that match exactly: name in the URL to field of SpanFilter."""

ATTRIBUTE: Final = "attr."
"""Begins the name of a filter on an attribute."""


class Choice(msgspec.Struct, frozen=True):
    """A value that a filter offers, and what to call it."""

    value: str
    label: str


class Chip(msgspec.Struct, frozen=True):
    """A filter that is on, and the address without it."""

    name: str
    value: str
    without: str


class TraceLine(msgspec.Struct, frozen=True, kw_only=True):
    """A trace in a list. Times in ns, money in nano-dollars (null: no price is known)."""

    trace_id: str
    name: str
    start: int
    duration: int
    status: str
    error_type: str
    route: str
    model: str
    provider: str
    key_id: str
    session_id: str
    input_tokens: int
    output_tokens: int
    cost: int | None
    unpriced: int
    ttft: int | None
    spans: int
    errors: int
    stream: bool
    snippet: str


class TracesView(msgspec.Struct, frozen=True, kw_only=True):
    """The list of traces.

    Attributes:
        filters: what is asked for, by name in the URL.
        after: continues the list; empty at the end.
        live: whether the page follows along.
        choices: what the filters offer, by name.
        any: whether there is any trace at all, filters aside.
    """

    filters: dict[str, str]
    chips: tuple[Chip, ...]
    rows: tuple[TraceLine, ...]
    after: str
    live: bool
    searchable: bool
    choices: dict[str, tuple[Choice, ...]]
    any: bool
    gateway_url: str
    key_names: dict[str, str]


def view(visit: Visit) -> TracesView:
    """The traces that the filters in the URL ask for, newest first."""
    traces, caller = visit.platform.traces, visit.caller
    where = read_filter(visit)
    limit = int(visit.choice("limit", LIMITS, "50"))
    page = traces.list(caller, where, limit=limit, after=visit.get("after"))
    filters = {name: visit.get(name) for name in _shown_filters(visit)}
    empty = not page.rows and not filters
    key_names = (
        {key.id: key.name for key in visit.platform.gateway.keys(caller)} if caller.may(Permission.KEYS_READ) else {}
    )
    return TracesView(
        filters=filters,
        chips=tuple(
            Chip(name, key_names.get(value, value) if name == "key" else value, visit.url(**{name: "", "after": ""}))
            for name, value in filters.items()
        ),
        rows=tuple(trace_line(row) for row in page.rows),
        after=page.after,
        live=bool(visit.get("live")),
        searchable=caller.may(Permission.CONTENT_READ),
        choices={
            "model": _choices(traces.values(caller, "model"), where.model),
            "route": _choices(traces.values(caller, "route"), where.route),
            "key": tuple(
                Choice(value.value, key_names.get(value.value, value.value[-12:]))
                for value in _choices(traces.values(caller, "key"), where.key_id)
            ),
        },
        any=not empty,
        gateway_url=visit.platform.status().gateway_url if empty else "",
        key_names=key_names,
    )


def read_filter(visit: Visit) -> SpanFilter:
    """The filter that a URL asks for.

    Raises:
        InvalidInput: a value cannot be one of its filter; names the filter.
    """
    since = visit.get("since")
    exact = {field: visit.get(name) for name, field in _EXACT.items()}
    attributes = {
        name.removeprefix(ATTRIBUTE): value for name, value in visit.query.items() if name.startswith(ATTRIBUTE)
    }
    return SpanFilter(
        project=visit.caller.project,
        since=visit.now - SINCE[since] if since in SINCE else _time(visit, "since"),
        until=_time(visit, "until"),
        text=visit.get("q"),
        status=visit.choice("status", STATUSES),
        min_duration=int(visit.number("slower") * 1_000_000),
        min_cost=int(visit.number("dearer") * NANO),
        attributes=attributes,
        **exact,
    )


def _time(visit: Visit, name: str) -> int:
    text = visit.get(name)
    try:
        return parse_iso(text) if text else 0
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"'{text[:40]}' is no time.",
            hint=f"Use {', '.join(SINCE)}, or a time such as 2026-03-03T10:00:00Z.",
            field=name,
        ) from None


def _shown_filters(visit: Visit) -> list[str]:
    names = ("q", "status", "since", "until", "slower", "dearer", *_EXACT)
    return [name for name in visit.query if (name in names or name.startswith(ATTRIBUTE)) and visit.get(name)]


def _choices(values: tuple[str, ...], chosen: str) -> tuple[Choice, ...]:
    every = [value for value in values if value]
    if chosen and chosen not in every:
        every.append(chosen)
    return tuple(Choice(value, value) for value in every)


def trace_line(row: TraceRow) -> TraceLine:
    """A trace as a line."""
    root = row.root
    return TraceLine(
        trace_id=row.trace_id,
        name=root.name,
        start=root.start,
        duration=max(row.end - root.start, root.duration),
        status=root.status if root.status != "ok" or not row.errors else "error",
        error_type=root.error_type,
        route=root.route,
        model=root.response_model or root.request_model,
        provider=root.provider,
        key_id=root.key_id,
        session_id=root.session_id,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        cost=row.cost,
        unpriced=row.unpriced,
        ttft=root.ttft,
        spans=row.spans,
        errors=row.errors,
        stream=root.stream,
        snippet=row.snippet,
    )


def traces_table(rows: tuple[TraceLine, ...]) -> Table:
    """Traces to take away."""
    names = TraceLine.__struct_fields__
    unit = {"start": "start_ns", "duration": "duration_ns", "ttft": "ttft_ns", "cost": "cost_nano_usd"}
    return Table(
        tuple(unit.get(name, name) for name in names), [tuple(getattr(row, name) for name in names) for row in rows]
    )


def tables(view: TracesView) -> Mapping[str, Table]:
    """The list."""
    return {"traces": traces_table(view.rows)}


PAGE = Page("/traces", Permission.TRACES_READ, "traces.html", view, tables)

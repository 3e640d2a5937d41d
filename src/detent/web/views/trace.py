"""One trace: its spans as a waterfall, what was said, what it took, and what people think of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from detent.kernel.errors import InvalidInput
from detent.kernel.identity import Permission
from detent.kernel.telemetry import Score, Span
from detent.web.page import Action, Goto, Outcome, Page
from detent.web.table import Table
from detent.web.views.conversation import Turn, conversation
from detent.web.views.facts import names_of
from detent.web.visit import Form, Visit

THUMBS: Final = "thumbs"
_MAX_COMMENT: Final = 4000
_MAX_ROWS: Final = 2000


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the waterfall; `left` and `width` are percentages of the trace's length."""

    span_id: str
    parent_id: str
    depth: int
    name: str
    kind: str
    status: str
    start: int
    duration: int
    left: float
    width: float
    first: float
    cost: int | None
    tokens: int
    children: int


class Rating(msgspec.Struct, frozen=True, kw_only=True):
    """A score as shown."""

    id: str
    name: str
    value: bool | float | int | str
    source: str
    author: str
    author_name: str
    comment: str
    time: int
    span_id: str


class TraceView(msgspec.Struct, frozen=True, kw_only=True):
    """A trace with one of its spans chosen.

    Attributes:
        content_hidden: the visitor may not read content.
        content_dropped: the policy kept none.
        mine: the visitor's own thumb: true, false, or null.
        cut: spans beyond those shown.
    """

    trace_id: str
    name: str
    start: int
    duration: int
    status: str
    input_tokens: int
    output_tokens: int
    cost: int | None
    unpriced: int
    errors: int
    models: tuple[str, ...]
    bars: tuple[Bar, ...]
    cut: int
    span: Span
    turns: tuple[Turn, ...]
    attributes: dict[str, str]
    content_hidden: bool
    content_dropped: bool
    ratings: tuple[Rating, ...]
    mine: bool | None
    comment: str
    key_name: str


def view(visit: Visit) -> TraceView:
    """The trace that the path names, with the span that the URL chooses or else its root."""
    caller, trace_id = visit.caller, visit.args["trace_id"]
    spans = visit.platform.traces.get(caller, trace_id)
    bars = waterfall(spans)
    root = next(span for span in spans if span.span_id == bars[0].span_id)
    chosen = next((span for span in spans if span.span_id == visit.get("span")), root)
    names = names_of(visit)
    scores = visit.platform.traces.scores(caller, trace_id=trace_id)
    own = next((s for s in scores if s.name == THUMBS and s.author == str(caller.actor)), None)
    costs = [span.cost for span in spans if span.cost is not None]
    return TraceView(
        trace_id=trace_id,
        name=root.name,
        start=min(span.start for span in spans),
        duration=max(span.end for span in spans) - min(span.start for span in spans),
        status=root.status,
        input_tokens=sum(span.input_tokens for span in spans),
        output_tokens=sum(span.output_tokens for span in spans),
        cost=sum(costs) if costs else None,
        unpriced=sum(1 for span in spans if span.cost is None and span.operation in {"chat", "embeddings"}),
        errors=sum(1 for span in spans if span.status == "error"),
        models=tuple(
            dict.fromkeys(s.response_model or s.request_model for s in spans if s.response_model or s.request_model)
        ),
        bars=bars[:_MAX_ROWS],
        cut=max(0, len(bars) - _MAX_ROWS),
        span=chosen,
        turns=conversation(chosen.input, chosen.output),
        attributes={name: _flat(value) for name, value in sorted(chosen.attributes.items())},
        content_hidden=not caller.may(Permission.CONTENT_READ),
        content_dropped=caller.may(Permission.CONTENT_READ) and not chosen.input and not chosen.output,
        ratings=tuple(_rating(score, names) for score in scores),
        mine=own.value if own is not None and isinstance(own.value, bool) else None,
        comment=own.comment if own is not None else "",
        key_name=names.get(f"key:{chosen.key_id}", ""),
    )


def waterfall(spans: tuple[Span, ...]) -> tuple[Bar, ...]:
    """The spans as a tree in order of time, parents first; what has no parent here stands at the top."""
    begin = min(span.start for span in spans)
    length = max(max(span.end for span in spans) - begin, 1)
    known = {span.span_id for span in spans}
    children: dict[str, list[Span]] = {}
    for span in sorted(spans, key=lambda s: (s.start, s.span_id)):
        parent = span.parent_id if span.parent_id in known and span.parent_id != span.span_id else ""
        children.setdefault(parent, []).append(span)
    bars: list[Bar] = []
    seen: set[str] = set()
    # The remainder of a cycle of parents is never reached from the top; it is added there.
    for top in (*children.get("", ()), *spans):
        stack = [(top, 0)]
        while stack:
            span, depth = stack.pop()
            if span.span_id in seen:
                continue
            seen.add(span.span_id)
            below = children.get(span.span_id, [])
            left = (span.start - begin) / length * 100
            bars.append(
                Bar(
                    span_id=span.span_id,
                    parent_id=span.parent_id,
                    depth=depth,
                    name=span.name,
                    kind=_kind(span.operation),
                    status=span.status,
                    start=span.start - begin,
                    duration=span.duration,
                    left=round(min(left, 99.7), 3),
                    width=round(min(max(span.duration / length * 100, 0.3), 100 - min(left, 99.7)), 3),
                    first=round(min(left + span.ttft / length * 100, 100), 3) if span.ttft else 0.0,
                    cost=span.cost,
                    tokens=span.input_tokens + span.output_tokens,
                    children=len(below),
                )
            )
            stack += [(child, depth + 1) for child in reversed(below)]
    return tuple(bars)


def _kind(operation: str) -> str:
    if operation in {"chat", "text_completion", "generate_content", "embeddings"}:
        return "model"
    return "tool" if operation == "execute_tool" else "other"


def _rating(score: Score, names: dict[str, str]) -> Rating:
    return Rating(
        id=score.id,
        name=score.name,
        value=score.value,
        source=score.source,
        author=score.author,
        author_name=names.get(score.author, score.author),
        comment=score.comment,
        time=score.time,
        span_id=score.span_id,
    )


def _flat(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def rate(visit: Visit, form: Form) -> Outcome:
    """Save the visitor's thumb and comment; a second one replaces the first."""
    trace_id = visit.args["trace_id"]
    value = form.get("value")
    if value not in {"up", "down"}:
        raise InvalidInput("Choose thumbs up or down.", hint="The comment is kept with it.", field="value")
    comment = form.get("comment")
    if len(comment) > _MAX_COMMENT:
        raise InvalidInput("The comment is too long.", hint=f"Use at most {_MAX_COMMENT} characters.", field="comment")
    visit.platform.traces.score(
        visit.caller,
        trace_id=trace_id,
        name=THUMBS,
        value=value == "up",
        comment=comment,
        source="reviewer",
        id=f"{THUMBS}:{trace_id}:{visit.caller.actor.id}",
    )
    span = form.get("span")
    return Goto(f"/traces/{trace_id}" + (f"?span={span}" if span.isalnum() else ""), "rated")


def tables(view: TraceView) -> Mapping[str, Table]:
    """The spans, and the ratings."""
    return {
        "spans": Table(
            ("span_id", "parent_id", "depth", "name", "kind", "status", "start_ns", "duration_ns", "cost_nano_usd"),
            [
                (b.span_id, b.parent_id, b.depth, b.name, b.kind, b.status, b.start, b.duration, b.cost)
                for b in view.bars
            ],
        ),
        "ratings": Table(
            ("id", "name", "value", "source", "author", "comment", "time_ns", "span_id"),
            [(r.id, r.name, r.value, r.source, r.author, r.comment, r.time, r.span_id) for r in view.ratings],
        ),
    }


PAGE = Page("/traces/{trace_id}", Permission.TRACES_READ, "trace.html", view, tables)
ACTIONS = (Action("/traces/{trace_id}/rating", Permission.SCORES_WRITE, PAGE, rate),)

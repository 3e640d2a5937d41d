"""Spans, scores and totals."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import msgspec
from pydantic import Field, StrictBool

from detent.api.schemas.common import In, Out, TimeText, milliseconds
from detent.kernel.clock import iso
from detent.kernel.money import NANO
from detent.kernel.telemetry import MetricRow, Score, Span, TraceRow


class TraceQuery(In):
    """Which traces."""

    since: TimeText = Field(default="", description="Started at or after: RFC 3339, or 15m, 2h, 7d ago.")
    until: TimeText = Field(default="", description="Started before.")
    text: Annotated[str, Field(max_length=500, description="Words in name or content; quotes hold a phrase.")] = ""
    status: Literal["", "ok", "error", "cancelled"] = ""
    operation: Annotated[str, Field(max_length=100)] = ""
    provider: Annotated[str, Field(max_length=200)] = ""
    model: Annotated[str, Field(max_length=200)] = ""
    route: Annotated[str, Field(max_length=200)] = ""
    key_id: Annotated[str, Field(max_length=64)] = ""
    release: Annotated[str, Field(max_length=200)] = ""
    session_id: Annotated[str, Field(max_length=200)] = ""
    user_id: Annotated[str, Field(max_length=200)] = ""
    error_type: Annotated[str, Field(max_length=200)] = ""
    min_duration_ms: Annotated[float, Field(ge=0, le=1e9)] = 0
    min_cost_usd: Annotated[float, Field(ge=0, le=1e6)] = 0
    attribute: Annotated[list[str], Field(max_length=20, description="NAME=VALUE, exact.")] = Field(default=[])
    limit: Annotated[int, Field(ge=1, le=1000)] = 50
    after: Annotated[str, Field(max_length=200)] = ""


class TraceOut(Out):
    """A trace in a list. `cost_usd` is null when no price is known."""

    trace_id: str
    name: str
    start: str
    duration_ms: float
    status: str
    error_type: str | None
    model: str | None
    provider: str | None
    route: str | None
    key_id: str | None
    session_id: str | None
    user_id: str | None
    spans: int
    errors: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    unpriced: int
    ttft_ms: float | None
    snippet: str | None

    @classmethod
    def of(cls, row: TraceRow) -> Self:
        """From the lake's row."""
        root = row.root
        return cls(
            trace_id=row.trace_id,
            name=root.name,
            start=iso(root.start),
            duration_ms=milliseconds(max(row.end - root.start, 0)),
            status=root.status,
            error_type=root.error_type or None,
            model=root.response_model or root.request_model or None,
            provider=root.provider or None,
            route=root.route or None,
            key_id=root.key_id or None,
            session_id=root.session_id or None,
            user_id=root.user_id or None,
            spans=row.spans,
            errors=row.errors,
            input_tokens=row.input_tokens,
            output_tokens=row.output_tokens,
            cost_usd=None if row.cost is None else row.cost / NANO,
            unpriced=row.unpriced,
            ttft_ms=None if root.ttft is None else milliseconds(root.ttft),
            snippet=row.snippet or None,
        )


class SpanOut(Out):
    """One timed operation; `input` and `output` are null for callers who may not read content."""

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    operation: str | None
    start: str
    duration_ms: float
    status: str
    error_type: str | None
    provider: str | None
    request_model: str | None
    response_model: str | None
    route: str | None
    key_id: str | None
    release: str | None
    session_id: str | None
    user_id: str | None
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    reasoning_tokens: int
    usage_estimated: bool
    cost_usd: float | None
    ttft_ms: float | None
    finish_reason: str | None
    stream: bool
    http_status: int | None
    attempts: int
    attributes: dict[str, Any]
    input: Any
    output: Any

    @classmethod
    def of(cls, span: Span) -> Self:
        """From the lake's span."""
        return cls(
            trace_id=span.trace_id,
            span_id=span.span_id,
            parent_id=span.parent_id or None,
            name=span.name,
            operation=span.operation or None,
            start=iso(span.start),
            duration_ms=milliseconds(span.duration),
            status=span.status,
            error_type=span.error_type or None,
            provider=span.provider or None,
            request_model=span.request_model or None,
            response_model=span.response_model or None,
            route=span.route or None,
            key_id=span.key_id or None,
            release=span.release or None,
            session_id=span.session_id or None,
            user_id=span.user_id or None,
            input_tokens=span.input_tokens,
            output_tokens=span.output_tokens,
            cached_input_tokens=span.cached_input_tokens,
            reasoning_tokens=span.reasoning_tokens,
            usage_estimated=span.usage_estimated,
            cost_usd=None if span.cost is None else span.cost / NANO,
            ttft_ms=None if span.ttft is None else milliseconds(span.ttft),
            finish_reason=span.finish_reason or None,
            stream=span.stream,
            http_status=span.http_status or None,
            attempts=span.attempts,
            attributes=span.attributes,
            input=_content(span.input),
            output=_content(span.output),
        )


def _content(text: str) -> Any:
    """Content as the JSON it is; as text where it is none; None where there is nothing."""
    if not text:
        return None
    try:
        return msgspec.json.decode(text)
    except msgspec.MsgspecError:
        return text


class ScoreIn(In):
    """A judgement. The same `id` again replaces it, so a repeated request makes no second one."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    value: StrictBool | int | float | Annotated[str, Field(max_length=1000)]
    span_id: Annotated[str, Field(pattern="^([0-9a-f]{16})?$")] = ""
    comment: Annotated[str, Field(max_length=10_000)] = ""
    source: Literal["user", "reviewer", "code", "judge"] = "user"
    id: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9._:-]*$")] = ""


class ScoreOut(Out):
    """A judgement on a trace."""

    id: str
    trace_id: str | None
    span_id: str | None
    session_id: str | None
    name: str
    value: bool | int | float | str
    source: str
    author: str | None
    comment: str | None
    time: str

    @classmethod
    def of(cls, score: Score) -> Self:
        """From the lake's score."""
        return cls(
            id=score.id,
            trace_id=score.trace_id or None,
            span_id=score.span_id or None,
            session_id=score.session_id or None,
            name=score.name,
            value=score.value,
            source=score.source,
            author=score.author or None,
            comment=score.comment or None,
            time=iso(score.time),
        )


class TraceDetailOut(Out):
    """A whole trace."""

    trace_id: str
    spans: list[SpanOut]
    scores: list[ScoreOut]


class PercentilesOut(Out):
    """Milliseconds."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, figures: tuple[int, int, int] | None) -> Self | None:
        """From nanoseconds."""
        if figures is None:
            return None
        return cls(p50=milliseconds(figures[0]), p95=milliseconds(figures[1]), p99=milliseconds(figures[2]))


class MetricQueryIn(In):
    """Which totals."""

    since: TimeText = Field(default="24h", description="RFC 3339, or 15m, 2h, 7d ago.")
    until: TimeText = Field(default="", description="RFC 3339; now when empty.")
    bucket_hours: Annotated[int, Field(ge=0, le=24 * 366, description="0 gives one row per group.")] = 0
    group_by: Annotated[list[Literal["model", "provider", "route", "key", "release"]], Field(max_length=5)] = Field(
        default=[]
    )


class MetricRowOut(Out):
    """One bucket of one group."""

    start: str
    group: dict[str, str]
    requests: int
    errors: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    unpriced: int
    duration_ms: PercentilesOut | None
    ttft_ms: PercentilesOut | None

    @classmethod
    def of(cls, row: MetricRow) -> Self:
        """From the lake's row."""
        return cls(
            start=iso(row.start),
            group=row.group,
            requests=row.requests,
            errors=row.errors,
            input_tokens=row.input_tokens,
            output_tokens=row.output_tokens,
            cost_usd=row.cost / NANO,
            unpriced=row.unpriced,
            duration_ms=PercentilesOut.of(row.duration),
            ttft_ms=PercentilesOut.of(row.ttft),
        )

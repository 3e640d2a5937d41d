"""Telemetry: traces, scores, metrics; and OTLP, by which applications send their own spans."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from detent.api.border import Caller, ThePlatform, TraceId, moment_of, nouns
from detent.api.schemas.common import ErrorOut, Page
from detent.api.schemas.traces import (
    MetricQueryIn,
    MetricRowOut,
    ScoreIn,
    ScoreOut,
    SpanOut,
    TraceDetailOut,
    TraceOut,
    TraceQuery,
)
from detent.app.http import needs, router
from detent.app.platform import Platform
from detent.kernel.clock import HOUR
from detent.kernel.errors import InvalidInput
from detent.kernel.identity import Permission, Principal
from detent.kernel.money import NANO
from detent.kernel.telemetry import MetricQuery, SpanFilter
from detent.traces.otlp import otlp_response, read_otlp

routes = nouns("traces")
_MILLI: Final = 1_000_000
_MOST_BUCKETS: Final = 2000

ValueField = Literal["model", "provider", "route", "key", "release", "operation", "error_type", "session", "user"]


@routes.get("/traces")
@needs(Permission.TRACES_READ)
def list_traces(where: Annotated[TraceQuery, Query()], caller: Caller, platform: ThePlatform) -> Page[TraceOut]:
    """Traces that hold a matching span, newest first. `text` searches name and content (needs `content:read`)."""
    page = platform.traces.list(caller, _filter(where, platform.clock.now()), limit=where.limit, after=where.after)
    return Page(items=[TraceOut.of(row) for row in page.rows], after=page.after or None)


def _filter(where: TraceQuery, now: int) -> SpanFilter:
    attributes = {}
    for pair in where.attribute:
        name, equals, value = pair.partition("=")
        if not name or not equals or len(pair) > 500:
            raise InvalidInput("'attribute' is no pair.", hint="Give NAME=VALUE.", field="attribute")
        attributes[name] = value
    plain = where.model_dump(
        exclude={"since", "until", "attribute", "limit", "after", "min_duration_ms", "min_cost_usd"}
    )
    return SpanFilter(
        project="",
        since=moment_of(where.since, now, field="since"),
        until=moment_of(where.until, now, field="until"),
        attributes=attributes,
        min_duration=round(where.min_duration_ms * _MILLI),
        min_cost=round(where.min_cost_usd * NANO),
        **plain,
    )


@routes.get("/traces/{trace_id}")
@needs(Permission.TRACES_READ)
def read_trace(trace_id: TraceId, caller: Caller, platform: ThePlatform) -> TraceDetailOut:
    """One trace: its spans by start time, and its scores. Content is null without `content:read`."""
    spans = platform.traces.get(caller, trace_id)
    scores = platform.traces.scores(caller, trace_id=trace_id)
    return TraceDetailOut(
        trace_id=trace_id, spans=[SpanOut.of(span) for span in spans], scores=[ScoreOut.of(score) for score in scores]
    )


@routes.post("/traces/{trace_id}/scores", status_code=201)
@needs(Permission.SCORES_WRITE)
def add_score(trace_id: TraceId, body: ScoreIn, caller: Caller, platform: ThePlatform) -> ScoreOut:
    """Judge a trace, or one span of it."""
    given = platform.traces.score(
        caller,
        trace_id=trace_id,
        span_id=body.span_id,
        name=body.name,
        value=body.value,
        comment=body.comment,
        source=body.source,
        id=body.id,
    )
    return ScoreOut.of(given)


@routes.get("/scores")
@needs(Permission.TRACES_READ)
def list_scores(
    caller: Caller,
    platform: ThePlatform,
    trace_id: Annotated[str, Query(pattern="^([0-9a-f]{32})?$")] = "",
    name: Annotated[str, Query(max_length=100)] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page[ScoreOut]:
    """Scores, newest first."""
    found = platform.traces.scores(caller, trace_id=trace_id, name=name, limit=limit)
    return Page(items=[ScoreOut.of(score) for score in found])


@routes.get("/metrics")
@needs(Permission.TRACES_READ)
def read_metrics(where: Annotated[MetricQueryIn, Query()], caller: Caller, platform: ThePlatform) -> Page[MetricRowOut]:
    """Requests, errors, tokens, cost and percentiles of gateway calls, per bucket of time and group."""
    now = platform.clock.now()
    since = moment_of(where.since, now, field="since")
    until = moment_of(where.until, now, field="until") or now
    if since >= until:
        raise InvalidInput("'since' is not before 'until'.", hint="Give an earlier time.", field="since")
    bucket = where.bucket_hours * HOUR
    if bucket and (until - since) // bucket > _MOST_BUCKETS:
        raise InvalidInput(
            f"That would be more than {_MOST_BUCKETS} buckets.", hint="Take wider ones.", field="bucket_hours"
        )
    query = MetricQuery(
        project="", since=since, until=until, bucket=bucket, group_by=tuple(dict.fromkeys(where.group_by))
    )
    return Page(items=[MetricRowOut.of(row) for row in platform.traces.metrics(caller, query)])


@routes.get("/values/{field}")
@needs(Permission.TRACES_READ)
def read_values(field: ValueField, caller: Caller, platform: ThePlatform) -> Page[str]:
    """What a field held over the recent days, most frequent first; filters offer them."""
    return Page(items=list(platform.traces.values(caller, field)))


# OTLP

_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "What was taken."},
    "4XX": {"model": ErrorOut, "description": "The caller's mistake."},
}
otlp: APIRouter = router(tags=["otlp"])


@otlp.post("/v1/traces", response_class=Response, responses=_ANSWERS)
@needs(Permission.TRACES_WRITE)
async def receive_spans(request: Request, caller: Caller, platform: ThePlatform) -> Response:
    """OpenTelemetry spans over OTLP/HTTP: protobuf or JSON, gzip or not. Answered when they are on disk."""
    body = await request.body()
    kind = request.headers.get("content-type", "")
    encoding = request.headers.get("content-encoding", "")
    answer = await run_in_threadpool(_receive, platform, caller, body, kind, encoding)
    return Response(answer, media_type=kind.partition(";")[0].strip() or "application/json")


def _receive(platform: Platform, caller: Principal, body: bytes, kind: str, encoding: str) -> bytes:
    read = read_otlp(body, kind, project=caller.project, content_encoding=encoding)
    if read.batch.spans or read.batch.scores:
        platform.traces.write(caller, read.batch)
    return otlp_response(kind, rejected=read.rejected, message="; ".join(read.reasons))

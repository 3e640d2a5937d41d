"""Telemetry types: spans, scores, and the questions that may be asked of the lake.

Names follow the OpenTelemetry GenAI semantic conventions; our own attributes begin with `detent.`. Times are
nanoseconds since the epoch (UTC), durations nanoseconds, money nano-dollars.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from detent.kernel.identity import DEFAULT_PROJECT

Status = Literal["ok", "error", "cancelled"]
Value = str | int | float | bool | None
Metric = Literal["requests", "errors", "duration", "ttft", "tokens", "cost"]
GroupBy = Literal["model", "provider", "route", "key", "release"]


class Span(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One timed operation. A gateway call is a span; so is a tool call or any function traced by an application.

    Attributes:
        trace_id, span_id, parent_id: lower-case hex (32, 16, 16 or empty).
        project: the tenant; decided by the credential, never by the sender.
        name: what people see, e.g. `chat support-bot`.
        operation: `gen_ai.operation.name` (`chat`, `embeddings`, `execute_tool`, `invoke_agent`...), or empty.
        start, end: ns since the epoch.
        status, error_type: outcome; `error_type` is a low-cardinality code such as `upstream_timeout`.
        provider, request_model, response_model: whom we asked for what, and what served it.
        route, key_id, release: the gateway route, virtual key and release, when there was one.
        session_id, user_id: the application's own conversation and (pseudonymous) user, as it sent them.
        usage fields: tokens; `usage_estimated` when counted by us.
        cost: nano-dollars; None means no price is known ("unpriced"), which is not zero.
        ttft: ns from request to first output token; None when not streamed or none came.
        finish_reason, stream, http_status, attempts: as seen by the client.
        attributes: everything else, flat, OpenTelemetry-typed; keys are data and never paths.
        input, output: content as JSON text (a list of messages; a message), empty when policy keeps none.
    """

    trace_id: str
    span_id: str
    name: str
    start: int
    end: int
    parent_id: str = ""
    project: str = DEFAULT_PROJECT
    operation: str = ""
    status: Status = "ok"
    error_type: str = ""
    provider: str = ""
    request_model: str = ""
    response_model: str = ""
    route: str = ""
    key_id: str = ""
    release: str = ""
    session_id: str = ""
    user_id: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0
    usage_estimated: bool = False
    cost: int | None = None
    ttft: int | None = None
    finish_reason: str = ""
    stream: bool = False
    http_status: int = 0
    attempts: int = 1
    attributes: dict[str, Any] = {}
    input: str = ""
    output: str = ""

    @property
    def duration(self) -> int:
        """ns from start to end, never negative even if a clock stepped back."""
        return max(self.end - self.start, 0)


class Score(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A judgement on a trace, span or session, by a person or a program. A later one with the same id replaces it.

    Attributes:
        id: UUIDv7, or the sender's own idempotency key.
        trace_id, span_id, session_id: the subject; at least one is set.
        name: what is judged, e.g. `thumbs`, `helpful`, `exact_match`.
        value: boolean, number, category or text.
        source: who judged.
        author: actor id or evaluator name with version; never a person's name.
        comment: free text (content: follows the content policy).
        time: ns since the epoch.
    """

    id: str
    name: str
    value: bool | int | float | str
    source: Literal["user", "reviewer", "code", "judge"]
    time: int
    project: str = DEFAULT_PROJECT
    trace_id: str = ""
    span_id: str = ""
    session_id: str = ""
    author: str = ""
    comment: str = ""


class Batch(msgspec.Struct, frozen=True):
    """What is written to the lake in one go; durable as a whole when `write` returns."""

    spans: tuple[Span, ...] = ()
    scores: tuple[Score, ...] = ()


class Written(msgspec.Struct, frozen=True):
    """What a write did: new rows, and rows that were there before (the same span id again changes nothing)."""

    inserted: int
    duplicates: int


class Repriced(msgspec.Struct, frozen=True):
    """What giving a day's calls another cost did or would do.

    Attributes:
        calls: looked at.
        changed: those whose cost is another now.
        before, after: totals of their costs in nano-dollars, without the unpriced ones.
    """

    calls: int
    changed: int
    before: int
    after: int


class SpanFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which spans or traces. Empty fields do not filter; all others must hold.

    Attributes:
        project: required; the lake never answers across projects.
        since, until: ns since the epoch; half-open `[since, until)` on the start time; 0 means unbounded.
        text: full text over name and content; all words must occur, double quotes hold a phrase together.
        min_duration: ns.
        attributes: exact matches on `attributes` by key.
        min_cost: nano-dollars.
    """

    project: str
    since: int = 0
    until: int = 0
    text: str = ""
    status: str = ""
    operation: str = ""
    provider: str = ""
    model: str = ""
    route: str = ""
    key_id: str = ""
    release: str = ""
    session_id: str = ""
    user_id: str = ""
    error_type: str = ""
    min_duration: int = 0
    min_cost: int = 0
    attributes: dict[str, str] = {}


class TraceRow(msgspec.Struct, frozen=True, kw_only=True):
    """A trace in a list: its first (root) span and totals over all its spans known so far.

    `snippet` is content: the text around a hit, each wanted word between two asterisks, when text was asked for; else
    the beginning of what the root was asked last.
    """

    trace_id: str
    root: Span
    spans: int
    errors: int
    input_tokens: int
    output_tokens: int
    cost: int | None
    unpriced: int
    end: int
    snippet: str = ""


class TracePage(msgspec.Struct, frozen=True):
    """Newest first. `after` continues; empty at the end."""

    rows: tuple[TraceRow, ...]
    after: str = ""


class MetricQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Totals and percentiles of gateway calls, per time bucket and group.

    Attributes:
        bucket: ns, a multiple of an hour; 0 gives one row per group for the whole span of time.
        group_by: empty for one group.
    """

    project: str
    since: int
    until: int
    bucket: int = 0
    group_by: tuple[GroupBy, ...] = ()


class MetricRow(msgspec.Struct, frozen=True, kw_only=True):
    """One bucket of one group. Percentiles come from mergeable histograms with a relative error of at most 2 %.

    `duration` and `ttft` hold `(p50, p95, p99)` in ns, None when there was nothing to measure. `cost` sums what is
    priced; `unpriced` counts the calls that are not.
    """

    start: int
    group: dict[str, str]
    requests: int
    errors: int
    input_tokens: int
    output_tokens: int
    cost: int
    unpriced: int
    duration: tuple[int, int, int] | None
    ttft: tuple[int, int, int] | None


class Partition(msgspec.Struct, frozen=True):
    """One project's day in the lake."""

    project: str
    day: str
    spans: int
    bytes: int
    sealed: bool

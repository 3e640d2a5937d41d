"""What the client gives back. Times are RFC 3339 text in UTC, durations milliseconds, money USD."""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

import msgspec

T = TypeVar("T")


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Part of a list; `after` continues it, None at the end."""

    items: tuple[T, ...]
    after: str | None = None


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A virtual key, without its token."""

    id: str
    name: str
    hint: str
    state: Literal["live", "expired", "revoked"]
    permissions: tuple[str, ...]
    routes: tuple[str, ...]
    created: str
    expires: str | None = None
    revoked: str | None = None
    issuer: str


class NewKey(Key, frozen=True, kw_only=True):
    """A key right after it was made; `key` is the token, which nobody can read again."""

    key: str


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who serves models."""

    name: str
    url: str
    dialect: str
    flavour: str = ""
    region: str = ""
    api_version: str = ""
    max_concurrency: int = 0
    has_credential: bool
    allow_private: bool
    changed: str | None = None


class Target(msgspec.Struct, frozen=True):
    """Where a route sends calls: a provider and the model's name there."""

    provider: str
    model: str
    weight: int = 1


class Fallback(msgspec.Struct, frozen=True, kw_only=True):
    """Where calls go when all targets failed for one of these reasons; none given means any."""

    route: str
    on: tuple[str, ...] = ()


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """Retries of one target before the next is asked."""

    attempts: int = 1
    backoff_ms: int = 100
    budget: float = 0.2


class Breaker(msgspec.Struct, frozen=True, kw_only=True):
    """When a deployment is left alone for a while."""

    error_rate: float = 0.5
    slow_rate: float = 0.0
    slow_seconds: float = 0.0
    min_calls: int = 10
    window_seconds: float = 30.0
    open_seconds: float = 5.0
    probes: int = 2


class Hedge(msgspec.Struct, frozen=True, kw_only=True):
    """When a second target is asked because the first is late."""

    quantile: float = 0.0
    max_extra: float = 0.05


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds; 0 takes the installation's setting."""

    connect: float = 0.0
    first_token: float = 0.0
    idle: float = 0.0
    total: float = 0.0


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to calls that a deployment has no room for."""

    deadline_ms: int = 10_000
    pace_ms: int = 0
    length: int = 256
    order: str = "newest_first"


class Shadow(msgspec.Struct, frozen=True, kw_only=True):
    """Copies of calls for another route."""

    route: str
    share: float = 1.0
    daily_usd: str = "0"


class CachePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Whether answers are given again."""

    mode: str = "off"
    ttl_seconds: int = 3600
    threshold: float = 0.97


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A name that applications call, where its calls go, and how."""

    name: str
    targets: tuple[Target, ...]
    policy: str = "ordered"
    fallbacks: tuple[Fallback, ...] = ()
    retry: Retry = Retry()
    breaker: Breaker = Breaker()
    hedge: Hedge = Hedge()
    timeouts: Timeouts = Timeouts()
    queue: Queue = Queue()
    sticky: str = ""
    shadow: Shadow | None = None
    cache: CachePolicy = CachePolicy()
    priority: str = "default"
    changed: str | None = None
    built_in: bool


class LongContext(msgspec.Struct, frozen=True, kw_only=True):
    """What holds in calls with more than `above` tokens of input, in USD per million tokens."""

    above: int
    input: float
    output: float
    cached_input: float | None = None
    cache_write: float | None = None


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """USD per million tokens; an image made and a request in USD apiece."""

    input: float
    output: float
    cached_input: float | None = None
    cache_write: float | None = None
    reasoning: float | None = None
    audio_input: float | None = None
    audio_output: float | None = None
    image_input: float | None = None
    image_output: float = 0.0
    request: float = 0.0
    long: LongContext | None = None


class DatedPrice(msgspec.Struct, frozen=True, kw_only=True):
    """A price and since when it holds; without a price the shipped one holds again."""

    effective: str
    price: Price | None = None


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model that can be reached, and what it costs; `price` is None where none is known."""

    provider: str
    model: str
    routes: tuple[str, ...]
    price: Price | None = None
    price_source: Literal["own", "shipped", "built in", "unpriced"]


class PriceEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A project's own prices for a provider's model: what holds now, and all of them by date."""

    provider: str
    model: str
    price: Price | None = None
    history: tuple[DatedPrice, ...] = ()
    changed: str


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """A trace in a list. `cost_usd` is None when no price is known, which is not zero."""

    trace_id: str
    name: str
    start: str
    duration_ms: float
    status: str
    error_type: str | None = None
    model: str | None = None
    provider: str | None = None
    route: str | None = None
    key_id: str | None = None
    session_id: str | None = None
    user_id: str | None = None
    spans: int
    errors: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None = None
    unpriced: int
    ttft_ms: float | None = None
    snippet: str | None = None


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """One timed operation of a trace, with its content where that may be read."""

    trace_id: str
    span_id: str
    parent_id: str | None = None
    name: str
    operation: str | None = None
    start: str
    duration_ms: float
    status: str
    error_type: str | None = None
    provider: str | None = None
    request_model: str | None = None
    response_model: str | None = None
    route: str | None = None
    key_id: str | None = None
    release: str | None = None
    session_id: str | None = None
    user_id: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0
    usage_estimated: bool = False
    cost_usd: float | None = None
    ttft_ms: float | None = None
    finish_reason: str | None = None
    stream: bool = False
    http_status: int | None = None
    attempts: int = 1
    attributes: dict[str, Any] = {}
    input: Any = None
    output: Any = None


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """A judgement on a trace."""

    id: str
    trace_id: str | None = None
    span_id: str | None = None
    session_id: str | None = None
    name: str
    value: bool | int | float | str
    source: str
    author: str | None = None
    comment: str | None = None
    time: str


class TraceDetail(msgspec.Struct, frozen=True, kw_only=True):
    """A whole trace."""

    trace_id: str
    spans: tuple[Span, ...]
    scores: tuple[Score, ...] = ()


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds."""

    p50: float
    p95: float
    p99: float


class MetricRow(msgspec.Struct, frozen=True, kw_only=True):
    """One bucket of time of one group of calls."""

    start: str
    group: dict[str, str]
    requests: int
    errors: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    unpriced: int
    duration_ms: Percentiles | None = None
    ttft_ms: Percentiles | None = None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A durable workflow."""

    id: str
    name: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    progress: float
    step: str | None = None
    created: str
    updated: str
    arguments: dict[str, Any] = {}
    result: dict[str, Any] | None = None
    error: str | None = None
    schedule: str | None = None
    attempts: int = 0


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded fact."""

    position: int
    id: str
    kind: str
    stream: str
    version: int
    actor: str
    time: str
    reason: str | None = None
    body: dict[str, Any]
    hash: str


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A signed statement about the ledger's first `size` facts; `time_ns` is the signed figure."""

    size: int
    head: str
    root: str
    time: str
    time_ns: int
    key_id: str
    public_key: str
    signature: str


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that verification found wrong."""

    position: int
    problem: str
    detail: str


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What a verification of the ledger saw."""

    ok: bool
    facts: int
    head: str
    root: str
    checkpoint: Checkpoint | None = None
    findings: tuple[Finding, ...] = ()


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A person who signs in to the console."""

    id: str
    name: str
    role: str
    disabled: bool
    created: str | None = None

"""Bodies of requests and answers. Requests refuse what they don't know; the project comes from the credential, never
from a body. Times are RFC 3339 in UTC, durations milliseconds, money USD."""

from __future__ import annotations

from typing import Annotated, Any, Final, Generic, Literal, Self, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, Field, StrictBool

from detent.gateway.model import Key, PriceEntry, Provider, Route, Target
from detent.kernel.clock import iso
from detent.kernel.facts import Fact
from detent.kernel.identity import ROLES, Permission
from detent.kernel.money import NANO, Price
from detent.kernel.ports import Account, Checkpoint, Damage, Job, Verification
from detent.kernel.telemetry import MetricRow, Score, Span, TraceRow

T = TypeVar("T")
_MILLI: Final = 1_000_000
_PER_MILLION: Final = 1_000_000

NameText = Annotated[str, Field(min_length=1, max_length=64, description="a-z, 0-9, dot, dash, underscore.")]
ModelText = Annotated[str, Field(min_length=1, max_length=200)]
UsdText = Annotated[str, Field(max_length=32, description='USD per million tokens as text, e.g. "0.15".')]
ReasonText = Annotated[str, Field(max_length=500, description="Why, for the ledger; one line, nothing personal.")]
TimeText = Annotated[str, Field(max_length=40)]


class In(BaseModel):
    """A request's body."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, str_strip_whitespace=False)


class Out(BaseModel):
    """An answer's body."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Page(Out, Generic[T]):
    """Part of a list; `after` continues it, null at the end."""

    items: list[T]
    after: str | None = None


class Problem(Out):
    """What went wrong: a stable code, a sentence, the way out, and the field at fault."""

    code: str
    message: str
    hint: str | None = None
    field: str | None = None


class ErrorOut(Out):
    """The one shape of every error."""

    error: Problem


class Removed(Out):
    """What is gone."""

    removed: str


def time_of(nanoseconds: int) -> str | None:
    """A time, or nothing for 0."""
    return iso(nanoseconds) if nanoseconds else None


def milliseconds(nanoseconds: int) -> float:
    """A duration in milliseconds with microsecond figures."""
    return round(nanoseconds / _MILLI, 3)


# Keys


class KeyIn(In):
    """A key to make. It gets the part of `permissions` that the caller holds itself."""

    name: Annotated[str, Field(min_length=1, max_length=100, description="What it is for.")]
    permissions: Annotated[list[Permission], Field(max_length=len(Permission))] = [Permission.GATEWAY_CALL]
    routes: Annotated[list[NameText], Field(max_length=200, description="Only these routes; none for all.")] = []
    expires: TimeText | None = Field(default=None, description="When it ends, RFC 3339.")


class KeyOut(Out):
    """A virtual key, without its token."""

    id: str
    name: str
    hint: str
    state: Literal["live", "expired", "revoked"]
    permissions: list[str]
    routes: list[str]
    created: str
    expires: str | None
    revoked: str | None
    issuer: str

    @classmethod
    def of(cls, key: Key, now: int, /, **more: str) -> Self:
        """From the domain's key."""
        return cls(
            id=key.id,
            name=key.name,
            hint=key.hint,
            state="revoked" if key.revoked else "live" if key.live(now) else "expired",
            permissions=[permission.value for permission in key.permissions],
            routes=list(key.routes),
            created=iso(key.created),
            expires=time_of(key.expires),
            revoked=time_of(key.revoked),
            issuer=str(key.issuer),
            **more,
        )


class NewKeyOut(KeyOut):
    """A key right after it was made; `key` is the token, shown this once."""

    key: str


# Providers, routes, models


class ProviderIn(In):
    """A provider to add or change. Without a credential the stored one stays, if scheme, host and port are the same."""

    url: Annotated[str, Field(min_length=1, max_length=500, description="Base URL in the OpenAI dialect.")]
    credential: Annotated[str, Field(max_length=8192)] | None = Field(default=None, description="Stored encrypted.")
    allow_private: bool = Field(default=False, description="Whether loopback and private addresses may be called.")


class NewProviderIn(ProviderIn):
    """A provider to add."""

    name: NameText


class ProviderOut(Out):
    """A provider; whether it has a credential, not which."""

    name: str
    url: str
    dialect: str
    has_credential: bool
    allow_private: bool
    changed: str | None

    @classmethod
    def of(cls, provider: Provider) -> Self:
        """From the domain's provider."""
        return cls(
            name=provider.name,
            url=provider.url,
            dialect=provider.dialect,
            has_credential=bool(provider.secret_id),
            allow_private=provider.allow_private,
            changed=time_of(provider.changed),
        )


class TargetIn(In):
    """Where a route may send a call."""

    provider: NameText
    model: ModelText
    weight: Annotated[int, Field(ge=1, le=1_000_000)] = 1


class RouteIn(In):
    """A route's targets, in order."""

    targets: Annotated[list[TargetIn], Field(min_length=1, max_length=50)]

    @property
    def parsed(self) -> tuple[Target, ...]:
        """The domain's targets."""
        return tuple(Target(target.provider, target.model, target.weight) for target in self.targets)


class NewRouteIn(RouteIn):
    """A route to add."""

    name: NameText


class TargetOut(Out):
    """Where a route may send a call."""

    provider: str
    model: str
    weight: int


class RouteOut(Out):
    """A name that applications call, and where its calls go."""

    name: str
    targets: list[TargetOut]
    changed: str | None
    built_in: bool

    @classmethod
    def of(cls, route: Route) -> Self:
        """From the domain's route."""
        targets = [TargetOut(provider=t.provider, model=t.model, weight=t.weight) for t in route.targets]
        return cls(name=route.name, targets=targets, changed=time_of(route.changed), built_in=not route.changed)


class PriceIn(In):
    """A price to set."""

    input: UsdText
    output: UsdText
    cached_input: UsdText | None = None
    cache_write: UsdText | None = None


class PriceOut(Out):
    """USD per million tokens."""

    input: float
    output: float
    cached_input: float | None
    cache_write: float | None

    @classmethod
    def of(cls, price: Price) -> Self:
        """From the domain's price."""
        return cls(
            input=price.input / _PER_MILLION,
            output=price.output / _PER_MILLION,
            cached_input=None if price.cached_input is None else price.cached_input / _PER_MILLION,
            cache_write=None if price.cache_write is None else price.cache_write / _PER_MILLION,
        )


class PriceEntryOut(Out):
    """A project's own price for a provider's model."""

    provider: str
    model: str
    price: PriceOut
    changed: str

    @classmethod
    def of(cls, entry: PriceEntry) -> Self:
        """From the domain's entry."""
        return cls(
            provider=entry.provider, model=entry.model, price=PriceOut.of(entry.price), changed=iso(entry.changed)
        )


class ModelOut(Out):
    """A model that can be reached; without a price it is unpriced, which is not free."""

    provider: str
    model: str
    routes: list[str]
    price: PriceOut | None
    price_source: Literal["own", "shipped", "built in", "unpriced"]


# Traces


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
    attribute: Annotated[list[str], Field(max_length=20, description="NAME=VALUE, exact.")] = []
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
    group_by: Annotated[list[Literal["model", "provider", "route", "key", "release"]], Field(max_length=5)] = []


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


# Jobs


class JobIn(In):
    """A workflow to queue. The same `id` again gives the same job."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    arguments: dict[str, Any] = {}
    id: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9._:-]*$")] = ""


class JobOut(Out):
    """A durable workflow."""

    id: str
    name: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    progress: float
    step: str | None
    created: str
    updated: str
    arguments: dict[str, Any]
    result: dict[str, Any] | None
    error: str | None
    schedule: str | None
    attempts: int

    @classmethod
    def of(cls, job: Job) -> Self:
        """From the port's job."""
        return cls(
            id=job.id,
            name=job.name,
            state=job.state,
            progress=job.progress,
            step=job.step or None,
            created=iso(job.created),
            updated=iso(job.updated),
            arguments=job.arguments,
            result=job.result,
            error=job.error or None,
            schedule=job.schedule or None,
            attempts=job.attempts,
        )


# Ledger


class FactOut(Out):
    """A recorded fact."""

    position: int
    id: str
    kind: str
    stream: str
    version: int
    actor: str
    time: str
    reason: str | None
    body: dict[str, Any]
    hash: str

    @classmethod
    def of(cls, fact: Fact) -> Self:
        """From the ledger's fact."""
        return cls(
            position=fact.position,
            id=fact.id,
            kind=fact.kind,
            stream=fact.stream,
            version=fact.version,
            actor=str(fact.actor),
            time=iso(fact.time),
            reason=fact.reason or None,
            body=msgspec.to_builtins(fact.body),
            hash=fact.hash,
        )


class LedgerOut(Out):
    """Where the chain stands."""

    position: int
    head: str


class CheckpointOut(Out):
    """A signed statement about the first `size` facts; `time_ns` is the signed figure."""

    size: int
    head: str
    root: str
    time: str
    time_ns: int
    key_id: str
    public_key: str
    signature: str

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Self:
        """From the ledger's checkpoint."""
        return cls(time=iso(checkpoint.time), time_ns=checkpoint.time, **_without(checkpoint, "time"))


class FindingOut(Out):
    """Something that verification found wrong."""

    position: int
    problem: str
    detail: str


class VerificationOut(Out):
    """What a verification saw."""

    ok: bool
    facts: int
    head: str
    root: str
    checkpoint: CheckpointOut | None
    findings: list[FindingOut]

    @classmethod
    def of(cls, found: Verification) -> Self:
        """From the ledger's verification."""
        return cls(
            ok=found.ok,
            facts=found.facts,
            head=found.head,
            root=found.root,
            checkpoint=CheckpointOut.of(found.checkpoint) if found.checkpoint else None,
            findings=[FindingOut(position=f.position, problem=f.problem, detail=f.detail) for f in found.findings],
        )


class RebuiltOut(Out):
    """Rows that differed from their facts before they were folded anew, by view."""

    differed: dict[str, int]


# Blobs


class DamageOut(Out):
    """A blob that is not as it should be."""

    digest: str
    problem: str
    detail: str

    @classmethod
    def of(cls, damage: Damage) -> Self:
        """From the port's damage."""
        return cls(digest=damage.digest, problem=damage.problem, detail=damage.detail)


class BlobsOut(Out):
    """What reading every blob found."""

    ok: bool
    damage: list[DamageOut]


# People

RoleText = Literal["admin", "engineer", "reviewer", "auditor", "viewer"]
assert set(RoleText.__args__) == set(ROLES)  # type: ignore[attr-defined]


class UserIn(In):
    """A person to give an account."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    role: RoleText = "viewer"


class UserChangeIn(In):
    """What to change of a person; what is left out stays."""

    role: RoleText | None = None
    disabled: Literal[True] | None = Field(default=None, description="True shuts the account.")
    reason: ReasonText = ""


class PasswordIn(In):
    """A new password; `current` is asked of people who change their own."""

    password: Annotated[str, Field(min_length=1, max_length=1024)]
    current: Annotated[str, Field(max_length=1024)] = ""


class UserOut(Out):
    """A person, without anything of the password."""

    id: str
    name: str
    role: str
    disabled: bool
    created: str | None

    @classmethod
    def of(cls, account: Account, /, **more: str) -> Self:
        """From the port's account."""
        return cls(
            id=account.id,
            name=account.name,
            role=account.role,
            disabled=account.disabled,
            created=time_of(account.created),
            **more,
        )


class NewUserOut(UserOut):
    """A person with the one-time link to sign in with."""

    link: str


class LinkOut(Out):
    """A one-time sign-in link; works once, within the hour."""

    link: str


# The installation


class SettingOut(Out):
    """One setting; passwords in addresses are left out."""

    name: str
    value: str | int | float | bool
    default: str | int | float | bool
    env: str
    about: str


class PartOut(Out):
    """One process."""

    name: str
    kind: str
    state: str
    pid: int
    address: str
    restarts: int
    since: str | None
    detail: str


class LedgerStatusOut(Out):
    """The ledger and its newest signed checkpoint."""

    kind: str
    position: int
    head: str
    checkpoint_size: int
    checkpoint_time: str | None


class LakeStatusOut(Out):
    """The lake."""

    spans: int
    bytes: int
    partitions: int


class SpoolStatusOut(Out):
    """The spool: what waits, and what found no room."""

    bytes: int
    lag: int
    shed: int


class StatusOut(Out):
    """The whole installation at a glance."""

    version: str
    home: str
    parts: list[PartOut]
    gateway_url: str
    console_url: str
    ledger: LedgerStatusOut
    lake: LakeStatusOut
    spool: SpoolStatusOut
    snapshot_position: int
    security: list[str]


class ReadyOut(Out):
    """Whether calls would be served."""

    status: Literal["ready"]


def _without(value: msgspec.Struct, *names: str) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(value)
    return {name: item for name, item in built.items() if name not in names}

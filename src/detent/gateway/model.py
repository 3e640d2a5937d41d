"""What the gateway is configured with: keys, providers, routes, prices. Frozen, no I/O."""

from __future__ import annotations

from typing import Literal

import msgspec

from detent.kernel.identity import Actor, Permission
from detent.kernel.money import DatedPrice, Price, in_force

Dialect = Literal["openai", "anthropic", "gemini", "bedrock"]
"""What a provider speaks."""

Policy = Literal["ordered", "weighted", "least_latency", "cheapest", "prefix_affinity"]
"""How a route chooses among its targets: in order; by weight; by peak EWMA of the latency, the better of two drawn; by
price, the cheapest that is healthy; by the prompt's first part, so that an engine finds it in its cache."""

Failure = Literal["rate_limited", "unavailable", "timeout", "bad_answer", "context_length", "content_filter"]
"""Classes of failure that a fallback may answer."""

Band = Literal["interactive", "default", "batch"]
"""Priority bands, the most urgent first."""

Scope = Literal["project", "key", "user", "route", "model"]
"""Whose calls a limit or budget counts: all of the project's, or those of each key, user, route or model."""

Unit = Literal["requests", "tokens", "concurrency"]
Period = Literal["day", "month"]
EMBEDDED = "embedded"
"""Name of the built-in provider: the engine that Detent starts itself."""

EMBEDDED_MODEL = "detent-tiny"


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A virtual key: what an application or program calls Detent with. The token itself is shown once and not kept.

    Attributes:
        id: UUIDv7.
        name: for people.
        hash: hex SHA-256 of the token.
        hint: the token's first characters, to recognise it by.
        permissions: what it may do; never more than its issuer may.
        routes: the routes it may call; empty for all of the project.
        expires: ns since the epoch, 0 for never.
        issuer: who minted it.
    """

    id: str
    name: str
    project: str
    hash: str
    hint: str
    permissions: tuple[Permission, ...]
    routes: tuple[str, ...] = ()
    created: int
    expires: int = 0
    revoked: int = 0
    issuer: Actor

    def live(self, now: int) -> bool:
        """Whether it is neither revoked nor expired."""
        return not self.revoked and (not self.expires or now < self.expires)


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who serves models over HTTP.

    Attributes:
        dialect: what it speaks.
        flavour: whose variety of the dialect (`azure`, `vllm`, `groq`...); empty for the maker's own.
        url: base URL, up to and without `/chat/completions`.
        secret_id: names the credential in the vault; empty when none is needed.
        allow_private: whether private and loopback addresses may be called.
        region: of the cloud, where signing needs one.
        api_version: of the provider's API, where it wants one.
        max_concurrency: calls in flight to each of its models at most, per worker; 0 lets it adapt without a bound.
    """

    name: str
    project: str
    dialect: Dialect = "openai"
    flavour: str = ""
    url: str
    secret_id: str = ""
    allow_private: bool = False
    region: str = ""
    api_version: str = ""
    max_concurrency: int = 0
    changed: int = 0


class Target(msgspec.Struct, frozen=True):
    """A deployment that a route may send a call to: a provider and the model's name there.

    The weight is its share of calls, sessions or prompts where the policy goes by shares.
    """

    provider: str
    model: str
    weight: int = 1

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}"


class Fallback(msgspec.Struct, frozen=True):
    """Where calls go when no target answered and one failed for one of these reasons; no reason given means any."""

    route: str
    on: tuple[Failure, ...] = ()


class Retry(msgspec.Struct, frozen=True):
    """Retries of one target before the next is asked.

    Attributes:
        attempts: tries of each target, the first included.
        backoff_ms: the first pause at most; it doubles, and the true pause is drawn evenly below it (full jitter). A
            `Retry-After` is waited for in full, or not at all when it is beyond the call's deadline.
        budget: retries and hedges allowed per call, as a share over the last ten seconds and per worker, with three
            for a start; keeps an outage from multiplying the load. Going on to the next target takes nothing.
    """

    attempts: int = 1
    backoff_ms: int = 100
    budget: float = 0.2


class Breaker(msgspec.Struct, frozen=True):
    """When a deployment is left alone for a while.

    Attributes:
        error_rate: share of failed calls that opens it; 0 never does.
        slow_rate: share of slow calls that opens it; 0 never does.
        slow_seconds: time to the first output (of an answer in one piece: to its end) beyond which a call is slow;
            0 for none.
        min_calls: within the window, before it may open; as many failures in a row open it whatever was before.
        window_seconds: how far back it looks.
        open_seconds: until probes are let through; doubles with each probe that fails, up to sixteen times as long,
            and up to a fifth is added by chance.
        probes: calls let through half-open; that many good ones close it.
    """

    error_rate: float = 0.5
    slow_rate: float = 0.0
    slow_seconds: float = 0.0
    min_calls: int = 10
    window_seconds: float = 30.0
    open_seconds: float = 5.0
    probes: int = 2


class Hedge(msgspec.Struct, frozen=True):
    """A second target is asked when the first is late.

    Attributes:
        quantile: of the last minute's time to first output after which the hedge is sent; 0 sends none, and so do
            fewer than twenty answers to go by.
        max_extra: hedges per call at most, as a share over the last ten seconds; they take from the retries' budget.
    """

    quantile: float = 0.0
    max_extra: float = 0.05


class Timeouts(msgspec.Struct, frozen=True):
    """Seconds; 0 takes the installation's setting."""

    connect: float = 0.0
    first_token: float = 0.0
    idle: float = 0.0
    total: float = 0.0


class Shadow(msgspec.Struct, frozen=True):
    """Copies of calls for another route, whose answers nobody gets.

    Attributes:
        route: where copies go.
        share: of calls that are copied.
        daily_budget: nano-dollars a day at most; 0 for no bound.
    """

    route: str
    share: float = 1.0
    daily_budget: int = 0


class CachePolicy(msgspec.Struct, frozen=True):
    """Whether answers are kept and given again within the project.

    Attributes:
        mode: `exact` by the digest of the normalised request; `semantic` also by likeness of the last user message.
        ttl_seconds: how long an answer is good.
        threshold: least cosine similarity of a semantic hit.
    """

    mode: Literal["off", "exact", "semantic"] = "off"
    ttl_seconds: int = 3600
    threshold: float = 0.97


class Queue(msgspec.Struct, frozen=True):
    """What happens to calls that a deployment has no room for.

    Attributes:
        deadline_ms: how long a call may wait to begin; its client can ask for less with `x-detent-deadline-ms`.
        length: calls that wait at most, per deployment and worker.
        order: `newest_first` serves in time whom it serves; `fifo` for those who want it.
        pace_ms: time per output token that the deployment is to keep: as many calls at once as that allows. 0 finds a
            sensible number by itself.
    """

    deadline_ms: int = 10_000
    length: int = 256
    order: Literal["newest_first", "fifo"] = "newest_first"
    pace_ms: int = 0


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A name that clients use as `model`, where its calls go, and how.

    Attributes:
        targets: in order.
        policy: how a target is chosen; the others follow when it fails.
        sticky: whose calls keep to one target while it is healthy: of a session, a user, or nobody. Decides only
            among equals where the policy is `cheapest`, and nothing where it is `ordered`.
        priority: the band of calls that name none.
    """

    name: str
    project: str
    targets: tuple[Target, ...]
    policy: Policy = "ordered"
    fallbacks: tuple[Fallback, ...] = ()
    retry: Retry = Retry()
    breaker: Breaker = Breaker()
    hedge: Hedge = Hedge()
    timeouts: Timeouts = Timeouts()
    queue: Queue = Queue()
    sticky: Literal["", "session", "user"] = ""
    shadow: Shadow | None = None
    cache: CachePolicy = CachePolicy()
    priority: Band = "default"
    changed: int = 0


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """At most so many requests or tokens in any window of that length, or so many calls at once.

    Attributes:
        name: unique in the project.
        scope: whose calls count together.
        subject: only this key's id, user, route or model (`PROVIDER/MODEL`); empty for each of them by itself.
        unit, amount: what is counted, and how much of it is allowed.
        window_seconds: the sliding window; 0 with `concurrency`.
    """

    name: str
    project: str
    scope: Scope
    subject: str = ""
    unit: Unit
    amount: int
    window_seconds: int = 60
    changed: int = 0


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """At most so much money in a day or month (UTC).

    Attributes:
        amount: nano-dollars.
        alerts: percentages of it at which an alert is raised, once per period each.
        hard: whether calls are refused when it is spent; else it only alerts.
    """

    name: str
    project: str
    scope: Scope
    subject: str = ""
    amount: int
    period: Period = "month"
    alerts: tuple[int, ...] = (50, 80, 100)
    hard: bool = True
    changed: int = 0


class Weight(msgspec.Struct, frozen=True, kw_only=True):
    """A project's share of deployments that several projects want at once; 1 where none is set."""

    project: str
    weight: int = 1
    changed: int = 0


class PriceEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A project's own prices for a provider's model.

    Attributes:
        history: in the order of their dates, one for each date; without a price where the shipped one holds again.
        changed: when the history was changed last.
    """

    provider: str
    model: str
    project: str
    history: tuple[DatedPrice, ...]
    changed: int = 0

    def at(self, now: int) -> Price | None:
        """The own price that holds at a time, if one does."""
        held = in_force(self.history, now)
        return held.price if held is not None else None

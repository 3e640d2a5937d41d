"""Routes and their rules. The rules have one shape in requests and answers."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

import msgspec
from pydantic import Field

from detent.api.schemas.common import AmountText, In, ModelText, NameText, Out, time_of
from detent.gateway.checks import MAX_FALLBACKS, MAX_TARGETS, ROUTE_RANGES
from detent.gateway.model import (
    Band,
    Breaker,
    CachePolicy,
    Failure,
    Fallback,
    Hedge,
    Policy,
    Queue,
    Retry,
    Route,
    Shadow,
    Target,
    Timeouts,
)
from detent.kernel.money import read_usd, write_usd

_RANGES: Final = {path: (low, high) for path, low, high in ROUTE_RANGES}


def _within(path: str, about: str) -> Any:
    low, high = _RANGES[path]
    return Field(ge=low, le=high, description=about)


class TargetIn(In):
    """Where a route may send a call."""

    provider: NameText
    model: ModelText
    weight: Annotated[int, Field(ge=1, le=1_000_000)] = 1


class FallbackRule(In):
    """Where calls go when all targets failed for one of these reasons."""

    route: NameText
    on: Annotated[list[Failure], Field(max_length=6, description="Empty for any failure.")] = Field(default=[])


class RetryRule(In):
    """Tries of one target before the next is asked."""

    attempts: Annotated[int, _within("retry.attempts", "Tries of each target, the first included.")] = 1
    backoff_ms: Annotated[int, _within("retry.backoff_ms", "The first pause at most; it doubles; full jitter.")] = 100
    budget: Annotated[float, _within("retry.budget", "Retries and hedges per call, as a share.")] = 0.2


class BreakerRule(In):
    """When a deployment is left alone for a while."""

    error_rate: Annotated[float, _within("breaker.error_rate", "Share of failed calls that opens it; 0 never.")] = 0.5
    slow_rate: Annotated[float, _within("breaker.slow_rate", "Share of slow calls that opens it; 0 never.")] = 0.0
    slow_seconds: Annotated[float, _within("breaker.slow_seconds", "Beyond which the first output is slow.")] = 0.0
    min_calls: Annotated[int, _within("breaker.min_calls", "Within the window before it may open.")] = 10
    window_seconds: Annotated[float, _within("breaker.window_seconds", "How far back it looks.")] = 30.0
    open_seconds: Annotated[float, _within("breaker.open_seconds", "Until probes are let through.")] = 5.0
    probes: Annotated[int, _within("breaker.probes", "Good ones in a row that close it.")] = 2


class HedgeRule(In):
    """A second target is asked when the first is late."""

    quantile: Annotated[float, _within("hedge.quantile", "Of the live time to first token; 0 sends none.")] = 0.0
    max_extra: Annotated[float, _within("hedge.max_extra", "Hedges per call at most, as a share.")] = 0.05


class TimeoutRule(In):
    """Seconds; 0 takes the installation's setting."""

    connect: Annotated[float, _within("timeouts.connect", "Until connected.")] = 0.0
    first_token: Annotated[float, _within("timeouts.first_token", "Until the first output.")] = 0.0
    idle: Annotated[float, _within("timeouts.idle", "Between two pieces of output.")] = 0.0
    total: Annotated[float, _within("timeouts.total", "For the whole call.")] = 0.0


class QueueRule(In):
    """What happens to calls that a deployment has no room for."""

    deadline_ms: Annotated[int, _within("queue.deadline_ms", "How long a call may wait to begin.")] = 10_000
    pace_ms: Annotated[
        int, _within("queue.pace_ms", "Time per token to keep; 0 finds a number of calls by itself.")
    ] = 0
    length: Annotated[int, _within("queue.length", "Calls that wait at most, per deployment and worker.")] = 256
    order: Literal["newest_first", "fifo"] = "newest_first"


class ShadowRule(In):
    """Copies of calls for another route, whose answers nobody gets."""

    route: NameText
    share: Annotated[float, Field(gt=0, le=1, description="Of calls that are copied.")] = 1.0
    daily_usd: AmountText = Field(default="0", description="USD a day at most; 0 for no bound.")


class CacheRule(In):
    """Whether answers are kept and given again within the project."""

    mode: Literal["off", "exact", "semantic"] = "off"
    ttl_seconds: Annotated[int, _within("cache.ttl_seconds", "How long an answer is good.")] = 3600
    threshold: Annotated[float, _within("cache.threshold", "Least likeness of a semantic hit.")] = 0.97


class RouteIn(In):
    """A route: its targets in order and its rules. What is left out takes its default."""

    targets: Annotated[list[TargetIn], Field(min_length=1, max_length=MAX_TARGETS)]
    policy: Policy = Field(default="ordered", description="How a target is chosen.")
    fallbacks: Annotated[list[FallbackRule], Field(max_length=MAX_FALLBACKS)] = Field(default=[])
    retry: RetryRule = RetryRule()
    breaker: BreakerRule = BreakerRule()
    hedge: HedgeRule = HedgeRule()
    timeouts: TimeoutRule = TimeoutRule()
    queue: QueueRule = QueueRule()
    sticky: Literal["", "session", "user"] = Field(default="", description="Whose calls keep to one target.")
    shadow: ShadowRule | None = None
    cache: CacheRule = CacheRule()
    priority: Band = Field(default="default", description="The band of calls that name none.")

    @property
    def parsed(self) -> tuple[Target, ...]:
        """The domain's targets."""
        return tuple(Target(target.provider, target.model, target.weight) for target in self.targets)

    @property
    def rules(self) -> Route:
        """Everything else, as a route without name and targets."""
        shadow = self.shadow
        return Route(
            name="",
            project="",
            targets=(),
            policy=self.policy,
            fallbacks=tuple(Fallback(fallback.route, tuple(fallback.on)) for fallback in self.fallbacks),
            retry=Retry(**self.retry.model_dump()),
            breaker=Breaker(**self.breaker.model_dump()),
            hedge=Hedge(**self.hedge.model_dump()),
            timeouts=Timeouts(**self.timeouts.model_dump()),
            queue=Queue(**self.queue.model_dump()),
            sticky=self.sticky,
            shadow=Shadow(shadow.route, shadow.share, read_usd(shadow.daily_usd, field="shadow.daily_usd"))
            if shadow
            else None,
            cache=CachePolicy(**self.cache.model_dump()),
            priority=self.priority,
        )


class NewRouteIn(RouteIn):
    """A route to add."""

    name: NameText


class TargetOut(Out):
    """Where a route may send a call."""

    provider: str
    model: str
    weight: int


class RouteOut(Out):
    """A name that applications call, where its calls go, and how."""

    name: str
    targets: list[TargetOut]
    policy: Policy
    fallbacks: list[FallbackRule]
    retry: RetryRule
    breaker: BreakerRule
    hedge: HedgeRule
    timeouts: TimeoutRule
    queue: QueueRule
    sticky: Literal["", "session", "user"]
    shadow: ShadowRule | None
    cache: CacheRule
    priority: Band
    changed: str | None
    built_in: bool

    @classmethod
    def of(cls, route: Route) -> Self:
        """From the domain's route."""
        shadow = route.shadow
        return cls(
            name=route.name,
            targets=[TargetOut(provider=t.provider, model=t.model, weight=t.weight) for t in route.targets],
            policy=route.policy,
            fallbacks=[FallbackRule(route=fallback.route, on=list(fallback.on)) for fallback in route.fallbacks],
            retry=RetryRule(**msgspec.to_builtins(route.retry)),
            breaker=BreakerRule(**msgspec.to_builtins(route.breaker)),
            hedge=HedgeRule(**msgspec.to_builtins(route.hedge)),
            timeouts=TimeoutRule(**msgspec.to_builtins(route.timeouts)),
            queue=QueueRule(**msgspec.to_builtins(route.queue)),
            sticky=route.sticky,
            shadow=ShadowRule(route=shadow.route, share=shadow.share, daily_usd=write_usd(shadow.daily_budget))
            if shadow
            else None,
            cache=CacheRule(**msgspec.to_builtins(route.cache)),
            priority=route.priority,
            changed=time_of(route.changed),
            built_in=not route.changed,
        )

"""What the gateway room can record."""

from __future__ import annotations

from typing import Literal

from detent.gateway.model import (
    Band,
    Breaker,
    CachePolicy,
    Dialect,
    Fallback,
    Hedge,
    Period,
    Policy,
    Queue,
    Retry,
    Scope,
    Shadow,
    Target,
    Timeouts,
    Unit,
)
from detent.kernel.facts import FactBody, fact
from detent.kernel.identity import Permission
from detent.kernel.money import Price


@fact("key.minted", sealed_at_once=True)
class KeyMinted(FactBody, frozen=True, kw_only=True):
    """A virtual key was made. `hash` is the SHA-256 of its token."""

    name: str
    hash: str
    hint: str
    permissions: tuple[Permission, ...]
    routes: tuple[str, ...] = ()
    expires: int = 0


@fact("key.revoked", sealed_at_once=True)
class KeyRevoked(FactBody, frozen=True, kw_only=True):
    """A virtual key stopped working."""


@fact("provider.saved")
class ProviderSaved(FactBody, frozen=True, kw_only=True):
    """A provider was added or changed. `secret_id` names its credential, which is kept elsewhere, encrypted."""

    name: str
    url: str
    dialect: Dialect = "openai"
    flavour: str = ""
    secret_id: str = ""
    allow_private: bool = False
    region: str = ""
    api_version: str = ""
    max_concurrency: int = 0


@fact("provider.removed", sealed_at_once=True)
class ProviderRemoved(FactBody, frozen=True, kw_only=True):
    """A provider was removed and its credential destroyed."""

    name: str


@fact("route.saved")
class RouteSaved(FactBody, frozen=True, kw_only=True):
    """A route was added or changed; what is said here is all of it."""

    name: str
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


@fact("route.removed", sealed_at_once=True)
class RouteRemoved(FactBody, frozen=True, kw_only=True):
    """A route was removed."""

    name: str


@fact("price.set")
class PriceSet(FactBody, frozen=True, kw_only=True):
    """A project set its own price for a provider's model; without a price the shipped one holds again.

    `effective` is the time from which it holds (ns since the epoch), 0 for that of the fact.
    """

    provider: str
    model: str
    price: Price | None
    effective: int = 0


@fact("price.removed", sealed_at_once=True)
class PriceRemoved(FactBody, frozen=True, kw_only=True):
    """A project took the price that held from `effective` on out of its own for a model, or with 0 all of them."""

    provider: str
    model: str
    effective: int = 0


@fact("prices.recalculated")
class PricesRecalculated(FactBody, frozen=True, kw_only=True):
    """The cost of past calls was worked out anew, at the prices that held when they were made.

    `since` and `until` bound the calls' start, `provider` and `model` are empty for all; `spans` were looked at and
    `changed` got another cost; `before` and `after` are the totals of the priced ones in nano-dollars.
    """

    since: int
    until: int
    provider: str = ""
    model: str = ""
    spans: int
    changed: int
    before: int
    after: int


@fact("limit.set")
class LimitSet(FactBody, frozen=True, kw_only=True):
    """A limit was added or changed."""

    name: str
    scope: Scope
    subject: str = ""
    unit: Unit
    amount: int
    window_seconds: int = 60


@fact("limit.removed")
class LimitRemoved(FactBody, frozen=True, kw_only=True):
    """A limit was removed."""

    name: str


@fact("budget.set")
class BudgetSet(FactBody, frozen=True, kw_only=True):
    """A budget was added or changed; `amount` in nano-dollars."""

    name: str
    scope: Scope
    subject: str = ""
    amount: int
    period: Period = "month"
    alerts: tuple[int, ...] = (50, 80, 100)
    hard: bool = True


@fact("budget.removed")
class BudgetRemoved(FactBody, frozen=True, kw_only=True):
    """A budget was removed."""

    name: str


@fact("budget.alerted")
class BudgetAlerted(FactBody, frozen=True, kw_only=True):
    """A budget's threshold was crossed; said once for each period and subject.

    Attributes:
        subject: the key's id, route or model; of a user only a digest, the beginning of one.
        percent: the threshold.
        period: the UTC day or month, `2026-03-01` or `2026-03`.
        spent, amount: nano-dollars, as they stood when it was noticed.
    """

    name: str
    scope: Scope
    subject: str = ""
    percent: int
    period: str
    spent: int
    amount: int


@fact("cache.cleared", sealed_at_once=True)
class CacheCleared(FactBody, frozen=True, kw_only=True):
    """Everything that was kept to be answered again was removed, on the host of whoever asked for it."""


@fact("weight.set")
class WeightSet(FactBody, frozen=True, kw_only=True):
    """A project was given a share of contended deployments."""

    weight: int


FACTS = (
    CacheCleared,
    KeyMinted,
    KeyRevoked,
    ProviderSaved,
    ProviderRemoved,
    RouteSaved,
    RouteRemoved,
    PriceSet,
    PriceRemoved,
    PricesRecalculated,
    LimitSet,
    LimitRemoved,
    BudgetSet,
    BudgetRemoved,
    BudgetAlerted,
    WeightSet,
)

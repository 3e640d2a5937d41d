"""A whole configuration, the differences between two, and what a new one would have done. Frozen, no I/O."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from detent.gateway.model import Budget, Limit, Provider, Route
from detent.kernel.chat import Usage
from detent.kernel.money import Price

Noun = Literal["provider", "route", "limit", "budget", "price"]


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a project has set of its gateway, by name; secrets are not in here.

    Attributes:
        prices: the project's own, by `PROVIDER/MODEL`.
        credentials: environment variables that hold providers' credentials, by provider.
    """

    providers: dict[str, Provider] = {}
    routes: dict[str, Route] = {}
    limits: dict[str, Limit] = {}
    budgets: dict[str, Budget] = {}
    prices: dict[str, Price] = {}
    credentials: dict[str, str] = {}


class FieldChange(msgspec.Struct, frozen=True):
    """A field that differs, by its dotted name in the document; None where it is not there."""

    field: str
    before: Any
    after: Any


class Change(msgspec.Struct, frozen=True):
    """Something that is added, changed or removed."""

    noun: Noun
    name: str
    action: Literal["added", "changed", "removed"]
    fields: tuple[FieldChange, ...]


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded call of the gateway, as far as a configuration decides about it.

    Attributes:
        asked: the model's name as the client wrote it: a route's.
        cost: nano-dollars as recorded; None when it was unpriced.
    """

    trace_id: str
    span_id: str
    start: int
    end: int
    asked: str
    key_id: str
    user_id: str
    usage: Usage
    cost: int | None


class TargetShare(msgspec.Struct, frozen=True):
    """Calls that a target gets: expected, so not always whole."""

    route: str
    target: str
    calls: float


class RuleEffect(msgspec.Struct, frozen=True, kw_only=True):
    """What a limit or budget did: calls it refused; of a budget the most spent in a period, and the alerts reached."""

    name: str
    refused: int
    spent: int = 0
    alerts: tuple[int, ...] = ()


class Fate(msgspec.Struct, frozen=True):
    """What became of one call: `answered`, `model_not_found`, `limit:NAME` or `budget:NAME`; and its expected cost."""

    outcome: str
    cost: int | None


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """Recorded calls under one configuration.

    Attributes:
        fates: of the calls, in their order.
        shares: by route and target.
        not_found: calls by the name that was asked for.
        cost: nano-dollars of what is priced; `unpriced` counts the answered calls that are not.
    """

    fates: tuple[Fate, ...]
    shares: tuple[TargetShare, ...]
    limits: tuple[RuleEffect, ...]
    budgets: tuple[RuleEffect, ...]
    not_found: dict[str, int]
    refused: int
    cost: int
    unpriced: int


class LostAccess(msgspec.Struct, frozen=True):
    """Routes that a key could call and cannot any more, and how many recorded calls it made of them."""

    key_id: str
    name: str
    routes: tuple[str, ...]
    calls: int


class Example(msgspec.Struct, frozen=True):
    """A recorded call that would have gone another way."""

    trace_id: str
    asked: str
    before: str
    after: str
    cost_before: int | None
    cost_after: int | None


class DryRun(msgspec.Struct, frozen=True, kw_only=True):
    """Recorded traffic under the configuration that is and the one that is wanted.

    Attributes:
        since, until: ns since the epoch.
        complete: whether all calls in that time were read, or only the newest.
        recorded_cost: nano-dollars as recorded.
        lost: keys that lose access to a route.
        examples: the worst first: calls that would be answered no more, then those whose cost grows most.
        assumptions: what was assumed where traffic cannot tell.
    """

    since: int
    until: int
    calls: int
    complete: bool
    recorded_cost: int
    before: Replayed
    after: Replayed
    lost: tuple[LostAccess, ...]
    examples: tuple[Example, ...]
    assumptions: tuple[str, ...]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What applying a document would change.

    Attributes:
        base: digest of the configuration that it starts from.
        digest: of base and changes together; apply with it, and exactly these changes are made or none.
        warnings: sentences about what would be applied but may not work.
        dry_run: None when no traffic was looked at.
    """

    base: str
    digest: str
    changes: tuple[Change, ...]
    warnings: tuple[str, ...] = ()
    dry_run: DryRun | None = None

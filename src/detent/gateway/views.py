"""Current keys, providers, routes and prices, folded from facts."""

from __future__ import annotations

import msgspec

from detent.gateway.facts import (
    BudgetRemoved,
    BudgetSet,
    KeyMinted,
    KeyRevoked,
    LimitRemoved,
    LimitSet,
    PriceRemoved,
    PriceSet,
    ProviderRemoved,
    ProviderSaved,
    RouteRemoved,
    RouteSaved,
    WeightSet,
)
from detent.gateway.model import Budget, Key, Limit, PriceEntry, Provider, Route, Weight
from detent.kernel.facts import Fact, View
from detent.kernel.money import DatedPrice


def _fold_key(key: Key | None, fact: Fact) -> Key | None:
    body = fact.body
    if isinstance(body, KeyMinted):
        return Key(
            id=fact.stream.removeprefix("key/"),
            name=body.name,
            project=fact.project,
            hash=body.hash,
            hint=body.hint,
            permissions=body.permissions,
            routes=body.routes,
            created=fact.time,
            expires=body.expires,
            issuer=fact.actor,
        )
    if isinstance(body, KeyRevoked) and key is not None and not key.revoked:
        return msgspec.structs.replace(key, revoked=fact.time)
    return key


def _fold_provider(_provider: Provider | None, fact: Fact) -> Provider | None:
    body = fact.body
    if not isinstance(body, ProviderSaved):
        return None
    return Provider(**msgspec.structs.asdict(body), project=fact.project, changed=fact.time)


def _fold_route(_route: Route | None, fact: Fact) -> Route | None:
    body = fact.body
    if not isinstance(body, RouteSaved):
        return None
    return Route(**msgspec.structs.asdict(body), project=fact.project, changed=fact.time)


def _fold_price(entry: PriceEntry | None, fact: Fact) -> PriceEntry | None:
    body = fact.body
    if isinstance(body, PriceSet):
        fresh = DatedPrice(body.effective or fact.time, body.price)
        kept = [dated for dated in entry.history if dated.effective != fresh.effective] if entry is not None else []
        history = tuple(sorted((*kept, fresh), key=lambda dated: dated.effective))
    elif isinstance(body, PriceRemoved) and entry is not None:
        history = tuple(dated for dated in entry.history if body.effective not in (0, dated.effective))
    else:
        return entry
    if not history:
        return None
    return PriceEntry(
        provider=body.provider, model=body.model, project=fact.project, history=history, changed=fact.time
    )


def _fold_limit(_limit: Limit | None, fact: Fact) -> Limit | None:
    body = fact.body
    if not isinstance(body, LimitSet):
        return None
    return Limit(**msgspec.structs.asdict(body), project=fact.project, changed=fact.time)


def _fold_budget(_budget: Budget | None, fact: Fact) -> Budget | None:
    body = fact.body
    if not isinstance(body, BudgetSet):
        return None
    return Budget(**msgspec.structs.asdict(body), project=fact.project, changed=fact.time)


def _fold_weight(weight: Weight | None, fact: Fact) -> Weight | None:
    body = fact.body
    if not isinstance(body, WeightSet):
        return weight
    return Weight(project=fact.project, weight=body.weight, changed=fact.time)


KEYS = View("keys", Key, (KeyMinted, KeyRevoked), _fold_key)
PROVIDERS = View("providers", Provider, (ProviderSaved, ProviderRemoved), _fold_provider)
ROUTES = View("routes", Route, (RouteSaved, RouteRemoved), _fold_route)
PRICES = View("prices", PriceEntry, (PriceSet, PriceRemoved), _fold_price)

LIMITS = View("limits", Limit, (LimitSet, LimitRemoved), _fold_limit)
BUDGETS = View("budgets", Budget, (BudgetSet, BudgetRemoved), _fold_budget)
WEIGHTS = View("weights", Weight, (WeightSet,), _fold_weight)

VIEWS = (KEYS, PROVIDERS, ROUTES, PRICES, LIMITS, BUDGETS, WEIGHTS)

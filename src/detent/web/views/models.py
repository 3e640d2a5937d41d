"""Models: the routes that clients name as `model`, where their calls go, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

import msgspec

from detent.gateway.model import EMBEDDED, EMBEDDED_MODEL, Target
from detent.gateway.prices import Own, PriceTable, own_price, own_prices, price_of, read_price, shipped_prices
from detent.gateway.service import parse_target
from detent.kernel.errors import InvalidInput
from detent.kernel.identity import Permission
from detent.kernel.money import Price
from detent.web.page import Action, Goto, Outcome, Page
from detent.web.table import Table
from detent.web.visit import Form, Visit


class TargetLine(msgspec.Struct, frozen=True, kw_only=True):
    """Where a route may send a call, and the price that holds there (pico-dollars per token)."""

    provider: str
    model: str
    weight: int
    price: Price | None
    price_from: Literal["own", "shipped", "embedded", "none"]


class RouteLine(msgspec.Struct, frozen=True, kw_only=True):
    """A route with its targets in order."""

    name: str
    targets: tuple[TargetLine, ...]
    changed: int
    builtin: bool


class PriceLine(msgspec.Struct, frozen=True, kw_only=True):
    """A price of the project's own."""

    provider: str
    model: str
    price: Price
    changed: int


class ModelsView(msgspec.Struct, frozen=True, kw_only=True):
    """Routes and prices."""

    routes: tuple[RouteLine, ...]
    prices: tuple[PriceLine, ...]
    price_table: str
    providers: tuple[str, ...]
    gateway_url: str


@lru_cache(maxsize=1)
def _shipped() -> PriceTable:
    return shipped_prices()


def view(visit: Visit) -> ModelsView:
    """All routes with the price of each of their targets."""
    caller, gateway = visit.caller, visit.platform.gateway
    entries = gateway.prices(caller)
    own, now = own_prices(entries), visit.platform.clock.now()
    return ModelsView(
        routes=tuple(
            RouteLine(
                name=route.name,
                targets=tuple(_target(target, own, now) for target in route.targets),
                changed=route.changed,
                builtin=not route.changed,
            )
            for route in gateway.routes(caller)
        ),
        prices=tuple(
            PriceLine(provider=entry.provider, model=entry.model, price=price, changed=entry.changed)
            for entry in entries
            if (price := entry.at(now)) is not None
        ),
        price_table=_shipped().version,
        providers=(EMBEDDED, *(provider.name for provider in gateway.providers(caller))),
        gateway_url=visit.platform.status().gateway_url,
    )


def _target(target: Target, own: Own, now: int) -> TargetLine:
    price = price_of(_shipped(), own, target.provider, target.model, now)
    if own_price(own, target.provider, target.model, now) is not None:
        source: Literal["own", "shipped", "embedded", "none"] = "own"
    elif target.provider == EMBEDDED and target.model == EMBEDDED_MODEL:
        source = "embedded"
    else:
        source = "shipped" if price else "none"
    return TargetLine(
        provider=target.provider, model=target.model, weight=target.weight, price=price, price_from=source
    )


def save(visit: Visit, form: Form) -> Outcome:
    """Add or change a route; targets stand one a line."""
    lines = [line.strip() for line in form.get("targets").splitlines() if line.strip()]
    visit.platform.gateway.save_route(
        visit.caller,
        form.get("name"),
        tuple(parse_target(line) for line in lines),
        replace=form.flag("replace"),
    )
    return Goto("/models", "route-saved")


def remove(visit: Visit, form: Form) -> Outcome:
    """Remove a route."""
    visit.platform.gateway.remove_route(visit.caller, visit.args["name"], reason=form.get("reason"))
    return Goto("/models", "route-removed")


def set_price(visit: Visit, form: Form) -> Outcome:
    """Set the project's own price."""
    if not form.get("input") or not form.get("output"):
        raise InvalidInput("A price has a figure for input and for output.", hint="Give both.", field="input")
    entry = {name: form.get(name) or None for name in ("input", "output", "cached_input", "cache_write")}
    visit.platform.gateway.set_price(visit.caller, parse_target(form.get("target")), read_price(entry))
    return Goto("/models", "price-set")


def tables(view: ModelsView) -> Mapping[str, Table]:
    """Routes, one line a target, and the project's own prices."""
    columns = ("input_pico_usd", "output_pico_usd", "cached_input_pico_usd", "cache_write_pico_usd")
    return {
        "routes": Table(
            ("route", "provider", "model", "weight", "price_from", *columns),
            [
                (r.name, t.provider, t.model, t.weight, t.price_from, *_figures(t.price))
                for r in view.routes
                for t in r.targets
            ],
        ),
        "prices": Table(
            ("provider", "model", *columns, "changed_ns"),
            [(p.provider, p.model, *_figures(p.price), p.changed) for p in view.prices],
        ),
    }


def _figures(price: Price | None) -> tuple[int | None, ...]:
    return (price.input, price.output, price.cached_input, price.cache_write) if price else (None,) * 4


PAGE = Page("/models", Permission.PROVIDERS_READ, "models.html", view, tables)
ACTIONS = (
    Action("/models", Permission.ROUTES_WRITE, PAGE, save),
    Action("/models/{name}/remove", Permission.ROUTES_WRITE, PAGE, remove),
    Action("/models/price", Permission.ROUTES_WRITE, PAGE, set_price),
)

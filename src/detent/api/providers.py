"""Those who serve models, and what they cost."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Path, Query, Response

from detent.api.border import Caller, IfMatch, Name, OnlyNew, ThePlatform, expected_of, nouns, tag, tag_next
from detent.api.schemas.common import Page, ReasonText, Removed
from detent.api.schemas.models import ModelOut, PriceOut
from detent.api.schemas.providers import NewProviderIn, ProviderIn, ProviderOut
from detent.app.http import needs
from detent.app.platform import Platform
from detent.gateway.model import EMBEDDED, Provider
from detent.gateway.prices import own_price, own_prices, price_of, shipped_prices
from detent.kernel.identity import Permission, Principal
from detent.kernel.money import Price
from detent.kernel.secret import Secret

routes = nouns("providers")
ModelPath = Annotated[str, Path(min_length=1, max_length=200, description="The model's name there; may hold slashes.")]


@routes.get("/providers")
@needs(Permission.PROVIDERS_READ)
def list_providers(caller: Caller, platform: ThePlatform) -> Page[ProviderOut]:
    """All providers by name, without the built-in one."""
    return Page(items=[ProviderOut.of(provider) for provider in platform.gateway.providers(caller)])


@routes.post("/providers", status_code=201)
@needs(Permission.PROVIDERS_WRITE)
def add_provider(body: NewProviderIn, caller: Caller, platform: ThePlatform) -> ProviderOut:
    """Add a provider; 409 when the name is taken."""
    return ProviderOut.of(_save(platform, caller, body.name, body, replace=False))


@routes.get("/providers/{name}")
@needs(Permission.PROVIDERS_READ)
def read_provider(name: Name, caller: Caller, platform: ThePlatform, response: Response) -> ProviderOut:
    """One provider."""
    tag(response, platform.gateway.version(caller.project, "provider", name))
    return ProviderOut.of(platform.gateway.provider(caller, name))


@routes.put("/providers/{name}")
@needs(Permission.PROVIDERS_WRITE)
def save_provider(
    name: Name,
    body: ProviderIn,
    caller: Caller,
    platform: ThePlatform,
    response: Response,
    if_none_match: OnlyNew = None,
    if_match: IfMatch = None,
) -> ProviderOut:
    """Add a provider or change it; what is left out takes its default."""
    expected = expected_of(if_match)
    saved = _save(platform, caller, name, body, replace=if_none_match != "*", expected=expected)
    tag_next(response, expected)
    return ProviderOut.of(saved)


@routes.delete("/providers/{name}")
@needs(Permission.PROVIDERS_WRITE)
def remove_provider(
    name: Name,
    caller: Caller,
    platform: ThePlatform,
    reason: Annotated[ReasonText, Query()] = "",
    if_match: IfMatch = None,
) -> Removed:
    """Remove a provider and destroy its credential; 409 while a route, limit or budget names it."""
    platform.gateway.remove_provider(caller, name, reason=reason, expected=expected_of(if_match))
    return Removed(removed=name)


def _save(
    platform: Platform, caller: Principal, name: str, body: ProviderIn, *, replace: bool, expected: int | None = None
) -> Provider:
    return platform.gateway.save_provider(
        caller,
        name,
        url=body.url,
        credential=Secret(body.credential) if body.credential else None,
        allow_private=body.allow_private,
        dialect=body.dialect,
        flavour=body.flavour,
        region=body.region,
        api_version=body.api_version,
        max_concurrency=body.max_concurrency,
        replace=replace,
        expected=expected,
    )


# Models


@routes.get("/models", tags=["models"])
@needs(Permission.PROVIDERS_READ)
def list_models(caller: Caller, platform: ThePlatform) -> Page[ModelOut]:
    """The models behind the routes and those with a price of your own."""
    own, now = own_prices(platform.gateway.prices(caller)), platform.clock.now()
    behind: dict[tuple[str, str], list[str]] = {target: [] for target in own}
    for route in platform.gateway.routes(caller):
        for target in route.targets:
            behind.setdefault((target.provider, target.model), []).append(route.name)
    table = shipped_prices()
    items = []
    for (provider, model), names in sorted(behind.items()):
        price = price_of(table, own, provider, model, now)
        items.append(
            ModelOut(
                provider=provider,
                model=model,
                routes=names,
                price=PriceOut.of(price) if price else None,
                price_source=_source(provider, price, own=own_price(own, provider, model, now) is not None),
            )
        )
    return Page(items=items)


def _source(provider: str, price: Price | None, *, own: bool) -> Literal["own", "shipped", "built in", "unpriced"]:
    if own:
        return "own"
    if price is None:
        return "unpriced"
    return "built in" if provider == EMBEDDED else "shipped"

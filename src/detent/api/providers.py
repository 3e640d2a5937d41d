"""Those who serve models, the routes to them, and what they cost."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Header, Path, Query

from detent.api.border import Caller, Name, ThePlatform, nouns
from detent.api.schemas.common import Page, ReasonText, Removed
from detent.api.schemas.models import ModelOut, PriceEntryOut, PriceIn, PriceOut
from detent.api.schemas.providers import NewProviderIn, ProviderIn, ProviderOut
from detent.api.schemas.routes import NewRouteIn, RouteIn, RouteOut
from detent.app.http import needs
from detent.gateway.model import EMBEDDED, Target
from detent.gateway.prices import price_of, read_price, shipped_prices
from detent.kernel.errors import NotFound
from detent.kernel.identity import Permission
from detent.kernel.money import Price
from detent.kernel.refs import check_name
from detent.kernel.secret import Secret

routes = nouns("providers")
OnlyNew = Annotated[str | None, Header(alias="if-none-match", description="`*` refuses to change one that exists.")]
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
    saved = platform.gateway.save_provider(
        caller, body.name, url=body.url, credential=_secret(body), allow_private=body.allow_private
    )
    return ProviderOut.of(saved)


@routes.get("/providers/{name}")
@needs(Permission.PROVIDERS_READ)
def read_provider(name: Name, caller: Caller, platform: ThePlatform) -> ProviderOut:
    """One provider."""
    found = next((p for p in platform.gateway.providers(caller) if p.name == name), None)
    if found is None:
        raise NotFound(f"There is no provider '{name}'.", hint="List them at /api/v1/providers.", field="name")
    return ProviderOut.of(found)


@routes.put("/providers/{name}")
@needs(Permission.PROVIDERS_WRITE)
def save_provider(
    name: Name, body: ProviderIn, caller: Caller, platform: ThePlatform, if_none_match: OnlyNew = None
) -> ProviderOut:
    """Add a provider or change it."""
    saved = platform.gateway.save_provider(
        caller,
        name,
        url=body.url,
        credential=_secret(body),
        allow_private=body.allow_private,
        replace=if_none_match != "*",
    )
    return ProviderOut.of(saved)


@routes.delete("/providers/{name}")
@needs(Permission.PROVIDERS_WRITE)
def remove_provider(
    name: Name, caller: Caller, platform: ThePlatform, reason: Annotated[ReasonText, Query()] = ""
) -> Removed:
    """Remove a provider and destroy its credential; 409 while a route uses it."""
    platform.gateway.remove_provider(caller, name, reason=reason)
    return Removed(removed=name)


def _secret(body: ProviderIn) -> Secret | None:
    return Secret(body.credential) if body.credential else None


# Routes


@routes.get("/routes", tags=["routes"])
@needs(Permission.PROVIDERS_READ)
def list_routes(caller: Caller, platform: ThePlatform) -> Page[RouteOut]:
    """All routes by name, the built-in one included."""
    return Page(items=[RouteOut.of(route) for route in platform.gateway.routes(caller)])


@routes.post("/routes", status_code=201, tags=["routes"])
@needs(Permission.ROUTES_WRITE)
def add_route(body: NewRouteIn, caller: Caller, platform: ThePlatform) -> RouteOut:
    """Add a route; 409 when the name is taken."""
    return RouteOut.of(platform.gateway.save_route(caller, body.name, body.parsed))


@routes.get("/routes/{name}", tags=["routes"])
@needs(Permission.PROVIDERS_READ)
def read_route(name: Name, caller: Caller, platform: ThePlatform) -> RouteOut:
    """One route."""
    found = next((route for route in platform.gateway.routes(caller) if route.name == name), None)
    if found is None:
        raise NotFound(f"There is no route '{name}'.", hint="List them at /api/v1/routes.", field="name")
    return RouteOut.of(found)


@routes.put("/routes/{name}", tags=["routes"])
@needs(Permission.ROUTES_WRITE)
def save_route(
    name: Name, body: RouteIn, caller: Caller, platform: ThePlatform, if_none_match: OnlyNew = None
) -> RouteOut:
    """Add a route or change it."""
    return RouteOut.of(platform.gateway.save_route(caller, name, body.parsed, replace=if_none_match != "*"))


@routes.delete("/routes/{name}", tags=["routes"])
@needs(Permission.ROUTES_WRITE)
def remove_route(
    name: Name, caller: Caller, platform: ThePlatform, reason: Annotated[ReasonText, Query()] = ""
) -> Removed:
    """Remove a route; calls to it are refused from then on."""
    platform.gateway.remove_route(caller, name, reason=reason)
    return Removed(removed=name)


# Models and prices


@routes.get("/models", tags=["models"])
@needs(Permission.PROVIDERS_READ)
def list_models(caller: Caller, platform: ThePlatform) -> Page[ModelOut]:
    """The models behind the routes and those with a price of your own."""
    own = {(entry.provider, entry.model): entry.price for entry in platform.gateway.prices(caller)}
    behind: dict[tuple[str, str], list[str]] = {target: [] for target in own}
    for route in platform.gateway.routes(caller):
        for target in route.targets:
            behind.setdefault((target.provider, target.model), []).append(route.name)
    table = shipped_prices()
    items = []
    for (provider, model), names in sorted(behind.items()):
        price = price_of(table, own, provider, model)
        items.append(
            ModelOut(
                provider=provider,
                model=model,
                routes=names,
                price=PriceOut.of(price) if price else None,
                price_source=_source(provider, price, own=(provider, model) in own),
            )
        )
    return Page(items=items)


@routes.get("/prices", tags=["models"])
@needs(Permission.PROVIDERS_READ)
def list_prices(caller: Caller, platform: ThePlatform) -> Page[PriceEntryOut]:
    """The project's own prices."""
    return Page(items=[PriceEntryOut.of(entry) for entry in platform.gateway.prices(caller)])


@routes.put("/prices/{provider}/{model:path}", tags=["models"])
@needs(Permission.ROUTES_WRITE)
def set_price(provider: Name, model: ModelPath, body: PriceIn, caller: Caller, platform: ThePlatform) -> PriceEntryOut:
    """Set the project's own price for a provider's model, from now on."""
    target = Target(check_name(provider, field="provider"), model)
    return PriceEntryOut.of(platform.gateway.set_price(caller, target, read_price(body.model_dump())))


def _source(provider: str, price: Price | None, *, own: bool) -> Literal["own", "shipped", "built in", "unpriced"]:
    if own:
        return "own"
    if price is None:
        return "unpriced"
    return "built in" if provider == EMBEDDED else "shipped"

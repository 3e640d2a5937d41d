"""Names that applications call, where their calls go, and how."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Response

from detent.api.border import Caller, IfMatch, Name, OnlyNew, ThePlatform, expected_of, nouns, tag, tag_next
from detent.api.schemas.common import Page, ReasonText, Removed
from detent.api.schemas.routes import NewRouteIn, RouteIn, RouteOut
from detent.app.http import needs
from detent.kernel.identity import Permission

routes = nouns("routes")


@routes.get("/routes")
@needs(Permission.PROVIDERS_READ)
def list_routes(caller: Caller, platform: ThePlatform) -> Page[RouteOut]:
    """All routes by name, the built-in one included."""
    return Page(items=[RouteOut.of(route) for route in platform.gateway.routes(caller)])


@routes.post("/routes", status_code=201)
@needs(Permission.ROUTES_WRITE)
def add_route(body: NewRouteIn, caller: Caller, platform: ThePlatform) -> RouteOut:
    """Add a route; 409 when the name is taken."""
    return RouteOut.of(platform.gateway.save_route(caller, body.name, body.parsed, rules=body.rules))


@routes.get("/routes/{name}")
@needs(Permission.PROVIDERS_READ)
def read_route(name: Name, caller: Caller, platform: ThePlatform, response: Response) -> RouteOut:
    """One route."""
    tag(response, platform.gateway.version(caller.project, "route", name))
    return RouteOut.of(platform.gateway.route(caller, name))


@routes.put("/routes/{name}")
@needs(Permission.ROUTES_WRITE)
def save_route(
    name: Name,
    body: RouteIn,
    caller: Caller,
    platform: ThePlatform,
    response: Response,
    if_none_match: OnlyNew = None,
    if_match: IfMatch = None,
) -> RouteOut:
    """Add a route or change it; what is left out takes its default."""
    expected = expected_of(if_match)
    saved = platform.gateway.save_route(
        caller, name, body.parsed, rules=body.rules, replace=if_none_match != "*", expected=expected
    )
    tag_next(response, expected)
    return RouteOut.of(saved)


@routes.delete("/routes/{name}")
@needs(Permission.ROUTES_WRITE)
def remove_route(
    name: Name,
    caller: Caller,
    platform: ThePlatform,
    reason: Annotated[ReasonText, Query()] = "",
    if_match: IfMatch = None,
) -> Removed:
    """Remove a route; calls to it are refused from then on. 409 while another route, limit or budget names it."""
    platform.gateway.remove_route(caller, name, reason=reason, expected=expected_of(if_match))
    return Removed(removed=name)

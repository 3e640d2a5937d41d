"""All routes of the API together, and the OpenAPI document that describes them."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from starlette.routing import BaseRoute

from detent.api import (
    audit,
    batches,
    cache,
    installation,
    jobs,
    keys,
    planning,
    prices,
    providers,
    routes,
    rules,
    traces,
    users,
)
from detent.app.http import PUBLIC, GuardedRoute, Public, need_of, needs, router
from detent.app.platform import Platform
from detent.app.status import version

ROUTERS: Final = (
    keys.routes,
    providers.routes,
    routes.routes,
    rules.routes,
    planning.routes,
    prices.routes,
    cache.routes,
    traces.routes,
    traces.otlp,
    batches.routes,
    jobs.routes,
    audit.routes,
    users.routes,
    installation.routes,
    installation.probes,
)
_ABOUT: Final = """The control plane of Detent.

Send a virtual key as `Authorization: Bearer dtk_...`. What a key may do is what it was given, as far as whoever issued
it may still do that. The project is the key's; no request names one. Every error has the same shape: a stable `code`, a
`message`, a `hint` with the way out, and the `field` at fault where it is one.
"""


def mount_all(app: FastAPI, _platform: Platform) -> None:
    """Put everything into the application."""
    for part in ROUTERS:
        app.include_router(part)
    app.include_router(_documents())


def api_routes() -> list[BaseRoute]:
    """Every route of the API, for the document and for the tests that walk them."""
    return [route for part in ROUTERS for route in part.routes]


def describe() -> dict[str, Any]:
    """The OpenAPI document."""
    document = get_openapi(title="Detent", version=version(), description=_ABOUT, routes=api_routes())
    document.setdefault("components", {})["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "A virtual key, dtk_..."}
    }
    for route in api_routes():
        assert isinstance(route, GuardedRoute)
        need = need_of(route.endpoint, route.path)
        for method in route.methods or ():
            operation = document["paths"][route.path_format].get(method.lower())
            if operation is not None and not isinstance(need, Public):
                operation["security"] = [{"key": []}]
                operation["x-detent-permission"] = need.value
    return document


def _documents() -> Any:
    published = router()
    body = orjson.dumps(describe(), option=orjson.OPT_SORT_KEYS)
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'

    @published.get("/api/openapi.json", include_in_schema=False)
    @published.get("/api/v1/openapi.json", include_in_schema=False)
    @needs(PUBLIC)
    async def openapi(request: Request) -> Response:
        """The OpenAPI document."""
        headers = {"etag": tag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(body, media_type="application/json", headers=headers)

    return published

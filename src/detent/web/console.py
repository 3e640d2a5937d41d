"""The console put together: all pages and actions, the assets, and errors as pages."""

from __future__ import annotations

import contextlib
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from detent.app.http import COOKIE, PUBLIC, error_page, headers_of, needs, signed_in_of
from detent.app.platform import Platform
from detent.governance.access import Access
from detent.kernel.errors import DetentError, Unauthenticated
from detent.kernel.identity import Permission
from detent.web import login
from detent.web import playground as player
from detent.web.assets import DIST, read_manifest
from detent.web.nav import groups
from detent.web.page import Action, Console, Page
from detent.web.palette import look_up
from detent.web.render import Templates
from detent.web.security import secured, theme_of
from detent.web.views import (
    account,
    batches,
    budgets,
    gateway,
    home,
    jobs,
    keys,
    ledger,
    models,
    playground,
    providers,
    route_editor,
    routes,
    settings,
    trace,
    traces,
    users,
)

PAGES: Final[tuple[Page[Any], ...]] = (
    home.PAGE,
    traces.PAGE,
    trace.PAGE,
    gateway.PAGE,
    routes.PAGE,
    route_editor.PAGE,
    routes.ONE,
    playground.PAGE,
    models.PAGE,
    providers.PAGE,
    keys.PAGE,
    keys.ONE,
    budgets.PAGE,
    batches.PAGE,
    batches.ONE,
    jobs.PAGE,
    jobs.ONE,
    ledger.PAGE,
    ledger.ONE,
    users.PAGE,
    settings.PAGE,
    account.PAGE,
)
ACTIONS: Final[tuple[Action, ...]] = (
    *trace.ACTIONS,
    *routes.ACTIONS,
    *route_editor.ACTIONS,
    *models.ACTIONS,
    *providers.ACTIONS,
    *keys.ACTIONS,
    *budgets.ACTIONS,
    *batches.ACTIONS,
    *jobs.ACTIONS,
    *ledger.ACTIONS,
    *users.ACTIONS,
    *account.ACTIONS,
)


def mount_console(app: FastAPI, platform: Platform) -> None:
    """Add every route of the console."""
    templates = Templates(read_manifest())
    console = Console(platform, templates)
    for page in PAGES:
        console.add(page)
    for action in ACTIONS:
        console.act(action)

    @needs(PUBLIC)
    async def palette(request: Request) -> Response:
        hits = await run_in_threadpool(look_up, console.visit(request))
        return secured(Response(msgspec.json.encode(hits), media_type="application/json"))

    @needs(Permission.PROVIDERS_READ)
    async def limits() -> Response:
        return secured(RedirectResponse("/budgets#limits", status_code=307))

    console.routes.add_api_route("/limits", limits, methods=["GET"], include_in_schema=False, response_model=None)
    console.routes.add_api_route(
        "/palette.json", palette, methods=["GET"], include_in_schema=False, response_model=None
    )
    app.include_router(console.routes)
    app.include_router(player.routes(console, platform))
    app.include_router(login.routes(platform, templates))
    app.mount("/static", needs(PUBLIC)(Assets(directory=DIST, check_dir=False)), name="static")

    async def show_error(request: Request, error: DetentError) -> Response | None:
        return await _error(request, error, templates) if _wants_page(request) else None

    error_page(app, show_error)


class Assets(StaticFiles):
    """The bundle. A file's name carries the hash of its content, so a browser may keep it for good."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        answer = await super().get_response(path, scope)
        hashed = path.endswith((".js", ".css"))
        answer.headers["cache-control"] = "public, max-age=31536000, immutable" if hashed else "public, max-age=3600"
        return secured(answer)


def _wants_page(request: Request) -> bool:
    path = request.url.path
    if path.startswith(("/api/", "/v1/", "/static/")) or path.endswith((".json", ".csv")):
        return False
    return "text/html" in request.headers.get("accept", "") or "hx-request" in request.headers


async def _error(request: Request, error: DetentError, templates: Templates) -> Response:
    """An error as a page; who is not signed in goes to the sign-in page and comes back."""
    if isinstance(error, Unauthenticated):
        here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        to = "/login" + ("?" + urlencode({"next": here}) if request.method == "GET" and here != "/" else "")
        if "hx-request" in request.headers:
            return secured(Response(status_code=204, headers={"hx-redirect": "/login"}))
        return secured(RedirectResponse(to, status_code=303))
    found = signed_in_of(request)
    principal = getattr(request.state, "principal", None)
    if principal is None and COOKIE in request.cookies:
        # No route matched, so nobody asked who this is.
        access: Access = request.app.state.platform.access
        with contextlib.suppress(DetentError):
            known = await run_in_threadpool(access.by_cookie, request.cookies[COOKIE])
            found, principal = known.signed_in, known.principal
    values = {
        "error": error,
        "theme": theme_of(request),
        "nav": groups(principal) if principal is not None else (),
        "account": found.account if found else None,
        "csrf": found.session.csrf if found else "",
        "path": request.url.path,
    }
    text = await run_in_threadpool(templates.show, "error.html", values)
    return secured(
        Response(text, status_code=error.status, media_type="text/html; charset=utf-8", headers=headers_of(error))
    )

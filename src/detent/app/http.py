"""The border of the control plane: who calls, what the matched route asks of them, and the one error shape.

Every route says what it needs, or the program does not start:

    routes = router(prefix="/api/v1")

    @routes.get("/keys")
    @needs(Permission.KEYS_READ)
    def keys(request: Request) -> list[KeyOut]:
        caller = principal_of(request)

The decision is taken on the route that matched, before its body is read; never on the URL's text.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount

from detent.governance.access import Access
from detent.governance.people import SignedIn
from detent.kernel.errors import BugError, DetentError, Forbidden, Unauthenticated
from detent.kernel.identity import Permission, Principal

COOKIE: Final = "detent_session"
"""Name of the cookie that a signed-in browser sends."""

CSRF_HEADER: Final = "x-csrf-token"
CSRF_FIELD: Final = "csrf"
"""Where a form or script repeats `Session.csrf`."""

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_MARK: Final = "__detent_needs__"


class Public:
    """Type of `PUBLIC`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "PUBLIC"


PUBLIC: Final = Public()
"""Declares that a route is open to everybody who reaches the port."""

Need = Permission | Public
E = TypeVar("E")


def needs(need: Need) -> Callable[[E], E]:
    """Declare on an endpoint (or a static-files application) which permission it takes, or that it is `PUBLIC`."""

    def mark(endpoint: E) -> E:
        setattr(endpoint, _MARK, need)
        return endpoint

    return mark


class GuardedRoute(APIRoute):
    """A route that knows what it needs and asks for it before anything else happens.

    Raises:
        BugError: when it is made from an endpoint that declares nothing.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        need_of(endpoint, path)
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()
        need = need_of(self.endpoint, self.path)

        async def handle(request: Request) -> Response:
            await _admit(request, need)
            return await inner(request)

        return handle


def router(*, prefix: str = "", tags: list[str] | None = None, **options: Any) -> APIRouter:
    """A router whose routes are all guarded; a face builds its routes on one and includes it in the app."""
    return APIRouter(prefix=prefix, tags=[*(tags or [])], route_class=GuardedRoute, **options)


def need_of(endpoint: object, path: str) -> Need:
    """What an endpoint declared.

    Raises:
        BugError: it declared nothing.
    """
    need = getattr(endpoint, _MARK, None)
    if not isinstance(need, Permission | Public):
        raise BugError(f"The route {path} declares no permission.", hint="Mark its endpoint with @needs(...).")
    return need


def check_routes(app: FastAPI) -> None:
    """Refuse an application in which any route is not guarded; the composition calls it when all faces are mounted.

    Raises:
        BugError: a route declares nothing, or is of a kind that cannot be guarded.
    """
    _check(app.routes)


def _check(routes: Iterable[BaseRoute]) -> None:
    for route in routes:
        included = getattr(route, "original_router", None)
        if isinstance(included, APIRouter):
            _check(included.routes)
        elif isinstance(route, Mount):
            if not isinstance(need_of(route.app, route.path), Public):
                raise BugError(f"The mount {route.path} holds something that is not public.", hint="Use routes.")
        elif isinstance(route, GuardedRoute):
            need_of(route.endpoint, route.path)
        else:
            raise BugError(
                f"{getattr(route, 'path', route)} is a {type(route).__name__}, which nobody guards.",
                hint="Build it on detent.app.http.router().",
            )


# Callers


def principal_of(request: Request) -> Principal:
    """Who calls.

    Raises:
        Unauthenticated: on a public route, when nobody in particular does.
    """
    found = getattr(request.state, "principal", None)
    if not isinstance(found, Principal):
        raise Unauthenticated(
            "This needs a key or a signed-in person.", hint="Send `Authorization: Bearer dtk_...`, or sign in."
        )
    return found


def signed_in_of(request: Request) -> SignedIn | None:
    """The browser's session and account; None when the caller used a key, or nobody in particular calls."""
    found = getattr(request.state, "signed_in", None)
    return found if isinstance(found, SignedIn) else None


async def _admit(request: Request, need: Need) -> None:
    """Authenticate, refuse what another site's page sent, and require the route's permission."""
    access: Access = request.app.state.platform.access
    token = _bearer(request)
    request.state.principal = None
    request.state.signed_in = None
    if token:
        if not isinstance(need, Public):
            request.state.principal = await run_in_threadpool(access.by_token, token)
    else:
        if request.method not in _SAFE:
            _same_origin(request)
        cookie = request.cookies.get(COOKIE, "")
        if cookie:
            try:
                found = await run_in_threadpool(access.by_cookie, cookie)
            except Unauthenticated:
                if not isinstance(need, Public):
                    raise
            else:
                request.state.principal = found.principal
                request.state.signed_in = found.signed_in
    if not isinstance(need, Public):
        principal_of(request).require(need)


def _bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _same_origin(request: Request) -> None:
    """Refuse a change that a page of another origin asked the browser for.

    Browsers say where a request comes from (Fetch Metadata, `Sec-Fetch-Site`; before that, `Origin`), and a page cannot
    forge either. Programs send neither and are let through: they hold no cookie that they were not given.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None:
        good = site in {"same-origin", "none"}
    elif origin is not None:
        good = urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()
    else:
        good = True
    if not good:
        raise Forbidden("Another site's page sent this.", hint="Open Detent's own page and do it there.")


# Errors

ErrorPage = Callable[[Request, DetentError], Awaitable[Response | None]]


def error_page(app: FastAPI, page: ErrorPage) -> None:
    """Let a face show errors its own way where it wants to (it answers None where it does not)."""
    app.state.error_page = page


async def answer(request: Request, error: DetentError) -> Response:
    """The error as every route answers it: a face's page, or `DetentError.as_dict()`."""
    page: ErrorPage | None = getattr(request.app.state, "error_page", None)
    if page is not None:
        shown = await page(request, error)
        if shown is not None:
            return shown
    return JSONResponse(error.as_dict(), status_code=error.status, headers=headers_of(error))


def headers_of(error: DetentError) -> dict[str, str]:
    """The headers that belong to an error."""
    headers = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after)))
    if isinstance(error, Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    return headers

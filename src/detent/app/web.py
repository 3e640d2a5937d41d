"""The one web application of the control plane: what stands before every route, and the one shape of its errors."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from importlib.metadata import entry_points
from typing import Any, Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from detent.app.http import PUBLIC, GuardedRoute, answer, check_routes, needs
from detent.app.platform import Platform
from detent.app.sockets import LOOPBACK
from detent.app.status import version
from detent.kernel.errors import (
    BugError,
    CallerError,
    DetentError,
    Forbidden,
    InvalidInput,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    TooMany,
    Unauthenticated,
)

_log = logging.getLogger("detent.control")

HEADERS: Final = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
"""On every answer that does not say otherwise."""


_UPLOADS: Final = "/v1/files"
"""The one path whose bodies are files; they are put on the disk as they come."""


class MisdirectedRequest(CallerError):
    """The Host header names somebody else: a rebound name, or a proxy that was not declared."""

    code = "misdirected_request"
    status = 421


def build(platform: Platform, *, faces: bool = True) -> FastAPI:
    """The application with all faces mounted and every route guarded.

    Args:
        faces: whether to mount what the entry-point group `detent.faces` names.

    Raises:
        BugError: a route declares no permission, or no face can be found.
    """
    app = FastAPI(
        title="Detent", version=version(), openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.router.route_class = GuardedRoute
    app.state.platform = platform
    _answer_errors(app)
    app.add_api_route("/healthz", health, include_in_schema=False)
    if faces:
        found = sorted(entry_points(group="detent.faces"), key=lambda entry: entry.name)
        if not found:
            raise BugError(
                "No face is installed.", hint="Install Detent again: `pip install --force-reinstall detent`."
            )
        for entry in found:
            entry.load()(app, platform)
    check_routes(app)
    settings = platform.settings.control
    app.add_middleware(
        Border, hosts=_hosts(platform), max_body=settings.max_body_bytes, max_upload=settings.max_upload_bytes
    )
    return app


@needs(PUBLIC)
async def health() -> dict[str, str]:
    """Whether the process serves; the supervisor asks."""
    return {"status": "ok"}


class Border:
    """Stands before every route: checks the host, bounds the body, sets the headers; the last resort for errors."""

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str] | None, max_body: int, max_upload: int) -> None:
        self._app = app
        self._hosts = hosts
        self._max_body = max_body
        self._max_upload = max_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        started = False

        async def sent(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        headers = Headers(scope=scope)
        request = Request(scope, receive)
        try:
            self._check_host(headers)
            await self._app(scope, self._bounded(request.url.path, headers, receive), sent)
        except MisdirectedRequest as error:
            # Nothing of ours is shown under a name that is not ours.
            await JSONResponse(error.as_dict(), status_code=error.status)(scope, receive, sent)
        except DetentError as error:
            if started:
                raise
            await (await answer(request, error))(scope, receive, sent)
        except Exception as error:
            _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
            if started:
                raise
            shown = BugError("Something went wrong in Detent.", hint="The process's log holds the details.")
            await (await answer(request, shown))(scope, receive, sent)

    def _check_host(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        name = _host_name(hosts[0]) if len(hosts) == 1 else ""
        if not name or (self._hosts is not None and name not in self._hosts):
            raise MisdirectedRequest(
                "This address does not belong to Detent.", hint="Open the printed address, or set control.public_url."
            )

    def _bounded(self, path: str, headers: Headers, receive: Receive) -> Receive:
        declared = headers.get("content-length", "")
        limit, name = (self._max_upload, "max_upload_bytes") if path == _UPLOADS else (self._max_body, "max_body_bytes")
        too_large = TooLarge(f"The body is over {limit} bytes.", hint=f"Send less at a time, or raise control.{name}.")
        if declared.isdecimal() and int(declared) > limit:
            raise too_large
        seen = 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise too_large
            return message

        return bounded


def _hosts(platform: Platform) -> frozenset[str] | None:
    """Names under which the control plane answers; None for any, when the network reaches it by unknown addresses.

    On loopback a foreign name means that a web page rebound its own name to this machine (DNS rebinding).
    """
    from urllib.parse import urlsplit

    settings = platform.settings.control
    if settings.host in LOOPBACK:
        names = set(LOOPBACK)
    elif settings.public_url:
        names = {*LOOPBACK, settings.host}
    else:
        return None
    public = urlsplit(settings.public_url).hostname
    return frozenset(names | ({public} if public else set()))


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    name, _, port = host.partition(":")
    return name.lower() if not port or port.isdecimal() else ""


# Errors


def _answer_errors(app: FastAPI) -> None:
    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, DetentError)
        if isinstance(error, BugError):
            _log.error("%s %s: %s", request.method, request.url.path, error)
        return await answer(request, error)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if isinstance(error.__cause__, DetentError):  # of ours, raised while the framework read the body
            return await ours(request, error.__cause__)
        response = await answer(request, _translated(error))
        for name, value in (error.headers or {}).items():
            response.headers.setdefault(name, value)
        return response

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return await answer(request, _invalid(error.errors()))

    handlers: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
        DetentError: ours,
        HTTPException: http,
        RequestValidationError: invalid,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _translated(error: HTTPException) -> DetentError:
    said = str(error.detail or HTTPStatus(error.status_code).phrase)
    sentence = said if said.endswith(".") else said + "."
    match error.status_code:
        case 401:
            return Unauthenticated(sentence)
        case 403:
            return Forbidden(sentence)
        case 404:
            return NotFound("There is nothing at this address.", hint="See /api/v1/openapi.json for what there is.")
        case 405:
            allowed = (error.headers or {}).get("Allow", "")
            return MethodNotAllowed(
                "This address does not take this method.", hint=f"Use {allowed}." if allowed else ""
            )
        case 413:
            return TooLarge(sentence)
        case 429:
            return TooMany(sentence)
        case status if status < 500:
            return InvalidInput(sentence)
        case _:
            return BugError(sentence)


def _invalid(problems: Any) -> InvalidInput:
    """The first thing that is wrong, with its place; what was sent is not repeated."""
    first = problems[0] if problems else {"loc": (), "msg": "invalid"}
    place = [str(part) for part in first["loc"]]
    where = ".".join(place[1:]) or None
    message = str(first["msg"]).rstrip(".")
    name = f"'{where}'" if where else f"The {place[0] if place else 'request'}"
    return InvalidInput(f"{name} cannot be used: {message}.", hint="See /api/v1/openapi.json.", field=where)

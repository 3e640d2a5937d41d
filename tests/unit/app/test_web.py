"""The border of the control plane: who gets in, what is refused before a route runs, and the one error shape."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from detent.app.http import COOKIE, PUBLIC, check_routes, error_page, needs, principal_of, router, signed_in_of
from detent.app.platform import Platform, open_platform
from detent.app.web import build
from detent.kernel.errors import BugError, DetentError, TooMany, every_error
from detent.kernel.identity import Permission
from detent.kernel.settings import ControlSettings, Settings

BASE = "http://127.0.0.1:7401"


class Body(BaseModel):
    name: str
    count: int = 0


@pytest.fixture
def platform(home: Path) -> Iterator[Platform]:
    with open_platform(Settings(home=str(home), control=ControlSettings(max_body_bytes=1000))) as opened:
        yield opened


@pytest.fixture
def app(platform: Platform) -> FastAPI:
    """The application as it is built, with a few routes of every kind on it."""
    app = build(platform, faces=False)
    routes = router(prefix="/t")

    @routes.get("/open")
    @needs(PUBLIC)
    def open_to_all(request: Request) -> dict[str, Any]:
        return {"principal": getattr(request.state.principal, "actor", None) is not None}

    @routes.get("/keys")
    @needs(Permission.KEYS_READ)
    async def keys(request: Request) -> dict[str, str]:
        return {"actor": str(principal_of(request).actor), "in": str(signed_in_of(request) is not None)}

    @routes.post("/keys")
    @needs(Permission.KEYS_WRITE)
    def make(request: Request, body: Body) -> dict[str, str]:
        return {"name": body.name, "actor": str(principal_of(request).actor)}

    @routes.post("/login")
    @needs(PUBLIC)
    def login() -> dict[str, bool]:
        return {"ok": True}

    @routes.get("/bug")
    @needs(PUBLIC)
    def bug() -> None:
        raise RuntimeError("secret detail")

    @routes.get("/busy")
    @needs(PUBLIC)
    def busy() -> None:
        raise TooMany("Wait.", retry_after=2.5)

    app.include_router(routes)
    check_routes(app)
    return app


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url=BASE, raise_server_exceptions=False) as opened:
        yield opened


def key(platform: Platform, *permissions: Permission) -> dict[str, str]:
    made = platform.gateway.mint_key(platform.access.operator(), "k", permissions=frozenset(permissions))
    return {"authorization": f"Bearer {made.token.reveal()}"}


def cookie(platform: Platform) -> str:
    return platform.people.sign_in_link(platform.people.first_link().reveal()).cookie.reveal()


def code(response: Any) -> tuple[int, str]:
    body = response.json()
    assert set(body) == {"error"}
    assert {"code", "message"} <= set(body["error"]) <= {"code", "message", "hint", "field"}
    return response.status_code, body["error"]["code"]


# Who gets in


def test_a_key_gets_what_it_holds(client: TestClient, platform: Platform) -> None:
    reader = key(platform, Permission.KEYS_READ)
    assert client.get("/t/keys", headers=reader).json()["in"] == "False"
    assert code(client.post("/t/keys", headers=reader, json={"name": "x"})) == (403, "forbidden")
    writer = key(platform, Permission.KEYS_WRITE)
    assert client.post("/t/keys", headers=writer, json={"name": "x"}).json()["name"] == "x"


def test_without_a_credential_nobody_gets_in(client: TestClient, platform: Platform) -> None:
    for headers in (
        {},
        {"authorization": "Bearer"},
        {"authorization": "Bearer dtk_" + "A" * 43},
        {"authorization": "Basic YTpi"},
        {"authorization": "Bearer \x00"},
        {"cookie": f"{COOKIE}=guess"},
        {"cookie": f"{COOKIE}="},
    ):
        response = client.get("/t/keys", headers=headers)
        assert code(response) == (401, "unauthenticated"), headers
        assert response.headers["www-authenticate"] == "Bearer"
    assert client.get("/t/open", headers={"cookie": f"{COOKIE}=guess"}).json() == {"principal": False}
    assert client.get("/t/open", headers=key(platform, Permission.KEYS_READ)).status_code == 200


def test_rights_are_asked_before_the_body_is_read(client: TestClient) -> None:
    assert code(client.post("/t/keys", content=b"{not json")) == (401, "unauthenticated")
    assert code(client.post("/t/keys", json={"count": "x"})) == (401, "unauthenticated")


def test_a_cookie_gets_in_as_its_person(client: TestClient, platform: Platform) -> None:
    client.cookies.set(COOKIE, cookie(platform))
    assert client.get("/t/keys").json()["in"] == "True"
    assert client.get("/t/open").json() == {"principal": True}


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:3000"},
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:3000"},
        {"origin": "null"},
    ],
)
def test_another_sites_page_changes_nothing(client: TestClient, platform: Platform, headers: dict[str, str]) -> None:
    assert code(client.post("/t/login", headers=headers)) == (403, "forbidden")
    client.cookies.set(COOKIE, cookie(platform))
    assert code(client.post("/t/keys", headers=headers, json={"name": "x"})) == (403, "forbidden")
    assert client.get("/t/keys", headers=headers).status_code == 200


@pytest.mark.parametrize("headers", [{"sec-fetch-site": "same-origin"}, {"origin": BASE}, {}])
def test_our_own_page_may(client: TestClient, platform: Platform, headers: dict[str, str]) -> None:
    client.cookies.set(COOKIE, cookie(platform))
    assert client.post("/t/keys", headers=headers, json={"name": "x"}).status_code == 200


# What is refused before a route runs


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:7401", "", "[::2]", "a:b"])
def test_a_foreign_host_name_is_refused(client: TestClient, host: str) -> None:
    assert code(client.get("/healthz", headers={"host": host})) == (421, "misdirected_request")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:7401", "LOCALHOST", "[::1]:7401"])
def test_our_own_names_are_taken(client: TestClient, host: str) -> None:
    assert client.get("/healthz", headers={"host": host}).json() == {"status": "ok"}


def test_a_large_body_is_refused_whether_declared_or_not(client: TestClient, platform: Platform) -> None:
    headers = key(platform, Permission.KEYS_WRITE)
    large = b'{"name": "' + b"x" * 1000 + b'"}'
    assert code(client.post("/t/keys", headers=headers, content=large)) == (413, "too_large")
    chunks = iter([large[:600], large[600:]])
    assert code(client.post("/t/keys", headers=headers, content=chunks)) == (413, "too_large")


def test_every_answer_carries_the_headers(client: TestClient) -> None:
    for path in ("/healthz", "/nothing", "/t/bug"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["cache-control"] == "no-store"


# One error shape


def test_errors_have_one_shape_on_every_route(client: TestClient, platform: Platform) -> None:
    headers = key(platform, Permission.KEYS_WRITE)
    assert code(client.get("/nothing")) == (404, "not_found")
    assert code(client.get("/t/keys/")) == (404, "not_found")
    assert code(client.delete("/t/keys")) == (405, "method_not_allowed")
    assert code(client.post("/t/keys", headers=headers, content=b"{not json")) == (400, "invalid_input")
    assert code(client.post("/t/keys", headers=headers, content=b"\xff\xfe")) == (400, "invalid_input")
    assert code(client.post("/t/keys", headers=headers, content=b"[" * 400 + b"]" * 400)) == (400, "invalid_input")
    wrong = client.post("/t/keys", headers=headers, json={"name": "x", "count": "many"})
    assert code(wrong) == (400, "invalid_input")
    assert wrong.json()["error"]["field"] == "count"
    assert "many" not in wrong.text
    busy = client.get("/t/busy")
    assert (code(busy), busy.headers["retry-after"]) == ((429, "too_many"), "2")


def test_a_bug_shows_nothing_of_itself(client: TestClient) -> None:
    response = client.get("/t/bug")
    assert code(response) == (500, "bug")
    assert "secret detail" not in response.text


def test_a_face_may_show_errors_its_own_way(app: FastAPI, client: TestClient) -> None:
    async def page(request: Request, error: DetentError) -> Response | None:
        if "text/html" not in request.headers.get("accept", ""):
            return None
        return HTMLResponse(f"<p>{error.code}", status_code=error.status)

    error_page(app, page)
    assert client.get("/nothing", headers={"accept": "text/html"}).text == "<p>not_found"
    assert code(client.get("/nothing")) == (404, "not_found")


def test_every_error_has_a_status_and_a_code() -> None:
    for kind in every_error():
        assert 400 <= kind.status <= 599
        assert kind.code.isidentifier()


# Routes that guard nothing


def test_a_route_that_declares_nothing_cannot_be_made(platform: Platform) -> None:
    async def careless() -> None: ...

    with pytest.raises(BugError, match="declares no permission"):
        router().add_api_route("/x", careless)
    with pytest.raises(BugError, match="declares no permission"):
        build(platform, faces=False).add_api_route("/x", careless)


@pytest.mark.parametrize("kind", ["route", "mount", "router", "nested", "websocket"])
def test_a_route_around_the_guard_stops_the_start(platform: Platform, kind: str) -> None:
    from fastapi import APIRouter

    app = build(platform, faces=False)

    async def careless(_request: Request) -> Response:
        return PlainTextResponse("in")

    plain = APIRouter()
    plain.add_api_route("/x", careless)
    if kind == "route":
        app.router.routes.append(Route("/x", careless))
    elif kind == "mount":
        app.router.routes.append(Mount("/x", FastAPI()))
    elif kind == "router":
        app.include_router(plain)
    elif kind == "nested":
        outer = router()
        outer.include_router(plain)
        app.include_router(outer)
    else:
        app.add_api_websocket_route("/x", careless)
    with pytest.raises(BugError):
        check_routes(app)

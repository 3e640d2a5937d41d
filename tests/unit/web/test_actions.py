"""What forms do: only for those who may, only from our own page, and with the reason when it cannot be."""

from __future__ import annotations

import re

import pytest

from detent.app.http import COOKIE
from detent.kernel.identity import ROLES, Permission
from detent.web.console import ACTIONS
from detent.web.login import safe_next
from detent.web.page import Action

from .conftest import PLAIN, TRACE, World

SOMETHING = {
    "{trace_id}": TRACE,
    "{key_id}": "k",
    "{name}": "n",
    "{job_id}": "j",
    "{batch_id}": "b",
    "{file_id}": "f",
    "{user_id}": "u",
}


def address(action: Action) -> str:
    path = action.path
    for name, value in SOMETHING.items():
        path = path.replace(name, value)
    return path


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.path)
def test_without_the_token_nothing_is_done(world: World, action: Action) -> None:
    client = world.client("admin")
    before = world.platform.ledger.head()
    for form in ({}, {"csrf": ""}, {"csrf": "x" * 43}, {"csrf": world.csrf("engineer")}):
        answer = client.post(address(action), data=form)
        assert answer.status_code == 403, form
        assert "token" in answer.text
    assert world.platform.ledger.head() == before


@pytest.mark.parametrize("role", [*ROLES, ""])
@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.path)
def test_without_the_permission_nothing_is_done(world: World, action: Action, role: str) -> None:
    before = world.platform.ledger.head()
    answer = world.client(role).post(address(action), data={"csrf": world.csrf(role) if role else "x"})
    if not role:
        assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    elif isinstance(action.needs, Permission) and action.needs not in ROLES[role]:
        assert answer.status_code == 403
        assert action.needs.value in answer.text
    assert world.platform.ledger.head() == before


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_sites_form_is_refused(world: World, site: str) -> None:
    answer = world.client("admin").post(
        "/keys", data={"csrf": world.csrf("admin"), "name": "x"}, headers={"sec-fetch-site": site}
    )
    assert answer.status_code == 403


def test_forms_of_other_types_are_refused(world: World) -> None:
    client = world.client("admin")
    assert client.post("/keys", json={"name": "x"}).status_code == 400
    assert client.post("/keys", files={"name": b"x"}).status_code == 400
    big = client.post(
        "/keys", content=b"name=" + b"x" * 300_000, headers={"content-type": "application/x-www-form-urlencoded"}
    )
    assert big.status_code == 413
    for body in (b"name=\xff", b"name=%FF", b"&".join([b"a=b"] * 300)):
        answer = client.post("/keys", content=body, headers={"content-type": "application/x-www-form-urlencoded"})
        assert answer.status_code == 400, body[:20]


def test_a_key_is_shown_once(world: World) -> None:
    client = world.client("engineer")
    made = client.post("/keys", data={"csrf": world.csrf("engineer"), "name": "web <i>key</i>", "lifetime": "7 days"})
    assert made.status_code == 200
    assert made.headers["cache-control"] == "no-store"
    token = re.search(r"dtk_[A-Za-z0-9_-]{43}", made.text)
    assert token is not None
    principal = world.platform.access.by_token(token[0])
    assert principal.permissions == {Permission.GATEWAY_CALL}
    key = next(k for k in world.platform.gateway.keys(world.platform.access.operator()) if k.name == "web <i>key</i>")
    assert key.expires == world.platform.clock.now() + 7 * 86_400_000_000_000 or key.expires > 0
    assert token[0] not in client.get("/keys").text
    assert "<i>key" not in client.get("/keys").text
    gone = client.post(f"/keys/{key.id}/revoke", data={"csrf": world.csrf("engineer"), "reason": "test"})
    assert (gone.status_code, gone.headers["location"]) == (303, "/keys?said=revoked")
    assert "is revoked" in client.get("/keys?said=revoked").text
    assert key.id not in client.get("/keys").text
    assert key.id in client.get("/keys?all=1").text


def test_a_mistake_keeps_what_was_typed(world: World) -> None:
    client, csrf = world.client("admin"), world.csrf("admin")
    wrong = client.post(
        "/providers", data={"csrf": csrf, "name": "UPPER", "url": "https://x.example/v1", "credential": "sk-typed"}
    )
    assert wrong.status_code == 400
    assert 'value="UPPER"' in wrong.text
    assert 'aria-invalid="true"' in wrong.text
    assert "sk-typed" not in wrong.text
    taken = client.post("/models", data={"csrf": csrf, "name": "support-bot", "targets": "embedded/detent-tiny"})
    assert taken.status_code == 409
    assert "already" in taken.text
    assert client.post("/models", data={"csrf": csrf, "name": "r", "targets": "nowhere"}).status_code == 400
    assert client.post("/keys", data={"csrf": csrf, "name": "k", "permission": "all:things"}).status_code == 400
    assert client.post("/jobs", data={"csrf": csrf, "name": "ledger.verify", "arguments": "[1]"}).status_code == 400
    assert (
        client.post(
            "/models/price", data={"csrf": csrf, "target": "openai/x", "input": "-1", "output": "1"}
        ).status_code
        == 400
    )


def test_providers_and_routes_come_and_go(world: World) -> None:
    client, csrf = world.client("admin"), world.csrf("admin")

    def done(path: str, **form: str) -> str:
        answer = client.post(path, data={"csrf": csrf, **form})
        assert answer.status_code == 303, answer.text[:2000]
        return str(answer.headers["location"])

    assert done("/providers", name="local", url="http://127.0.0.1:9/v1", allow_private="1").endswith("provider-saved")
    assert done("/models", name="mine", targets="local/m=2\n\n embedded/detent-tiny ").endswith("route-saved")
    assert done("/models/price", target="local/m", input="0.15", output="0.60").endswith("price-set")
    route = next(r for r in client.get("/models.json").json()["routes"] if r["name"] == "mine")
    assert [(t["provider"], t["weight"], t["price_from"]) for t in route["targets"]] == [
        ("local", 2, "own"),
        ("embedded", 1, "embedded"),
    ]
    assert client.post("/providers/local/remove", data={"csrf": csrf}).status_code == 409
    assert done("/models/mine/remove", reason="test").endswith("route-removed")
    assert done("/providers/local/remove").endswith("provider-removed")


def test_a_provider_speaks_its_own_dialect_and_is_changed(world: World) -> None:
    client, csrf = world.client("admin"), world.csrf("admin")

    def post(**form: str) -> tuple[int, str]:
        answer = client.post("/providers", data={"csrf": csrf, "name": "claude", **form})
        return answer.status_code, answer.text

    assert post(speaks="anthropic/", credential="sk-ant-x", max_concurrency="8")[0] == 303
    operator = world.platform.access.operator()
    made = next(p for p in world.platform.gateway.providers(operator) if p.name == "claude")
    assert (made.dialect, made.url, made.max_concurrency) == ("anthropic", "https://api.anthropic.com", 8)
    opened = client.get("/providers?provider=claude")
    assert "Change provider" in opened.text
    assert "sk-ant-x" not in opened.text
    fields = client.get("/providers.json?provider=claude").json()["fields"]
    assert (fields["speaks"], fields["url"], fields["max_concurrency"]) == ("anthropic/", made.url, "8")
    assert post(**{**fields, "max_concurrency": ""})[0] == 303
    changed = next(p for p in world.platform.gateway.providers(operator) if p.name == "claude")
    assert (changed.max_concurrency, changed.secret_id) == (0, made.secret_id), "the credential stays"
    late = post(**fields)
    assert (late[0], "not as you have read it" in late[1]) == (409, True)
    assert 'id="wrong-speaks"' in post(speaks="klingon/")[1]
    assert 'id="wrong-max_concurrency"' in post(speaks="openai/groq", max_concurrency="-1")[1]
    assert "sk-typed" not in post(speaks="openai/azure", credential="sk-typed")[1]
    assert client.get("/providers?provider=nothing").status_code == 404
    world.platform.gateway.remove_provider(operator, "claude")


def test_rating_twice_is_one_rating(world: World) -> None:
    client, csrf = world.client("reviewer"), world.csrf("reviewer")
    url = f"/traces/{PLAIN}/rating"
    assert client.post(url, data={"csrf": csrf, "value": "down", "comment": "too <b>short</b>"}).status_code == 303
    assert client.post(url, data={"csrf": csrf, "value": "up", "comment": "fine after all"}).status_code == 303
    ratings = client.get(f"/traces/{PLAIN}.json").json()["ratings"]
    assert [(r["name"], r["value"], r["comment"], r["source"]) for r in ratings] == [
        ("thumbs", True, "fine after all", "reviewer")
    ]
    assert client.post(url, data={"csrf": csrf, "value": "sideways"}).status_code == 400
    assert client.post(f"/traces/{'0' * 32}/rating", data={"csrf": csrf, "value": "up"}).status_code == 404
    hidden = world.client("viewer").get(f"/traces/{PLAIN}.json").json()["ratings"]
    assert hidden[0]["comment"] == ""


def test_the_ledger_verifies_here(world: World) -> None:
    answer = world.client("auditor").post("/ledger/verify", data={"csrf": world.csrf("auditor")})
    assert answer.status_code == 200
    assert "The ledger is whole" in answer.text


def test_jobs_start_and_cancel(world: World) -> None:
    client, csrf = world.client("engineer"), world.csrf("engineer")
    started = client.post("/jobs", data={"csrf": csrf, "name": "blobs.fsck"})
    assert started.status_code == 303
    job = started.headers["location"].split("?")[0]
    assert client.get(job + ".json").json()["job"]["name"] == "blobs.fsck"
    assert client.post(f"{job}/cancel", data={"csrf": csrf}).status_code == 303
    assert client.get(job + ".json").json()["job"]["state"] == "cancelled"
    assert client.post(f"{job}/resume", data={"csrf": csrf}).status_code == 303
    assert client.get(job + ".json").json()["job"]["state"] in {"queued", "running"}
    assert client.post("/jobs", data={"csrf": csrf, "name": "no.such"}).status_code in {400, 404}


def test_people_come_change_and_go(world: World) -> None:
    client, csrf = world.client("admin"), world.csrf("admin")
    made = client.post("/users", data={"csrf": csrf, "name": "new person", "role": "viewer"})
    link = re.search(r"/login\?token=(dtl_[\w-]+)", made.text)
    assert link is not None
    assert link[1] not in client.get("/users").text
    person = next(u for u in client.get("/users.json").json()["users"] if u["name"] == "new person")
    assert client.post(f"/users/{person['id']}/role", data={"csrf": csrf, "role": "auditor"}).status_code == 303
    assert client.post(f"/users/{person['id']}/role", data={"csrf": csrf, "role": "god"}).status_code == 400
    again = client.post(f"/users/{person['id']}/link", data={"csrf": csrf})
    assert "dtl_" in again.text
    assert client.post(f"/users/{person['id']}/disable", data={"csrf": csrf}).status_code == 303
    assert client.post(f"/users/{person['id']}/erase", data={"csrf": csrf}).status_code == 303
    assert "new person" not in client.get("/users").text


# Coming in and going out


def fresh_link(world: World, name: str) -> str:
    _account, link = world.platform.people.add(world.platform.access.operator(), name, "viewer")
    return link.reveal()


def form_token(text: str) -> str:
    found = re.search(r'name="csrf" value="([\w-]+)"', text)
    assert found is not None
    return found[1]


def test_opening_a_link_does_not_use_it(world: World) -> None:
    token = fresh_link(world, "link user")
    client = world.client()
    for _ in range(3):
        page = client.get(f"/login?token={token}")
        assert COOKIE not in page.cookies
    refused = world.client().post("/login/link", data={"token": token, "csrf": "guess"})
    assert refused.status_code == 403
    came = client.post("/login/link", data={"token": token, "csrf": form_token(page.text)})
    assert (came.status_code, came.headers["location"]) == (303, "/account?first=1")
    cookie = came.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert client.get("/").status_code == 200
    second = world.client()
    page = second.get(f"/login?token={token}")
    used = second.post("/login/link", data={"token": token, "csrf": form_token(page.text)})
    assert used.status_code == 401
    assert "used up" in used.text


def test_a_password_is_set_and_used(world: World) -> None:
    token = fresh_link(world, "password user")
    client = world.client()
    client.post("/login/link", data={"token": token, "csrf": form_token(client.get(f"/login?token={token}").text)})
    csrf = form_token(client.get("/account").text)
    differ = client.post("/account/password", data={"csrf": csrf, "password": "a" * 12, "again": "b" * 12})
    assert (differ.status_code, "differ" in differ.text) == (400, True)
    short = client.post("/account/password", data={"csrf": csrf, "password": "a", "again": "a"})
    assert short.status_code == 400
    words = "four plain words here"
    assert client.post("/account/password", data={"csrf": csrf, "password": words, "again": words}).status_code == 303
    out = client.post("/logout", data={"csrf": csrf})
    assert (out.status_code, out.headers["location"]) == (303, "/login?said=out")
    assert client.get("/").status_code == 303
    form = {"name": "password user", "csrf": form_token(client.get("/login").text), "next": "/traces"}
    assert client.post("/login", data={**form, "password": "wrong password"}).status_code == 401
    came = client.post("/login", data={**form, "password": words})
    assert (came.status_code, came.headers["location"]) == (303, "/traces")
    assert client.post("/logout", data={"csrf": "x"}).status_code == 403
    assert client.get("/login").headers["location"] == "/"


def test_cookies_are_secure_behind_https(world: World) -> None:
    client = world.client()
    client.base_url = client.base_url.copy_with(scheme="https")
    assert "Secure" in client.get("/login").headers["set-cookie"]


@pytest.mark.parametrize(
    ("asked", "goes"),
    [
        ("/traces?q=x", "/traces?q=x"),
        ("", "/"),
        ("https://evil.example", "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/x\\y", "/"),
        ("javascript:alert(1)", "/"),
        ("/login?next=/login", "/"),
        ("/a\r\nset-cookie: x=y", "/"),
        ("/" + "a" * 3000, "/"),
    ],
)
def test_signing_in_leads_only_to_our_own_pages(asked: str, goes: str) -> None:
    assert safe_next(asked) == goes


def test_htmx_is_told_to_sign_in(world: World) -> None:
    answer = world.client().get("/traces", headers={"hx-request": "true"})
    assert (answer.status_code, answer.headers["hx-redirect"]) == (204, "/login")

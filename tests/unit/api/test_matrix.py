"""Two projects x every route x every role: what is nobody's business stays so. Walks the route table."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.api import calls

from detent.api.document import api_routes
from detent.app.http import Public
from detent.kernel.identity import ROLES, Permission

GUARDED = calls.guarded()
IDS = [f"{method} {path}" for method, path, _need in GUARDED]
WITH_PARAMETERS = [entry for entry in GUARDED if "{" in entry[1] and "{field}" not in entry[1]]
UPSERTS = {("PUT", "/api/v1/providers/{name}"), ("PUT", "/api/v1/routes/{name}"),
           ("PUT", "/api/v1/limits/{name}"), ("PUT", "/api/v1/budgets/{name}"),
           ("PUT", "/api/v1/prices/{provider}/{model:path}")}  # fmt: skip
"""These make the thing where it is missing: with another project's key they make that project's own."""


def call(world: Any, method: str, path: str, headers: dict[str, str], *, ids: dict[str, str] | None = None) -> Any:
    body = calls.BODIES.get((method, path))
    return world.client.request(method, calls.url(path, ids or world.ids), json=body, headers=headers)


def shape(answer: Any) -> dict[str, Any]:
    """The error, after checking that it has the one shape."""
    body = answer.json()
    assert set(body) == {"error"}, body
    error = body["error"]
    assert {"code", "message"} <= set(error) <= {"code", "message", "hint", "field"}, error
    assert error["code"]
    assert error["message"].endswith((".", "!", "?"))
    return dict(error)


def test_every_changing_route_is_in_the_tables_of_this_test() -> None:
    changing = {(m, p) for m, p, _need in calls.table() if m not in {"GET", "HEAD"}}
    assert changing == set(calls.BODIES) | calls.BODILESS


def test_only_the_probes_are_public() -> None:
    assert [path for _method, path, need in calls.table() if isinstance(need, Public)] == ["/readyz"]


def test_every_permission_but_contents_guards_a_route() -> None:
    asked = {need for _method, _path, need in GUARDED}
    assert set(Permission) - asked == {Permission.CONTENT_READ}


@pytest.mark.parametrize(("method", "path", "need"), GUARDED, ids=IDS)
def test_without_a_key(world: Any, method: str, path: str, need: Permission) -> None:
    for headers in (
        {},
        {"authorization": "Bearer dtk_" + "x" * 43},
        {"authorization": "Basic YTpi"},
        {"authorization": "Bearer"},
    ):
        answer = call(world, method, path, headers)
        assert answer.status_code == 401
        assert shape(answer)["code"] == "unauthenticated"
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path", "need"), GUARDED, ids=IDS)
def test_with_everything_but_the_permission(world: Any, method: str, path: str, need: Permission) -> None:
    answer = call(world, method, path, world.key(*(set(Permission) - {need})))
    assert answer.status_code == 403
    assert shape(answer)["code"] == "forbidden"


@pytest.mark.parametrize("role", sorted(ROLES))
def test_roles(world: Any, role: str) -> None:
    headers = world.key(*ROLES[role])
    for method, path, need in GUARDED:
        if need not in ROLES[role]:
            assert call(world, method, path, headers).status_code == 403, (role, method, path)
        elif method == "GET":
            assert call(world, method, path, headers).status_code == 200, (role, method, path)


@pytest.mark.parametrize(("method", "path", "need"), WITH_PARAMETERS, ids=[f"{m} {p}" for m, p, _n in WITH_PARAMETERS])
def test_another_projects_ids(world: Any, method: str, path: str, need: Permission) -> None:
    before = state(world)
    project = "other-" + str(IDS.index(f"{method} {path}"))
    answer = call(world, method, path, world.key(project=project))
    if "/users/" in path or "/weights/" in path:
        assert answer.status_code == 403
    elif (method, path) in UPSERTS:
        assert answer.status_code == 200
    else:
        assert answer.status_code == 404
        assert shape(answer)["code"] == "not_found"
    assert state(world) == before


@pytest.mark.parametrize(
    ("method", "path", "need"), [e for e in GUARDED if e[0] == "GET" and e not in WITH_PARAMETERS],
    ids=str,
)  # fmt: skip
def test_lists_of_another_project_hold_nothing_of_ours(world: Any, method: str, path: str, need: Permission) -> None:
    answer = call(world, method, path, world.key(project="third"))
    assert answer.status_code in {200, 403}
    ours = [*world.ids.values(), "score-1", "api.acme.example"]
    assert not [value for value in ours if f'"{value}"' in answer.text]


def test_a_foreign_jobs_id_gives_no_job(world: Any) -> None:
    body = {"name": "blobs.fsck", "id": world.ids["job"]}
    assert world.client.post("/api/v1/jobs", json=body, headers=world.key(project="other")).status_code == 404


def test_the_answer_for_a_foreign_id_is_that_of_an_unknown_one(world: Any) -> None:
    headers = world.key(project="other")
    for noun, known in (("keys", world.ids["key"]), ("jobs", world.ids["job"])):
        unknown = known[:-4] + "ffff"
        foreign = world.client.get(f"/api/v1/{noun}/{known}", headers=headers).text
        assert foreign.replace(known, unknown) == world.client.get(f"/api/v1/{noun}/{unknown}", headers=headers).text


def test_the_project_cannot_be_named(world: Any) -> None:
    headers = world.key(project="other")
    for method, path, _need in GUARDED:
        if isinstance(body := calls.BODIES.get((method, path)), dict) and path != "/v1/traces":
            url = calls.url(path, world.ids)
            answer = world.client.request(method, url, json={**body, "project": "default"}, headers=headers)
            assert answer.status_code in {400, 403, 404}, (method, path)
    for query in ("/api/v1/traces?project=default", "/api/v1/metrics?project=default"):
        assert world.client.get(query, headers=headers).status_code == 400


@pytest.mark.parametrize(
    "trick", ["//api/v1/keys", "/api/v1/./keys", "/api/v1/%6beys", "/api/v1/keys/", "/API/v1/keys"]
)
def test_spellings_of_a_path_open_nothing(world: Any, trick: str) -> None:
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"):
        answer = world.client.request(method, trick)
        assert answer.status_code in {401, 404, 405}, (method, trick)


@pytest.mark.parametrize("path", sorted({path for _method, path, _need in GUARDED}))
def test_undeclared_methods(world: Any, path: str) -> None:
    declared = {method for method, other, _need in GUARDED if other == path}
    for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"} - declared:
        answer = world.client.request(method, calls.url(path, world.ids), headers=world.key())
        assert answer.status_code in {404, 405}, (method, path)
        shape(answer)


def test_a_minted_key_never_has_more_rights(world: Any) -> None:
    for role, rights in ROLES.items():
        if Permission.KEYS_WRITE not in rights:
            continue
        headers = world.key(*rights)
        body = {"name": f"from {role}", "permissions": [p.value for p in Permission]}
        made = world.client.post("/api/v1/keys", json=body, headers=headers).json()
        assert set(made["permissions"]) == set(rights)
        principal = world.platform.access.by_token(made["key"])
        assert principal.permissions <= rights


def test_a_minted_key_falls_with_its_issuer(world: Any) -> None:
    parent = world.platform.gateway.mint_key(world.principal(), "parent", permissions=frozenset(Permission))
    headers = {"authorization": f"Bearer {parent.token.reveal()}"}
    body = {"name": "child", "permissions": ["keys:read"]}
    child = world.client.post("/api/v1/keys", json=body, headers=headers).json()["key"]
    assert world.client.get("/api/v1/keys", headers={"authorization": f"Bearer {child}"}).status_code == 200
    world.client.delete(f"/api/v1/keys/{parent.key.id}", headers=headers)
    assert world.client.get("/api/v1/keys", headers={"authorization": f"Bearer {child}"}).status_code in {401, 403}


def test_content_takes_a_permission_of_its_own(world: Any) -> None:
    path = f"/api/v1/traces/{world.ids['trace_id']}"
    plain = world.client.get(path, headers=world.key(Permission.TRACES_READ)).text
    assert "parcel" not in plain
    assert "well said" not in plain
    assert "parcel" in world.client.get(path, headers=world.key(Permission.TRACES_READ, Permission.CONTENT_READ)).text
    search = world.client.get("/api/v1/traces?text=parcel", headers=world.key(Permission.TRACES_READ))
    assert search.status_code == 403


def state(world: Any) -> Any:
    """What stands in our project."""
    caller = world.principal()
    platform = world.platform
    return (
        platform.gateway.providers(caller),
        platform.gateway.routes(caller),
        platform.gateway.prices(caller),
        [key for key in platform.gateway.keys(caller) if key.id == world.ids["key"]],
        platform.traces.scores(caller, trace_id=world.ids["trace_id"]),
        platform.jobs.get(world.ids["job"]).state,
        platform.people.all(caller),
    )


def test_the_table_is_that_of_the_application(world: Any) -> None:
    document = world.client.get("/api/openapi.json").json()
    listed = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert listed == {(m, p.replace(":path", "")) for m, p, _need in calls.table()}
    assert len(api_routes()) == len(listed)

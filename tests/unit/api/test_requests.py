"""What requests may hold, and how bad ones are answered: one shape, the field, the reason, the way out."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from tests.unit.api import calls

from detent.app.http import COOKIE
from detent.kernel.identity import Permission

WITH_BODY = [entry for entry in sorted(calls.BODIES) if entry[1] != "/v1/traces"]


def error(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    return dict(answer.json()["error"])


@pytest.mark.parametrize(("method", "path"), WITH_BODY, ids=[f"{m} {p}" for m, p in WITH_BODY])
def test_bodies_that_cannot_be_read(world: Any, method: str, path: str) -> None:
    headers = {**world.key(), "content-type": "application/json"}
    url = calls.url(path, world.ids)
    bodies = [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"1",
        b'{"name": "\xff"}',
        b"[" * 20_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    ]
    for body in bodies:
        answer = world.client.request(method, url, content=body, headers=headers)
        assert error(answer, 400)["code"] == "invalid_input", body[:20]


@pytest.mark.parametrize(("method", "path"), WITH_BODY, ids=[f"{m} {p}" for m, p in WITH_BODY])
def test_unknown_fields_are_refused_by_name(world: Any, method: str, path: str) -> None:
    url = calls.url(path, world.ids)
    for field in ("api_base", "role_", "__class__", "__proto__", "is_admin"):
        body = {**calls.BODIES[method, path], field: "x"}
        found = error(world.client.request(method, url, json=body, headers=world.key()), 400)
        assert found["field"] == field
        assert field in found["message"]
        assert found["hint"]


@pytest.mark.parametrize(("method", "path"), WITH_BODY, ids=[f"{m} {p}" for m, p in WITH_BODY])
def test_wrong_types_are_refused(world: Any, method: str, path: str) -> None:
    url = calls.url(path, world.ids)
    for name in calls.BODIES[method, path]:
        for wrong in ({"x": 1}, [[1]], "\ud800"):
            if name in {"value", "arguments"} and not isinstance(wrong, list):
                continue
            body = {**calls.BODIES[method, path], name: wrong}
            content = json.dumps(body).encode()
            headers = {**world.key(), "content-type": "application/json"}
            found = error(world.client.request(method, url, content=content, headers=headers), 400)
            assert (found["field"] or "").startswith(name)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/api/v1/keys", {"name": ""}, "name"),
        ("/api/v1/keys", {"name": "x" * 101}, "name"),
        ("/api/v1/keys", {"name": "x\ny"}, "name"),
        ("/api/v1/keys", {"name": "x", "permissions": ["root"]}, "permissions.0"),
        ("/api/v1/keys", {"name": "x", "permissions": []}, "permissions"),
        ("/api/v1/keys", {"name": "x", "expires": "yesterday"}, "expires"),
        ("/api/v1/keys", {"name": "x", "expires": "2020-01-01"}, "expires"),
        ("/api/v1/keys", {"name": "x", "routes": ["Not A Name"]}, "routes"),
        ("/api/v1/providers", {"name": "UPPER", "url": "https://x.example"}, "name"),
        ("/api/v1/providers", {"name": "embedded", "url": "https://x.example"}, "name"),
        ("/api/v1/providers", {"name": "x", "url": "ftp://x.example"}, "url"),
        ("/api/v1/providers", {"name": "x", "url": "https://user:pw@x.example"}, "url"),
        ("/api/v1/routes", {"name": "x", "targets": []}, "targets"),
        ("/api/v1/routes", {"name": "x","targets": [{"provider": "p", "model": "m", "weight": 0}]}, "targets.0.weight"),
        ("/api/v1/users", {"name": "x", "role": "root"}, "role"),
        ("/api/v1/jobs", {"name": "x", "id": "a/b"}, "id"),
    ],
    ids=str,
)  # fmt: skip
def test_values_that_cannot_be_used(world: Any, path: str, body: dict[str, Any], field: str) -> None:
    found = error(world.client.post(path, json=body, headers=world.key()), 400)
    assert found["code"] == "invalid_input"
    assert found["field"] == field
    assert found["hint"]


def test_numbers_that_are_none(world: Any) -> None:
    url = f"/api/v1/traces/{world.ids['trace_id']}/scores"
    headers = {**world.key(), "content-type": "application/json"}
    for number in ("NaN", "Infinity", "1e999"):
        answer = world.client.post(url, content=f'{{"name": "x", "value": {number}}}', headers=headers)
        assert error(answer, 400)["field"].startswith("value"), number
    answer = world.client.post(
        "/api/v1/jobs", content='{"name": "blobs.fsck", "arguments": {"x": NaN}}', headers=headers
    )
    assert error(answer, 400)["code"] == "invalid_input"


def test_job_arguments_have_a_bound(world: Any) -> None:
    body = {"name": "blobs.fsck", "arguments": {"x": "y" * 100_001}}
    assert error(world.client.post("/api/v1/jobs", json=body, headers=world.key()), 413)["field"] == "arguments"


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=100000", "since=soon", "attribute=x", "min_cost_usd=-1", "min_cost_usd=nan", "status=x",
     "what=1"],
)  # fmt: skip
def test_queries_that_cannot_be_used(world: Any, query: str) -> None:
    found = error(world.client.get(f"/api/v1/traces?{query}", headers=world.key()), 400)
    assert found["field"] == query.partition("=")[0]


def test_a_cursor_from_nowhere(world: Any) -> None:
    assert (
        error(world.client.get("/api/v1/traces?after=' OR 1=1 --", headers=world.key()), 400)["code"] == "invalid_input"
    )


@pytest.mark.parametrize("trace_id", ["x", "A" * 32, "a" * 31, "..%2f..%2fledger.db", "'%20OR%201=1"])
def test_trace_ids_have_one_form(world: Any, trace_id: str) -> None:
    assert world.client.get(f"/api/v1/traces/{trace_id}", headers=world.key()).status_code in {400, 404}


def test_taken_names_conflict(world: Any) -> None:
    body = {"name": "acme", "url": "https://api.acme.example/v1"}
    assert error(world.client.post("/api/v1/providers", json=body, headers=world.key()), 409)["code"] == "conflict"
    only_new = {**world.key(), "if-none-match": "*"}
    answer = world.client.put("/api/v1/providers/acme", json={"url": body["url"]}, headers=only_new)
    assert error(answer, 409)["code"] == "conflict"


def test_a_stored_credential_does_not_follow_to_another_host(world: Any) -> None:
    answer = world.client.put("/api/v1/providers/acme", json={"url": "https://evil.example/v1"}, headers=world.key())
    assert error(answer, 400)["field"] == "credential"


def test_a_score_with_the_same_id_replaces(world: Any) -> None:
    url = f"/api/v1/traces/{world.ids['trace_id']}/scores"
    for value in (0.25, 0.75):
        body = {"name": "helpful", "value": value, "id": "mine"}
        assert world.client.post(url, json=body, headers=world.key()).status_code == 201
    found = world.client.get("/api/v1/scores?name=helpful", headers=world.key()).json()["items"]
    assert [score["value"] for score in found if score["id"] == "mine"] == [0.75]


def test_a_browser_needs_its_csrf_token(world: Any) -> None:
    people = world.platform.people
    account, link = people.add(world.principal(), "grace", "admin")
    signed = people.sign_in_link(link.reveal())
    cookies = {"cookie": f"{COOKIE}={signed.cookie.reveal()}"}
    assert world.client.get("/api/v1/keys", headers=cookies).status_code == 200
    body = {"name": "from the console"}
    assert error(world.client.post("/api/v1/keys", json=body, headers=cookies), 403)["code"] == "forbidden"
    wrong = {**cookies, "x-csrf-token": "x" * 43}
    assert world.client.post("/api/v1/keys", json=body, headers=wrong).status_code == 403
    good = {**cookies, "x-csrf-token": signed.session.csrf}
    made = world.client.post("/api/v1/keys", json=body, headers=good)
    assert made.status_code == 201
    assert made.json()["issuer"] == f"user:{account.id}"


def test_secrets_are_in_no_answer(world: Any) -> None:
    headers = world.key()
    for method, path, _need in calls.guarded():
        if method == "GET":
            text = world.client.get(calls.url(path, world.ids), headers=headers).text
            assert "sk-acme-1" not in text, path
            assert "$argon2" not in text, path


def test_otlp_json_gzip_and_refusals(world: Any) -> None:
    span = {
        "traceId": "c" * 32,
        "spanId": "d" * 16,
        "name": "look up",
        "startTimeUnixNano": str(world.platform.clock.now()),
        "endTimeUnixNano": str(world.platform.clock.now() + 5_000_000),
        "attributes": [{"key": "input.value", "value": {"stringValue": '{"order": 7}'}}],
    }
    good = {"resourceSpans": [{"scopeSpans": [{"spans": [span, {**span, "spanId": "short"}]}]}]}
    headers = {**world.key(Permission.TRACES_WRITE), "content-type": "application/json", "content-encoding": "gzip"}
    answer = world.client.post("/v1/traces", content=gzip.compress(json.dumps(good).encode()), headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.json()["partialSuccess"]["rejectedSpans"]) == 1
    read = world.client.get(f"/api/v1/traces/{'c' * 32}", headers=world.key()).json()
    assert [(s["name"], s["input"], s["duration_ms"]) for s in read["spans"]] == [("look up", {"order": 7}, 5.0)]
    for body, kind in ((b"{", "application/json"), (b"\xff\xff", "application/x-protobuf"), (b"{}", "text/plain")):
        headers = {**world.key(), "content-type": kind}
        assert world.client.post("/v1/traces", content=body, headers=headers).status_code in {400, 415}, kind
    bomb = gzip.compress(b"\0" * (64 * 1024 * 1024 + 1))
    headers = {**world.key(), "content-type": "application/json", "content-encoding": "gzip"}
    assert error(world.client.post("/v1/traces", content=bomb, headers=headers), 413)["code"] == "too_large"


def test_probes_and_the_document_need_no_key(world: Any) -> None:
    assert world.client.get("/healthz").status_code == 200
    assert world.client.get("/readyz").json() == {"status": "ready"}
    first = world.client.get("/api/openapi.json")
    again = world.client.get("/api/openapi.json", headers={"if-none-match": first.headers["etag"]})
    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")

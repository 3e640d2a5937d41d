"""Each noun of the API through its life."""

from __future__ import annotations

from typing import Any


def test_keys(world: Any) -> None:
    api, headers = world.client, world.key()
    made = api.post(
        "/api/v1/keys", json={"name": "ci", "routes": ["support"], "expires": "2027-01-01"}, headers=headers
    )
    assert made.status_code == 201
    key = made.json()
    assert key["key"].startswith("dtk_")
    assert key["expires"] == "2027-01-01T00:00:00.000Z"
    shown = api.get(f"/api/v1/keys/{key['id']}", headers=headers).json()
    assert shown == {name: value for name, value in key.items() if name != "key"}
    assert api.delete(f"/api/v1/keys/{key['id']}?reason=done", headers=headers).json()["state"] == "revoked"
    live = {item["id"] for item in api.get("/api/v1/keys", headers=headers).json()["items"]}
    every = {item["id"] for item in api.get("/api/v1/keys?all=true", headers=headers).json()["items"]}
    assert key["id"] in every - live
    assert api.delete("/api/v1/keys/test", headers=headers).status_code == 404


def test_providers_routes_prices(world: Any) -> None:
    api, headers = world.client, world.key(project="life")
    url = "https://models.example/v1"
    saved = api.put("/api/v1/providers/mine", json={"url": url, "credential": "sk-1"}, headers=headers).json()
    assert saved == {
        "name": "mine", "url": url, "dialect": "openai", "flavour": "", "region": "", "api_version": "",
        "max_concurrency": 0, "has_credential": True, "allow_private": False, "changed": saved["changed"],
    }  # fmt: skip
    targets = [{"provider": "mine", "model": "org/large"}]
    assert api.post("/api/v1/routes", json={"name": "bot", "targets": targets}, headers=headers).status_code == 201
    price = {"input": "0.5", "output": "1.25", "cached_input": "0.05"}
    assert api.put("/api/v1/prices/mine/org/large", json=price, headers=headers).status_code == 200
    models = {(m["provider"], m["model"]): m for m in api.get("/api/v1/models", headers=headers).json()["items"]}
    assert models["mine", "org/large"] == {
        "provider": "mine", "model": "org/large", "routes": ["bot"], "price_source": "own",
        "price": {
            "input": 0.5, "output": 1.25, "cached_input": 0.05, "cache_write": None, "reasoning": None,
            "audio_input": None, "audio_output": None, "image_input": None, "image_output": 0.0, "request": 0.0,
            "long": None,
        },
    }  # fmt: skip
    assert models["embedded", "detent-tiny"]["price_source"] == "built in"
    assert api.delete("/api/v1/providers/mine", headers=headers).status_code == 409
    assert api.delete("/api/v1/routes/bot", headers=headers).json() == {"removed": "bot"}
    assert api.delete("/api/v1/providers/mine", headers=headers).json() == {"removed": "mine"}


def test_prices_by_date(world: Any) -> None:
    api, headers = world.client, world.key(project="dated")
    path = "/api/v1/prices/mine/org/large"
    coming = {"input": "2", "output": "3", "request": "0.01", "effective": "2999-01-01T00:00:00Z"}
    coming["long"] = {"above": 1000, "input": "4", "output": "6"}
    assert api.put(path, json={"input": "1", "output": "2"}, headers=headers).status_code == 200
    saved = api.put(path, json=coming, headers=headers)
    assert saved.status_code == 400
    coming["effective"] = "2199-01-01T00:00:00Z"
    saved = api.put(path, json=coming, headers=headers).json()
    assert saved["price"]["input"] == 1.0
    assert [entry["price"]["input"] for entry in saved["history"]] == [1.0, 2.0]
    assert saved["history"][1]["effective"] == "2199-01-01T00:00:00.000Z"
    assert saved["history"][1]["price"]["long"]["output"] == 6.0
    assert api.get("/api/v1/prices", headers=headers).json()["items"] == [saved]
    gone = api.delete(f"{path}?effective={saved['history'][0]['effective']}", headers=headers)
    assert gone.json() == {"removed": "mine/org/large"}
    assert api.get("/api/v1/prices", headers=headers).json()["items"][0]["price"] is None
    assert api.delete(f"{path}?effective=2026-01-01", headers=headers).status_code == 404
    assert api.delete(path, headers=headers).status_code == 200
    assert api.get("/api/v1/prices", headers=headers).json()["items"] == []
    assert api.put(path, json={**coming, "effective": "soon"}, headers=headers).status_code == 400


def test_a_recalculation_is_a_job_of_the_project(world: Any) -> None:
    api, headers = world.client, world.key(project="dated")
    body = {"since": "2026-01-01", "until": "2026-01-02", "model": "large", "dry_run": True}
    job = api.post("/api/v1/prices/recalculate", json=body, headers=headers)
    assert job.status_code == 201
    assert job.json()["name"] == "prices.recalculate"
    assert api.get(f"/api/v1/jobs/{job.json()['id']}", headers=headers).json()["arguments"]["model"] == "large"
    backwards = {"since": "2026-01-02", "until": "2026-01-01"}
    assert api.post("/api/v1/prices/recalculate", json=backwards, headers=headers).status_code == 400


def test_traces(world: Any) -> None:
    api, headers = world.client, world.key()
    found = api.get("/api/v1/traces?route=support&min_duration_ms=500&since=1h", headers=headers).json()
    assert [(t["trace_id"], t["cost_usd"], t["duration_ms"]) for t in found["items"]] == [("a" * 32, 0.00008, 1000.0)]
    assert api.get("/api/v1/traces?text=parcel", headers=headers).json()["items"][0]["trace_id"] == "a" * 32
    assert api.get("/api/v1/traces?model=other", headers=headers).json() == {"items": [], "after": None}
    detail = api.get(f"/api/v1/traces/{'a' * 32}", headers=headers).json()
    assert detail["spans"][0]["input"] == [{"role": "user", "content": "Where is my parcel?"}]
    assert api.get("/api/v1/values/route", headers=headers).json()["items"] == ["support"]
    rows = api.get("/api/v1/metrics?group_by=model&since=48h", headers=headers).json()["items"]
    assert [(row["group"], row["requests"], row["cost_usd"]) for row in rows] == [({"model": "large"}, 1, 0.00008)]


def test_jobs(world: Any) -> None:
    api, headers = world.client, world.key()
    body = {"name": "blobs.fsck", "id": "mine-1"}
    first = api.post("/api/v1/jobs", json=body, headers=headers)
    assert first.status_code == 201
    assert api.post("/api/v1/jobs", json=body, headers=headers).json()["id"] == "mine-1"
    assert api.post("/api/v1/jobs/mine-1/cancel", headers=headers).json()["state"] == "cancelled"
    assert "mine-1" in {job["id"] for job in api.get("/api/v1/jobs?state=cancelled", headers=headers).json()["items"]}
    assert api.post("/api/v1/jobs", json={"name": "no.such"}, headers=headers).status_code == 404


def test_audit(world: Any) -> None:
    api, headers = world.client, world.key()
    first = api.get("/api/v1/audit/facts?limit=2&oldest_first=true", headers=headers).json()
    assert [fact["position"] for fact in first["items"]] == [1, 2]
    then = api.get(f"/api/v1/audit/facts?limit=2&oldest_first=true&after={first['after']}", headers=headers).json()
    assert then["items"][0]["position"] > 2
    signed = api.post("/api/v1/audit/checkpoint", headers=headers)
    assert signed.status_code == 201
    verified = api.post("/api/v1/audit/verify", headers=headers).json()
    assert (verified["ok"], verified["findings"]) == (True, [])
    assert verified["checkpoint"]["size"] == signed.json()["size"]
    assert not any(api.post("/api/v1/audit/rebuild", headers=headers).json()["differed"].values())


def test_users(world: Any) -> None:
    api, headers = world.client, world.key()
    made = api.post("/api/v1/users", json={"name": "linus", "role": "engineer"}, headers=headers).json()
    assert made["link"].startswith("http://127.0.0.1:7401/login?token=")
    path = f"/api/v1/users/{made['id']}"
    assert api.patch(path, json={"role": "reviewer"}, headers=headers).json()["role"] == "reviewer"
    assert api.put(f"{path}/password", json={"password": "correct horse battery"}, headers=headers).status_code == 200
    assert api.put(f"{path}/password", json={"password": "short"}, headers=headers).status_code == 400
    assert api.patch(path, json={"disabled": True}, headers=headers).json()["disabled"] is True
    assert api.patch(path, json={}, headers=headers).status_code == 400
    assert api.delete(path, headers=headers).json() == {"removed": made["id"]}
    assert api.get(path, headers=headers).status_code == 404


def test_installation(world: Any) -> None:
    api, headers = world.client, world.key()
    status = api.get("/api/v1/status", headers=headers).json()
    assert status["ledger"]["kind"] == "sqlite"
    assert status["parts"] == []
    settings = {item["name"]: item["value"] for item in api.get("/api/v1/settings", headers=headers).json()["items"]}
    assert settings["gateway.port"] == 7400
    assert api.post("/api/v1/blobs/fsck", headers=headers).json() == {"ok": True, "damage": []}


def test_a_route_is_given_back_as_it_was_put(world: Any) -> None:
    api, headers = world.client, world.key(project="rules")
    body = {
        "targets": [
            {"provider": "embedded", "model": "a", "weight": 3},
            {"provider": "embedded", "model": "b", "weight": 1},
        ],
        "policy": "weighted",
        "fallbacks": [{"route": "detent-tiny", "on": ["rate_limited"]}],
        "retry": {"attempts": 3, "backoff_ms": 250, "budget": 0.1},
        "breaker": {
            "error_rate": 0.3, "slow_rate": 0.5, "slow_seconds": 4.0, "min_calls": 20, "window_seconds": 60.0,
            "open_seconds": 10.0, "probes": 3,
        },
        "hedge": {"quantile": 0.95, "max_extra": 0.02},
        "timeouts": {"connect": 2.0, "first_token": 20.0, "idle": 10.0, "total": 300.0},
        "queue": {"deadline_ms": 2000, "pace_ms": 60, "length": 10, "order": "fifo"},
        "sticky": "session",
        "shadow": {"route": "detent-tiny", "share": 0.1, "daily_usd": "5"},
        "cache": {"mode": "exact", "ttl_seconds": 7200, "threshold": 0.97},
        "priority": "batch",
    }  # fmt: skip
    answer = api.put("/api/v1/routes/bot", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    found = api.get("/api/v1/routes/bot", headers=headers)
    assert {name: found.json()[name] for name in body} == body
    assert found.json() == answer.json()
    bare = api.put("/api/v1/routes/bot", json={"targets": body["targets"]}, headers=headers).json()
    assert (bare["policy"], bare["shadow"], bare["fallbacks"]) == ("ordered", None, [])
    wrong = api.put("/api/v1/routes/bot", json={**body, "retry": {"attempts": 99}}, headers=headers)
    assert (wrong.status_code, wrong.json()["error"]["field"]) == (400, "retry.attempts")
    wrong = api.put("/api/v1/routes/bot", json={**body, "shadow": {"route": "bot"}}, headers=headers)
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (409, "conflict")


def test_limits_budgets_weights(world: Any) -> None:
    api, headers = world.client, world.key(project="money")
    limit = {"scope": "user", "subject": "", "unit": "requests", "amount": 5, "window_seconds": 60}
    saved = api.post("/api/v1/limits", json={"name": "l", **limit}, headers=headers)
    assert saved.status_code == 201
    assert saved.json() == {"name": "l", **limit, "changed": saved.json()["changed"]}
    assert api.post("/api/v1/limits", json={"name": "l", **limit}, headers=headers).status_code == 409
    assert api.get("/api/v1/limits", headers=headers).json()["items"] == [saved.json()]
    budget = {"scope": "project", "subject": "", "usd": "12.5", "period": "day", "alerts": [50], "hard": False}
    saved = api.post("/api/v1/budgets", json={"name": "b", **budget}, headers=headers)
    assert saved.json() == {"name": "b", **budget, "changed": saved.json()["changed"]}
    assert api.get("/api/v1/budgets/b", headers=headers).json() == saved.json()
    for name, wrong, field in (
        ("usd", "much", "usd"), ("usd", "0", "usd"), ("alerts", [0], "alerts.0"), ("scope", "team", "scope"),
        ("subject", "x", "subject"),
    ):  # fmt: skip
        answer = api.put("/api/v1/budgets/b", json={**budget, name: wrong}, headers=headers)
        assert (answer.status_code, answer.json()["error"]["field"]) == (400, field)
    assert api.delete("/api/v1/limits/l", headers=headers).json() == {"removed": "l"}
    assert api.delete("/api/v1/budgets/b", headers=headers).json() == {"removed": "b"}
    assert api.get("/api/v1/limits/l", headers=headers).status_code == 404
    assert api.put("/api/v1/weights/money", json={"weight": 2}, headers=headers).status_code == 403
    assert api.put("/api/v1/weights/money", json={"weight": 2}, headers=world.key()).json()["weight"] == 2
    assert [w["project"] for w in api.get("/api/v1/weights", headers=world.key()).json()["items"]] == ["money"]


def test_a_change_meanwhile_is_a_conflict(world: Any) -> None:
    api, headers = world.client, world.key(project="tags")
    targets = [{"provider": "embedded", "model": "a"}]
    bodies = {
        "providers": {"url": "https://x.example/v1"},
        "routes": {"targets": targets},
        "limits": {"scope": "project", "unit": "requests", "amount": 5},
        "budgets": {"scope": "project", "usd": "5"},
    }
    for noun, body in bodies.items():
        path = f"/api/v1/{noun}/x"
        assert api.put(path, json=body, headers=headers).status_code == 200
        first = api.get(path, headers=headers).headers["etag"]
        changed = api.put(path, json=body, headers={**headers, "if-match": first})
        assert changed.status_code == 200
        second = api.get(path, headers=headers).headers["etag"]
        assert second == changed.headers["etag"] != first
        for late in (
            api.put(path, json=body, headers={**headers, "if-match": first}),
            api.delete(path, headers={**headers, "if-match": first}),
        ):
            assert (late.status_code, late.json()["error"]["code"]) == (409, "conflict")
        for wrong in ("3", '"x"', '"' + "9" * 40 + '"'):
            late = api.put(path, json=body, headers={**headers, "if-match": wrong})
            assert (late.status_code, late.json()["error"]["field"]) == (400, "if-match")
        assert api.put(path, json=body, headers={**headers, "if-match": "*"}).status_code == 200
        last = api.get(path, headers=headers).headers["etag"]
        assert api.delete(path, headers={**headers, "if-match": f"W/{last}"}).status_code == 200


def test_plan_and_apply(world: Any) -> None:
    api, headers = world.client, world.key(project="plans")
    document = {
        "providers": {"acme": {"url": "https://api.acme.example/v1", "credential_env": "PATH"}},
        "routes": {"bot": {"targets": [{"provider": "acme", "model": "large", "weight": 2}], "policy": "weighted"}},
        "budgets": {"team": {"scope": "project", "usd": "5"}},
    }
    plan = api.post("/api/v1/gateway/plan", json={"document": document, "since": "24h"}, headers=headers)
    assert plan.status_code == 200, plan.text
    assert [(c["noun"], c["name"], c["action"]) for c in plan.json()["changes"]] == [
        ("provider", "acme", "added"), ("route", "bot", "added"), ("budget", "team", "added"),
    ]  # fmt: skip
    assert plan.json()["dry_run"]["calls"] == 0
    # The server's own environment is nobody's credential.
    refused = api.post("/api/v1/gateway/apply", json={"document": document}, headers=headers)
    assert (refused.status_code, refused.json()["error"]["field"]) == (400, "providers.acme.credential_env")
    given = {"document": document, "credentials": {"acme": "sk-acme-9"}}
    plan = api.post("/api/v1/gateway/plan", json=given, headers=headers).json()
    moved = api.post("/api/v1/gateway/apply", json={**given, "expect": "sha256:" + "0" * 64}, headers=headers)
    assert (moved.status_code, moved.json()["error"]["code"]) == (409, "conflict")
    applied = api.post("/api/v1/gateway/apply", json={**given, "expect": plan["digest"]}, headers=headers)
    assert applied.json() == plan
    assert api.get("/api/v1/providers/acme", headers=headers).json()["has_credential"] is True
    toml = api.get("/api/v1/gateway/configuration", headers=headers).json()["toml"]
    assert "sk-acme" not in toml
    assert api.post("/api/v1/gateway/plan", json={"toml": toml}, headers=headers).json()["changes"] == []
    for body, field in (
        ({}, "toml"), ({"toml": "x", "document": {}}, "toml"), ({"toml": "x = ["}, "toml"),
        ({"document": {"routes": {"bot": {"targets": ["p/m"], "retry": {"attempt": 2}}}}},
         "document.routes.bot.retry.attempt"),
        ({"document": {}, "since": "later"}, "since"),
    ):  # fmt: skip
        answer = api.post("/api/v1/gateway/plan", json=body, headers=headers)
        assert (answer.status_code, answer.json()["error"]["field"]) == (400, field), answer.text

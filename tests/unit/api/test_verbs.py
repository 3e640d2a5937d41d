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
        "name": "mine", "url": url, "dialect": "openai", "has_credential": True, "allow_private": False,
        "changed": saved["changed"],
    }  # fmt: skip
    targets = [{"provider": "mine", "model": "org/large"}]
    assert api.post("/api/v1/routes", json={"name": "bot", "targets": targets}, headers=headers).status_code == 201
    price = {"input": "0.5", "output": "1.25", "cached_input": "0.05"}
    assert api.put("/api/v1/prices/mine/org/large", json=price, headers=headers).status_code == 200
    models = {(m["provider"], m["model"]): m for m in api.get("/api/v1/models", headers=headers).json()["items"]}
    assert models["mine", "org/large"] == {
        "provider": "mine", "model": "org/large", "routes": ["bot"], "price_source": "own",
        "price": {"input": 0.5, "output": 1.25, "cached_input": 0.05, "cache_write": None},
    }  # fmt: skip
    assert models["embedded", "detent-tiny"]["price_source"] == "built in"
    assert api.delete("/api/v1/providers/mine", headers=headers).status_code == 409
    assert api.delete("/api/v1/routes/bot", headers=headers).json() == {"removed": "bot"}
    assert api.delete("/api/v1/providers/mine", headers=headers).json() == {"removed": "mine"}


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

"""A valid call of every route, for the tests that walk the route table."""

from __future__ import annotations

from typing import Any

from detent.api.document import api_routes
from detent.app.http import GuardedRoute, Public, need_of
from detent.kernel.identity import Permission

BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/api/v1/keys"): {"name": "another"},
    ("POST", "/api/v1/providers"): {"name": "beta", "url": "https://beta.example/v1"},
    ("PUT", "/api/v1/providers/{name}"): {"url": "https://api.acme.example/v1"},
    ("POST", "/api/v1/routes"): {"name": "again", "targets": [{"provider": "embedded", "model": "detent-tiny"}]},
    ("PUT", "/api/v1/routes/{name}"): {"targets": [{"provider": "embedded", "model": "detent-tiny"}]},
    ("PUT", "/api/v1/prices/{provider}/{model:path}"): {"input": "1", "output": "2"},
    ("POST", "/api/v1/limits"): {"name": "slow", "scope": "key", "unit": "requests", "amount": 5},
    ("PUT", "/api/v1/limits/{name}"): {"scope": "key", "unit": "tokens", "amount": 5},
    ("POST", "/api/v1/budgets"): {"name": "cheap", "scope": "project", "usd": "5"},
    ("PUT", "/api/v1/budgets/{name}"): {"scope": "project", "usd": "5"},
    ("PUT", "/api/v1/weights/{project}"): {"weight": 3},
    ("POST", "/api/v1/gateway/plan"): {"toml": "version = 1", "keep": True, "since": "24h"},
    ("POST", "/api/v1/gateway/apply"): {"toml": "version = 1", "keep": True},
    ("POST", "/api/v1/prices/recalculate"): {"since": "7d", "dry_run": True},
    ("POST", "/api/v1/traces/{trace_id}/scores"): {"name": "helpful", "value": 0.5},
    ("POST", "/api/v1/jobs"): {"name": "blobs.fsck"},
    ("POST", "/api/v1/users"): {"name": "grace"},
    ("PATCH", "/api/v1/users/{id}"): {"role": "viewer"},
    ("PUT", "/api/v1/users/{id}/password"): {"password": "a long enough pass phrase"},
    ("POST", "/v1/traces"): {"resourceSpans": []},
    ("POST", "/v1/batches"): {"input_file_id": "file-x", "endpoint": "/v1/chat/completions"},
}
"""A body for each route that takes one."""

BODILESS = {
    ("DELETE", "/api/v1/keys/{id}"),
    ("DELETE", "/api/v1/providers/{name}"),
    ("DELETE", "/api/v1/prices/{provider}/{model:path}"),
    ("DELETE", "/api/v1/routes/{name}"),
    ("DELETE", "/api/v1/cache"),
    ("DELETE", "/api/v1/limits/{name}"),
    ("DELETE", "/api/v1/budgets/{name}"),
    ("DELETE", "/api/v1/users/{id}"),
    ("POST", "/api/v1/jobs/{id}/cancel"),
    ("POST", "/api/v1/jobs/{id}/resume"),
    ("POST", "/api/v1/users/{id}/link"),
    ("POST", "/api/v1/audit/verify"),
    ("POST", "/api/v1/audit/checkpoint"),
    ("POST", "/api/v1/audit/rebuild"),
    ("POST", "/api/v1/blobs/fsck"),
    ("POST", "/v1/files"),
    ("DELETE", "/v1/files/{file_id}"),
    ("POST", "/v1/batches/{batch_id}/cancel"),
}


def table() -> list[tuple[str, str, Permission | Public]]:
    """(method, path, need) of every route."""
    found = []
    for route in api_routes():
        assert isinstance(route, GuardedRoute)
        need = need_of(route.endpoint, route.path)
        found += [(method, route.path, need) for method in sorted(route.methods or ())]
    return sorted(found, key=lambda entry: (entry[1], entry[0]))


def guarded() -> list[tuple[str, str, Permission]]:
    """The routes that take a permission."""
    return [(method, path, need) for method, path, need in table() if isinstance(need, Permission)]


def url(path: str, ids: dict[str, str]) -> str:
    """The path with its parameters filled in."""
    noun = path.removeprefix("/api/v1/").partition("/")[0]
    own = {"keys": ids["key"], "jobs": ids["job"], "users": ids["user"]}.get(noun, "x")
    name = ids[{"routes": "route", "limits": "limit", "budgets": "budget"}.get(noun, "name")]
    return (
        path.replace("{id}", own)
        .replace("{name}", name)
        .replace("{provider}", "acme")
        .replace("{project}", "default")
        .replace("{model:path}", "large")
        .replace("{trace_id}", ids["trace_id"])
        .replace("{field}", "model")
        .replace("{file_id}", ids["file"])
        .replace("{batch_id}", ids["batch"])
    )

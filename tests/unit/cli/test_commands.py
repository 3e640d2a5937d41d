"""Each noun through its life, and how commands end."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detent.app.platform import open_platform
from detent.gateway.batches.facts import BatchEnded
from detent.gateway.cache import Answer, AnswerCache, Question, Wish
from detent.gateway.model import CachePolicy
from detent.kernel.clock import SECOND, FixedClock
from detent.kernel.facts import Draft
from detent.kernel.settings import Settings
from detent.kernel.telemetry import Batch, Span

Detent = Callable[..., Any]
TRACE = "a" * 32


def items(ran: Any) -> list[Any]:
    assert ran.code == 0, ran.err
    return list(json.loads(ran.out)["items"])


@pytest.fixture
def traced(detent: Detent, home: Path, clock: FixedClock) -> Detent:
    """A home that holds a trace."""
    with open_platform(Settings(home=str(home)), clock=clock) as platform:
        start = clock.now()
        span = Span(
            trace_id=TRACE, span_id="b" * 16, name="chat support", operation="chat", start=start, end=start + SECOND,
            request_model="large", provider="acme", route="support", input_tokens=12, output_tokens=34, cost=80_000,
            input='[{"role":"user","content":"Where is my parcel?\\u001b[2J"}]',
            output='{"role":"assistant","content":"On its way."}',
        )  # fmt: skip
        child = Span(
            trace_id=TRACE,
            span_id="c" * 16,
            parent_id="b" * 16,
            name="look up",
            start=start + 1,
            end=start + SECOND // 2,
        )
        platform.traces.write(platform.access.operator(), Batch((span, child)))
    return detent


def test_keys(detent: Detent) -> None:
    made = detent("keys", "create", "--name", "bot", "--json")
    assert (made.code, made.err) == (0, "")
    key = json.loads(made.out)
    assert key["key"].startswith("dtk_")
    plain = detent("keys", "create", "--name", "ci", "--allow", "traces:read", "--route", "support", "--expires", "30d")
    assert plain.out.startswith("dtk_")
    assert len(plain.out.splitlines()) == 1
    assert "not shown again" in plain.err
    assert {item["name"] for item in items(detent("keys", "list", "--json"))} == {"bot", "ci"}
    assert detent("keys", "revoke", "bot", "--reason", "lost").out.strip() == key["id"]
    assert [i["name"] for i in items(detent("keys", "list", "--json"))] == ["ci"]
    states = {i["name"]: i["state"] for i in items(detent("keys", "list", "--all", "--json"))}
    assert states == {"bot": "revoked", "ci": "live"}
    log = items(detent("audit", "log", "--kind", "key.revoked", "--json"))
    assert [(fact["stream"], fact["reason"]) for fact in log] == [(f"key/{key['id']}", "lost")]
    stored = json.dumps(items(detent("audit", "log", "--json")))
    assert key["key"] not in stored


def test_providers_and_routes(detent: Detent, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = detent("providers", "add", "acme", "--url", "https://api.acme.example/v1", "--key-env", "ACME_KEY")
    assert missing.code == 2
    assert "ACME_KEY" in missing.err
    monkeypatch.setenv("ACME_KEY", "sk-acme-secret")
    added = detent("providers", "add", "acme", "--url", "https://api.acme.example/v1", "--key-env", "ACME_KEY")
    assert (added.code, added.out) == (0, "acme\n")
    again = detent("providers", "add", "acme", "--url", "https://api.acme.example/v1")
    assert again.code == 5
    assert "--replace" in again.err
    assert detent("providers", "add", "acme", "--url", "https://api.acme.example/v1", "--replace").code == 0
    listed = detent("providers", "list", "--json")
    assert items(listed)[0]["has_credential"] is True
    assert detent("routes", "add", "bot", "--to", "acme/large=3", "--to", "embedded/detent-tiny").code == 0
    routes = {route["name"]: route["targets"] for route in items(detent("routes", "list", "--json"))}
    assert routes["bot"][0] == {"provider": "acme", "model": "large", "weight": 3}
    assert detent("routes", "add", "x", "--to", "nobody/large").code == 3
    assert detent("routes", "add", "x", "--to", "nonsense").code == 2
    assert detent("models", "price", "acme/large", "--input", "0.5", "--output", "1.25").code == 0
    models = {(m["provider"], m["model"]): m for m in items(detent("models", "list", "--json"))}
    assert models["acme", "large"]["price"]["output"] == 1.25
    assert detent("providers", "remove", "acme").code == 5
    assert detent("routes", "remove", "bot").code == 0
    assert detent("providers", "remove", "acme").code == 0
    said = "".join(listed) if isinstance(listed, str) else listed.out + listed.err + added.out + added.err
    assert "sk-acme-secret" not in said


def test_files_and_batches(detent: Detent, home: Path, tmp_path: Path, clock: FixedClock) -> None:
    file = tmp_path / "calls.jsonl"
    body = {"model": "m", "messages": []}
    call = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    file.write_text(json.dumps(call))
    stored = json.loads(detent("files", "upload", str(file), "--json").out)
    assert (stored["filename"], stored["purpose"], stored["bytes"]) == ("calls.jsonl", "batch", file.stat().st_size)
    assert detent("files", "download", stored["id"]).out == file.read_text()
    copy = tmp_path / "copy.jsonl"
    assert detent("files", "download", stored["id"], "--out", str(copy)).code == 0
    assert copy.read_text() == file.read_text()
    made = json.loads(detent("batches", "submit", stored["id"], "--metadata", "team=search", "--json").out)
    assert (made["status"], made["input_file"], made["metadata"]) == ("validating", stored["id"], {"team": "search"})
    assert "start `detent up`" in detent("batches", "submit", str(file)).err
    assert len(items(detent("files", "list", "--purpose", "batch", "--json"))) == 2
    assert detent("files", "remove", stored["id"]).code == 5
    assert detent("batches", "cancel", made["id"]).code == 0
    listed = {item["id"]: item["status"] for item in items(detent("batches", "list", "--json"))}
    assert (len(listed), listed[made["id"]]) == (2, "cancelling")
    assert [i["id"] for i in items(detent("batches", "list", "--status", "cancelling", "--json"))] == [made["id"]]
    ended = BatchEnded(status="failed", problem="Line 1 is bad.")
    with open_platform(Settings(home=str(home)), clock=clock) as platform:
        caller = platform.access.operator()
        platform.ledger.append([Draft(f"batch/{made['id']}", ended)], actor=caller.actor, project=caller.project)
    waited = detent("batches", "show", made["id"], "--wait", "--json")
    assert (waited.code, json.loads(waited.out)["problem"]) == (1, "Line 1 is bad.")
    assert detent("batches", "cancel", made["id"]).code == 5
    assert detent("files", "remove", stored["id"]).code == 0
    for wrong, code in (
        (("files", "upload", str(tmp_path / "none")), 2),
        (("files", "upload", str(tmp_path)), 2),
        (("files", "download", "file-none"), 3),
        (("batches", "submit", "file-none"), 3),
        (("batches", "submit", str(tmp_path / "none")), 2),
        (("batches", "submit", str(file), "--window", "soon"), 2),
        (("batches", "show", "batch_none"), 3),
    ):
        assert detent(*wrong).code == code, wrong


def test_prices(detent: Detent) -> None:
    assert detent("prices", "set", "acme/large", "--input", "1", "--output", "2").code == 0
    long = ("--long-above", "1000", "--long", "input=4", "--long", "output=8", "--long", "cached-input=0.5")
    coming = ("--effective", "2199-01-01", "--input", "2", "--output", "4", "--request", "0.01", *long)
    assert "from 2199-01-01T00:00:00.000Z on" in detent("prices", "set", "acme/large", *coming).err
    (listed,) = items(detent("prices", "list", "--json"))
    assert [entry["price"]["input"] for entry in listed["history"]] == [1.0, 2.0]
    assert "2199-01-01" in detent("prices", "list").out
    shown = items(detent("prices", "show", "acme/large", "--json"))
    assert [(entry["price"]["input"], entry["price_source"]) for entry in shown] == [(1.0, "own"), (2.0, "own")]
    assert "above 1000: 4 / 8" in detent("prices", "show", "acme/large").out
    assert "2027-01-01" in detent("prices", "show", "google/gemini-3.8-flash").out
    assert detent("prices", "set", "acme/large", "--shipped", "--effective", "2198-01-01").code == 0
    assert "unpriced" in detent("prices", "show", "acme/large").out
    assert "recalculate" in detent("prices", "set", "acme/large", *coming, "--effective", "2020-01-01").err
    assert detent("prices", "remove", "acme/large", "--effective", "2199-01-01", "--reason", "a mistake").code == 0
    assert detent("prices", "remove", "acme/large", "--effective", "2199-01-01").code == 3
    assert detent("prices", "remove", "acme/large").code == 0
    assert items(detent("prices", "list", "--json")) == []
    for wrong in (
        ("--input", "1"),
        ("--input", "1", "--output", "1", "--shipped"),
        ("--input", "1", "--output", "1", "--long", "input=2"),
        (
            "--input",
            "1",
            "--output",
            "1",
            "--long-above",
            "9",
            "--long",
            "input=1",
            "--long",
            "output=2",
            "--long",
            "x=1",
        ),
    ):
        assert detent("prices", "set", "acme/large", *wrong).code == 2


def test_the_cache_is_cleared(detent: Detent, home: Path) -> None:
    asked = Question("default", "r", 1, "openai", b"{}")
    cache, policy = AnswerCache(home / "cache"), CachePolicy("exact")
    assert cache.keep(cache.look(asked, policy, Wish(), 1), Answer("t", (b"x",)), 1)
    assert cache.look(asked, policy, Wish(), 2).hit is not None
    assert detent("cache", "clear", "--reason", "stale").code == 0
    assert cache.look(asked, policy, Wish(), 2).hit is None
    (fact,) = items(detent("audit", "log", "--kind", "cache.cleared", "--json"))
    assert fact["reason"] == "stale"


def test_a_recalculation_is_queued(detent: Detent) -> None:
    queued = detent("prices", "recalculate", "--from", "2026-01-01", "--model", "large", "--dry-run", "--json")
    job = json.loads(queued.out)
    assert (job["name"], job["arguments"]["dry_run"]) == ("prices.recalculate", True)
    assert detent("prices", "recalculate", "--from", "2026-01-02", "--to", "2026-01-01").code == 2


def test_traces(traced: Detent, tmp_path: Path) -> None:
    assert [t["trace_id"] for t in items(traced("traces", "list", "--json"))] == [TRACE]
    assert items(traced("traces", "list", "--json", "--route", "other")) == []
    assert items(traced("traces", "list", "--json", "--since", "2026-01-01", "--min-duration", "500ms"))
    assert items(traced("traces", "search", "parcel", "--json"))
    assert items(traced("traces", "search", "nowhere", "--json")) == []
    assert traced("traces", "search", " ").code == 2
    rated = traced("traces", "rate", TRACE, "--up", "--comment", "well said", "--json")
    assert json.loads(rated.out)["value"] is True
    assert json.loads(traced("traces", "rate", TRACE, "--name", "tone", "--value", "0.5", "--json").out)["value"] == 0.5
    assert traced("traces", "rate", TRACE).code == 2
    assert traced("traces", "rate", TRACE, "--up", "--value", "1").code == 2
    assert traced("traces", "rate", "f" * 32, "--up").code == 3
    shown = json.loads(traced("traces", "show", TRACE, "--json").out)
    assert shown["spans"][0]["output"]["content"] == "On its way."
    assert {score["name"] for score in shown["scores"]} == {"thumbs", "tone"}
    text = traced("traces", "show", TRACE).out
    assert "Where is my parcel?" in text
    assert "\x1b" not in text
    assert "parcel" not in traced("traces", "show", TRACE, "--no-content").out
    out = tmp_path / "spans.jsonl"
    assert traced("traces", "export", "--out", str(out)).code == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["name"] for line in lines] == ["chat support", "look up"]
    assert traced("traces", "export", "--no-content").out.count("parcel") == 0


def test_traces_tail(traced: Detent, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([None, None])

    def stop(_seconds: float) -> None:
        if next(looks, "over") == "over":
            raise KeyboardInterrupt

    monkeypatch.setattr("detent.cli.traces.time.sleep", stop)
    ran = traced("traces", "tail", "--since", "2026-01-01", "--json")
    assert ran.code == 0
    assert [json.loads(line)["trace_id"] for line in ran.out.splitlines()] == [TRACE]


def test_audit(detent: Detent, home: Path, tmp_path: Path) -> None:
    for number in range(3):
        detent("keys", "create", "--name", f"k{number}")
    first = json.loads(detent("audit", "log", "--limit", "2", "--json").out)
    assert [fact["position"] for fact in first["items"]] == [3, 2]
    assert [f["position"] for f in items(detent("audit", "log", "--after", first["after"], "--json"))] == [1]
    assert detent("audit", "checkpoint").code == 0
    verified = detent("audit", "verify", "--json")
    assert verified.code == 0
    assert json.loads(verified.out)["checkpoint"]["size"] == 3
    assert detent("audit", "rebuild").code == 0

    copy, signed = tmp_path / "copy.db", tmp_path / "signed.jsonl"
    with sqlite3.connect(home / "ledger.db") as source, sqlite3.connect(copy) as target:
        source.backup(target)
    shutil.copy(home / "checkpoints.jsonl", signed)
    assert detent("audit", "verify", "--copy", str(copy), "--checkpoints", str(signed)).code == 0
    with sqlite3.connect(copy) as database:
        database.execute("UPDATE facts SET content = replace(content, 'k1', 'k9') WHERE position = 2")
    bad = detent("audit", "verify", "--copy", str(copy), "--checkpoints", str(signed), "--json")
    assert bad.code == 6
    assert json.loads(bad.out)["findings"][0]["position"] == 2
    assert detent("audit", "verify", "--copy", str(copy), "--checkpoints", str(tmp_path / "none")).code == 3


def test_jobs(detent: Detent) -> None:
    started = detent("jobs", "start", "blobs.fsck", "--id", "mine", "--argument", "days=[1]", "--json")
    assert json.loads(started.out)["arguments"] == {"days": [1]}
    assert [job["id"] for job in items(detent("jobs", "list", "--json"))] == ["mine"]
    assert json.loads(detent("jobs", "show", "mine", "--json").out)["state"] == "queued"
    assert json.loads(detent("jobs", "cancel", "mine", "--json").out)["state"] == "cancelled"
    assert json.loads(detent("jobs", "resume", "mine", "--json").out)["state"] == "queued"
    assert detent("jobs", "show", "nobody").code == 3
    assert detent("jobs", "start", "no.such").code == 3


def test_blobs(detent: Detent, home: Path) -> None:
    assert detent("blobs", "fsck").code == 0
    with open_platform(Settings(home=str(home))) as platform:
        digest = platform.blobs.put(b"some bytes")
    stored = next(path for path in (home / "blobs").rglob("*") if path.is_file() and path.name in digest)
    stored.chmod(0o600)
    stored.write_bytes(b"other bytes")
    bad = detent("blobs", "fsck", "--json")
    assert bad.code == 6
    assert json.loads(bad.out)["damage"][0]["digest"] == digest


def test_users(detent: Detent, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    added = detent("users", "add", "ada", "--role", "engineer")
    assert added.out.startswith("http://127.0.0.1:7401/login?token=")
    assert detent("users", "add", "ada").code == 5
    assert detent("users", "link").out.startswith("http")
    assert detent("users", "role", "ada", "reviewer").code == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("correct horse battery staple\n"))
    assert detent("users", "password", "ada", "--stdin").code == 0
    assert detent("users", "disable", "ada").code == 0
    people = {user["name"]: user for user in items(detent("users", "list", "--json"))}
    assert (people["ada"]["role"], people["ada"]["disabled"]) == ("reviewer", True)
    assert "hash" not in json.dumps(people)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert detent("users", "erase", "ada").code == 130
    assert detent("users", "erase", "ada", "--yes").code == 0
    assert detent("users", "role", "ada", "viewer").code == 3


def test_settings(detent: Detent, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    (home / "detent.toml").write_text("[storage]\nretention_days = 7\n[gateway]\nworkers = 2\n")
    monkeypatch.setenv("DETENT_GATEWAY_PORT", "9000")
    shown = {item["name"]: item for item in items(detent("settings", "show", "--json"))}
    assert (shown["gateway.port"]["value"], shown["gateway.port"]["from"]) == (9000, "environment")
    assert (shown["storage.retention_days"]["value"], shown["storage.retention_days"]["from"]) == (7, "file")
    assert shown["log.level"]["from"] == "default"
    assert {i["name"] for i in items(detent("settings", "show", "retention", "--json"))} == {"storage.retention_days"}


def test_a_databases_password_is_not_shown(detent: Detent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETENT_STORAGE_LEDGER_URL", "postgresql://me:p4ss@db.example/x")
    for form in ((), ("--json",)):
        ran = detent("settings", "show", "ledger", *form)
        assert "p4ss" not in ran.out + ran.err
        assert "db.example" in ran.out


def test_status_and_doctor(detent: Detent) -> None:
    assert json.loads(detent("status", "--json").out)["parts"] == []
    report = json.loads(detent("doctor", "--json").out)
    assert {check["name"] for check in report["checks"]} >= {"home", "disk"}


def test_errors_say_what_and_what_next(detent: Detent) -> None:
    ran = detent("routes", "remove", "ghost")
    assert (ran.code, ran.out) == (3, "")
    assert ran.err.splitlines() == [
        "Error: There is no route 'ghost'. [not_found]",
        "  Next: List them with `detent routes list`.",
    ]
    as_json = detent("routes", "remove", "ghost", "--json")
    assert json.loads(as_json.err)["error"]["code"] == "not_found"
    assert as_json.out == ""


def test_usage_errors(detent: Detent) -> None:
    for arguments in (
        ("keys", "create"),
        ("keys", "nonsense"),
        ("nonsense",),
        ("traces", "list", "--limit", "0"),
        ("keys", "list", "--what"),
    ):
        ran = detent(*arguments)
        assert (ran.code, ran.out) == (2, ""), arguments
        assert "Error:" in ran.err
        assert "--help" in ran.err
        as_json = json.loads(detent(*arguments, "--json").err)
        assert as_json["error"]["code"] == "invalid_input"


def test_bad_settings_stop_it(detent: Detent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETENT_PORT", "lots")
    ran = detent("keys", "list")
    assert ran.code == 1
    assert "bad_settings" in ran.err


def test_routes_with_all_their_rules(detent: Detent) -> None:
    assert detent("routes", "add", "backup", "--to", "embedded/detent-tiny").code == 0
    made = detent(
        "routes", "add", "bot", "--to", "embedded/a=3", "--to", "embedded/b", "--policy", "weighted",
        "--fallback", "backup:rate_limited,timeout", "--fallback", "detent-tiny", "--retries", "2",
        "--backoff", "250ms", "--retry-budget", "0.1", "--sticky", "session", "--hedge", "0.95",
        "--hedge-extra", "0.02", "--timeout-connect", "2s", "--timeout-first-token", "20s", "--timeout-idle", "10s",
        "--timeout-total", "5m", "--breaker-errors", "0.3", "--breaker-slow", "0.5", "--slow-after", "4s",
        "--breaker-open", "10s", "--queue-deadline", "2s", "--queue-pace", "60ms", "--queue-length", "10",
        "--queue-order", "fifo",
        "--cache", "exact", "--ttl", "2h",
        "--shadow", "backup=0.1", "--shadow-usd", "5", "--priority", "batch", "--json",
    )  # fmt: skip
    assert made.code == 0, made.err
    route = json.loads(made.out)
    shown = json.loads(detent("routes", "show", "bot", "--json").out)
    assert shown == route
    route.pop("changed")
    assert route == {
        "name": "bot",
        "targets": [
            {"provider": "embedded", "model": "a", "weight": 3},
            {"provider": "embedded", "model": "b", "weight": 1},
        ],
        "policy": "weighted",
        "fallbacks": [{"route": "backup", "on": ["rate_limited", "timeout"]}, {"route": "detent-tiny", "on": []}],
        "retry": {"attempts": 3, "backoff_ms": 250, "budget": 0.1},
        "breaker": {
            "error_rate": 0.3, "slow_rate": 0.5, "slow_seconds": 4.0, "min_calls": 10, "window_seconds": 30.0,
            "open_seconds": 10.0, "probes": 2,
        },
        "hedge": {"quantile": 0.95, "max_extra": 0.02},
        "timeouts": {"connect": 2.0, "first_token": 20.0, "idle": 10.0, "total": 300.0},
        "queue": {"deadline_ms": 2000, "pace_ms": 60, "length": 10, "order": "fifo"},
        "sticky": "session",
        "shadow": {"route": "backup", "share": 0.1, "daily_usd": "5"},
        "cache": {"mode": "exact", "ttl_seconds": 7200, "threshold": 0.97},
        "priority": "batch",
        "built_in": False,
    }  # fmt: skip
    assert detent("routes", "remove", "backup").code == 5
    for wrong in (
        ("--fallback", "backup:bored"), ("--fallback", ":timeout"), ("--shadow", "backup=much"), ("--retries", "-1"),
        ("--retries", "99"), ("--policy", "random"), ("--hedge", "2"), ("--ttl", "soon"),
    ):  # fmt: skip
        ran = detent("routes", "add", "x", "--to", "embedded/a", "--to", "embedded/b", *wrong)
        assert ran.code == 2, wrong
    assert detent("routes", "add", "x", "--to", "embedded/a", "--fallback", "ghost").code == 3
    assert detent("routes", "show", "ghost").code == 3
    # Replacing says all of it.
    assert detent("routes", "add", "bot", "--to", "embedded/a", "--replace").code == 0
    assert json.loads(detent("routes", "show", "bot", "--json").out)["fallbacks"] == []
    assert detent("routes", "remove", "backup").code == 0


def test_providers_of_every_dialect(detent: Detent) -> None:
    assert detent("providers", "add", "claude", "--dialect", "anthropic", "--max-concurrency", "20").code == 0
    assert detent("providers", "add", "aws", "--dialect", "bedrock", "--region", "eu-central-1").code == 0
    found = {p["name"]: p for p in items(detent("providers", "list", "--json"))}
    assert (found["claude"]["url"], found["claude"]["max_concurrency"]) == ("https://api.anthropic.com", 20)
    assert found["aws"]["url"] == "https://bedrock-runtime.eu-central-1.amazonaws.com"
    assert detent("providers", "add", "x", "--dialect", "bedrock").code == 2
    unknown = detent("providers", "add", "x", "--flavour", "no-such")
    assert unknown.code == 2
    assert "openai" in unknown.err


def test_limits_budgets_and_weights(detent: Detent) -> None:
    made = detent("limits", "add", "per-key", "--scope", "key", "--tokens", "5000", "--per", "2m", "--json")
    assert made.code == 0, made.err
    assert detent("limits", "add", "calls", "--concurrency", "8").out == "calls\n"
    assert [(i["name"], i["unit"], i["window_seconds"]) for i in items(detent("limits", "list", "--json"))] == [
        ("calls", "concurrency", 0),
        ("per-key", "tokens", 120),
    ]
    assert detent("limits", "add", "calls", "--concurrency", "9").code == 5
    assert detent("limits", "add", "calls", "--concurrency", "9", "--replace").code == 0
    assert detent("limits", "add", "x").code == 2
    assert detent("limits", "add", "x", "--requests", "1", "--tokens", "1").code == 2
    assert detent("limits", "add", "x", "--requests", "1", "--per", "1500ms").code == 2
    assert detent("limits", "add", "x", "--requests", "1", "--scope", "key", "--subject", "ghost").code == 3
    assert detent("limits", "remove", "calls", "--reason", "too strict").code == 0
    assert detent("limits", "remove", "calls").code == 3
    made = detent(
        "budgets", "add", "team", "--usd", "100.50", "--per", "day", "--alert", "80", "--alert", "50", "--json"
    )
    budget = json.loads(made.out)
    assert (budget["usd"], budget["period"], budget["alerts"], budget["hard"]) == ("100.5", "day", [50, 80], True)
    assert items(detent("budgets", "list", "--json")) == [budget]
    assert detent("budgets", "add", "team", "--usd", "1").code == 5
    assert detent("budgets", "add", "team", "--usd", "1", "--soft", "--replace").code == 0
    assert detent("budgets", "add", "x", "--usd", "much").code == 2
    assert detent("budgets", "remove", "team").code == 0
    assert detent("weights", "set", "other", "3").out == "other 3\n"
    assert [(i["project"], i["weight"]) for i in items(detent("weights", "list", "--json"))] == [("other", 3)]
    assert detent("weights", "set", "other", "0").code == 2


CONFIGURATION = """
[providers.acme]
url = "https://api.acme.example/v1"
credential_env = "ACME_KEY"

[routes.bot]
targets = ["acme/large"]
retry = { attempts = 2 }

[limits.calm]
scope = "project"
unit = "requests"
amount = 2
"""


def test_the_configuration_as_a_file(detent: Detent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(CONFIGURATION)
    plan = detent("routes", "plan", str(file), "--json")
    assert plan.code == 0, plan.err
    assert json.loads(plan.out)["warnings"]
    assert detent("routes", "apply", str(file), "--yes").code == 2  # the credential is missing
    monkeypatch.setenv("ACME_KEY", "sk-acme-secret")
    assert detent("routes", "apply", str(file)).code == 2  # nobody is there to confirm
    planned = json.loads(detent("routes", "plan", str(file), "--json").out)
    applied = detent("routes", "apply", str(file), "--expect", planned["digest"], "--reason", "first", "--json")
    assert json.loads(applied.out) == planned
    again = detent("routes", "apply", str(file), "--expect", planned["digest"])
    assert again.code == 5
    assert detent("routes", "apply", str(file), "--yes").out.startswith("No changes")
    exported = detent("routes", "export").out
    other = tmp_path / "exported.toml"
    other.write_text(exported)
    assert json.loads(detent("routes", "plan", str(other), "--json").out)["changes"] == []
    other.write_text("version = 1")
    assert len(json.loads(detent("routes", "plan", str(other), "--json").out)["changes"]) == 3
    assert json.loads(detent("routes", "plan", str(other), "--keep", "--json").out)["changes"] == []
    assert "sk-acme" not in plan.out + applied.out + exported
    for wrong, code in ((tmp_path / "none.toml", 2), (tmp_path, 2)):
        assert detent("routes", "plan", str(wrong)).code == code
    other.write_text('["\\u001b[2J"]')
    hostile = detent("routes", "plan", str(other))
    assert (hostile.code, "\x1b" in hostile.err) == (2, False)
    other.write_bytes(b"\xff\xfe")
    assert detent("routes", "plan", str(other)).code == 2
    other.write_text("[routes.bot]\ntargets = ['ghost/m']")
    refused = detent("routes", "plan", str(other), "--json")
    assert json.loads(refused.err)["error"]["field"] == "routes.bot.targets"


def test_import_from_litellm(detent: Detent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        """
model_list:
  - model_name: Bot
    litellm_params: {model: openai/gpt-4o-mini, api_key: os.environ/BOT_KEY, rpm: 60}
  - model_name: own
    litellm_params: {model: openai/own, api_base: "https://own.example/v1", api_key: sk-in-the-file}
general_settings: {master_key: sk-master}
"""
    )
    assert detent("routes", "add", "mine", "--to", "embedded/detent-tiny").code == 0
    written = detent("import", "litellm", str(file))
    assert written.code == 0
    assert "[routes.bot]" in written.out
    assert "general_settings.master_key: Detent has no master key" in written.err
    tried = detent("import", "litellm", str(file), "--dry-run", "--json")
    assert {change["action"] for change in json.loads(tried.out)["plan"]["changes"]} == {"added"}
    assert detent("import", "litellm", str(file), "--apply", "--yes").code == 2  # BOT_KEY is not set
    monkeypatch.setenv("BOT_KEY", "sk-bot-secret")
    assert detent("import", "litellm", str(file), "--apply").code == 2  # nobody is there to confirm
    applied = detent("import", "litellm", str(file), "--apply", "--yes")
    assert applied.code == 0, applied.err
    assert {"bot", "own", "mine"} <= {route["name"] for route in items(detent("routes", "list", "--json"))}
    assert all(p["has_credential"] for p in items(detent("providers", "list", "--json")))
    again = detent("import", "litellm", str(file), "--apply", "--yes", "--json")
    assert json.loads(again.out)["plan"]["changes"] == []
    said = "".join(ran.out + ran.err for ran in (written, tried, applied, again))
    for secret in ("sk-in-the-file", "sk-master", "sk-bot-secret"):
        assert secret not in said
    assert detent("import", "litellm", str(file), "--apply", "--dry-run").code == 2
    file.write_text("model_list: [")
    assert detent("import", "litellm", str(file)).code == 2

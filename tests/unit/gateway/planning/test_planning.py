"""Export, plan, apply: exactly what was planned or nothing, and no secret in sight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detent.app.platform import Platform, open_platform
from detent.gateway.model import EMBEDDED, EMBEDDED_MODEL, Target
from detent.gateway.planning import service
from detent.gateway.planning.document import parse_toml, write_toml
from detent.gateway.snapshot import load
from detent.kernel.clock import HOUR, SECOND, FixedClock
from detent.kernel.errors import CallerError, Conflict, Forbidden, InvalidInput
from detent.kernel.identity import ROLES, Actor, Permission, Principal
from detent.kernel.ids import CountedIds
from detent.kernel.secret import Secret
from detent.kernel.settings import Settings
from detent.kernel.telemetry import Batch, Span

ADMIN = Principal(Actor("user", "u-1"), "default", frozenset(Permission))
OTHER = Principal(Actor("user", "u-3"), "other", frozenset(Permission))
FILE = """
[providers.acme]
url = "https://api.acme.example/v1"
credential_env = "ACME_KEY"
[routes.bot]
targets = ["acme/large"]
[limits.calm]
scope = "project"
unit = "requests"
amount = 2
[budgets.team]
scope = "project"
usd = 5
[prices."acme/large"]
input = "10"
output = "10"
"""
KEY = {"acme": Secret("sk-acme-1")}


@pytest.fixture
def platform(tmp_path: Path, clock: FixedClock, ids: CountedIds) -> Any:
    with open_platform(Settings(home=str(tmp_path)), clock=clock, ids=ids) as found:
        yield found


def facts(platform: Platform) -> int:
    return platform.ledger.head()[0]


def test_a_plan_changes_nothing_and_applying_it_changes_all(platform: Platform) -> None:
    wanted = parse_toml(FILE)
    plan = platform.planning.plan(ADMIN, wanted, credentials=KEY)
    assert [(c.noun, c.action) for c in plan.changes] == [
        ("provider", "added"), ("route", "added"), ("limit", "added"), ("budget", "added"), ("price", "added"),
    ]  # fmt: skip
    assert facts(platform) == 0
    applied = platform.planning.apply(ADMIN, wanted, expect=plan.digest, credentials=KEY, reason="first")
    assert applied == plan
    assert facts(platform) == 5
    assert {fact.reason for fact in platform.ledger.read()} == {"first"}
    assert platform.planning.plan(ADMIN, wanted).changes == ()
    assert platform.planning.plan(OTHER, wanted, credentials=KEY).changes == plan.changes
    # The gateway has it at once.
    snapshot = load(platform.settings.folder / "snapshot")
    assert snapshot is not None
    assert snapshot.routes["default/bot"].targets[0].model == "large"
    assert snapshot.providers["default/acme"].sealed
    # Nothing to do is done without a fact.
    assert platform.planning.apply(ADMIN, wanted).changes == ()
    assert facts(platform) == 5


def test_what_is_exported_is_what_is_there(platform: Platform) -> None:
    platform.planning.apply(ADMIN, parse_toml(FILE), credentials=KEY)
    text = write_toml(platform.planning.export(ADMIN))
    assert 'credential_env = "ACME_API_KEY"' in text
    assert "sk-acme" not in text
    assert platform.planning.plan(ADMIN, parse_toml(text)).changes == ()


def test_a_plan_that_is_another_by_now_is_refused(platform: Platform) -> None:
    wanted = parse_toml(FILE)
    plan = platform.planning.plan(ADMIN, wanted, credentials=KEY)
    platform.gateway.save_route(ADMIN, "mine", (Target(EMBEDDED, EMBEDDED_MODEL),))
    before = facts(platform)
    for document in (wanted, parse_toml(FILE.replace("usd = 5", "usd = 6"))):
        with pytest.raises(Conflict, match="since the plan"):
            platform.planning.apply(ADMIN, document, expect=plan.digest, credentials=KEY)
    assert facts(platform) == before


def test_a_change_between_reading_and_writing_is_a_conflict(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = parse_toml(FILE)
    real, done = platform.ledger.stream_version, []

    def slow(stream: str) -> int:
        version = real(stream)
        if not done:
            done.append(stream)
            platform.gateway.set_limit(ADMIN, "other", scope="project", unit="tokens", amount=1)
        return version

    monkeypatch.setattr(platform.ledger, "stream_version", slow)
    with pytest.raises(Conflict, match="while it was applied"):
        platform.planning.apply(ADMIN, wanted, credentials=KEY)
    assert facts(platform) == 1


def test_what_is_not_named_is_removed_unless_it_is_kept(platform: Platform) -> None:
    platform.planning.apply(ADMIN, parse_toml(FILE), credentials=KEY)
    secret = platform.gateway.provider(ADMIN, "acme").secret_id
    empty = parse_toml("version = 1")
    assert platform.planning.plan(ADMIN, empty, keep=True).changes == ()
    removed = platform.planning.apply(ADMIN, empty)
    assert {c.action for c in removed.changes} == {"removed"}
    assert platform.gateway.providers(ADMIN) == platform.gateway.limits(ADMIN) == platform.gateway.budgets(ADMIN) == ()
    assert platform.gateway.prices(ADMIN) == ()
    assert platform.publisher._secrets.get(secret) is None


def test_all_or_nothing(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    platform.planning.apply(ADMIN, parse_toml(FILE), credentials=KEY)
    secret = platform.gateway.provider(ADMIN, "acme").secret_id
    kept: list[str] = []
    secrets = platform.publisher._secrets
    real = secrets.put
    monkeypatch.setattr(secrets, "put", lambda name, sealed: (kept.append(name), real(name, sealed)))

    def fails(*_args: Any, **_named: Any) -> None:
        raise Conflict("Somebody was first.")

    monkeypatch.setattr(platform.ledger, "append", fails)
    with pytest.raises(Conflict):
        platform.planning.apply(ADMIN, parse_toml(FILE), credentials={"acme": Secret("sk-acme-2")})
    assert platform.gateway.provider(ADMIN, "acme").secret_id == secret
    assert secrets.get(secret)
    assert [secrets.get(name) for name in kept] == [None]


def test_credentials(platform: Platform) -> None:
    wanted = parse_toml(FILE)
    plan = platform.planning.plan(ADMIN, wanted)
    assert plan.warnings == ("ACME_KEY is not set, so 'acme' would have no credential.",)
    with pytest.raises(InvalidInput) as refused:
        platform.planning.apply(ADMIN, wanted)
    assert refused.value.field == "providers.acme.credential_env"
    with pytest.raises(InvalidInput):
        platform.planning.plan(ADMIN, wanted, credentials={"ghost": Secret("x")})
    platform.planning.apply(ADMIN, wanted, credentials=KEY)
    # The same again is no change; another is, and the old one is destroyed.
    assert platform.planning.plan(ADMIN, wanted, credentials=KEY).changes == ()
    first = platform.gateway.provider(ADMIN, "acme").secret_id
    new = {"acme": Secret("sk-acme-2")}
    changed = platform.planning.apply(ADMIN, wanted, credentials=new)
    assert [(f.field, f.before, f.after) for f in changed.changes[0].fields] == [("credential", "stored", "new")]
    assert platform.publisher._secrets.get(first) is None
    assert platform.planning.plan(ADMIN, wanted, credentials=new).changes == ()
    # A credential does not follow to another host.
    moved = parse_toml(FILE.replace("api.acme.example", "evil.example"))
    with pytest.raises(InvalidInput, match="no longer valid"):
        platform.planning.plan(ADMIN, moved)
    assert platform.planning.plan(ADMIN, moved, credentials=new).changes


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ("[routes.x]\ntargets = ['ghost/m']", "routes.x.targets"),
        ("[routes.x]\ntargets = ['acme/m']\nfallbacks = ['ghost']", "routes.x.fallbacks"),
        ("[routes.x]\ntargets = ['acme/m']\nretry = { attempts = 99 }", "routes.x.retry.attempts"),
        ("[routes.x]\ntargets = ['acme/m']\nfallbacks = ['y']\n[routes.y]\ntargets = ['acme/m']\nfallbacks = ['x']",
         "routes.x.fallbacks"),
        ("[limits.x]\nscope = 'route'\nsubject = 'ghost'\nunit = 'tokens'\namount = 1", "limits.x.subject"),
        ("[budgets.x]\nscope = 'project'\nusd = 0", "budgets.x.usd"),
        ("[providers.x]\nurl = 'http://127.0.0.1/v1'", "providers.x.url"),
        ("[providers.embedded]\nurl = 'https://x.example'", "providers.embedded"),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_be(platform: Platform, more: str, field: str) -> None:
    with pytest.raises(CallerError) as refused:
        platform.planning.plan(ADMIN, parse_toml(FILE + more), credentials=KEY)
    assert refused.value.field == field
    assert refused.value.hint


def test_what_it_takes(platform: Platform) -> None:
    wanted = parse_toml(FILE)
    viewer = Principal(Actor("user", "v"), "default", ROLES["viewer"])
    assert platform.planning.plan(viewer, wanted).changes
    for asks in ({"credentials": KEY}, {"since": 1}):
        with pytest.raises(Forbidden):
            platform.planning.plan(viewer, wanted, **asks)
    with pytest.raises(Forbidden):
        platform.planning.apply(viewer, wanted, credentials=KEY)
    router = Principal(Actor("user", "r"), "default", frozenset({Permission.ROUTES_WRITE}))
    with pytest.raises(Forbidden):
        platform.planning.apply(router, wanted, credentials=KEY)
    platform.planning.apply(ADMIN, wanted, credentials=KEY)
    platform.planning.apply(router, parse_toml(FILE.replace("usd = 5", "usd = 6")))
    assert facts(platform) == 6


def test_a_dry_run_reads_what_was_recorded(
    platform: Platform, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.planning.apply(ADMIN, parse_toml(FILE.replace("amount = 2", "amount = 1000")), credentials=KEY)
    bot = platform.gateway.mint_key(ADMIN, "bot", routes=("bot",)).key
    now = clock.now()
    spans = []
    for number in range(6):
        start = now - HOUR + number * SECOND
        trace = f"{number // 2 + 1:032x}"  # two calls in each trace, below an agent's span
        if number % 2 == 0:
            spans.append(
                Span(trace_id=trace, span_id=f"{100 + number:016x}", name="agent", start=start - 1, end=start + 1)
            )
        spans.append(
            Span(
                trace_id=trace,
                span_id=f"{number + 1:016x}",
                parent_id=f"{100 + number // 2 * 2:016x}",
                name="chat bot",
                operation="chat",
                start=start,
                end=start + SECOND,
                route="bot",
                key_id=bot.id,
                provider="acme",
                request_model="large",
                input_tokens=60,
                output_tokens=40,
                cost=1_000_000,
            )
        )
    early = Span(
        trace_id="f" * 32, span_id="e" * 16, name="chat bot", start=now - 30 * HOUR, end=now, key_id=bot.id, route="bot"
    )
    platform.traces.write(ADMIN, Batch((*spans, early)))
    plan = platform.planning.plan(ADMIN, parse_toml(FILE), since=now - 24 * HOUR)
    run = plan.dry_run
    assert run is not None
    assert (run.calls, run.complete, run.recorded_cost) == (6, True, 6_000_000)
    assert (run.before.refused, run.after.refused) == (0, 4)
    assert (run.before.cost, run.after.cost) == (6_000_000, 2_000_000)
    gone = platform.planning.plan(ADMIN, parse_toml("version = 1"), since=now - 24 * HOUR).dry_run
    assert gone is not None
    assert gone.after.not_found == {"bot": 6}
    assert [(lost.name, lost.calls) for lost in gone.lost] == [("bot", 6)]
    assert platform.planning.plan(OTHER, parse_toml("version = 1"), since=1).dry_run.calls == 0  # type: ignore[union-attr]
    monkeypatch.setattr(service, "MAX_CALLS", 3)
    part = platform.planning.plan(ADMIN, parse_toml(FILE), since=now - 24 * HOUR).dry_run
    assert part is not None
    assert (part.calls, part.complete) == (2, False)

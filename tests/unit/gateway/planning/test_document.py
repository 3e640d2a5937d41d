"""`gateway.toml`: what it may say, what is refused with its place, and that it comes back as it was."""

from __future__ import annotations

import pytest

from detent.gateway.model import (
    EMBEDDED,
    EMBEDDED_MODEL,
    Budget,
    CachePolicy,
    Fallback,
    Limit,
    Retry,
    Route,
    Shadow,
    Target,
)
from detent.gateway.planning.diff import base_of, diff, merged, plan_digest
from detent.gateway.planning.document import parse_toml, write_toml
from detent.gateway.planning.model import Change, Configuration, FieldChange
from detent.gateway.planning.report import change_lines, summary
from detent.kernel.errors import InvalidInput
from detent.kernel.money import NANO, Price

ROUTE = "[routes.x]\ntargets = ['p/m']\n"
FULL = """
version = 1

[providers.openai]
credential_env = "OPENAI_API_KEY"

[providers.aws]
dialect = "bedrock"
region = "eu-central-1"
max_concurrency = 10

[routes.support]
targets = ["openai/gpt-4o=3", { provider = "embedded", model = "detent-tiny" }]
policy = "weighted"
fallbacks = ["backup", { route = "detent-tiny", on = ["timeout"] }]
retry = { attempts = 2 }
cache = { mode = "exact", ttl_seconds = 60 }
shadow = { route = "backup", share = 0.1, daily_usd = 5 }

[routes.backup]
targets = ["aws/some.model-v1:0"]

[limits.per-key]
scope = "key"
unit = "requests"
amount = 60

[budgets.team]
scope = "project"
usd = 100.5
alerts = [80]

[prices."openai/gpt-4o"]
input = "2.50"
output = 10
cached_input = 1.25
"""


def test_a_document_is_read() -> None:
    found = parse_toml(FULL)
    assert found.providers["openai"].url == "https://api.openai.com/v1"
    assert found.providers["aws"].url == "https://bedrock-runtime.eu-central-1.amazonaws.com"
    assert found.credentials == {"openai": "OPENAI_API_KEY"}
    route = found.routes["support"]
    assert route.targets == (Target("openai", "gpt-4o", 3), Target(EMBEDDED, EMBEDDED_MODEL))
    assert route.fallbacks == (Fallback("backup"), Fallback("detent-tiny", ("timeout",)))
    assert (route.retry, route.cache) == (Retry(attempts=2), CachePolicy("exact", 60))
    assert route.shadow == Shadow("backup", 0.1, 5 * NANO)
    assert found.limits["per-key"] == Limit(name="per-key", project="", scope="key", unit="requests", amount=60)
    assert found.budgets["team"] == Budget(
        name="team", project="", scope="project", amount=100 * NANO + NANO // 2, alerts=(80,)
    )
    assert found.prices == {"openai/gpt-4o": Price(2_500_000, 10_000_000, 1_250_000)}


def test_what_is_written_is_read_again() -> None:
    found = parse_toml(FULL)
    again = parse_toml(write_toml(found))
    assert again == found
    assert write_toml(again) == write_toml(found)
    assert parse_toml(write_toml(Configuration())) == Configuration()


@pytest.mark.parametrize(
    ("text", "field", "hint"),
    [
        ("version = 2", "version", "version 1"),
        ("[route.x]\ntargets = []", "route", "'routes'"),
        ("routes = 3", "routes", "[routes.NAME]"),
        ("[routes.X]\ntargets = []", "routes.X", ""),
        ("[routes.x]\npolicy = 'weighted'", "routes.x.targets", ""),
        ("[routes.x]\ntargets = ['p/m']\nretries = 2", "routes.x.retries", "'retry'"),
        ("[routes.x]\ntargets = ['p/m']\nretry = { attempt = 2 }", "routes.x.retry.attempt", "'attempts'"),
        ("[routes.x]\ntargets = [{ provider = 'p', model = 'm', wait = 1 }]", "routes.x.targets[0].wait", "weight"),
        ("[routes.x]\ntargets = ['p/m']\npolicy = 'random'", "routes.x.policy", ""),
        ("[routes.x]\ntargets = ['p']", "routes.x.targets", "PROVIDER/MODEL"),
        (ROUTE + "fallbacks = [{ route = 'y', on = ['bored'] }]", "routes.x.fallbacks[0].on[0]", ""),
        (ROUTE + "shadow = { route = 'y', daily_usd = 'much' }", "routes.x.shadow.daily_usd", ""),
        ("[providers.p]\nflavour = 'no-such'", "providers.p.flavour", "openai"),
        ("[providers.p]\ncredential = 'sk-1'", "providers.p.credential", "'credential_env'"),
        ("[providers.p]\ncredential_env = 'sk-live 1'", "providers.p.credential_env", "never stands"),
        ("[limits.l]\nscope = 'key'\nunit = 'requests'", "limits.l.amount", ""),
        ("[limits.l]\nscope = 'key'\nunit = 'requests'\namount = true", "limits.l.amount", ""),
        ("[budgets.b]\nscope = 'project'\nusd = -1", "budgets.b.usd", ""),
        ("[prices.gpt]\ninput = 1\noutput = 1", "prices.gpt", "PROVIDER/MODEL"),
        ("[prices.'p/m=3']\ninput = 1\noutput = 1", "prices.p/m=3", ""),
        ("[prices.'p/m']\ninput = 1", "prices.p/m.output", ""),
        ("[prices.'p/m']\ninput = 1\noutput = 1\ncached = 1", "prices.p/m.cached", "cached_input"),
        ("[prices.'p/m']\ninput = true\noutput = 1", "prices.p/m.input", ""),
    ],
)  # fmt: skip
def test_mistakes_are_named_by_their_place(text: str, field: str, hint: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_toml(text)
    assert refused.value.field == field
    assert hint in refused.value.hint
    assert refused.value.hint


@pytest.mark.parametrize(
    "text", ["[routes", "a = 1\na = 2", "x = [" + "[" * 5_000, "\x00", "version = 1" + " " * (5 << 20)]
)
def test_what_is_no_toml(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_toml(text)


def test_hostile_names_and_models_survive_writing() -> None:
    odd = 'we"ird\\model \U0001f600 \x7f=3'
    text = write_toml(Configuration(routes={"r": Route(name="r", project="", targets=(Target("p", odd),))}))
    assert parse_toml(text).routes["r"].targets == (Target("p", odd),)


# Differences


def test_differences_are_by_field() -> None:
    before, after = (
        parse_toml(FULL),
        parse_toml(FULL.replace("attempts = 2", "attempts = 3").replace("60\n", "90\n", 1)),
    )
    assert diff(before, before) == ()
    assert diff(before, after) == (
        Change("route", "support", "changed", (FieldChange("retry.attempts", 2, 3),)),
        Change("limit", "per-key", "changed", (FieldChange("amount", 60, 90),)),
    )
    assert base_of(before) != base_of(after)
    assert plan_digest("x", diff(before, after)) != plan_digest("y", diff(before, after))


def test_what_is_added_and_removed_says_what_it_is() -> None:
    full, empty = parse_toml(FULL), Configuration()
    added = diff(empty, full)
    assert [(change.noun, change.name, change.action) for change in added] == [
        ("provider", "aws", "added"),
        ("provider", "openai", "added"),
        ("route", "backup", "added"),
        ("route", "support", "added"),
        ("limit", "per-key", "added"),
        ("budget", "team", "added"),
        ("price", "openai/gpt-4o", "added"),
    ]
    assert {change.action for change in diff(full, empty)} == {"removed"}
    assert list(change_lines(added[2])) == ["+ route backup: added", "    targets: aws/some.model-v1:0"]
    assert summary(added) == "7 added."
    assert summary(()).startswith("No changes")
    assert diff(full, merged(full, empty)) == ()


def test_a_new_credential_is_a_change_that_shows_no_secret() -> None:
    full = parse_toml(FULL)
    change = diff(full, full, credentials=frozenset({"openai"}))
    assert change == (Change("provider", "openai", "changed", (FieldChange("credential", None, "new"),)),)

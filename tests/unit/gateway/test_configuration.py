"""Routes, providers, limits and budgets: what may be said of them, and what happens when two say it at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detent.app.platform import Platform, open_platform
from detent.gateway.checks import ROUTE_RANGES, Known, check_route, parse_target, write_target
from detent.gateway.dialects.quirks import FLAVOURS
from detent.gateway.endpoints import DEFAULT_URLS, check_url
from detent.gateway.model import (
    EMBEDDED,
    EMBEDDED_MODEL,
    Breaker,
    CachePolicy,
    Fallback,
    Hedge,
    Queue,
    Retry,
    Route,
    Shadow,
    Target,
    Timeouts,
)
from detent.kernel.clock import FixedClock
from detent.kernel.errors import CallerError, Conflict, Forbidden, InvalidInput, NotFound
from detent.kernel.identity import ROLES, Actor, Permission, Principal
from detent.kernel.ids import CountedIds
from detent.kernel.money import NANO, read_usd, write_usd
from detent.kernel.secret import Secret
from detent.kernel.settings import Settings

ADMIN = Principal(Actor("user", "u-1"), "default", frozenset(Permission))
VIEWER = Principal(Actor("user", "u-2"), "default", ROLES["viewer"])
OTHER = Principal(Actor("user", "u-3"), "other", frozenset(Permission))
TINY = (Target(EMBEDDED, EMBEDDED_MODEL),)
TWO = (Target(EMBEDDED, "a"), Target(EMBEDDED, "b"))


@pytest.fixture
def platform(tmp_path: Path, clock: FixedClock, ids: CountedIds) -> Any:
    with open_platform(Settings(home=str(tmp_path)), clock=clock, ids=ids) as found:
        yield found


def rules(**named: Any) -> Route:
    return Route(name="", project="", targets=(), **named)


# Providers


@pytest.mark.parametrize(
    ("asked", "url"),
    [
        ({}, "https://api.openai.com/v1"),
        ({"dialect": "anthropic"}, "https://api.anthropic.com"),
        ({"dialect": "gemini"}, "https://generativelanguage.googleapis.com/v1beta"),
        ({"dialect": "bedrock", "region": "eu-central-1"}, "https://bedrock-runtime.eu-central-1.amazonaws.com"),
    ],
)
def test_providers_have_addresses_of_their_own(platform: Platform, asked: dict[str, Any], url: str) -> None:
    saved = platform.gateway.save_provider(ADMIN, "p", credential=Secret("sk"), **asked)
    assert saved.url == url
    assert platform.gateway.provider(ADMIN, "p") == saved


def test_default_addresses_may_be_called() -> None:
    assert set(FLAVOURS) - {flavour for _dialect, flavour in DEFAULT_URLS} == {"azure"}
    for (dialect, flavour), url in DEFAULT_URLS.items():
        plain = url.replace("{region}", "eu-central-1")
        assert check_url(plain, dialect, allow_private=True) == plain, flavour


@pytest.mark.parametrize(
    ("url", "dialect", "plain"),
    [
        ("https://x.test/v1/chat/completions/", "openai", "https://x.test/v1"),
        ("https://api.anthropic.com/v1/messages", "anthropic", "https://api.anthropic.com"),
        ("https://api.anthropic.com/v1", "anthropic", "https://api.anthropic.com"),
    ],
)
def test_what_is_copied_along_is_cut_off(url: str, dialect: Any, plain: str) -> None:
    assert check_url(url, dialect, allow_private=False) == plain


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"flavour": "no-such"}, "flavour"),
        ({"dialect": "anthropic", "flavour": "groq"}, "flavour"),
        ({"dialect": "bedrock"}, "region"),
        ({"dialect": "bedrock", "region": "Nowhere!"}, "region"),
        ({"dialect": "cohere", "url": "https://x.test"}, "dialect"),
        ({"api_version": "2024/01"}, "api_version"),
        ({"max_concurrency": -1}, "max_concurrency"),
        ({"max_concurrency": True}, "max_concurrency"),
        ({"url": ""}, "url"),
        ({"url": "http://127.0.0.1/v1"}, "url"),
    ],
)
def test_providers_that_cannot_be(platform: Platform, asked: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        platform.gateway.save_provider(ADMIN, "p", **asked)
    assert refused.value.field == field
    assert refused.value.hint
    assert platform.gateway.providers(ADMIN) == ()


def test_an_unknown_flavour_is_answered_with_the_list(platform: Platform) -> None:
    with pytest.raises(InvalidInput) as refused:
        platform.gateway.save_provider(ADMIN, "p", flavour="no-such")
    assert "openai" in refused.value.hint


def test_what_is_not_said_of_a_provider_stays(platform: Platform) -> None:
    platform.gateway.save_provider(ADMIN, "p", dialect="anthropic", max_concurrency=8)
    saved = platform.gateway.save_provider(ADMIN, "p", allow_private=True, replace=True)
    assert (saved.dialect, saved.max_concurrency, saved.allow_private) == ("anthropic", 8, True)


# Routes


FULL = rules(
    policy="weighted",
    fallbacks=(Fallback(EMBEDDED_MODEL, ("rate_limited", "timeout")),),
    retry=Retry(3, 50, 0.1),
    breaker=Breaker(0.3, 0.5, 4.0),
    hedge=Hedge(0.95, 0.02),
    timeouts=Timeouts(1, 10, 5, 60),
    queue=Queue(deadline_ms=500, length=10, order="fifo", pace_ms=60),
    sticky="session",
    shadow=Shadow(EMBEDDED_MODEL, 0.1, 5 * NANO),
    cache=CachePolicy("exact", 60),
    priority="batch",
)


def test_a_route_keeps_all_its_rules(platform: Platform) -> None:
    saved = platform.gateway.save_route(ADMIN, "r", TWO, rules=FULL)
    for field in Route.__struct_fields__:
        if field not in {"name", "project", "targets", "changed"}:
            assert getattr(saved, field) == getattr(FULL, field), field
    # Who only changes the targets leaves the rules alone; who gives rules gives all of them.
    kept = platform.gateway.save_route(ADMIN, "r", (*TWO, *TINY), replace=True)
    assert (kept.policy, kept.shadow, len(kept.targets)) == ("weighted", FULL.shadow, 3)
    plain = platform.gateway.save_route(ADMIN, "r", TINY, rules=rules(), replace=True)
    assert (plain.policy, plain.shadow, plain.fallbacks) == ("ordered", None, ())


@pytest.mark.parametrize("path", [path for path, _low, _high in ROUTE_RANGES])
def test_every_figure_has_a_range(platform: Platform, path: str) -> None:
    low, high = next((low, high) for other, low, high in ROUTE_RANGES if other == path)
    group, name = path.split(".")
    known = platform.gateway.known("default")
    kind = type(getattr(rules(), group))
    for wrong in (low - 1, high + 1, float("nan"), float("inf")):
        route = Route(name="r", project="default", targets=TWO, **{group: kind(**{name: wrong})})
        with pytest.raises(InvalidInput) as refused:
            check_route(route, known)
        assert refused.value.field == path


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"policy": "random"}, "policy"),
        ({"sticky": "key"}, "sticky"),
        ({"priority": "urgent"}, "priority"),
        ({"cache": CachePolicy("fuzzy")}, "cache.mode"),  # type: ignore[arg-type]
        ({"queue": Queue(order="lifo")}, "queue.order"),  # type: ignore[arg-type]
        ({"fallbacks": (Fallback(EMBEDDED_MODEL, ("bored",)),)}, "fallbacks[0].on[0]"),  # type: ignore[arg-type]
        ({"fallbacks": (Fallback(EMBEDDED_MODEL, ("timeout", "timeout")),)}, "fallbacks"),
        ({"fallbacks": (Fallback(EMBEDDED_MODEL), Fallback(EMBEDDED_MODEL, ("timeout",)))}, "fallbacks"),
        ({"breaker": Breaker(slow_rate=0.5)}, "breaker.slow_seconds"),
        ({"timeouts": Timeouts(total=5, first_token=6)}, "timeouts.total"),
        ({"shadow": Shadow(EMBEDDED_MODEL, 0.0)}, "shadow.share"),
        ({"shadow": Shadow(EMBEDDED_MODEL, 1.5)}, "shadow.share"),
        ({"shadow": Shadow(EMBEDDED_MODEL, 1.0, -1)}, "shadow.daily_budget"),
    ],
)
def test_rules_that_cannot_be(platform: Platform, asked: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        platform.gateway.save_route(ADMIN, "r", TWO, rules=rules(**asked))
    assert refused.value.field == field
    assert refused.value.hint


def test_a_hedge_takes_two_and_a_target_stands_once(platform: Platform) -> None:
    with pytest.raises(InvalidInput, match="second target"):
        platform.gateway.save_route(ADMIN, "r", TINY, rules=rules(hedge=Hedge(0.9)))
    with pytest.raises(InvalidInput, match="twice"):
        platform.gateway.save_route(ADMIN, "r", (*TINY, Target(EMBEDDED, EMBEDDED_MODEL, 2)))


def test_routes_lead_somewhere_and_never_round(platform: Platform) -> None:
    save = platform.gateway.save_route
    for asked in ({"fallbacks": (Fallback("ghost"),)}, {"shadow": Shadow("ghost")}):
        with pytest.raises(NotFound, match="ghost"):
            save(ADMIN, "a", TINY, rules=rules(**asked))
    for asked in ({"fallbacks": (Fallback("a"),)}, {"shadow": Shadow("a")}):
        with pytest.raises(Conflict, match="a -> a"):
            save(ADMIN, "a", TINY, rules=rules(**asked))
    save(ADMIN, "a", TINY)
    save(ADMIN, "b", TINY, rules=rules(fallbacks=(Fallback("a"),)))
    save(ADMIN, "c", TINY, rules=rules(shadow=Shadow("b")))
    with pytest.raises(Conflict, match="a -> c -> b -> a"):
        save(ADMIN, "a", TINY, rules=rules(fallbacks=(Fallback("c"),)), replace=True)
    # Two ways to one place are no ring.
    save(ADMIN, "d", TINY, rules=rules(fallbacks=(Fallback("b"), Fallback("a"))))


def test_what_others_need_is_not_removed(platform: Platform) -> None:
    gateway = platform.gateway
    gateway.save_provider(ADMIN, "p", url="https://x.test/v1")
    gateway.save_route(ADMIN, "a", TINY)
    gateway.save_route(ADMIN, "b", TINY, rules=rules(fallbacks=(Fallback("a"),)))
    gateway.save_route(ADMIN, "c", TINY, rules=rules(shadow=Shadow("a")))
    gateway.set_limit(ADMIN, "on-a", scope="route", subject="a", unit="requests", amount=1)
    gateway.set_budget(ADMIN, "on-p", scope="model", subject="p/large", amount=1)
    with pytest.raises(Conflict, match="used by b, c, on-a"):
        gateway.remove_route(ADMIN, "a")
    with pytest.raises(Conflict, match="used by on-p"):
        gateway.remove_provider(ADMIN, "p")
    gateway.remove_limit(ADMIN, "on-a")
    gateway.remove_route(ADMIN, "b")
    gateway.remove_route(ADMIN, "c")
    gateway.remove_route(ADMIN, "a")
    gateway.remove_budget(ADMIN, "on-p")
    gateway.remove_provider(ADMIN, "p")
    assert platform.gateway.known("default").routes.keys() == {EMBEDDED_MODEL}


def test_many_routes_in_a_row_are_no_deep_recursion() -> None:
    """Rings are looked for along the longest chain that anybody could configure."""
    chain = {
        f"r{n}": Route(name=f"r{n}", project="p", targets=TINY, fallbacks=(Fallback(f"r{n + 1}"),))
        for n in range(2_000)
    }
    chain["r2000"] = Route(name="r2000", project="p", targets=TINY)
    known = Known(frozenset({EMBEDDED}), chain, {})
    assert check_route(chain["r0"], known)
    ring = Route(name="r2000", project="p", targets=TINY, fallbacks=(Fallback("r0"),))
    with pytest.raises(Conflict, match=r"r2000 -> r0 -> r1 -> \.\.\. -> r1998 -> r1999 -> r2000"):
        check_route(ring, known)


@pytest.mark.parametrize("text", ["p/m", "p/m=3", "p/a=b=1", "p/org/m=7"])
def test_targets_come_back_as_they_were_written(text: str) -> None:
    assert write_target(parse_target(text)) == text


# Limits and budgets


def test_limits_and_budgets(platform: Platform) -> None:
    gateway = platform.gateway
    key = gateway.mint_key(ADMIN, "bot").key
    limit = gateway.set_limit(ADMIN, "l", scope="key", subject="bot", unit="concurrency", amount=4)
    assert (limit.subject, limit.window_seconds) == (key.id, 0)
    budget = gateway.set_budget(ADMIN, "b", scope="project", amount=100 * NANO, alerts=(90, 10, 90))
    assert budget.alerts == (10, 90)
    assert gateway.limits(ADMIN) == (limit,) == (gateway.limit(ADMIN, "l"),)
    assert gateway.budgets(ADMIN) == (budget,) == (gateway.budget(ADMIN, "b"),)
    assert gateway.limits(OTHER) == gateway.budgets(OTHER) == ()
    with pytest.raises(Conflict):
        gateway.set_limit(ADMIN, "l", scope="project", unit="requests", amount=1)
    with pytest.raises(Conflict):
        gateway.set_budget(ADMIN, "b", scope="project", amount=1)
    assert gateway.set_limit(ADMIN, "l", scope="project", unit="tokens", amount=9, replace=True).unit == "tokens"
    with pytest.raises(NotFound):
        gateway.remove_limit(OTHER, "l")
    with pytest.raises(NotFound):
        gateway.remove_budget(OTHER, "b")
    for verb in (gateway.set_limit, gateway.set_budget):
        with pytest.raises(Forbidden):
            verb(VIEWER, "x", scope="project", amount=1, **({"unit": "tokens"} if verb == gateway.set_limit else {}))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"amount": 0}, "amount"),
        ({"amount": 10**16}, "amount"),
        ({"window_seconds": 0}, "window_seconds"),
        ({"window_seconds": 10**7}, "window_seconds"),
        ({"unit": "calls"}, "unit"),
        ({"scope": "team"}, "scope"),
        ({"scope": "project", "subject": "x"}, "subject"),
        ({"scope": "user", "subject": "a\nb"}, "subject"),
        ({"scope": "user", "subject": "x" * 201}, "subject"),
        ({"scope": "model", "subject": "large"}, "subject"),
        ({"scope": "model", "subject": "ghost/large"}, "subject"),
        ({"scope": "route", "subject": "ghost"}, "subject"),
        ({"scope": "key", "subject": "ghost"}, "subject"),
    ],
)
def test_limits_that_cannot_be(platform: Platform, asked: dict[str, Any], field: str) -> None:
    wanted: dict[str, Any] = {"scope": "project", "unit": "requests", "amount": 5, **asked}
    with pytest.raises(CallerError) as refused:
        platform.gateway.set_limit(ADMIN, "l", **wanted)
    assert refused.value.field == field
    assert refused.value.hint


def test_two_keys_of_one_name_are_no_subject(platform: Platform) -> None:
    for _ in range(2):
        platform.gateway.mint_key(ADMIN, "same")
    with pytest.raises(Conflict, match="2 keys"):
        platform.gateway.set_budget(ADMIN, "b", scope="key", subject="same", amount=1)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"amount": 0}, "usd"),
        ({"amount": -5}, "usd"),
        ({"amount": 10**19}, "usd"),
        ({"alerts": (0,)}, "alerts"),
        ({"alerts": (1001,)}, "alerts"),
        ({"alerts": tuple(range(1, 40))}, "alerts"),
        ({"period": "week"}, "period"),
    ],
)
def test_budgets_that_cannot_be(platform: Platform, asked: dict[str, Any], field: str) -> None:
    wanted: dict[str, Any] = {"scope": "project", "amount": NANO, **asked}
    with pytest.raises(InvalidInput) as refused:
        platform.gateway.set_budget(ADMIN, "b", **wanted)
    assert refused.value.field == field


def test_no_project_weighs_itself(platform: Platform) -> None:
    assert platform.gateway.set_weight(ADMIN, "other", 3).weight == 3
    assert [(w.project, w.weight) for w in platform.gateway.weights(ADMIN)] == [("other", 3)]
    with pytest.raises(Forbidden):
        platform.gateway.set_weight(OTHER, "other", 1000)
    with pytest.raises(Forbidden):
        platform.gateway.weights(OTHER)
    for weight in (0, 1001):
        with pytest.raises(InvalidInput):
            platform.gateway.set_weight(ADMIN, "other", weight)


# Two at once


def test_who_changes_what_was_changed_meanwhile_is_told(platform: Platform) -> None:
    gateway = platform.gateway
    gateway.save_provider(ADMIN, "p", url="https://x.test/v1")
    gateway.save_route(ADMIN, "r", TINY)
    gateway.set_limit(ADMIN, "l", scope="project", unit="requests", amount=1)
    gateway.set_budget(ADMIN, "b", scope="project", amount=1)
    calls: dict[str, Any] = {
        "provider": lambda v: gateway.save_provider(ADMIN, "p", url="https://x.test/v2", replace=True, expected=v),
        "route": lambda v: gateway.save_route(ADMIN, "r", TWO, replace=True, expected=v),
        "limit": lambda v: gateway.set_limit(
            ADMIN, "l", scope="project", unit="requests", amount=2, replace=True, expected=v
        ),
        "budget": lambda v: gateway.set_budget(ADMIN, "b", scope="project", amount=2, replace=True, expected=v),
    }
    removals: dict[str, Any] = {
        "provider": lambda v: gateway.remove_provider(ADMIN, "p", expected=v),
        "route": lambda v: gateway.remove_route(ADMIN, "r", expected=v),
        "limit": lambda v: gateway.remove_limit(ADMIN, "l", expected=v),
        "budget": lambda v: gateway.remove_budget(ADMIN, "b", expected=v),
    }
    kinds: tuple[Any, ...] = ("provider", "route", "limit", "budget")
    for kind in kinds:
        seen = gateway.version("default", kind, kind[0])
        calls[kind](seen)
        for late in (calls[kind], removals[kind]):
            with pytest.raises(Conflict, match="not as you have read it"):
                late(seen)
    for kind in kinds:
        removals[kind](gateway.version("default", kind, kind[0]))


def test_a_credential_of_a_change_that_failed_is_destroyed(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    put: list[str] = []
    secrets = platform.publisher._secrets
    real = secrets.put
    monkeypatch.setattr(secrets, "put", lambda name, sealed: (put.append(name), real(name, sealed)))

    def fails(*_args: Any, **_named: Any) -> None:
        raise Conflict("Somebody else was first.")

    monkeypatch.setattr(platform.ledger, "append", fails)
    with pytest.raises(Conflict):
        platform.gateway.save_provider(ADMIN, "p", credential=Secret("sk-1"))
    assert len(put) == 1
    assert secrets.get(put[0]) is None


# Money as people write it


def test_amounts() -> None:
    for text, nano in (("100", 100 * NANO), ("$0.25", NANO // 4), ("0.000000001", 1), ("1e3", 1000 * NANO)):
        assert read_usd(text) == nano
        assert read_usd(write_usd(nano)) == nano
    assert [write_usd(nano) for nano in (0, 100 * NANO, NANO // 4)] == ["0", "100", "0.25"]
    for wrong in ("", "x", "-1", "nan", "inf", "0.0000000001", "1000000001"):
        with pytest.raises(InvalidInput):
            read_usd(wrong)

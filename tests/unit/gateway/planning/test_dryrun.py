"""What a configuration would have done with recorded calls."""

from __future__ import annotations

from typing import Any

from detent.gateway.model import Budget, Key, Limit, Provider, Route, Target
from detent.gateway.planning.dryrun import call_of, chances_of, dry_run, replay
from detent.gateway.planning.model import Call, Configuration
from detent.kernel.chat import Usage
from detent.kernel.clock import DAY, SECOND
from detent.kernel.identity import Actor
from detent.kernel.money import Price
from detent.kernel.telemetry import Span

MILLION = 1_000_000
PRICES = {("p", "dear"): Price(10 * MILLION, 10 * MILLION), ("p", "cheap"): Price(MILLION, MILLION)}
START = 1_700_000_000 * SECOND


def price(provider: str, model: str) -> Price | None:
    return PRICES.get((provider, model))


def call(number: int, at: float = 0.0, **named: Any) -> Call:
    fields: dict[str, Any] = {
        "trace_id": f"{number:032x}", "span_id": f"{(number * 2654435761) % 2**32:08x}00000000",
        "start": START + round(at * SECOND), "asked": "bot", "key_id": "k1", "user_id": "",
        "usage": Usage(60, 40), "cost": 1_000, **named,
    }  # fmt: skip
    fields.setdefault("end", fields["start"] + SECOND)
    return Call(**fields)


def world(*routes: Route, limits: tuple[Limit, ...] = (), budgets: tuple[Budget, ...] = ()) -> Configuration:
    return Configuration(
        providers={"p": Provider(name="p", project="", url="https://p.test")},
        routes={route.name: route for route in routes},
        limits={limit.name: limit for limit in limits},
        budgets={budget.name: budget for budget in budgets},
    )


def route(*targets: Target, name: str = "bot", **named: Any) -> Route:
    return Route(name=name, project="", targets=targets, **named)


DEAR, CHEAP = Target("p", "dear"), Target("p", "cheap", 3)
BOT = route(DEAR, CHEAP)
OUTCOMES = {"answered", "model_not_found"}


def limit(**named: Any) -> Limit:
    return Limit(**{"name": "l", "project": "", "scope": "project", "unit": "requests", "amount": 2, **named})


def outcomes(calls: list[Call], configuration: Configuration) -> list[str]:
    return [fate.outcome for fate in replay(calls, configuration, price, {}).fates]


def test_targets_by_policy() -> None:
    usage = Usage(60, 40)
    assert chances_of(BOT, usage, price) == ((DEAR, 1.0),)
    assert chances_of(route(DEAR, CHEAP, policy="weighted"), usage, price) == ((DEAR, 0.25), (CHEAP, 0.75))
    assert chances_of(route(DEAR, CHEAP, policy="cheapest"), usage, price) == ((CHEAP, 1.0),)
    assert chances_of(route(Target("p", "?"), DEAR, policy="cheapest"), usage, price) == ((DEAR, 1.0),)
    for policy in ("least_latency", "prefix_affinity"):
        assert chances_of(route(DEAR, CHEAP, policy=policy), usage, price) == ((DEAR, 0.5), (CHEAP, 0.5))


def test_shares_and_cost_are_expected_ones() -> None:
    calls = [call(n, n) for n in range(8)]
    found = replay(calls, world(route(DEAR, CHEAP, policy="weighted")), price, {})
    assert [(share.target, share.calls) for share in found.shares] == [("p/cheap", 6.0), ("p/dear", 2.0)]
    # 100 tokens: 1,000,000 nano-dollars dear, 100,000 cheap.
    assert found.cost == 8 * (1_000_000 // 4 + 300_000 // 4)
    unpriced = replay(calls, world(route(DEAR, Target("p", "?"), policy="weighted")), price, {})
    assert (unpriced.cost, unpriced.unpriced) == (0, 8)


def test_a_route_that_is_not_there_is_not_found() -> None:
    calls = [call(1), call(2, asked="gone"), call(3, asked="detent-tiny"), call(4, asked="orphan")]
    orphan = route(Target("no-provider", "m"), name="orphan")
    found = replay(calls, world(BOT, orphan), price, {})
    assert [fate.outcome for fate in found.fates] == ["answered", "model_not_found", "answered", "model_not_found"]
    assert found.not_found == {"gone": 1, "orphan": 1}


def test_a_key_may_call_its_routes_only() -> None:
    keys = {"k1": key("k1", ("other",))}
    found = replay([call(1), call(2, key_id="k2")], world(BOT), price, keys)
    assert [fate.outcome for fate in found.fates] == ["model_not_found", "answered"]


def test_windows_slide() -> None:
    calls = [call(n, at) for n, at in enumerate((0, 30, 59, 60, 61, 89, 90))]
    assert outcomes(calls, world(BOT, limits=(limit(window_seconds=60),))) == [
        "answered", "answered", "limit:l", "answered", "limit:l", "limit:l", "answered",
    ]  # fmt: skip


def test_tokens_are_counted_by_what_was_used() -> None:
    calls = [call(1), call(2, 1, usage=Usage(100, 51)), call(3, 2, usage=Usage(100, 50))]
    assert outcomes(calls, world(BOT, limits=(limit(unit="tokens", amount=250),))) == [
        "answered", "limit:l", "answered",
    ]  # fmt: skip


def test_calls_at_once() -> None:
    calls = [
        call(1, 0, end=START + 10 * SECOND),
        call(2, 1, end=START + 5 * SECOND),
        call(3, 4),
        call(4, 5),
        call(5, 5.5),
    ]
    assert outcomes(calls, world(BOT, limits=(limit(unit="concurrency", amount=2, window_seconds=0),))) == [
        "answered", "answered", "limit:l", "answered", "limit:l",
    ]  # fmt: skip


def test_scopes_count_apart() -> None:
    calls = [call(1, key_id="a", user_id="u"), call(2, key_id="b", user_id="u"), call(3, key_id="a", user_id="")]
    assert outcomes(calls, world(BOT, limits=(limit(amount=1, scope="key"),))) == ["answered", "answered", "limit:l"]
    assert outcomes(calls, world(BOT, limits=(limit(amount=1, scope="user"),))) == ["answered", "limit:l", "answered"]
    assert outcomes(calls, world(BOT, limits=(limit(amount=1, scope="model"),)))[1:] == ["limit:l", "limit:l"]
    only = limit(amount=1, scope="key", subject="b")
    assert outcomes(calls, world(BOT, limits=(only,))) == ["answered"] * 3
    assert outcomes(calls, world(BOT, limits=(limit(amount=1, scope="route", subject="x"),))) == ["answered"] * 3


def test_a_refused_call_counts_nowhere() -> None:
    calls = [call(1, key_id="a"), call(2, key_id="a"), call(3, key_id="b")]
    rules = (limit(name="each", amount=1, scope="key"), limit(name="whole", amount=2))
    assert outcomes(calls, world(BOT, limits=rules)) == ["answered", "limit:each", "answered"]


def test_budgets_stop_when_spent_and_start_anew() -> None:
    calls = [call(1), call(2, 1), call(3, 2), call(4, 86_400), call(5, 86_401)]
    budget = Budget(name="b", project="", scope="project", amount=1_500_000, period="day")
    found = replay(calls, world(BOT, budgets=(budget,)), price, {})
    assert [fate.outcome for fate in found.fates] == ["answered", "answered", "budget:b", "answered", "answered"]
    assert [(rule.refused, rule.spent, rule.alerts) for rule in found.budgets] == [(1, 2_000_000, (50, 80, 100))]
    soft = Budget(name="b", project="", scope="project", amount=1_500_000, period="month", hard=False)
    found = replay(calls, world(BOT, budgets=(soft,)), price, {})
    assert (found.refused, found.budgets[0].spent) == (0, 5_000_000)


def key(key_id: str, routes: tuple[str, ...] = ()) -> Key:
    return Key(id=key_id, name=f"name of {key_id}", project="", hash="", hint="", permissions=(), routes=routes,
               created=0, issuer=Actor("operator", "0"))  # fmt: skip


def test_a_dry_run_says_what_becomes_of_whom() -> None:
    other = route(CHEAP, name="other")
    before = world(BOT, other)
    after = world(route(CHEAP), limits=(limit(amount=2),))
    calls = [call(n, n) for n in range(4)] + [call(9, 9, asked="other", key_id="k2"), call(10, 5, asked="never")]
    keys = {"k1": key("k1"), "k2": key("k2"), "k3": key("k3", ("other", "bot"))}
    found = dry_run(
        calls, before, after, prices=(price, price), keys=keys, since=START, until=START + DAY, complete=True
    )
    assert (found.calls, found.recorded_cost) == (6, 6_000)
    assert (found.before.cost, found.after.cost) == (4_100_000, 200_000)
    assert (found.before.refused, found.after.refused) == (0, 2)
    assert found.after.not_found == {"never": 1, "other": 1}
    assert [(lost.key_id, lost.routes, lost.calls) for lost in found.lost] == [
        ("k2", ("other",), 1),
        ("k3", ("other",), 0),
    ]
    assert [(e.asked, e.before, e.after) for e in found.examples] == [
        ("bot", "answered", "limit:l"),
        ("bot", "answered", "limit:l"),
        ("other", "answered", "model_not_found"),
    ]
    dearer = dry_run(
        calls, after, before, prices=(price, price), keys={}, since=START, until=START + DAY, complete=True
    )
    worst = dearer.examples[0]
    assert (worst.after, worst.cost_before, worst.cost_after) == ("answered", 100_000, 1_000_000)
    # The order in which the lake gives the calls says nothing.
    again = dry_run(
        calls[::-1], before, after, prices=(price, price), keys=keys, since=START, until=START + DAY, complete=True
    )
    assert again == found


def test_what_is_a_call_of_the_gateway() -> None:
    span = Span(trace_id="a" * 32, span_id="b" * 16, name="chat", start=1, end=2, key_id="k", request_model="gone")
    found = call_of(span)
    assert found is not None
    assert found.asked == "gone"
    assert call_of(Span(trace_id="a" * 32, span_id="b" * 16, name="tool", start=1, end=2)) is None
    shadow = Span(
        trace_id="a" * 32, span_id="b" * 16, name="chat", start=1, end=2, key_id="k", attributes={"detent.shadow": True}
    )
    assert call_of(shadow) is None

"""Documents come back as they were, applying a difference leaves none, and limits hold in every window."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detent.gateway.model import (
    Breaker,
    Budget,
    CachePolicy,
    Fallback,
    Hedge,
    Limit,
    Provider,
    Queue,
    Retry,
    Route,
    Shadow,
    Target,
    Timeouts,
)
from detent.gateway.planning.diff import diff, merged
from detent.gateway.planning.document import parse_toml, write_toml
from detent.gateway.planning.dryrun import replay
from detent.gateway.planning.model import Call, Configuration
from detent.gateway.planning.service import _body
from detent.gateway.views import BUDGETS as BUDGET_ROWS
from detent.gateway.views import LIMITS as LIMIT_ROWS
from detent.gateway.views import PRICES as PRICE_ROWS
from detent.gateway.views import PROVIDERS as PROVIDER_ROWS
from detent.gateway.views import ROUTES as ROUTE_ROWS
from detent.kernel.chat import Usage
from detent.kernel.clock import SECOND
from detent.kernel.facts import Fact, View
from detent.kernel.identity import Actor
from detent.kernel.money import LongContext, Price

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,10}[a-z0-9])?", fullmatch=True)
MODELS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)
SHARES = st.floats(0, 1)
TARGETS = st.builds(Target, NAMES, MODELS, st.integers(1, 999_999))
PROVIDERS = st.builds(
    Provider, name=st.just(""), project=st.just(""), url=st.just("https://x.test/v1"),
    dialect=st.sampled_from(("openai", "anthropic", "gemini", "bedrock")), region=NAMES,
    api_version=NAMES, max_concurrency=st.integers(0, 9), allow_private=st.booleans(),
)  # fmt: skip
FAILURES = ("rate_limited", "unavailable", "timeout", "bad_answer", "context_length", "content_filter")
ROUTES = st.builds(
    Route, name=st.just(""), project=st.just(""), targets=st.lists(TARGETS, min_size=1, max_size=4).map(tuple),
    policy=st.sampled_from(("ordered", "weighted", "least_latency", "cheapest", "prefix_affinity")),
    fallbacks=st.lists(
        st.builds(Fallback, NAMES, st.lists(st.sampled_from(FAILURES), unique=True).map(tuple)), max_size=3
    ).map(tuple),
    retry=st.builds(Retry, st.integers(1, 9), st.integers(0, 999), SHARES),
    breaker=st.builds(Breaker, SHARES, SHARES, SHARES, st.integers(1, 9)), hedge=st.builds(Hedge, SHARES, SHARES),
    timeouts=st.builds(Timeouts, SHARES, SHARES, SHARES, SHARES), queue=st.builds(Queue, st.integers(0, 9)),
    sticky=st.sampled_from(("", "session", "user")),
    shadow=st.none() | st.builds(Shadow, NAMES, SHARES, st.integers(0, 10**15)),
    cache=st.builds(CachePolicy, st.sampled_from(("off", "exact", "semantic")), st.integers(1, 9), SHARES),
    priority=st.sampled_from(("interactive", "default", "batch")),
)  # fmt: skip
SCOPES = st.sampled_from(("project", "key", "user", "route", "model"))
LIMITS = st.builds(
    Limit, name=st.just(""), project=st.just(""), scope=SCOPES, subject=MODELS,
    unit=st.sampled_from(("requests", "tokens")), amount=st.integers(1, 10**12), window_seconds=st.integers(1, 999),
)  # fmt: skip
BUDGETS = st.builds(
    Budget, name=st.just(""), project=st.just(""), scope=SCOPES, subject=MODELS, amount=st.integers(1, 10**18),
    period=st.sampled_from(("day", "month")), alerts=st.lists(st.integers(1, 100)).map(tuple), hard=st.booleans(),
)  # fmt: skip
FIGURES = st.integers(0, 10**12)
MAYBE = st.none() | FIGURES
LONG = st.none() | st.builds(LongContext, st.integers(1, 10**6), FIGURES, FIGURES, MAYBE, MAYBE)
PRICES = st.builds(Price, FIGURES, FIGURES, *[MAYBE] * 6, st.integers(0, 10**9), st.integers(0, 10**9), LONG)


UNHURRIED = settings(suppress_health_check=[HealthCheck.too_slow])
"""A whole configuration takes its time to be drawn on a busy machine."""


def named(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    def with_names(found: dict[str, Any]) -> dict[str, Any]:
        return {name: _with(value, name=name) for name, value in found.items()}

    return st.dictionaries(NAMES, values, max_size=2).map(with_names)


def _with(value: Any, **changed: Any) -> Any:
    return msgspec.structs.replace(value, **changed)


CONFIGURATIONS = st.builds(
    Configuration, providers=named(PROVIDERS), routes=named(ROUTES), limits=named(LIMITS),
    budgets=named(BUDGETS), prices=st.dictionaries(st.builds("{}/{}".format, NAMES, NAMES), PRICES, max_size=2),
)  # fmt: skip


@UNHURRIED
@given(CONFIGURATIONS)
def test_a_document_comes_back_as_it_was(configuration: Configuration) -> None:
    text = write_toml(configuration)
    assert parse_toml(text) == configuration
    assert diff(configuration, parse_toml(text)) == ()


@UNHURRIED
@given(CONFIGURATIONS, CONFIGURATIONS)
def test_differences_are_exactly_what_differs(before: Configuration, after: Configuration) -> None:
    changes = diff(before, after)
    assert (changes == ()) == (before == after)
    for change in changes:
        old = getattr(before, f"{change.noun}s").get(change.name)
        new = getattr(after, f"{change.noun}s").get(change.name)
        assert old != new
        assert change.action == ("added" if old is None else "removed" if new is None else "changed")
    assert all(change.action != "removed" for change in diff(before, merged(before, after)))


ROWS: dict[str, View[Any]] = {
    "provider": PROVIDER_ROWS, "route": ROUTE_ROWS, "limit": LIMIT_ROWS, "budget": BUDGET_ROWS, "price": PRICE_ROWS,
}  # fmt: skip


@UNHURRIED
@given(CONFIGURATIONS, CONFIGURATIONS)
def test_the_facts_of_a_plan_lead_to_what_was_wanted(before: Configuration, after: Configuration) -> None:
    for noun, view in ROWS.items():
        rows: dict[str, Any] = {}
        # The way to the first configuration, then the way from it to the second.
        for old, new in ((Configuration(), before), (before, after)):
            for change in diff(old, new):
                if change.noun == noun:
                    fact = Fact(0, "", f"{noun}/{change.name}", 1, "", Actor("user", "u"), 0, "", _body(change, new))
                    rows[change.name] = view.fold(rows.get(change.name), fact)
        found = {name: row for name, row in rows.items() if row is not None}
        if noun == "price":
            found = {name: entry.at(1) for name, entry in found.items()}
        assert found == getattr(after, f"{noun}s")


@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 50)), max_size=60),
    st.integers(1, 100),
    st.integers(1, 60),
    st.sampled_from(("requests", "tokens")),
)
def test_no_window_holds_more_than_its_limit(
    arrivals: list[tuple[int, int]], amount: int, window: int, unit: Any
) -> None:
    calls = [
        Call(
            trace_id="",
            span_id=f"{n:016x}",
            start=at * SECOND,
            end=at * SECOND,
            asked="detent-tiny",
            key_id="k",
            user_id="",
            usage=Usage(tokens, 0),
            cost=None,
        )
        for n, (at, tokens) in enumerate(sorted(arrivals))
    ]
    limit = Limit(name="l", project="", scope="project", unit=unit, amount=amount, window_seconds=window)
    found = replay(calls, Configuration(limits={"l": limit}), lambda _p, _m: None, {})
    let = [
        (call.start, 1 if unit == "requests" else call.usage.total_tokens)
        for call, fate in zip(calls, found.fates, strict=True)
        if fate.outcome == "answered"
    ]
    for end, _weight in let:
        assert sum(weight for start, weight in let if end - window * SECOND < start <= end) <= amount
    assert len(let) + found.refused == len(calls)

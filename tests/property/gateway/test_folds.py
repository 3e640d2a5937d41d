"""fold(facts) = state: random histories of keys, providers and routes against a model that is written the plain way."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from detent.gateway.facts import KeyMinted, KeyRevoked, ProviderRemoved, ProviderSaved, RouteRemoved, RouteSaved
from detent.gateway.model import EMBEDDED, EMBEDDED_MODEL, Key, Provider, Route, Target
from detent.gateway.prices import shipped_prices
from detent.gateway.snapshot import Snapshot, Sources, compile_snapshot
from detent.gateway.views import KEYS, PROVIDERS, ROUTES
from detent.kernel.facts import Fact, FactBody, View
from detent.kernel.identity import Actor, Permission

STREAMS = st.sampled_from(["a", "b", "c"])
PERMISSIONS = st.lists(st.sampled_from(list(Permission)), unique=True).map(tuple)
MINTED = st.builds(
    KeyMinted,
    name=st.text(max_size=5),
    hash=st.text(alphabet="0123456789abcdef", min_size=64, max_size=64),
    hint=st.just("dtk_"),
    permissions=PERMISSIONS,
    expires=st.integers(0, 200),
)
SAVED = st.builds(
    ProviderSaved, name=STREAMS, url=st.just("https://example.com/v1"), secret_id=st.sampled_from(["", "s1"])
)
TARGETS = st.lists(st.builds(Target, STREAMS, st.text(min_size=1, max_size=5)), max_size=3).map(tuple)
HISTORIES = st.lists(
    st.one_of(
        st.tuples(st.just(KEYS), STREAMS, MINTED | st.builds(KeyRevoked)),
        st.tuples(st.just(PROVIDERS), STREAMS, SAVED | st.builds(ProviderRemoved, name=STREAMS)),
        st.tuples(
            st.just(ROUTES),
            STREAMS,
            st.builds(RouteSaved, name=STREAMS, targets=TARGETS) | st.builds(RouteRemoved, name=STREAMS),
        ),
    ),
    max_size=40,
)
Rows = dict[str, dict[str, Any]]


def record(history: list[tuple[View[Any], str, FactBody]]) -> list[tuple[View[Any], Fact]]:
    return [
        (view, Fact(n, f"id{n}", f"{view.name}/{name}", n, "default", Actor("user", "u"), n, "", body))
        for n, (view, name, body) in enumerate(history, 1)
    ]


def fold(facts: list[tuple[View[Any], Fact]], rows: Rows | None = None) -> Rows:
    found: Rows = {view: dict(states) for view, states in (rows or {}).items()}
    for view, fact in facts:
        states = found.setdefault(view.name, {})
        state = view.fold(states.get(view.key(fact)), fact)
        if state is None:
            states.pop(view.key(fact), None)
        else:
            states[view.key(fact)] = state
    return found


@given(HISTORIES)
def test_a_fold_is_the_last_word_on_each_thing(history: list[tuple[View[Any], str, FactBody]]) -> None:
    facts = record(history)
    rows = fold(facts)
    for view, name in {(view.name, name) for view, name, _ in history}:
        own = [fact for v, fact in facts if v.name == view and fact.stream == f"{view}/{name}"]
        state, last = rows.get(view, {}).get(f"{view}/{name}"), own[-1].body
        if view == "keys":
            minted = [f for f in own if isinstance(f.body, KeyMinted)]
            assert (state is None) == (not minted)
            if minted:
                since = own[own.index(minted[-1]) + 1 :]
                assert isinstance(state, Key)
                assert (state.hash, state.revoked) == (minted[-1].body.hash, since[0].time if since else 0)  # type: ignore[attr-defined]
        elif isinstance(last, ProviderSaved):
            assert isinstance(state, Provider)
            assert (state.url, state.secret_id, state.changed) == (last.url, last.secret_id, own[-1].time)
        elif isinstance(last, RouteSaved):
            assert isinstance(state, Route)
            assert (state.targets, state.changed) == (last.targets, own[-1].time)
        else:
            assert state is None


@given(HISTORIES, st.integers(0, 40))
def test_folding_may_stop_and_go_on_anywhere(history: list[tuple[View[Any], str, FactBody]], cut: int) -> None:
    facts = record(history)
    assert fold(facts[cut:], fold(facts[:cut])) == fold(facts)


@given(HISTORIES, st.integers(0, 200), st.booleans())
def test_a_snapshot_holds_live_keys_and_reachable_targets_only(
    history: list[tuple[View[Any], str, FactBody]], now: int, engine: bool
) -> None:
    rows = fold(record(history))
    sources = Sources(
        position=len(history),
        keys=rows.get("keys", {}).values(),
        providers=rows.get("providers", {}).values(),
        routes=rows.get("routes", {}).values(),
        prices=(),
        secrets={"s1": "v1.sealed"},
        engine_url="http://127.0.0.1:7402/v1" if engine else "",
    )
    found = compile_snapshot(sources, table=shipped_prices(), now=now)
    assert isinstance(found, Snapshot)
    for key in rows.get("keys", {}).values():
        live = not key.revoked and (not key.expires or now < key.expires)
        assert live <= (key.hash in found.keys)
    assert all(target.provider in found.providers for route in found.routes.values() for target in route.targets)
    assert (f"default/{EMBEDDED}" in found.providers, f"default/{EMBEDDED_MODEL}" in found.routes) == (engine, engine)
    assert compile_snapshot(sources, table=shipped_prices(), now=now) == found

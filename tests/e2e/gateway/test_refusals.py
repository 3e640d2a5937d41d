"""What the gateway refuses by itself, told to clients of every dialect; the reference page has the same rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.client import HTTPResponse
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from msgspec.structs import replace
from tests.e2e.gateway.matrix import PAIRS, REFUSALS, Refusal
from tests.e2e.gateway.wires import Client

from detent.gateway.model import Breaker, Budget, Limit, Queue, Route
from detent.gateway.snapshot import publish

pytestmark = pytest.mark.e2e

SETTINGS = {
    "DETENT_GATEWAY_MAX_BODY_BYTES": "20000",
    "DETENT_GATEWAY_MAX_DEPTH": "16",
    "DETENT_GATEWAY_MAX_PARTS": "50",
    "DETENT_GATEWAY_MAX_INFLIGHT": "4",
}
WIRE = PAIRS[0].wire
RULES: dict[str, dict[str, Any]] = {
    "plain": {},
    "limit": {},
    "budget": {},
    "unpriced": {},
    "resting": {},
    "full": {"queue": Queue(length=0)},
    "deadline": {"queue": Queue(deadline_ms=150)},
    "breaker": {"breaker": Breaker(min_calls=1)},
}


class Stage:
    """One worker, a provider behind all routes, and one that bears a call at a time behind `full` and `deadline`.

    Where a call changes what the next one meets, each client has a route of its own: `NAME-PATH`.
    """

    def __init__(self, tools: ModuleType, folder: Path) -> None:
        self.tools = tools
        self.upstream, self.narrow = tools.Upstream(), tools.Upstream()
        clients = {route_of(name, client) for refusal in REFUSALS for client in refusal.clients for name in RULES}
        rules = {
            name: Route(name=name, project="default", targets=(), **RULES[name.partition("-")[0]]) for name in clients
        }
        targets = {
            name: [self.narrow.url if name.startswith(("full", "deadline")) else self.upstream.url] for name in rules
        }
        limits = [
            Limit(name=n, project="default", scope="route", subject=n, unit="requests", amount=1, window_seconds=3600)
            for n in sorted(clients)
            if n.startswith("limit")
        ]
        budgets = [
            Budget(name=n, project="default", scope="route", subject=n, amount=1, period="day")
            for n in sorted(clients)
            if n.startswith(("budget", "unpriced"))
        ]
        made = tools.snapshot(
            targets, rules=rules, limits={"default": tuple(limits)}, budgets={"default": tuple(budgets)}
        )
        providers = {
            path: replace(each, max_concurrency=1) if each.url == self.narrow.url else each
            for path, each in made.providers.items()
        }
        routes = {
            path: replace(
                route,
                targets=tuple(
                    replace(t, model=route.name, price=None if "unpriced" in path else t.price) for t in route.targets
                ),
            )
            for path, route in made.routes.items()
        }
        publish(replace(made, providers=providers, routes=routes), folder / "snapshot")
        self.worker = tools.Worker(folder, SETTINGS)
        self.worker.wait_ready()

    def ask(self, client: Client, body: bytes, key: str = "", **headers: str) -> HTTPResponse:
        key = key or self.tools.KEY
        named = {client.auth: key if client.auth == "x-api-key" else f"Bearer {key}"}
        found: HTTPResponse = self.worker.ask("POST", client.path, body, {**named, **headers})
        return found

    def hold(self, upstream: Any, route: str) -> HTTPResponse:
        """A stream that stands still within its answer."""
        upstream.script(
            (WIRE.head(), self.tools.chunk(WIRE.role() + WIRE.text("Well,")), self.tools.HOLD),
        )
        found = self.ask(Client(), Client().body(route, stream=True))
        assert found.read1(10_000)
        return found


def route_of(name: str, client: Client) -> str:
    return f"{name}-{client.path.rpartition('/')[2]}"


@pytest.fixture(scope="module")
def stage(tools: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    found = Stage(tools, tmp_path_factory.mktemp("refusals"))
    yield found
    assert found.worker.stop() == 0, found.worker.errors.read_text()
    found.upstream.close()
    found.narrow.close()


Play = Callable[[Stage, Client], HTTPResponse]


def sent(name: str, change: Callable[[dict[str, Any]], Any] | None = None, *, key: str = "", **headers: str) -> Play:
    """A call to a route, its body changed."""

    def play(stage: Stage, client: Client) -> HTTPResponse:
        body = json.loads(client.body(route_of(name, client), stream=False))
        return stage.ask(client, json.dumps(body if change is None else change(body)).encode(), key, **headers)

    return play


def again(name: str, status: int, extra: str = "") -> Play:
    """A call after one that the provider answered so."""

    def play(stage: Stage, client: Client) -> HTTPResponse:
        body = WIRE.whole("x") if status == 200 else WIRE.error(status)
        stage.upstream.script((stage.tools.answer(body, f"{status} So", extra=extra), stage.tools.KEEP))
        sent(name)(stage, client).read()
        return sent(name)(stage, client)

    return play


def busy(name: str) -> Play:
    """A call while the one that its deployment bears is on its way."""

    def play(stage: Stage, client: Client) -> HTTPResponse:
        before = stage.hold(stage.narrow, route_of(name, client))
        found = sent(name)(stage, client)
        stage.worker.hang_up(-2)
        stage.worker.span(before)  # its place is free again
        return found

    return play


def overloaded(stage: Stage, client: Client) -> HTTPResponse:
    held = [stage.hold(stage.upstream, route_of("plain", client)) for _ in range(4)]
    found = sent("plain")(stage, client)
    for each in reversed(held):
        stage.worker.hang_up(-2)
        stage.worker.span(each)
    return found


def nested(body: dict[str, Any]) -> dict[str, Any]:
    value: Any = 1
    for _ in range(20):
        value = [value]
    return {**body, "metadata": value}


PLAYS: dict[str, Play] = {
    "key": sent("plain", key="dtk_" + "z" * 43),
    "model": sent("plain", lambda body: {**body, "model": "none"}),
    "malformed": lambda stage, client: stage.ask(client, client.body("plain", stream=False)[:-1]),
    "field": sent("plain", lambda body: {**body, "temperature": "hot"}),
    "large": sent("plain", lambda body: {**body, "user": "x" * 20_000}),
    "deep": sent("plain", nested),
    "parts": sent("plain", lambda body: {**body, "metadata": [{}] * 60}),
    "previous": sent("plain", lambda body: {**body, "previous_response_id": "resp_0123456789"}),
    "limit": again("limit", 200),
    "budget": sent("budget"),
    "unpriced": sent("unpriced"),
    "resting": again("resting", 429, "retry-after: 30\r\n"),
    "full": busy("full"),
    "deadline": busy("deadline"),
    "overloaded": overloaded,
}


@pytest.mark.parametrize(
    ("refusal", "client"), [pytest.param(r, c, id=f"{r.name}-{c.path}") for r in REFUSALS for c in r.clients]
)
def test_refusal(stage: Stage, refusal: Refusal, client: Client) -> None:
    asked = len(stage.upstream.requests)
    got = PLAYS[refusal.name](stage, client)
    kind, code, message = client.error(got.read())
    assert (got.status, kind, code) == (refusal.status, client.type_of(refusal.status), refusal.code)
    assert message.endswith((".", "'"))
    assert [name for name in refusal.headers if name not in got.headers] == []
    assert ("retry-after" in got.headers) == ("retry-after" in refusal.headers)
    if not refusal.spanned:
        assert "x-detent-trace-id" not in got.headers
        return
    span = stage.worker.span(got)
    assert (span.status, span.error_type, span.http_status) == ("error", refusal.code, refusal.status)
    assert (span.input_tokens, span.output_tokens, span.cost) == (0, 0, 0)
    if refusal.name not in {"limit", "resting", "overloaded"}:
        assert len(stage.upstream.requests) == asked


def test_open_breakers_refuse_nobody(stage: Stage) -> None:
    found = [again("breaker", 500)(stage, Client()).status for _ in range(2)]
    assert found == [502, 502]
    assert len(stage.upstream.requests) == 2
    assert again("breaker", 200)(stage, Client()).status == 200


def test_every_row_is_played() -> None:
    assert [refusal.name for refusal in REFUSALS] == list(PLAYS)

"""Every situation of the failure matrix, played against a real worker; the reference page is written from them."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from http.client import HTTPResponse, IncompleteRead
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from msgspec.structs import replace
from tests.e2e.gateway.matrix import (
    PAIRS,
    PLAYED,
    SITUATIONS,
    Answered,
    Broken,
    Gone,
    Pair,
    PassedOn,
    Refused,
    Situation,
)
from tests.e2e.gateway.wires import SAID

from detent.gateway.model import Route, Timeouts
from detent.gateway.snapshot import publish

pytestmark = pytest.mark.e2e

SETTINGS = {
    "DETENT_GATEWAY_CONNECT_TIMEOUT": "2",
    "DETENT_GATEWAY_FIRST_TOKEN_TIMEOUT": "5",
    "DETENT_GATEWAY_IDLE_TIMEOUT": "5",
    "DETENT_GATEWAY_TOTAL_TIMEOUT": "20",
}
QUICK = {
    "": Timeouts(),
    "first_token": Timeouts(first_token=0.3),
    "idle": Timeouts(idle=0.3),
    "total": Timeouts(total=0.7),
}
SPARE = "Another"
# Priced at 1 and 2 micro-dollars a token: nano-dollars of the scripted usage (10 in, 5 out).
REPORTED = (10, 5, False, 10 * 1000 + 5 * 2000)


class Stage:
    """One worker; a provider for each pair, and one that can take over for all of them.

    Each situation has two routes of its own: `alone-...` has the first provider, `two-...` has both in order. Their
    models have names of their own too, so that no deployment is left alone for what it did in another situation.
    """

    def __init__(self, tools: ModuleType, folder: Path) -> None:
        self.tools = tools
        self.first = {pair.name: tools.Upstream() for pair in PAIRS}
        self.second = tools.Upstream()
        with socket.create_server(("127.0.0.1", 0)) as bound:
            nobody = f"http://127.0.0.1:{bound.getsockname()[1]}"
        dialects, flavours = {}, {self.second.url: "vllm"}
        targets: dict[str, list[str]] = {}
        rules: dict[str, Route] = {}
        for situation, pair in PLAYED:
            url = f"http://127.0.0.1:{self.first[pair.name].port}{pair.wire.base}"
            if not situation.listens:
                url = f"{nobody}/{PAIRS.index(pair)}"
            dialects[url], flavours[url] = pair.wire.dialect, pair.wire.flavour
            for name, chain in (("alone", [url]), ("two", [url, self.second.url])):
                route = named(name, situation, pair)
                targets[route] = chain
                rules[route] = Route(name=route, project="default", targets=(), timeouts=QUICK[situation.quick])
        made = tools.snapshot(targets, dialects=dialects, flavours=flavours, rules=rules)
        routes = {
            path: replace(route, targets=tuple(replace(target, model=route.name) for target in route.targets))
            for path, route in made.routes.items()
        }
        publish(replace(made, routes=routes), folder / "snapshot")
        self.worker = tools.Worker(folder, SETTINGS)
        self.worker.wait_ready()

    def play(self, situation: Situation, pair: Pair, route: str) -> tuple[HTTPResponse | None, bytes, Any]:
        """A call while the first provider does its part: the answer, its body (until it is cut), and the span."""
        tools, first, model = self.tools, self.first[pair.name], named(route, situation, pair)
        if situation.earlier is not None:
            first.script(situation.earlier(tools, pair.wire))
            self.ask(pair, model, stream=situation.stream).read()
        first.script(situation.steps(tools, pair.wire))
        self.second.script(self._spare(pair, stream=situation.stream))
        if situation.leaves:
            return None, b"", self.worker.span(self._leave(situation, pair, model))
        got = self.ask(pair, model, stream=situation.stream)
        try:
            body = got.read()
        except IncompleteRead as cut:
            assert pair.client.sees == "bytes"
            body = cut.partial
        except ConnectionError:
            assert pair.client.sees == "bytes"
            body = b""
        return got, body, self.worker.span(got)

    def ask(self, pair: Pair, model: str, *, stream: bool) -> HTTPResponse:
        client = pair.client
        key = self.tools.KEY if client.auth == "x-api-key" else f"Bearer {self.tools.KEY}"
        found: HTTPResponse = self.worker.ask(
            "POST", client.path, client.body(model, stream=stream), {client.auth: key}
        )
        return found

    def _spare(self, pair: Pair, *, stream: bool) -> tuple[Any, ...]:
        """What the other provider answers: it speaks OpenAI's dialect to all."""
        tools = self.tools
        wire = PAIRS[0].wire if pair.kind == "chat" else pair.wire
        if pair.kind == "speech" or stream:
            pieces = [wire.role(), wire.text(SPARE), wire.finish() if pair.kind == "chat" else b""]
            return (wire.head(), *(tools.chunk(piece) for piece in pieces if piece), tools.END, tools.KEEP)
        return (tools.answer(wire.whole(SPARE)), tools.KEEP)

    def _leave(self, situation: Situation, pair: Pair, model: str) -> str:
        """Send a call and hang up; its trace."""
        trace, first = f"{time.monotonic_ns():032x}", self.first[pair.name]
        body = pair.client.body(model, stream=situation.stream)
        head = (
            f"POST {pair.client.path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self.tools.KEY}\r\n"
            f"traceparent: 00-{trace}-00f067aa0ba902b7-01\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", self.worker.port), timeout=10) as client:
            client.sendall(head.encode() + body)
            if situation.leaves == "within the answer":
                seen = b""
                while situation.sees.text.encode() not in seen:  # type: ignore[union-attr]
                    seen += client.recv(65536)
            else:
                deadline = time.monotonic() + 10
                while not first.requests and time.monotonic() < deadline:
                    time.sleep(0.01)
        assert first.gone.wait(2), "the provider is told at once"
        return trace


def named(route: str, situation: Situation, pair: Pair) -> str:
    return f"{route}-{situation.name}-{PAIRS.index(pair)}"


@pytest.fixture(scope="module")
def stage(tools: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    found = Stage(tools, tmp_path_factory.mktemp("matrix"))
    yield found
    assert found.worker.stop() == 0, found.worker.errors.read_text()
    for upstream in (*found.first.values(), found.second):
        upstream.close()


def counted(situation: Situation, pair: Pair, text: str) -> tuple[Any, ...]:
    """Input and output tokens, whether they are estimated, and the cost."""
    if situation.counted == "nothing":
        return (0, 0, False, 0)
    if situation.counted == "reported":
        return REPORTED
    told = situation.counted == "estimated" and situation.stream and pair.wire.tells_prompt
    prompt = 10 if told else -(-len(pair.client.prompt) // 4)
    output = 0
    if situation.counted == "estimated" and pair.kind == "chat":
        if not situation.stream:  # a whole answer's message is measured as it is written
            form = None if pair is PAIRS[0] else (",", ":")
            text = json.dumps({"role": "assistant", "content": text}, separators=form)
        output = -(-len(text) // 4)
    return (prompt, output, True, prompt * 1000 + output * 2000)


def bill(span: Any) -> tuple[Any, ...]:
    return (span.input_tokens, span.output_tokens, span.usage_estimated, span.cost)


def outcome(span: Any) -> tuple[Any, ...]:
    return (span.status, span.error_type, span.http_status, span.attempts)


CASES = [
    pytest.param(situation, pair, route, id=f"{situation.name}-{pair.name.replace(' ', '_')}-{route}")
    for situation, pair in PLAYED
    for route in ("alone", "two")
    # That nobody is asked again when time runs out after output is the same code for all, and takes its time.
    if route == "alone" or not situation.quick or situation.next_asked or pair is PAIRS[0]
]


@pytest.mark.parametrize(("situation", "pair", "route"), CASES)
def test_situation(stage: Stage, situation: Situation, pair: Pair, route: str) -> None:
    got, body, span = stage.play(situation, pair, route)
    client, sees = pair.client, situation.sees
    attempts = 0 if situation.earlier else 1
    text = client.streamed if situation.stream else client.text
    if situation.next_asked and route == "two":
        assert text(body) == SPARE
        assert outcome(span) == ("ok", "", 200, attempts + 1)
        assert (span.input_tokens, span.usage_estimated) == (10, False) if pair.kind != "speech" else True
        return
    if isinstance(sees, Gone):
        assert outcome(span) == ("cancelled", "client_disconnected", 499, 1)
        assert bill(span) == counted(situation, pair, sees.text)
        return
    assert got is not None
    seen = ""
    if isinstance(sees, Answered):
        seen = text(body)
        assert (got.status, seen) == (200, sees.text)
        assert (client.end in body) == situation.stream
        assert outcome(span) == ("ok", "", 200, 1)
    elif isinstance(sees, Broken):
        seen = client.streamed(body)
        assert got.status == 200
        if client.sees == "events":
            kind, code, _ = client.fault(body)
            assert (kind, code) == (client.type_of(sees.status), sees.code)
            assert client.end not in body
        if sees.text.endswith("..."):
            assert set(seen) == set(sees.text) - {"."}
        elif client.sees == "events" or seen:
            assert seen == sees.text
        assert outcome(span) == ("error", sees.code, 200, 1)
    else:
        assert isinstance(sees, Refused | PassedOn)
        assert got.status == sees.status
        assert outcome(span) == ("error", sees.code, sees.status, attempts)
        if isinstance(sees, PassedOn) and pair.same:
            assert body == pair.wire.error(sees.status)
        else:
            kind, code, words = client.error(body)
            assert (kind, code) == (client.type_of(sees.status), sees.code)
            assert not isinstance(sees, PassedOn) or SAID in words
        assert ("retry-after" in got.headers) == (isinstance(sees, Refused) and sees.retry_after)
    assert bill(span) == counted(situation, pair, seen)


def test_every_situation_that_was_asked_for_has_its_row() -> None:
    said = " ".join(situation.happens for situation in SITUATIONS).lower()
    asked = (
        "middle of a stream",  # cut stream
        "error in the middle",  # late error
        "byte by byte",  # slow drip
        "200 with an error",
        "no json",  # bad SSE
        "3 mb",  # giant chunk
        "not even headers",  # hang before headers
        "429 with `retry-after`",
        "usage it reports cannot be true",
        "client leaves",
    )
    assert [each for each in asked if each not in said] == []
    assert len({situation.name for situation in SITUATIONS}) == len(SITUATIONS)

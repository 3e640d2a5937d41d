"""Every row of the failure matrix, played against a real worker; the page in the reference is written from them."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from msgspec.structs import replace
from tests.e2e.gateway.matrix import ROWS, Answered, Broken, Gone, PassedOn, Refused, Row

from detent.gateway.snapshot import publish

pytestmark = pytest.mark.e2e

FAST = {
    "DETENT_GATEWAY_CONNECT_TIMEOUT": "0.5",
    "DETENT_GATEWAY_FIRST_TOKEN_TIMEOUT": "0.5",
    "DETENT_GATEWAY_IDLE_TIMEOUT": "0.5",
    "DETENT_GATEWAY_TOTAL_TIMEOUT": "2",
}
# Priced at 1 and 2 micro-dollars a token: nano-dollars of the scripted usage (10 in, 5 out).
FULL = (10, 5, False, 10 * 1000 + 5 * 2000)
PROMPT_TOKENS = -(-len(b'[{"role": "user", "content": "Hi!!"}]') // 4)


class Stage:
    """One worker and two providers.

    Each row has two routes of its own: `alone-ROW` has the first provider, `two-ROW` has both in order. Their models
    have names of their own too, so that no deployment is left alone for what it did in another row.
    """

    def __init__(self, tools: ModuleType, folder: Path) -> None:
        self.tools = tools
        self.first = tools.Upstream()
        self.second = tools.Upstream()
        with socket.create_server(("127.0.0.1", 0)) as bound:
            nobody = f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
        chains = {row.name: [self.first.url if row.listens else nobody, self.second.url] for row in ROWS}
        made = tools.snapshot(
            {f"alone-{name}": chain[:1] for name, chain in chains.items()}
            | {f"two-{name}": chain for name, chain in chains.items()}
        )
        routes = {
            path: replace(route, targets=tuple(replace(target, model=route.name) for target in route.targets))
            for path, route in made.routes.items()
        }
        publish(replace(made, routes=routes), folder / "snapshot")
        self.worker = tools.Worker(folder, FAST)
        self.worker.wait_ready()

    def play(self, row: Row, route: str) -> tuple[HTTPResponse | None, bytes, Any]:
        """A call while the first provider does as the row says: the answer, its body, and the span."""
        if row.earlier is not None:
            self.first.script(row.earlier(self.tools))
            self.worker.chat({"model": f"{route}-{row.name}"}).read()
        self.first.script(row.steps(self.tools))
        good = self.tools.GOOD_STREAM if row.stream else (self.tools.answer(self.tools.completion("Hello")), "keep")
        self.second.script(good)
        if row.leaves:
            return None, b"", self.worker.span(self._leave(row, f"{route}-{row.name}"))
        got = self.worker.chat({"model": f"{route}-{row.name}", "stream": row.stream})
        body = got.read()
        return got, body, self.worker.span(got)

    def _leave(self, row: Row, model: str) -> str:
        """Send a call and hang up; its trace."""
        trace = f"{time.monotonic_ns():032x}"
        messages = [{"role": "user", "content": "Hi!!"}]
        body = json.dumps({"model": model, "messages": messages, "stream": row.stream}).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self.tools.KEY}\r\n"
            f"traceparent: 00-{trace}-00f067aa0ba902b7-01\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", self.worker.port), timeout=10) as client:
            client.sendall(head.encode() + body)
            if row.leaves == "within the answer":
                seen = b""
                while b"content" not in seen.partition(b"\r\n\r\n")[2]:
                    seen += client.recv(65536)
            else:
                deadline = time.monotonic() + 10
                while not self.first.requests and time.monotonic() < deadline:
                    time.sleep(0.01)
        assert self.first.gone.wait(0.4), "the provider is told at once"
        return trace


@pytest.fixture(scope="module")
def stage(tools: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    found = Stage(tools, tmp_path_factory.mktemp("matrix"))
    yield found
    assert found.worker.stop() == 0, found.worker.errors.read_text()
    found.first.close()
    found.second.close()


def text_of(body: bytes, *, stream: bool) -> str:
    """The answer's text, of a stream up to its end or its error."""
    if not stream:
        return str(json.loads(body)["choices"][0]["message"]["content"])
    events = [
        json.loads(part.removeprefix("data: ")) for part in body.decode().split("\n\n")[:-1] if "[DONE]" not in part
    ]
    return "".join(e["choices"][0]["delta"].get("content") or "" for e in events if e.get("choices"))


def counted(row: Row, text: str) -> tuple[Any, ...]:
    """Input and output tokens, whether they are estimated, and the cost."""
    if row.counted == "reported":
        return FULL
    if row.counted == "nothing":
        return (0, 0, False, 0)
    characters = len(text) if row.counted < 0 else row.counted
    output = -(-characters // 4)
    return (PROMPT_TOKENS, output, True, PROMPT_TOKENS * 1000 + output * 2000)


def bill(span: Any) -> tuple[Any, ...]:
    return (span.input_tokens, span.output_tokens, span.usage_estimated, span.cost)


@pytest.mark.parametrize("route", ["alone", "two"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(stage: Stage, row: Row, route: str) -> None:
    got, body, span = stage.play(row, route)
    attempts = 0 if row.earlier else 1
    if row.next_asked and route == "two":
        assert (text_of(body, stream=row.stream), bill(span)) == ("Hello", FULL)
        assert (span.status, span.error_type, span.http_status, span.attempts) == ("ok", "", 200, attempts + 1)
        return
    sees, text = row.sees, ""
    if isinstance(sees, Gone):
        told: tuple[Any, ...] = ("cancelled", sees.code, 499, 1)
    else:
        assert got is not None
        if isinstance(sees, Answered):
            text = sees.text
            assert (got.status, text_of(body, stream=row.stream)) == (200, text)
            assert body.endswith(b"data: [DONE]\n\n") == row.stream
            told = ("ok", "", 200, 1)
        elif isinstance(sees, Broken):
            text = text_of(body, stream=True)
            assert got.status == 200
            assert text == sees.text if row.counted != -1 else set(text) == set(sees.text)
            assert json.loads(body.decode().split("\n\n")[-2].removeprefix("data: "))["error"]["code"] == sees.code
            assert b"[DONE]" not in body
            told = ("error", sees.code, 200, 1)
        elif isinstance(sees, Refused):
            assert (got.status, json.loads(body)["error"]["code"]) == (sees.status, sees.code)
            assert ("retry-after" in got.headers) == sees.retry_after
            told = ("error", sees.code, sees.status, attempts)
        else:
            assert isinstance(sees, PassedOn)
            assert (got.status, body) == (sees.status, row.steps(stage.tools)[0].partition(b"\r\n\r\n")[2])
            told = ("error", sees.code, sees.status, 1)
    assert (span.status, span.error_type, span.http_status, span.attempts) == told
    assert bill(span) == counted(row, text)


def test_every_situation_that_was_asked_for_has_its_row() -> None:
    said = " ".join(row.happens for row in ROWS).lower()
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
    assert [situation for situation in asked if situation not in said] == []
    assert len({row.name for row in ROWS}) == len(ROWS)

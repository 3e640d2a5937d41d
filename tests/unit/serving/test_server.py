"""The engine's ASGI application: the OpenAI dialect, its refusals, and that nobody waits for long."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest

from detent.serving.engines.tiny.generation import Tiny
from detent.serving.engines.tiny.runtime import Adapter
from detent.serving.engines.tiny.server import Engine, Limits

TINY = Tiny.load()
HELLO = {"model": "detent-tiny", "messages": [{"role": "user", "content": "Hello"}]}
PLAIN = '{"intent":"other","order":null,"product":null,"city":null,"priority":"normal"}'
READ, SAID = 3 + len(TINY.tokenizer.encode("Hello")), len(TINY.tokenizer.encode(PLAIN))
USAGE = {"prompt_tokens": READ, "completion_tokens": SAID, "total_tokens": READ + SAID}


class Wire:
    """One request as ASGI sees it, and what came back."""

    def __init__(
        self, engine: Engine, method: str, path: str, body: bytes = b"", *, leaves_after: int | None = None
    ) -> None:
        self._engine = engine
        self._scope = {"type": "http", "method": method, "path": path, "headers": []}
        self._messages: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]
        self._leaves_after = leaves_after
        self._left = asyncio.Event()
        self.sent: list[dict[str, Any]] = []

    async def run(self) -> Wire:
        await self._engine(self._scope, self._receive, self._send)  # type: ignore[arg-type]
        return self

    async def _receive(self) -> dict[str, Any]:
        if self._messages:
            return self._messages.pop(0)
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        if self._leaves_after is not None and len(self.sent) >= self._leaves_after:
            self._left.set()

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        lines = [line.removeprefix("data: ") for line in self.body.decode().split("\n\n") if line]
        assert lines.pop() == "[DONE]"
        return [json.loads(line) for line in lines]


def call(body: Any, path: str = "/v1/chat/completions", method: str = "POST", *, engine: Engine | None = None) -> Wire:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return asyncio.run(Wire(engine or Engine(TINY, fingerprint="fp_1", born=5), method, path, data).run())


def test_a_completion_is_whole() -> None:
    answer = call(HELLO).json
    assert answer.pop("id").startswith("chatcmpl-")
    assert answer.pop("created") > 0
    assert answer == {
        "object": "chat.completion",
        "model": "detent-tiny",
        "system_fingerprint": "fp_1",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": PLAIN, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    }


def test_a_stream_is_one_event_per_token_and_ends_with_done() -> None:
    wire = call(HELLO | {"stream": True})
    assert wire.headers[b"content-type"].startswith(b"text/event-stream")
    events = wire.events
    assert len({event["id"] for event in events}) == 1
    assert all("usage" not in event for event in events)
    deltas = [event["choices"][0] for event in events]
    assert deltas[0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert "".join(choice["delta"].get("content", "") for choice in deltas) == PLAIN
    assert [choice["finish_reason"] for choice in deltas] == [None] * (SAID + 1) + ["stop"]
    assert len(wire.sent) == 1 + SAID + 2 + 1


def test_a_stream_tells_usage_when_asked() -> None:
    *events, last = call(HELLO | {"stream": True, "stream_options": {"include_usage": True}}).events
    assert all(event["usage"] is None for event in events)
    assert (last["choices"], last["usage"]) == ([], USAGE)


def test_logprobs_stand_beside_the_tokens() -> None:
    asked = HELLO | {"logprobs": True, "top_logprobs": 2}
    told = call(asked).json["choices"][0]["logprobs"]["content"]
    assert "".join(entry["token"] for entry in told) == PLAIN
    assert all(len(entry["top_logprobs"]) == 2 and bytes(entry["bytes"]).decode() == entry["token"] for entry in told)
    streamed = [event["choices"][0]["logprobs"] for event in call(asked | {"stream": True}).events]
    assert [entry["content"][0] for entry in streamed if entry] == told


def test_parts_of_text_are_joined_and_unknown_fields_left_alone() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    asked = {
        "model": "detent-tiny",
        "messages": [{"role": "user", "content": parts}],
        "metadata": {"a": [1]},
        "user": "x",
    }
    assert call(asked).json["choices"][0]["message"]["content"] == PLAIN


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "1" * 5000}]}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 2}, "n"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"512": 1}}, "logit_bias"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(change: dict[str, Any], param: str) -> None:
    wire = call(HELLO | change)
    error = wire.json["error"]
    assert (wire.status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert error["code"] == "invalid_input"
    assert error["message"].endswith(".")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"model": "\xff"}',
        b"[" * 100_000,
        b'{"model":"detent-tiny","x":' + b"[" * 100_000,
        b'{"messages":[]}',
    ],
)
def test_a_body_that_is_no_request_is_refused(body: bytes) -> None:
    wire = call(body)
    assert wire.status == 400
    assert set(wire.json["error"]) >= {"message", "type", "param", "code"}


def test_too_large_a_body_is_refused_before_it_is_read() -> None:
    wire = call(b" " * 101, engine=Engine(TINY, limits=Limits(body=100)))
    assert (wire.status, wire.json["error"]["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("GET", "/", 404),
        ("GET", "/v1/models/other", 404),
    ],
)
def test_other_paths_and_methods_are_refused(method: str, path: str, status: int) -> None:
    assert call(b"", path, method).status == status


def test_an_unknown_model_is_told_with_the_known_ones() -> None:
    wire = call(HELLO | {"model": "gpt-9"})
    error = wire.json["error"]
    assert (wire.status, error["param"], error["code"]) == (404, "model", "not_found")
    assert "detent-tiny" in error["hint"]


def test_models_and_health() -> None:
    listed = call(b"", "/v1/models", "GET").json
    model = {"id": "detent-tiny", "object": "model", "created": 5, "owned_by": "detent", "root": "detent-tiny"}
    assert listed == {"object": "list", "data": [model | {"max_model_len": 2048}]}
    assert call(b"", "/v1/models/detent-tiny", "GET").json == listed["data"][0]
    assert call(b"", "/healthz", "GET").json == {"status": "ok", "model": "detent-tiny", "busy": 0}


def test_an_adapter_is_a_model_of_its_own_beside_the_base() -> None:
    chance = np.random.default_rng(0)
    stem = "base_model.model.model.layers.1.mlp.down_proj"
    tensors = {
        f"{stem}.lora_A.weight": chance.normal(size=(2, 384)).astype(np.float32),
        f"{stem}.lora_B.weight": chance.normal(size=(128, 2)).astype(np.float32),
    }
    shape = TINY.llama.shape
    engine = Engine(Tiny(TINY.llama, TINY.tokenizer, {"odd": Adapter(shape, tensors, scale=3.0)}))
    listed = call(b"", "/v1/models", "GET", engine=engine).json["data"]
    assert [(model["id"], model.get("parent")) for model in listed] == [("detent-tiny", None), ("odd", "detent-tiny")]
    odd = call(HELLO | {"model": "odd", "max_tokens": 20}, engine=engine).json
    assert odd["model"] == "odd"
    assert odd["choices"][0]["message"]["content"] != PLAIN[: len(odd["choices"][0]["message"]["content"])]
    assert call(HELLO, engine=engine).json["choices"][0]["message"]["content"] == PLAIN


def test_one_too_many_is_told_to_come_back() -> None:
    wire = call(HELLO, engine=Engine(TINY, limits=Limits(inflight=0)))
    assert (wire.status, wire.headers[b"retry-after"]) == (503, b"1")


def test_a_client_that_leaves_ends_the_work() -> None:
    async def leave() -> tuple[int, Engine]:
        engine = Engine(TINY, limits=Limits(pace=0.001))
        body = json.dumps(HELLO | {"stream": True}).encode()
        wire = await Wire(engine, "POST", "/v1/chat/completions", body, leaves_after=5).run()
        health = await Wire(engine, "GET", "/healthz").run()
        return len(wire.sent), health.json["busy"]

    sent, busy = asyncio.run(leave())
    assert sent < 10
    assert busy == 0


def test_others_have_their_turn_while_an_answer_is_made() -> None:
    async def together() -> list[str]:
        engine, done = Engine(TINY), []
        long = {"messages": [{"role": "user", "content": "1" * 1900}], "model": "detent-tiny", "max_tokens": 100}

        async def one(name: str, *request: Any) -> None:
            await Wire(engine, *request).run()
            done.append(name)

        async with asyncio.TaskGroup() as group:
            group.create_task(one("long", "POST", "/v1/chat/completions", json.dumps(long).encode()))
            group.create_task(one("short", "POST", "/v1/chat/completions", json.dumps(HELLO).encode()))
            group.create_task(one("health", "GET", "/healthz"))
        return done

    assert asyncio.run(together()) == ["health", "short", "long"]

"""Whatever bytes a provider sends, reading them ends in events or in one of our errors, never in another exception."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detent.gateway.answer import read_answer
from detent.gateway.dialects import CLIENTS, PROVIDERS
from detent.gateway.dialects.port import Asked
from detent.gateway.dialects.quirks import OPENAI
from detent.gateway.sse import ChatStream
from detent.gateway.watched import WatchedStream
from detent.kernel.errors import DetentError

DEEP = b"[" * 5000 + b"]" * 5000

BAD = (b'"\xff"', b'"\\ud800"', DEEP, b"null", b"{}", b"[]", b"-1", b"1e999", b'"x"', b"true", b"[null]", b"[[]]", b":")

SPLICES = st.lists(st.tuples(st.integers(0, 200), st.sampled_from(BAD)), min_size=1, max_size=2)
CUTS = st.sampled_from([5, 50, 100_000])

TOOL = {"index": 0, "id": "t", "function": {"name": "f", "arguments": "{}"}, "extra_content": {"google": {}}}
CHUNKS: list[dict[str, Any]] = [
    {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "hé"}}]},
    {"choices": [{"index": 0, "delta": {"tool_calls": [TOOL]}}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}},
]
BLOCKS: list[dict[str, Any]] = [
    {"type": "message_start", "message": {"id": "m", "model": "c", "content": [], "usage": {"input_tokens": 3}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "t", "name": "f"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
    {"type": "message_stop"},
]
PIECES: list[dict[str, Any]] = [
    {"candidates": [{"index": 0, "content": {"parts": [{"text": "hé"}]}}], "modelVersion": "g", "responseId": "r"},
    {
        "candidates": [
            {"content": {"parts": [{"functionCall": {"name": "f", "args": {"a": 1}}}]}, "finishReason": "S"}
        ],
        "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 4},
    },
]
ITEM = {"type": "message", "id": "i", "role": "assistant", "content": [{"type": "output_text", "text": "hé"}]}
WHOLE = {"id": "r", "model": "m", "status": "completed", "output": [ITEM], "usage": {"input_tokens": 3}}
STEPS: list[dict[str, Any]] = [
    {"type": "response.created", "response": {"id": "r", "model": "m", "status": "in_progress", "output": []}},
    {"type": "response.output_item.added", "output_index": 0, "item": ITEM},
    {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "item_id": "i", "delta": "hé"},
    {"type": "response.completed", "response": WHOLE},
]


def _sse(events: list[dict[str, Any]]) -> bytes:
    named = (f"event: {e['type']}\n" if "type" in e else "" for e in events)
    return b"".join(
        n.encode() + b"data: " + json.dumps(e, ensure_ascii=False).encode() + b"\n\n"
        for n, e in zip(named, events, strict=True)
    )


STREAMS = {"openai": _sse(CHUNKS), "anthropic": _sse(BLOCKS), "gemini": _sse(PIECES), "responses": _sse(STEPS)}

QUESTIONS = {
    "openai": {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]},
    "anthropic": {"model": "m", "stream": True, "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]},
    "responses": {"model": "m", "stream": True, "input": "x"},
}


def _asked(dialect: str) -> Asked:
    asked: Any = CLIENTS[dialect].read(json.dumps(QUESTIONS[dialect]).encode(), max_depth=64)
    if dialect == "responses":
        asked.response_id, asked.created = "resp_1", 1
    return asked  # type: ignore[no-any-return]


def spoiled(raw: bytes, splices: list[tuple[int, bytes]]) -> bytes:
    """Values replaced by others that do not belong there."""
    for place, junk in splices:
        at = [i + 1 for i in range(len(raw) - 1) if raw[i : i + 1] == b":" and raw[i + 1 : i + 2] == b" "]
        if at:
            start = at[place % len(at)]
            end = next((i for i in range(start, len(raw)) if raw[i : i + 1] in b",}]\n"), len(raw))
            raw = raw[:start] + junk + raw[end:]
    return raw


def _read(stream: Any, raw: bytes, size: int) -> None:
    for at in range(0, len(raw), size):
        stream.feed(raw[at : at + size])
    stream.output()
    if stream.finish_reason and stream.failure is None and not stream.done:
        stream.closing()


@given(st.sampled_from(sorted(STREAMS)), st.sampled_from([*sorted(QUESTIONS), ""]), SPLICES, CUTS)
def test_streams(provider: str, client: str, splices: list[tuple[int, bytes]], size: int) -> None:
    writer = CLIENTS[client].stream_writer(_asked(client)) if client else None
    stream = WatchedStream(PROVIDERS[provider].stream_reader(), writer, keep=1000)
    _read(stream, spoiled(STREAMS[provider], splices), size)


@given(SPLICES, CUTS, st.booleans())
def test_streams_that_are_passed_on(splices: list[tuple[int, bytes]], size: int, hide: bool) -> None:
    _read(ChatStream(hide_usage=hide, keep=1000), spoiled(STREAMS["openai"], splices), size)


@given(st.sampled_from(sorted(QUESTIONS)), SPLICES)
def test_whole_answers(client: str, splices: list[tuple[int, bytes]]) -> None:
    with contextlib.suppress(DetentError):
        answer = PROVIDERS["responses"].read_answer(spoiled(json.dumps(WHOLE).encode(), splices))
        CLIENTS[client].write_answer(_asked(client), answer)


@pytest.mark.parametrize("junk", [b'"\xff"', b'"\\ud800"', DEEP])
@pytest.mark.parametrize("field", ["content", "tool_calls", "usage"])
def test_what_is_no_utf8_or_too_deep_is_a_fault_or_let_pass(field: str, junk: bytes) -> None:
    delta = b'"delta":{"%s":%b}' % (field.encode(), junk) if field != "usage" else b'"delta":{"content":"x"}'
    more = b',"usage":{"prompt_tokens":%b}' % junk if field == "usage" else b""
    stream = ChatStream(hide_usage=False, keep=1000)
    stream.feed(b'data: {"choices":[{%b}]%b}\n\n' % (delta, more))
    assert stream.failure is None or stream.failure.code == "bad_answer"


def test_answers_of_functions_that_are_no_json_at_all() -> None:
    deep = DEEP.decode()
    call = {"id": "t", "type": "function", "function": {"name": "f", "arguments": deep}}
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]}]}
    asked = CLIENTS["openai"].read(json.dumps(body).encode(), max_depth=64)
    for provider in PROVIDERS.values():
        with contextlib.suppress(DetentError):
            provider.write_request(asked.neutral(), model="m", quirks=OPENAI)
    with contextlib.suppress(DetentError):
        read_answer(b'{"choices":[{"message":' + DEEP + b"}]}")

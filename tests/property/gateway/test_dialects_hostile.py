"""Good bodies, answers and streams with something wrong put in: they are read, or refused with an error of ours."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from detent.gateway.dialects import CLIENTS, PROVIDERS
from detent.gateway.dialects.counting import estimate_tokens
from detent.gateway.dialects.folding import fold
from detent.gateway.dialects.quirks import ANTHROPIC, FLAVOURS, OPENAI, Quirks, fitted
from detent.gateway.errors import BadAnswer, UpstreamError
from detent.kernel.chat import ChatEvent, Usage
from detent.kernel.errors import CallerError, InvalidInput

ROUNDS = 400
JUNK: list[Any] = [
    None, True, 0, -1, 2**70, 1.5, "", "x", "low", "{}", [], {}, ["x"], [None], [[]], [{}], {"type": "text"},
    {"type": "x"},
    {"type": 5}, {"type": []}, {"a": {"b": [1]}}, {"name": 5}, [{"text": 5}], "data:image/png;base64,AA",
]  # fmt: skip
PICTURE = {"type": "base64", "media_type": "image/png", "data": "AA=="}
TURN = [
    {"type": "thinking", "thinking": "t", "signature": "s"},
    {"type": "redacted_thinking", "data": "d"},
    {"type": "text", "text": "x", "citations": []},
    {"type": "server_tool_use", "id": "s", "name": "w", "input": {}},
    {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
]
ANTHROPIC_BODY: dict[str, Any] = {
    "model": "m",
    "max_tokens": 9000,
    "stream": True,
    "system": [{"type": "text", "text": "S", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    "tools": [
        {
            "name": "f",
            "input_schema": {"type": "object", "properties": {"a": {"type": "string", "minLength": 1}}},
            "strict": True,
        },
        {"type": "web_search_20250305", "name": "w"},
    ],
    "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 2000, "display": "omitted"},
    "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    "metadata": {"user_id": "u", "x": 1},
    "stop_sequences": ["a"],
    "temperature": 0.5,
    "service_tier": "auto",
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "hi"},
                {"type": "image", "source": PICTURE},
                {"type": "document", "title": "t", "source": {"type": "text", "media_type": "text/plain", "data": "d"}},
                {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "t"}]}},
                {"type": "search_result", "title": "t", "source": "s", "content": [{"type": "text", "text": "t"}]},
            ],
        },
        {"role": "assistant", "content": TURN},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "image", "source": PICTURE}]},
                {"type": "text", "text": "go"},
            ],
        },
    ],
}
SAID: dict[str, Any] = {
    "role": "assistant",
    "content": "x",
    "reasoning_content": "t",
    "reasoning_details": [
        {"type": "reasoning.text", "text": "t", "signature": "s", "index": 0, "format": "anthropic-x"}
    ],
    "tool_calls": [
        {
            "id": "c1",
            "type": "function",
            "function": {"name": "f", "arguments": "{}"},
            "extra_content": {"google": {"thought_signature": "g"}},
        }
    ],
}
OPENAI_BODY: dict[str, Any] = {
    "model": "m",
    "stream": True,
    "stream_options": {"include_usage": True},
    "max_completion_tokens": 5000,
    "tools": [
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}},
        {"type": "custom", "custom": {"name": "c"}},
    ],
    "functions": [{"name": "g"}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
    "reasoning_effort": "high",
    "reasoning": {"effort": "low", "max_tokens": 5},
    "stop": ["x"],
    "seed": 1,
    "n": 2,
    "metadata": {"a": "b"},
    "logit_bias": {"1": 2},
    "messages": [
        {"role": "developer", "content": [{"type": "text", "text": "S"}], "name": "n"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}},
                {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA", "filename": "n"}},
            ],
        },
        SAID,
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "r"}]},
        {"role": "assistant", "content": None, "function_call": {"name": "g", "arguments": "{}"}},
        {"role": "function", "name": "g", "content": "r"},
    ],
}
BODIES = {"openai": OPENAI_BODY, "anthropic": ANTHROPIC_BODY}
ANSWERS: dict[str, Any] = {
    "anthropic": {
        "type": "message",
        "id": "i",
        "model": "m",
        "content": TURN,
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 1, "output_tokens": 2, "output_tokens_details": {"thinking_tokens": 1}},
    },
    "openai": {
        "id": "i",
        "model": "m",
        "created": 5,
        "choices": [
            {"index": 0, "message": SAID, "finish_reason": "stop"},
            {
                "index": 1,
                "message": {
                    "content": [{"type": "thinking", "thinking": [{"type": "text", "text": "t"}]}],
                    "refusal": "r",
                    "function_call": {"name": "f", "arguments": "{}"},
                },
                "finish_reason": "length",
            },
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}},
    },
}
STREAMS: dict[str, list[Any]] = {
    "anthropic": [
        {"type": "message_start", "message": {"id": "i", "model": "m", "usage": {"input_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "t"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "t"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t", "name": "f"}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
    ],
    "openai": [
        {"id": "i", "model": "m", "created": 1, "choices": [{"index": 0, "delta": SAID}]},
        {"choices": [{"index": 0, "delta": {"function_call": {"name": "g"}}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}},
    ],
}
TARGETS: list[tuple[str, str, Quirks]] = [
    ("openai", "gpt-5", OPENAI),
    *[("openai", "m", FLAVOURS[name]) for name in ("mistral", "openrouter", "deepseek", "lmstudio")],
    *[("anthropic", name, ANTHROPIC) for name in ("claude-3-5-haiku", "claude-sonnet-4-5", "claude-opus-5")],
]


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if at:
        yield at
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*at, key))


def spoilt(value: Any, chance: random.Random) -> Any:
    """The value with one to three places left out, doubled, or exchanged for junk."""
    found = copy.deepcopy(value)
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        every = list(places(found))
        if not every:
            break
        *way, last = chance.choice(every)
        holder = found
        for key in way:
            holder = holder[key]
        what = chance.random()
        if what < 0.15:
            del holder[last]
        elif what < 0.3 and isinstance(holder, list):
            holder.append(copy.deepcopy(chance.choice(holder)))
        else:
            holder[last] = copy.deepcopy(chance.choice(JUNK))
    return found


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_requests(dialect: str) -> None:
    chance = random.Random(1)
    read = 0
    for _ in range(ROUNDS):
        raw = json.dumps(spoilt(BODIES[dialect], chance)).encode()
        try:
            asked = CLIENTS[dialect].read(raw, max_depth=64)
            _ = asked.user, asked.parameters, asked.max_tokens
            json.loads(asked.messages)
            json.loads(asked.for_model("other", b'"other"'))
            request = asked.neutral()
        except CallerError:
            continue
        read += 1
        assert estimate_tokens(request) >= 0
        for provider, model, quirks in TARGETS:
            try:
                out = PROVIDERS[provider].write_request(request, model=model, quirks=quirks)
            except InvalidInput:
                continue
            json.loads(fitted(out.body, quirks))
    assert read > ROUNDS // 5


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_answers(dialect: str) -> None:
    chance = random.Random(2)
    for _ in range(ROUNDS):
        raw = json.dumps(spoilt(ANSWERS[dialect], chance)).encode()
        try:
            answer = PROVIDERS[dialect].read_answer(raw)
        except (BadAnswer, UpstreamError):
            continue
        for client, body in BODIES.items():
            asked = CLIENTS[client].read(json.dumps(body).encode(), max_depth=64)
            json.loads(CLIENTS[client].write_answer(asked, answer))


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_streams(dialect: str) -> None:
    chance = random.Random(3)
    for _ in range(ROUNDS):
        reader = PROVIDERS[dialect].stream_reader()
        told: list[ChatEvent] = []
        for event in spoilt(STREAMS[dialect], chance):
            told += reader.feed(b"data: " + json.dumps(event).encode() + b"\n\n")[1]
        assert reader.failure is None or isinstance(reader.failure, BadAnswer | UpstreamError)
        fold(told)
        for client, body in BODIES.items():
            writer = CLIENTS[client].stream_writer(CLIENTS[client].read(json.dumps(body).encode(), max_depth=64))
            assert (writer.write(told) + writer.finish(Usage(1, 1))).endswith(b"\n\n")

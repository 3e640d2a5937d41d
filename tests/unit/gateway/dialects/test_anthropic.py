"""Anthropic's messages: what each model takes, odd requests, and streams that do not go as they should."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest

from detent.gateway.dialects import CLIENTS, PROVIDERS
from detent.gateway.dialects.anthropic import read_count, write_count
from detent.gateway.dialects.anthropic.requests import JSON_TOOL, ways_of
from detent.gateway.dialects.anthropic.schemas import enforceable
from detent.gateway.dialects.counting import estimate_tokens
from detent.gateway.dialects.folding import fold
from detent.gateway.dialects.quirks import ANTHROPIC
from detent.gateway.errors import BadAnswer, MalformedBody, TooDeep, UpstreamError
from detent.kernel.chat import (
    AnswerStarted,
    AudioPart,
    ChatAnswer,
    ChatEvent,
    ChatRequest,
    ChoiceFinished,
    FilePart,
    ImagePart,
    Message,
    Reasoning,
    ReasoningDelta,
    ReasoningPart,
    ResponseFormat,
    TextDelta,
    TextPart,
    Tool,
    ToolCallDelta,
    ToolCallPart,
    ToolCallStarted,
    ToolChoice,
    ToolResultPart,
    Usage,
    UsageReported,
)
from detent.kernel.errors import InvalidInput

CLIENT, PROVIDER = CLIENTS["anthropic"], PROVIDERS["anthropic"]
USER = {"role": "user", "content": "x"}
HELLO = ChatRequest(model="chat", messages=(Message("user", (TextPart("Hello"),)),), dialect="openai")
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
OLD, BUDGETED, ADAPTIVE, NEW = "claude-3-5-haiku-20241022", "claude-sonnet-4-5", "claude-opus-4-6", "claude-opus-5-1"


def raw(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "max_tokens": 9, "messages": [USER], **fields}).encode()


def read(**fields: Any) -> ChatRequest:
    return CLIENT.read(raw(**fields), max_depth=64).neutral()


def write(model: str = NEW, /, **fields: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    out = PROVIDER.write_request(msgspec.structs.replace(HELLO, **fields), model=model, quirks=ANTHROPIC)
    assert (out.path, out.headers) == ("/v1/messages", (("anthropic-version", "2023-06-01"),))
    return json.loads(out.body), out.dropped


# Reading requests


def test_what_the_gateway_knows_without_reading_all() -> None:
    asked = CLIENT.read(
        raw(
            stream=True,
            system=[{"type": "text", "text": "S"}],
            metadata={"user_id": "u"},
            temperature=0.5,
            top_p=1,
            top_k=4,
        ),
        max_depth=64,
    )
    assert (asked.model, asked.stream, asked.user, asked.max_tokens) == ("m", True, "u", 9)
    assert asked.parameters == {
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.top_k": 4,
        "gen_ai.request.max_tokens": 9,
    }
    assert json.loads(asked.messages) == [{"role": "system", "content": [{"type": "text", "text": "S"}]}, USER]
    assert json.loads(CLIENT.read(raw(system=None), max_depth=64).messages) == [USER]


def test_only_the_model_is_replaced() -> None:
    body = b'{"model": "m", "max_tokens": 9, "new": 1.50, "messages": [ {"role":"user","content":"\\u00e9"} ]}'
    asked = CLIENT.read(body, max_depth=64)
    assert asked.for_model("m", b'"m"') is body
    assert asked.for_model("other", b'"other"') == (
        b'{"model":"other","max_tokens":9,"new":1.50,"messages":[ {"role":"user","content":"\\u00e9"} ]}'
    )


def test_blocks_that_are_not_known_are_kept() -> None:
    blocks = [
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
        {"type": "text", "text": "so", "citations": [{"type": "char_location"}]},
    ]
    search = {"type": "search_result", "title": "T", "source": "S", "content": [{"type": "text", "text": "C"}]}
    request = read(
        messages=[{"role": "user", "content": [search]}, {"role": "assistant", "content": blocks}, USER],
        thinking={"type": "adaptive", "display": "summarized"},
        output_config={"effort": "max", "task_budget": {"total": 5}},
        mcp_servers=[{"url": "u"}],
        metadata={"user_id": "u", "team": "t"},
    )
    assert request.messages[0].parts == (TextPart("T\nS\nC", extra=search),)
    assert request.reasoning == Reasoning(effort="max", summary="auto")
    body = json.loads(PROVIDER.write_request(request, model=NEW, quirks=ANTHROPIC).body)
    assert body["messages"][0]["content"] == [search]
    assert body["messages"][1]["content"] == blocks
    assert body["thinking"] == {"type": "adaptive", "display": "summarized"}
    assert body["output_config"] == {"effort": "max", "task_budget": {"total": 5}}
    assert body["mcp_servers"] == [{"url": "u"}]
    assert body["metadata"] == {"user_id": "u", "team": "t"}


def test_documents() -> None:
    text = {"type": "document", "title": "t", "source": {"type": "text", "media_type": "text/plain", "data": "é"}}
    blocks = [
        text,
        {"type": "document", "source": {"type": "url", "url": "https://e.org/a.pdf"}},
        {"type": "document", "source": {"type": "file", "file_id": "f"}, "context": "c"},
        {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "in"}]}},
        {"type": "image", "source": {"type": "file", "file_id": "f"}},
    ]
    found = read(messages=[{"role": "user", "content": blocks}])
    parts = found.messages[0].parts
    assert parts[0] == FilePart(data=base64.b64encode("é".encode()).decode(), name="t", media_type="text/plain")
    assert parts[2] == FilePart(file_id="f", extra={"context": "c"})
    body = json.loads(PROVIDER.write_request(found, model=NEW, quirks=ANTHROPIC).body)
    assert body["messages"][0]["content"] == blocks


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0].source"),
        ({"system": 5}, "system"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tools": [{"description": "x"}]}, "tools[0].name"),
        ({"thinking": {"type": "enabled", "budget_tokens": "x"}}, "thinking.budget_tokens"),
        ({"output_config": {"effort": "vast"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format"),
        ({"stop_sequences": [1]}, "stop_sequences"),
        ({"metadata": {"user_id": 5}}, "metadata.user_id"),
    ],
)
def test_faults_are_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        read(**fields)
    assert raised.value.field == field


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"[]", InvalidInput),
        (b"{", MalformedBody),
        (b'{"model":"\xff"}', MalformedBody),
        (b'{"model":"\\ud83d"}', MalformedBody),
        (b'{"model":"m","model":"n","max_tokens":1,"messages":[{"role":"user","content":"x"}]}', InvalidInput),
        (b'{"system":' + b"[" * 200 + b"]" * 200 + b"}", TooDeep),
        (b'{"system":' + b"[" * 20_000, TooDeep),
    ],
)
def test_bodies_that_cannot_be_read(body: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        CLIENT.read(body, max_depth=64)


def test_what_the_head_does_not_hold_is_read_later() -> None:
    vast = CLIENT.read(raw(new=0).replace(b'"new": 0', b'"new": 1e999'), max_depth=64)
    with pytest.raises(MalformedBody):
        vast.neutral()


def test_brackets_within_text_are_no_depth() -> None:
    text = '["{' * 9000 + "\\"
    assert read(messages=[{"role": "user", "content": text}]).messages[0].text == text


def test_counting() -> None:
    asked = read_count(json.dumps({"model": "m", "messages": [USER], "tools": [{"name": "f"}]}).encode(), max_depth=64)
    assert asked.max_tokens is None
    assert write_count(estimate_tokens(asked.neutral())) == b'{"input_tokens":6}'
    parts = (
        ImagePart(url="u"),
        AudioPart("A" * 12_800),
        FilePart(data="A" * 200_000, media_type="application/pdf"),
        FilePart(data="A" * 40, media_type="text/plain"),
        ToolResultPart("t", (TextPart("x" * 40),)),
        ReasoningPart("x" * 40),
    )
    assert (
        estimate_tokens(ChatRequest(model="m", messages=(Message("user", parts),))) == 4 + 1600 + 3 + 6000 + 8 + 14 + 10
    )


# Writing requests


def test_ways_by_the_models_name() -> None:
    assert not ways_of("claude-2.1").thinking
    assert not ways_of("claude-instant").thinking
    assert not ways_of(OLD).thinking
    for name in ("claude-3-7-sonnet-20250219", "claude-sonnet-4-20250514", "anthropic/claude-haiku-4.5", BUDGETED):
        ways = ways_of(name)
        assert (ways.thinking, ways.adaptive, ways.sampling) == (True, False, True), name
    assert (ways_of(ADAPTIVE).adaptive, ways_of(ADAPTIVE).sampling) == (True, True)
    for name in ("claude-opus-4-7", "claude-sonnet-5", NEW, "eu.anthropic.claude-opus-4-8-v1:0"):
        assert (ways_of(name).adaptive, ways_of(name).sampling) == (True, False), name
    assert ways_of("kimi-k3").sampling


def test_thinking_for_each_model() -> None:
    wish = Reasoning(effort="xhigh", summary="auto")
    assert write(OLD, reasoning=wish)[1] == ("reasoning",)
    body, dropped = write(BUDGETED, reasoning=wish, temperature=0.5, top_k=4, top_p=0.99)
    assert (body["thinking"], body["max_tokens"]) == ({"type": "enabled", "budget_tokens": 16000}, 32000)
    assert (body["top_p"], dropped) == (0.99, ("temperature", "top_k"))
    body, _ = write(ADAPTIVE, reasoning=wish, temperature=0.5)
    assert (body["thinking"], body["output_config"]) == (
        {"type": "adaptive", "display": "summarized"},
        {"effort": "high"},
    )
    assert body["temperature"] == 0.5
    body, dropped = write(NEW, reasoning=Reasoning(budget_tokens=9000), temperature=0.5)
    assert (body["thinking"], body["output_config"]) == ({"type": "adaptive"}, {"effort": "high"})
    assert dropped == ("temperature",)


def test_budgets_keep_within_the_limit() -> None:
    wish = Reasoning(effort="high")
    assert write(BUDGETED, reasoning=wish, max_tokens=4000)[0]["thinking"]["budget_tokens"] == 2000
    assert write(BUDGETED, reasoning=wish, max_tokens=1500)[0]["thinking"]["budget_tokens"] == 1024
    assert write(BUDGETED, reasoning=wish, max_tokens=500)[1] == ("reasoning",)
    asked = Reasoning(budget_tokens=5000)
    assert write(BUDGETED, reasoning=asked, max_tokens=4000)[0]["thinking"]["budget_tokens"] == 3999
    body, _ = write(BUDGETED, reasoning=Reasoning(budget_tokens=40_000))
    assert (body["thinking"]["budget_tokens"], body["max_tokens"]) == (40_000, 72_000)
    assert "thinking" not in write(BUDGETED, reasoning=Reasoning(effort="none"))[0]
    assert write(NEW, reasoning=Reasoning(effort="none"))[0]["thinking"] == {"type": "disabled"}


def test_thinking_yields_to_a_forced_tool_and_to_unsigned_history() -> None:
    tools = (Tool("f", "", SCHEMA),)
    body, dropped = write(BUDGETED, reasoning=Reasoning(effort="low"), tools=tools, tool_choice=ToolChoice("required"))
    assert ("thinking" in body, dropped) == (False, ("reasoning",))
    history = (
        *HELLO.messages,
        Message("assistant", (ReasoningPart("unsigned"), ToolCallPart("c", "f", "{}"))),
        Message("tool", (ToolResultPart("c", (TextPart("r"),)),)),
    )
    body, dropped = write(BUDGETED, reasoning=Reasoning(effort="low"), tools=tools, messages=history)
    assert ("thinking" in body, dropped) == (False, ("messages.reasoning", "reasoning"))
    signed = (history[0], Message("assistant", (ReasoningPart("t", "sig"), ToolCallPart("c", "f", "{}"))), history[2])
    body, dropped = write(BUDGETED, reasoning=Reasoning(effort="low"), tools=tools, messages=signed)
    assert (body["thinking"]["budget_tokens"], dropped) == (2048, ())
    assert body["messages"][1]["content"][0] == {"type": "thinking", "thinking": "t", "signature": "sig"}


def test_thinking_that_others_signed_is_left_out() -> None:
    thoughts = (
        ReasoningPart(redacted="r", id="rs_1"),
        ReasoningPart("t", "s", extra={"format": "google-gemini-v1"}),
        ReasoningPart("t", "s", extra={"format": "anthropic-claude-v1"}),
    )
    body, dropped = write(messages=(*HELLO.messages, Message("assistant", (*thoughts, TextPart("x")))))
    assert [block["type"] for block in body["messages"][1]["content"]] == ["thinking", "text"]
    assert dropped == ("messages.reasoning",)


def test_turns_are_joined_and_results_come_first() -> None:
    messages = (
        Message("system", (TextPart("S1"),)),
        Message("user", (TextPart("a"), TextPart(" "))),
        Message("user", (TextPart("b"),), name="Ann"),
        Message("assistant", (TextPart(""), ToolCallPart("functions.f:0", "f", '{"n":1}'))),
        Message("developer", (TextPart("S2"),)),
        Message("user", (TextPart("wait"),)),
        Message("tool", (ToolResultPart("functions.f:0", ()),)),
        Message("assistant", ()),
        Message("assistant", (TextPart("so "),)),
    )
    body, dropped = write(messages=messages, tools=(Tool("f"),))
    assert body["system"] == [{"type": "text", "text": "S1"}, {"type": "text", "text": "S2"}]
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "functions_f_0", "name": "f", "input": {"n": 1}}],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "functions_f_0"}, {"type": "text", "text": "wait"}],
        },
        {"role": "assistant", "content": "so"},
    ]
    assert body["tools"] == [{"name": "f", "input_schema": {"type": "object", "properties": {}}}]
    assert dropped == ("messages.name",)


def test_a_system_prompt_alone_is_said_by_the_user() -> None:
    body, _ = write(messages=(Message("system", (TextPart("Joke."),)),))
    assert (body["messages"], "system" in body) == ([{"role": "user", "content": "Joke."}], False)
    with pytest.raises(InvalidInput):
        write(messages=(Message("user", (TextPart(" "),)),))


def test_arguments_keep_their_bytes() -> None:
    deep = '{"a":' * 900 + "1.50" + "}" * 900
    request = msgspec.structs.replace(HELLO, messages=(Message("assistant", (ToolCallPart("c", "f", deep),)),))
    assert deep.encode() in PROVIDER.write_request(request, model=NEW, quirks=ANTHROPIC).body


def test_arguments_that_are_no_object() -> None:
    calls = tuple(ToolCallPart(f"c{n}", "f", text) for n, text in enumerate(["", "[1]", "{broken"]))
    body, _ = write(messages=(*HELLO.messages, Message("assistant", calls)))
    assert [block["input"] for block in body["messages"][1]["content"]] == [
        {},
        {"invalid_arguments": "[1]"},
        {"invalid_arguments": "{broken"},
    ]


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (ImagePart(data="/9j/4A"), {"type": "base64", "media_type": "image/jpeg", "data": "/9j/4A"}),
        (ImagePart(url="https://e.org/a"), {"type": "url", "url": "https://e.org/a"}),
        (FilePart(data="JVBERi0x"), {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0x"}),
        (FilePart(data="eA==", media_type="text/csv"), {"type": "text", "media_type": "text/plain", "data": "x"}),
        (FilePart(data="AAAA", media_type="image/gif"), {"type": "base64", "media_type": "image/gif", "data": "AAAA"}),
    ],
)
def test_sources(part: Any, block: dict[str, Any]) -> None:
    assert write(messages=(Message("user", (part,)),))[0]["messages"][0]["content"][0]["source"] == block


@pytest.mark.parametrize(
    "part",
    [
        AudioPart("AAAA", "wav"),
        FilePart(file_id="file-1"),
        FilePart(data="AAAA", media_type="application/zip"),
        FilePart(data="/w==", media_type="text/plain"),
        ImagePart(),
    ],
)
def test_what_cannot_be_said(part: Any) -> None:
    with pytest.raises(InvalidInput) as raised:
        write(messages=(Message("user", (part,)),))
    assert raised.value.field == "messages[0]"


def test_the_form_of_an_answer() -> None:
    wish = ResponseFormat("json_schema", "answer", "", {**SCHEMA, "minProperties": 1}, True)
    body, dropped = write(NEW, response_format=wish)
    assert body["output_config"]["format"] == {
        "type": "json_schema",
        "schema": {**SCHEMA, "additionalProperties": False, "description": "{minProperties: 1}"},
    }
    assert dropped == ()
    body, _ = write(OLD, response_format=wish)
    assert (body["tools"][0]["name"], body["tool_choice"]) == (JSON_TOOL, {"type": "tool", "name": JSON_TOOL})
    assert body["tools"][0]["input_schema"]["minProperties"] == 1
    body, _ = write(OLD, response_format=wish, tools=(Tool("f", "", SCHEMA),))
    assert body["tool_choice"] == {"type": "any"}
    body, dropped = write(NEW, response_format=ResponseFormat("json_object"))
    assert ("JSON" in body["system"][0]["text"], dropped) == (True, ("response_format",))


def test_schemas_that_can_be_enforced() -> None:
    assert enforceable(
        {
            "$schema": "x",
            "type": "object",
            "properties": {
                "n": {"type": "integer", "minimum": 1, "description": "A number."},
                "s": {"type": "string", "format": "email", "pattern": "a"},
                "f": {"type": "string", "format": {"odd": 1}},
                "l": {"type": "array", "items": {"type": "object"}, "minItems": 1, "maxItems": 3},
                "o": {"oneOf": [{"type": "null"}, {"$ref": "#/$defs/d"}]},
            },
            "$defs": {"d": {"type": "string", "maxLength": 5}},
        }
    ) == {
        "type": "object",
        "properties": {
            "n": {"type": "integer", "description": "A number.\n\n{minimum: 1}"},
            "s": {"type": "string", "format": "email", "description": "{pattern: a}"},
            "f": {"type": "string", "description": "{format: {'odd': 1}}"},
            "l": {
                "type": "array",
                "items": {"type": "object", "additionalProperties": False},
                "minItems": 1,
                "description": "{maxItems: 3}",
            },
            "o": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/d"}]},
        },
        "$defs": {"d": {"type": "string", "description": "{maxLength: 5}"}},
        "additionalProperties": False,
    }


def test_what_there_is_no_word_for_is_named() -> None:
    body, dropped = write(
        NEW,
        n=2,
        seed=1,
        presence_penalty=0.5,
        frequency_penalty=0.5,
        metadata={"a": "b"},
        service_tier="flex",
        stop=("a", " "),
        parallel_tool_calls=False,
        tools=(Tool("f", "", SCHEMA, True, "1h"),),
        extra={"logit_bias": {}},
        user="u",
    )
    assert dropped == (
        "frequency_penalty",
        "logit_bias",
        "metadata",
        "n",
        "presence_penalty",
        "seed",
        "service_tier",
        "stop",
    )
    assert (body["stop_sequences"], body["metadata"]) == (["a"], {"user_id": "u"})
    assert body["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    assert body["tools"][0]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
    assert body["tools"][0]["strict"] is True
    assert write(BUDGETED, temperature=1.7)[0]["temperature"] == 1.0


# Answers


def answered(*content: Any, **fields: Any) -> ChatAnswer:
    body = {"type": "message", "id": "msg_1", "model": "c", "role": "assistant", "content": content, **fields}
    return PROVIDER.read_answer(json.dumps(body).encode())


@pytest.mark.parametrize(
    ("reason", "wanted"),
    [
        ("end_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("stop_sequence", "stop"),
        ("tool_use", "tool_calls"),
        ("pause_turn", "pause"),
        ("refusal", "refusal"),
        ("unheard_of", "stop"),
        (None, "stop"),
    ],
)
def test_reasons(reason: str | None, wanted: str) -> None:
    assert answered(stop_reason=reason).finish_reason == wanted


def test_tokens_are_summed() -> None:
    usage = {
        "input_tokens": 10,
        "cache_read_input_tokens": 100,
        "cache_creation_input_tokens": 20,
        "output_tokens": 7,
        "output_tokens_details": {"thinking_tokens": 3},
    }
    assert answered(usage=usage).usage == Usage(130, 7, 100, 20, 3)
    assert answered(usage={"input_tokens": -1}).usage is None
    assert answered().usage is None


def test_the_tool_that_stands_for_json_is_text_again() -> None:
    found = answered({"type": "tool_use", "id": "t", "name": JSON_TOOL, "input": {"a": "é"}}, stop_reason="tool_use")
    assert (found.message.parts, found.finish_reason) == ((TextPart('{"a":"é"}'),), "stop")


def test_a_servers_tools_are_no_calls() -> None:
    block = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    found = answered(block, {"type": "text", "text": "x", "citations": [{"a": 1}]}, stop_reason="end_turn")
    assert found.message.text == "x"
    assert not any(isinstance(part, ToolCallPart) for part in found.message.parts)
    again = json.loads(CLIENT.write_answer(CLIENT.read(raw(), max_depth=64), found))
    assert again["content"] == [block, {"type": "text", "text": "x", "citations": [{"a": 1}]}]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"type":"error","error":{"type":"overloaded_error","message":"Busy"}}', UpstreamError),
        (b'{"content":5}', BadAnswer),
        (b'{"content":[{"type":"text"}]}', BadAnswer),
        (b"5", BadAnswer),
        (b"<html>", BadAnswer),
    ],
)
def test_what_is_no_answer(body: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        PROVIDER.read_answer(body)


# Streams


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


START = event(
    "message_start",
    message={
        "id": "msg_1",
        "model": "c",
        "usage": {"input_tokens": 5, "cache_read_input_tokens": 2, "output_tokens": 1},
    },
)
STOP = event("message_stop")


def block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> bytes:
    out = event("content_block_start", index=index, content_block=start)
    for delta in deltas:
        out += event("content_block_delta", index=index, delta=delta)
    return out + event("content_block_stop", index=index)


def end(reason: str, **usage: Any) -> bytes:
    return event("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage=usage)


def told(data: bytes) -> list[ChatEvent]:
    reader = PROVIDER.stream_reader()
    kept, events = reader.feed(data)
    assert kept == data
    assert reader.done
    assert reader.feed(data) == (b"", [])
    return events


def test_a_stream_with_everything() -> None:
    data = (
        START
        + event("ping")
        + block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "thinking_delta", "thinking": "hm"},
            {"type": "signature_delta", "signature": "s"},
        )
        + block(1, {"type": "redacted_thinking", "data": "r"})
        + block(
            2,
            {"type": "server_tool_use", "id": "s", "name": "web_search"},
            {"type": "input_json_delta", "partial_json": "{}"},
        )
        + block(
            3,
            {"type": "text", "text": ""},
            {"type": "text_delta", "text": "x"},
            {"type": "citations_delta", "citation": {}},
        )
        + block(4, {"type": "tool_use", "id": "a", "name": "f", "input": {}})
        + block(
            5,
            {"type": "tool_use", "id": "b", "name": "g", "input": {}},
            {"type": "input_json_delta", "partial_json": '{"a":1}'},
        )
        + block(6, {"type": "tool_use", "id": "c", "name": "h", "input": {"whole": True}})
        + end("tool_use", output_tokens=9, output_tokens_details={"thinking_tokens": 4})
        + STOP
    )
    events = told(data)
    assert events[0] == AnswerStarted("msg_1", "c", 0, Usage(7, 1, 2))
    assert events[-2:] == [ChoiceFinished("tool_calls"), UsageReported(Usage(7, 9, 2, 0, 4))]
    assert fold(events).message.parts == (
        ReasoningPart("hm", "s"),
        ReasoningPart(redacted="r"),
        TextPart("x"),
        ToolCallPart("a", "f", "{}"),
        ToolCallPart("b", "g", '{"a":1}'),
        ToolCallPart("c", "h", '{"whole": true}'),
    )


def test_figures_of_input_may_come_late() -> None:
    events = told(START + end("end_turn", input_tokens=50, output_tokens=3) + STOP)
    assert events[-1] == UsageReported(Usage(52, 3, 2))


def test_json_by_a_tool_is_streamed_as_text() -> None:
    data = block(
        0,
        {"type": "tool_use", "id": "t", "name": JSON_TOOL, "input": {}},
        {"type": "input_json_delta", "partial_json": '{"a":1}'},
    )
    found = fold(told(START + data + end("tool_use", output_tokens=1) + STOP))
    assert (found.message.parts, found.finish_reason) == ((TextPart('{"a":1}'),), "stop")


def test_values_of_strange_types_are_passed_over() -> None:
    odd = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "x", "thinking": 5})
    more = event("message_delta", delta={"stop_reason": 7}, usage={"output_tokens": "many", "input_tokens": 6})
    events = told(START + b"data: 5\n\n" + odd + more + event("brand_new", index="x") + STOP)
    assert events[1:] == [TextDelta("x")]  # and no usage: how much was written, nobody said


@pytest.mark.parametrize(
    ("bad", "error", "said"),
    [
        (
            event("error", error={"type": "overloaded_error", "message": "Overloaded"}),
            UpstreamError,
            "overloaded_error: Overloaded",
        ),
        (b"event: error\ndata: {}\n\n", UpstreamError, "without a message"),
        (b"data: {broken\n\n", BadAnswer, "no JSON"),
    ],
)
def test_faults_end_a_stream(bad: bytes, error: type[Exception], said: str) -> None:
    reader = PROVIDER.stream_reader()
    kept, events = reader.feed(START + bad + STOP)
    assert (kept, len(events), reader.done) == (START, 1, False)
    assert isinstance(reader.failure, error)
    assert said in str(reader.failure)


def write_stream(*events: ChatEvent, usage: Usage | None = None) -> list[dict[str, Any]]:
    writer = CLIENT.stream_writer(CLIENT.read(raw(stream=True), max_depth=64))
    out = writer.write(events) + writer.finish(usage or Usage(1, 1))
    found = []
    for one in out.removesuffix(b"\n\n").split(b"\n\n"):
        name, data = one.split(b"\ndata: ")
        found.append(json.loads(data))
        assert found[-1]["type"] == name.removeprefix(b"event: ").decode()
    return found


def test_a_stream_that_says_nothing() -> None:
    found = write_stream(usage=Usage(3, 0, 1))
    assert [one["type"] for one in found] == ["message_start", "message_delta", "message_stop"]
    assert found[0]["message"]["model"] == "m"
    assert found[1]["usage"]["input_tokens"] == 2


def test_other_choices_are_not_told() -> None:
    found = write_stream(
        TextDelta("a"), TextDelta("b", 0, 1), ChoiceFinished("length", 1), ChoiceFinished("stop", 0, "END")
    )
    assert [one["delta"] for one in found if "delta" in one] == [
        {"type": "text_delta", "text": "a"},
        {"stop_reason": "stop_sequence", "stop_sequence": "END"},
    ]


def test_blocks_open_anew_when_a_part_goes_on() -> None:
    found = write_stream(
        ReasoningDelta("a", index=0),
        TextDelta("b", 1),
        ReasoningDelta("c", index=0),
        ReasoningDelta(signature="late", index=0),
        TextDelta("d", 1),
        ReasoningDelta(signature="lost", index=0),
        ToolCallStarted("t", "f", 2),
        ToolCallDelta('{"a"', 2),
        TextDelta("e", 1),
        ToolCallDelta(":1}", 2),
        ChoiceFinished("tool_calls"),
    )
    kinds = [one["content_block"]["type"] for one in found if one["type"] == "content_block_start"]
    assert kinds == ["thinking", "text", "thinking", "text", "tool_use", "text"]
    assert [one["index"] for one in found if one["type"] == "content_block_stop"] == [0, 1, 2, 3, 4, 5]
    texts = [
        next(iter(set(one["delta"].items()) - {("type", one["delta"]["type"])}))[1]
        for one in found
        if one["type"] == "content_block_delta"
    ]
    assert texts == ["a", "b", "c", "late", "d", '{"a"', ":1}", "e"]

"""OpenAI's chat completions: odd requests, and the ways of those who copy the API."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from detent.gateway.dialects import CLIENTS, PROVIDERS
from detent.gateway.dialects.folding import fold
from detent.gateway.dialects.quirks import OPENAI, Quirks
from detent.gateway.errors import BadAnswer, UpstreamError
from detent.kernel.chat import (
    AudioPart,
    ChatAnswer,
    ChatEvent,
    ChatRequest,
    ChoiceFinished,
    FilePart,
    ImagePart,
    Message,
    Reasoning,
    ReasoningPart,
    RefusalPart,
    TextPart,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
    Usage,
    UsageReported,
)
from detent.kernel.errors import InvalidInput

CLIENT, PROVIDER = CLIENTS["openai"], PROVIDERS["openai"]
USER = {"role": "user", "content": "x"}


def read(*messages: Any, **fields: Any) -> ChatRequest:
    raw = json.dumps({"model": "m", "messages": messages or [USER], **fields}).encode()
    return CLIENT.read(raw, max_depth=64).neutral()


def write(request: ChatRequest, quirks: Quirks = OPENAI, model: str = "m") -> dict[str, Any]:
    body: dict[str, Any] = json.loads(PROVIDER.write_request(request, model=model, quirks=quirks).body)
    return body


# Requests


def test_every_kind_of_part() -> None:
    found = read(
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "see", "cache_control": {"type": "ephemeral"}},
                {"type": "image_url", "image_url": {"url": "https://e.org/a.png", "detail": "low"}},
                {"type": "image_url", "image_url": {"url": "data:image/PNG;base64,AAAA"}},
                {"type": "input_audio", "input_audio": {"data": "BBBB", "format": "mp3"}},
                {"type": "file", "file": {"file_data": "data:application/pdf;base64,CCCC", "filename": "a.pdf"}},
                {"type": "file", "file": {"file_id": "file-1"}},
                {"type": "file", "file": {"file_data": "DDDD"}},
            ],
        }
    )
    assert found.messages[0].parts == (
        TextPart("see", "default"),
        ImagePart(url="https://e.org/a.png", detail="low"),
        ImagePart(data="AAAA", media_type="image/png"),
        AudioPart("BBBB", "mp3"),
        FilePart(data="CCCC", name="a.pdf", media_type="application/pdf"),
        FilePart(file_id="file-1"),
        FilePart(data="DDDD"),
    )


def test_what_is_not_known_is_kept() -> None:
    custom = {"type": "custom", "custom": {"name": "sql"}}
    wish = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": []}}
    found = read(
        USER,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "sql"}}],
        },
        tools=[custom],
        tool_choice=wish,
        response_format={"type": "grammar", "grammar": "x"},
        prediction={"type": "content", "content": "y"},
        logprobs=True,
        store=None,
    )
    assert found.extra == {
        "tools": [custom],
        "tool_choice": wish,
        "response_format": {"type": "grammar", "grammar": "x"},
        "prediction": {"type": "content", "content": "y"},
        "logprobs": True,
    }
    assert found.tool_choice == ToolChoice("required")
    again = write(found)
    assert again["tools"] == [custom]
    assert again["tool_choice"] == wish
    assert again["messages"][1]["tool_calls"] == [{"id": "c", "type": "custom", "custom": {"name": "sql"}}]
    assert again["response_format"] == {"type": "grammar", "grammar": "x"}


def test_openrouters_way_of_asking_for_thought() -> None:
    assert read(reasoning={"effort": "low"}).reasoning == Reasoning(effort="low")
    assert read(reasoning={"max_tokens": 5000}).reasoning == Reasoning(budget_tokens=5000)
    assert read(reasoning={"enabled": False}).reasoning == Reasoning(effort="none")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"messages": [{"content": "x", "role": "robot"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": 5}}]}, "tools[0].function.name"),
        ({"tools": {}}, "tools"),
        ({"tool_choice": 5}, "tool_choice"),
        ({"stop": [5]}, "stop"),
        ({"seed": "x"}, "seed"),
        ({"seed": True}, "seed"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": "json"}, "response_format"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
    ],
)
def test_faults_are_named(fields: dict[str, Any], field: str) -> None:
    raw = json.dumps({"model": "m", "messages": [USER], **fields}).encode()
    with pytest.raises(InvalidInput) as raised:
        CLIENT.read(raw, max_depth=64).neutral()
    assert raised.value.field == field


def test_pictures_that_tools_give_back_follow_their_results() -> None:
    picture = ImagePart(data="AAAA", media_type="image/png")
    request = ChatRequest(
        model="m",
        messages=(
            Message("assistant", (ToolCallPart("a", "f", "{}"), ToolCallPart("b", "f", "{}"))),
            Message("tool", (ToolResultPart("a", (picture,)),)),
            Message("tool", (ToolResultPart("b", (TextPart("text"),), is_error=True),)),
            Message("user", (TextPart("Go on."),)),
        ),
        dialect="anthropic",
    )
    out = PROVIDER.write_request(request, model="m", quirks=OPENAI)
    assert out.dropped == ("messages.is_error",)
    assert json.loads(out.body)["messages"][1:] == [
        {"role": "tool", "tool_call_id": "a", "content": "The result follows as an image or file."},
        {"role": "tool", "tool_call_id": "b", "content": "text"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "From the tool call a:"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            ],
        },
        {"role": "user", "content": "Go on."},
    ]


def test_documents_of_text_are_sent_as_text() -> None:
    document = FilePart(data=base64.b64encode(b"Hello").decode(), name="a.txt", media_type="text/plain")
    request = ChatRequest(model="m", messages=(Message("user", (document,)),), dialect="anthropic")
    assert write(request)["messages"] == [{"role": "user", "content": "a.txt:\nHello"}]


def test_a_file_by_url_cannot_be_said() -> None:
    request = ChatRequest(model="m", messages=(Message("user", (FilePart(url="https://e.org/a.pdf"),)),))
    with pytest.raises(InvalidInput) as raised:
        write(request)
    assert raised.value.field == "messages[0].content[0]"


def test_what_another_dialect_has_is_left_out_and_named() -> None:
    request = ChatRequest(
        model="m",
        messages=(
            Message("user", (TextPart("x", extra={"citations": []}),)),
            Message("assistant", (TextPart("", extra={"type": "server_tool_use"}), TextPart("y"))),
        ),
        stop=("a", "b", "c", "d", "e"),
        extra={"container": "c", "prompt_cache_key": "k"},
        service_tier="standard_only",
        dialect="anthropic",
    )
    out = PROVIDER.write_request(request, model="m", quirks=OPENAI)
    body = json.loads(out.body)
    assert out.dropped == ("container", "messages.server_tool_use", "stop")
    assert [message["content"] for message in body["messages"]] == ["x", "y"]
    assert (body["prompt_cache_key"], body["service_tier"]) == ("k", "default")


def test_models_that_reason_take_no_sampling() -> None:
    request = ChatRequest(
        model="m", messages=(Message("user", (TextPart("x"),)),), temperature=0.5, stop=("a",), dialect="anthropic"
    )
    out = PROVIDER.write_request(request, model="gpt-5-mini", quirks=OPENAI)
    assert out.dropped == ("stop", "temperature")
    assert write(request, model="gpt-4.1")["temperature"] == 0.5


# Answers


def answered(message: dict[str, Any], reason: str | None = "stop", **more: Any) -> ChatAnswer:
    body = {"id": "chatcmpl-1", "model": "m", "choices": [{"message": message, "finish_reason": reason}], **more}
    return PROVIDER.read_answer(json.dumps(body).encode())


def test_calls_without_ids_get_some() -> None:
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    found = answered({"content": "", "tool_calls": [call, call]})
    assert found.message.parts == (
        ToolCallPart("call_chatcmpl-1_0_0", "f", '{"a":1}'),
        ToolCallPart("call_chatcmpl-1_0_1", "f", '{"a":1}'),
    )
    assert found.finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        ({"content": "x", "reasoning_content": "t"}, (ReasoningPart("t"), TextPart("x"))),
        ({"content": "x", "reasoning": "t"}, (ReasoningPart("t"), TextPart("x"))),
        (
            {"content": "x", "reasoning": "t", "reasoning_details": [{"type": "reasoning.text", "text": "t"}]},
            (ReasoningPart("t"), TextPart("x")),
        ),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "t"}]},
                    {"type": "text", "text": "x"},
                ]
            },
            (ReasoningPart("t"), TextPart("x")),
        ),
        ({"content": None, "refusal": "No."}, (RefusalPart("No."),)),
        ({"content": None}, ()),
    ],
)
def test_messages_of_many_makers(message: dict[str, Any], parts: tuple[Any, ...]) -> None:
    assert answered(message).message.parts == parts


def test_half_a_surrogate_is_mended() -> None:
    raw = b'{"id":"c","choices":[{"message":{"content":"a\\ud83d"},"finish_reason":"stop"}]}'
    assert PROVIDER.read_answer(raw).message.text == "a\ufffd"


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b'{"error": {"message": "Busy"}}', UpstreamError),
        (b'{"choices": []}', BadAnswer),
        (b'{"choices": [5]}', BadAnswer),
        (b'{"choices": [{"message": {"content": 5}}]}', BadAnswer),
        (b"[]", BadAnswer),
        (b"<html>", BadAnswer),
    ],
)
def test_what_is_no_answer(raw: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        PROVIDER.read_answer(raw)


# Streams


def told(*deltas: Any, usage: Any = None) -> list[ChatEvent]:
    reader = PROVIDER.stream_reader()
    events: list[ChatEvent] = []
    for delta in deltas:
        chunk = {"id": "c1", "model": "m", "created": 5, "choices": [{"index": 0, **delta}]}
        events += reader.feed(b"data: " + json.dumps(chunk).encode() + b"\n\n")[1]
    if usage is not None:
        events += reader.feed(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n")[1]
    assert reader.feed(b"data: [DONE]\n\n") == (b"data: [DONE]\n\n", [])
    assert reader.done
    assert reader.feed(b"data: more\n\n") == (b"", [])
    return events


def call(name: str | None = None, arguments: str | None = None, **more: Any) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return {"delta": {"tool_calls": [{**more, "function": function}]}}


END = {"delta": {}, "finish_reason": "stop"}


def test_parallel_calls_that_are_all_numbered_with_naught() -> None:
    found = fold(
        told(
            call("f", "{}", index=0, id="a"),
            call("g", '{"x":', index=0, id="b"),
            call(None, "1}", index=0),
            call("g", "", index=0, id="b"),
            END,
        )
    )
    assert found.message.parts == (ToolCallPart("a", "f", "{}"), ToolCallPart("b", "g", '{"x":1}'))
    assert found.finish_reason == "tool_calls"


def test_a_call_begins_with_its_name() -> None:
    found = told(
        call(index=0, id="a"), call(None, "{", index=0), call("f", "}", index=0), call(None, "x", index=1), END
    )
    assert fold(found).message.parts == (ToolCallPart("a", "f", "{}"), ToolCallPart("call_c1_0_1", "", "x"))


def test_functions_of_old_and_odd_contents() -> None:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "t"}]}, {"type": "text", "text": "x"}]
    found = told(
        {"delta": {"role": "assistant", "content": parts}},
        {"delta": {"function_call": {"name": "f"}}},
        {"delta": {"function_call": {"arguments": "{}"}}},
        {"delta": {"content": None, "tool_calls": None}, "finish_reason": None},
        {"delta": {}, "finish_reason": "function_call"},
        usage={"prompt_tokens": 3, "completion_tokens": 2, "prompt_cache_hit_tokens": 1},
    )
    answer = fold(found)
    assert answer.message.parts == (ReasoningPart("t"), TextPart("x"), ToolCallPart("call_c1_0_0", "f", "{}"))
    assert (answer.usage, answer.created) == (Usage(3, 2, 1), 5)
    assert found[-1] == UsageReported(Usage(3, 2, 1))


def test_details_of_thinking_go_before_its_text() -> None:
    detail = {"type": "reasoning.text", "text": "t", "index": 0}
    found = told(
        {"delta": {"reasoning": "t", "reasoning_details": [detail]}},
        {"delta": {"reasoning_details": [{"type": "reasoning.text", "signature": "s", "index": 0}]}},
        {"delta": {"reasoning_details": [{"type": "reasoning.encrypted", "data": "d", "id": "r", "index": 1}]}},
        {"delta": {"content": "x"}},
        END,
    )
    assert fold(found).message.parts == (ReasoningPart("t", "s"), ReasoningPart(redacted="d", id="r"), TextPart("x"))


def test_googles_state_on_a_call() -> None:
    extra = {"google": {"thought_signature": "g"}}
    found = fold(told(call("f", "{}", index=0, id="a", extra_content=extra), END))
    assert found.message.parts == (ToolCallPart("a", "f", "{}", "gemini.g"),)
    assert (
        answered(
            {"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}, "extra_content": extra}]}
        ).message.parts
        == found.message.parts
    )


GOOD = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (b'data: {"error": {"message": "Busy"}}\n\n', UpstreamError),
        (b'event: error\ndata: {"message": "Busy"}\n\n', UpstreamError),
        (b"data: {broken\n\n", BadAnswer),
        (b"data: " + b"[" * 100_000 + b"\n\n", BadAnswer),
    ],
)
def test_faults_end_a_stream_behind_what_was_good(bad: bytes, error: type[Exception]) -> None:
    reader = PROVIDER.stream_reader()
    raw, events = reader.feed(GOOD + bad + GOOD)
    assert raw == GOOD
    assert len(events) == 2
    assert isinstance(reader.failure, error)
    assert reader.feed(GOOD) == (b"", [])


def test_comments_and_strange_chunks_pass() -> None:
    reader = PROVIDER.stream_reader()
    odd = b': ping\n\ndata: 5\n\ndata: {"choices":[{"index":"x","delta":5},7],"usage":{"prompt_tokens":-1}}\n\n'
    raw, events = reader.feed(odd + GOOD)
    assert raw == odd + GOOD
    assert fold(events).message.text == "a"
    assert reader.failure is None


def test_reasons() -> None:
    for word, reason in {"length": "length", "content_filter": "content_filter", "eos": "stop", "new": "stop"}.items():
        assert told({"delta": {"content": "x"}, "finish_reason": word})[-1] == ChoiceFinished(reason)  # type: ignore[arg-type]

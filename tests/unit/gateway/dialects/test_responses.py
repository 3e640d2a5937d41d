"""The Responses API: requests read, passed on and translated; odd forms refused; a provider's own streams read."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from detent.gateway.dialects.folding import fold
from detent.gateway.dialects.port import Asked
from detent.gateway.dialects.quirks import OPENAI
from detent.gateway.dialects.responses import ResponsesAsked, ResponsesClient
from detent.gateway.dialects.responses_provider import ResponsesProvider
from detent.gateway.errors import BadAnswer, MalformedBody, UpstreamBusy, UpstreamCut, UpstreamError
from detent.kernel.chat import (
    AnswerStarted,
    AudioPart,
    ChatRequest,
    FilePart,
    ImagePart,
    Message,
    ReasoningPart,
    RefusalPart,
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
)
from detent.kernel.errors import InvalidInput

CLIENT = ResponsesClient()
PROVIDER = ResponsesProvider()


def read(**body: Any) -> ResponsesAsked:
    return CLIENT.read(json.dumps({"model": "route", "input": "Hi", **body}).encode(), max_depth=64)


def test_a_request_has_all_that_the_port_asks_for() -> None:
    asked = read()
    assert [name for name in vars(Asked) if not name.startswith("_") and not hasattr(asked, name)] == []
    assert asked.answers == 1


def test_what_the_gateway_sees() -> None:
    asked = read(
        stream=True,
        safety_identifier="u1",
        max_output_tokens=9,
        temperature=0.5,
        top_p=0.9,
        reasoning={"effort": "low"},
        instructions="Be brief.",
        store=False,
        previous_response_id="resp_1",
    )
    assert (asked.model, asked.stream, asked.user, asked.max_tokens) == ("route", True, "u1", 9)
    assert (asked.previous, asked.stores) == ("resp_1", False)
    assert asked.parameters == {
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.reasoning.effort": "low",
    }
    asked.after([msgspec.Raw(b'{"type":"message","role":"user","content":"Before"}')])
    assert json.loads(asked.messages) == [
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": "Before"},
        {"type": "message", "role": "user", "content": "Hi"},
    ]


def test_every_item_and_part() -> None:
    items: list[Any] = [
        {"role": "system", "content": "S"},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "T", "prompt_cache_breakpoint": {"mode": "explicit"}},
                {"type": "input_image", "image_url": "data:image/png;base64,aWk=", "detail": "high"},
                {"type": "input_image", "image_url": "https://x/i.png"},
                {"type": "input_file", "file_data": "data:application/pdf;base64,cGRm", "filename": "a.pdf"},
                {"type": "input_file", "file_url": "https://x/a.pdf"},
                {"type": "input_file", "file_id": "file-1"},
                {"type": "input_audio", "input_audio": {"data": "d2F2", "format": "wav"}},
            ],
        },
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "a"}, {"text": "b"}]},
        {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "gAAA"},
        {
            "type": "message",
            "role": "assistant",
            "id": "msg_1",
            "phase": "commentary",
            "content": [{"type": "output_text", "text": "O", "annotations": []}, {"type": "refusal", "refusal": "R"}],
        },
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}", "id": "fc_1"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "done"}]},
        {"type": "function_call_output", "call_id": "c2", "output": "plain"},
    ]
    cached = TextPart("T", "default", {"prompt_cache_breakpoint": {"mode": "explicit"}})
    assert read(input=items, instructions="I").neutral().messages == (
        Message("developer", (TextPart("I"),)),
        Message("system", (TextPart("S"),)),
        Message(
            "user",
            (
                cached,
                ImagePart(data="aWk=", media_type="image/png", detail="high"),
                ImagePart("https://x/i.png"),
                FilePart("cGRm", name="a.pdf", media_type="application/pdf"),
                FilePart(url="https://x/a.pdf"),
                FilePart(file_id="file-1"),
                AudioPart("d2F2", "wav"),
            ),
        ),
        Message(
            "assistant",
            (
                ReasoningPart("a\n\nb", id="rs_1"),
                ReasoningPart("", "openai.gAAA", id="rs_2"),
                TextPart("O", extra={"phase": "commentary"}),
                RefusalPart("R"),
                ToolCallPart("c1", "f", "{}"),
            ),
        ),
        Message("tool", (ToolResultPart("c1", (TextPart("done"),)),)),
        Message("tool", (ToolResultPart("c2", (TextPart("plain"),)),)),
    )


def test_the_other_fields() -> None:
    request = read(
        tools=[
            {"type": "function", "name": "f", "description": "F.", "parameters": {"type": "object"}, "strict": False},
            {"type": "function", "name": "g", "parameters": None},
        ],
        tool_choice={"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]},
        text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}, "verbosity": "low"},
        truncation="auto",
        service_tier="flex",
        parallel_tool_calls=False,
    ).neutral()
    assert request == ChatRequest(
        model="route",
        messages=(Message("user", (TextPart("Hi"),)),),
        tools=(Tool("f", "F.", {"type": "object"}, False),),
        tool_choice=ToolChoice("required"),
        parallel_tool_calls=False,
        response_format=ResponseFormat("json_schema", "n", schema={"type": "object"}),
        service_tier="flex",
        extra={"verbosity": "low", "truncation": "auto"},
        dialect="responses",
    )
    assert read(tool_choice={"type": "function", "name": "f"}).neutral().tool_choice == ToolChoice("tool", "f")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"input": None}, "input"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": "hot"}, "temperature"),
    ],
)
def test_what_cannot_be_used(body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(**body)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [7]}, "tools.0"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice.type"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"reasoning": {"effort": "extreme"}}, "reasoning.effort"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"input": [7]}, "input.0"),
        ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "input.0.type"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input.0.id"),
        ({"input": [{"role": "judge", "content": "x"}]}, "input.0.role"),
        ({"input": [{"role": "user", "content": 7}]}, "input.0.content"),
        ({"input": [{"role": "user", "content": [{"type": "hologram"}]}]}, "input.0.content.0.type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input.0.content.0.file_id",
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content.0.image_url"),
        ({"input": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input.0.content.0.input_audio"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input.0.call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": 7}]}, "input.0.output"),
    ],
)
def test_what_cannot_be_translated(body: dict[str, Any], field: str) -> None:
    asked = read(**body)
    with pytest.raises(InvalidInput) as caught:
        asked.neutral()
    assert caught.value.field == field
    assert caught.value.hint


def test_a_body_that_is_no_object() -> None:
    with pytest.raises((MalformedBody, InvalidInput)):
        CLIENT.read(b"[]", max_depth=64)


# Passing on


def test_what_is_passed_on_is_the_clients_own_and_nothing_is_stored_there() -> None:
    raw = b'{"model":"route","input":"Hi","unheard_of":[1.50],"tools":[{"type":"web_search"}],"store":true}'
    asked = CLIENT.read(raw, max_depth=64)
    assert asked.for_model("gpt-4.1", b'"gpt-4.1"') == (
        b'{"model":"gpt-4.1","input":"Hi","unheard_of":[1.50],"tools":[{"type":"web_search"}],"store":false}'
    )
    assert json.loads(asked.for_model("gpt-5", b'"gpt-5"'))["include"] == ["reasoning.encrypted_content"]


def test_what_is_passed_on_holds_the_conversation_without_what_openai_cannot_read() -> None:
    asked = read(
        previous_response_id="resp_1",
        input=[{"type": "reasoning", "id": "rs_9", "summary": []}, {"role": "user", "content": "On"}],
    )
    asked.after(
        [
            msgspec.Raw(json.dumps(item).encode())
            for item in (
                {"type": "message", "role": "user", "content": "Hi", "id": "msg_ours_in0"},
                {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"},
                {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "anthropic.sig"},
                {"type": "web_search_call", "id": "ws_1", "status": "completed"},
                {"type": "function_call", "id": "fc_ours", "call_id": "c", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "id": "item_ours", "call_id": "c", "output": '"reasoning"'},
            )
        ]
    )
    sent = json.loads(asked.for_model("m", b'"m"'))
    assert "previous_response_id" not in sent
    assert sent["input"] == [
        {"type": "message", "role": "user", "content": "Hi"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": '"reasoning"'},
        {"role": "user", "content": "On"},
    ]


# Translating to a provider of this dialect


def test_a_request_of_another_dialect() -> None:
    request = ChatRequest(
        model="route",
        messages=(
            Message("system", (TextPart("S"),)),
            Message("assistant", (ReasoningPart("T", "sig"), ToolCallPart("c", "f", "{}"))),
            Message("tool", (ToolResultPart("c", (TextPart("a"), TextPart("b"))),)),
        ),
        tools=(Tool("f"),),
        tool_choice=ToolChoice("tool", "f"),
        response_format=ResponseFormat("json_schema", schema={"type": "object"}),
        stop=("END",),
        seed=3,
        n=2,
        extra={"logit_bias": {}, "truncation": "auto"},
        dialect="openai",
    )
    out = PROVIDER.write_request(request, model="gpt-4.1", quirks=OPENAI)
    assert out.path == "/responses"
    assert set(out.dropped) == {"stop", "seed", "n", "logit_bias", "truncation"}
    assert json.loads(out.body) == {
        "model": "gpt-4.1",
        "input": [
            {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "S"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "ab"},
        ],
        "store": False,
        "tools": [
            {
                "type": "function",
                "name": "f",
                "description": "",
                "parameters": {"type": "object", "properties": {}},
                "strict": False,
            }
        ],
        "tool_choice": {"type": "function", "name": "f"},
        "text": {"format": {"type": "json_schema", "name": "answer", "schema": {"type": "object"}}},
    }


# Writing


def test_calls_side_by_side() -> None:
    writer = CLIENT.stream_writer(read(stream=True))
    raw = writer.write(
        [
            AnswerStarted("x", "m"),
            TextDelta("Hi"),
            ToolCallStarted("a", "f", 1),
            ToolCallStarted("b", "g", 2),
            ToolCallDelta('{"x', 1),
            ToolCallDelta("{}", 2),
            ToolCallDelta('":1}', 1),
            ToolCallDelta("nobody's", 9),
            TextDelta("other choice", 0, 1),
        ]
    )
    raw += writer.finish(Usage(1, 2))
    reader = PROVIDER.stream_reader()
    _, events = reader.feed(raw)
    assert fold(events).message.parts == (
        TextPart("Hi"),
        ToolCallPart("a", "f", '{"x":1}'),
        ToolCallPart("b", "g", "{}"),
    )


def test_a_broken_stream_can_end_as_a_failed_response() -> None:
    writer = CLIENT.stream_writer(read(stream=True))
    raw = writer.fail(UpstreamCut("The provider went away."))
    events = [json.loads(line[6:]) for line in raw.split(b"\n") if line.startswith(b"data: ")]
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.failed",
        "error",
    ]
    assert events[2]["response"]["error"] == {"code": "server_error", "message": "The provider went away."}
    assert [event["sequence_number"] for event in events] == [0, 1, 2, 3]


def test_an_id_that_is_not_ours_never_becomes_one() -> None:
    """Stored responses are found by id, and some servers count theirs from one."""
    assert read().names("chatcmpl-1", 7)[0] == "resp_" + read().names("chatcmpl-1", 7)[0][5:]
    assert len(read().names("", 0)[0]) == 37
    assert read().names("resp_0123456789", 7) == ("resp_0123456789", 7)
    asked = read()
    asked.response_id, asked.created = "resp_given", 9
    assert asked.names("resp_0123456789", 7) == ("resp_given", 9)


# A provider's own answers


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, 'sequence_number': 0, **fields})}\n\n".encode()


def response(**fields: Any) -> dict[str, Any]:
    return {"id": "resp_1", "object": "response", "model": "gpt-5", "created_at": 7.0, "output": [], **fields}


def test_a_stream_with_hosted_tools_and_servers_that_send_no_deltas() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    thought = {"type": "reasoning", "id": "rs_1", "summary": [{"text": "T"}], "encrypted_content": "gAAA"}
    raw = (
        event("response.created", response=response(status="in_progress"))
        + event("response.output_item.added", output_index=0, item={"type": "web_search_call", "id": "ws"})
        + event("response.web_search_call.completed", output_index=0, item_id="ws", delta={"odd": 1})
        + event("response.output_item.done", output_index=1, item=thought)
        + event("response.output_text.done", output_index=2, content_index=0, text="Hello.")
        + event("response.output_item.added", output_index=3, item={**call, "arguments": ""})
        + event("response.output_item.done", output_index=3, item=call)
        + event(
            "response.completed",
            response=response(
                status="completed",
                usage={
                    "input_tokens": 5,
                    "input_tokens_details": {"cached_tokens": 2},
                    "output_tokens": 3,
                    "output_tokens_details": {"reasoning_tokens": 1},
                },
            ),
        )
    )
    reader = PROVIDER.stream_reader()
    passed, events = reader.feed(raw)
    assert passed == raw
    assert reader.done
    assert json.loads(reader.response)["status"] == "completed"
    found = fold(events)
    assert found.message.parts == (
        ReasoningPart("T", "openai.gAAA", id="rs_1"),
        TextPart("Hello."),
        ToolCallPart("c", "f", "{}"),
    )
    assert (found.id, found.model, found.created, found.finish_reason) == ("resp_1", "gpt-5", 7, "tool_calls")
    assert found.usage == Usage(5, 3, 2, 0, 1)


def test_paragraphs_of_a_summary() -> None:
    delta = "response.reasoning_summary_text.delta"
    raw = b"".join(
        event(delta, output_index=0, summary_index=at, delta=text) for at, text in ((0, "a"), (0, "b"), (1, "c"))
    )
    _, events = PROVIDER.stream_reader().feed(raw)
    assert fold(events).message.parts == (ReasoningPart("ab\n\nc"),)


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (event("error", message="Slow.", code="rate_limit_exceeded"), UpstreamBusy),
        (event("error", error={"message": "Broken.", "type": "server_error"}), UpstreamError),
        (event("response.failed", response=response(status="failed", error={"message": "No."})), UpstreamError),
        (event("response.completed", response=response(status="failed")), UpstreamError),
        (event("response.completed", response=7), BadAnswer),
        (event("response.output_text.delta", delta=7), BadAnswer),
        (b"data: {\n\n", BadAnswer),
    ],
)
def test_streams_that_fail(raw: bytes, error: type[Exception]) -> None:
    reader = PROVIDER.stream_reader()
    passed, events = reader.feed(event("response.output_text.delta", output_index=0, delta="Hi") + raw)
    assert type(reader.failure) is error
    assert events == [TextDelta("Hi")]
    assert raw not in passed
    assert reader.feed(raw) == (b"", [])


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        ({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, "content_filter"),
        ({"status": "cancelled"}, "cancelled"),
        ({"status": "completed", "usage": {"input_tokens": 1, "output_tokens": -1}}, "stop"),
    ],
)
def test_ends(fields: dict[str, Any], reason: str) -> None:
    found = PROVIDER.read_answer(json.dumps(response(**fields)).encode())
    assert (found.finish_reason, found.usage) == (reason, None)


def test_answers_that_are_none() -> None:
    for raw in (b"", b"[]", b"{}", b'{"output":7}', json.dumps(response(output=[{"type": "message"}])).encode()):
        with pytest.raises(BadAnswer):
            PROVIDER.read_answer(raw)
    with pytest.raises(UpstreamBusy, match="Slow"):
        PROVIDER.read_answer(b'{"error":{"message":"Slow.","code":"rate_limit_exceeded"}}')
    half = PROVIDER.read_answer(
        json.dumps(response(status="completed", model="a")).encode().replace(b'"a"', b'"\\ud83d"')
    )
    assert half.model == "\ufffd"

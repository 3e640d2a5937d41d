"""Bedrock as a provider: requests as the service model has them, answers and binary streams as it sends them."""

from __future__ import annotations

import json
import struct
from typing import Any
from zlib import crc32

import pytest
from botocore.eventstream import EventStreamBuffer
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator

from detent.gateway.dialects.bedrock import BedrockProvider
from detent.gateway.dialects.eventstream import MAX_HEADERS, MAX_PAYLOAD, packed
from detent.gateway.dialects.folding import fold
from detent.gateway.dialects.quirks import OPENAI
from detent.gateway.errors import BadAnswer, UpstreamBusy, UpstreamError, UpstreamRejected
from detent.kernel.chat import (
    AnswerStarted,
    AudioPart,
    ChatAnswer,
    ChatRequest,
    FilePart,
    ImagePart,
    Message,
    Reasoning,
    ReasoningPart,
    RefusalPart,
    ResponseFormat,
    TextDelta,
    TextPart,
    Tool,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
    Usage,
)
from detent.kernel.errors import InvalidInput

BEDROCK = BedrockProvider()
CLAUDE = "eu.anthropic.claude-sonnet-4-20250514-v1:0"
USER = Message("user", (TextPart("Hi"),))


@pytest.fixture(scope="module")
def shape() -> Any:
    """The request as AWS's own library would check it."""
    loaded = Loader().load_service_model("bedrock-runtime", "service-2")
    return ServiceModel(loaded, "bedrock-runtime").operation_model("Converse").input_shape


def sent(request: ChatRequest, model: str = CLAUDE) -> tuple[dict[str, Any], tuple[str, ...]]:
    found = BEDROCK.write_request(request, model=model, quirks=OPENAI)
    return json.loads(found.body), found.dropped


EVERYTHING = ChatRequest(
    model="route",
    messages=(
        Message("system", (TextPart("Be brief.", "1h"),)),
        Message(
            "user",
            (
                TextPart("Look."),
                TextPart(" "),
                ImagePart(data="aWk=", media_type="image/jpeg"),
                FilePart(data="cGRm", name="A_b.pdf", media_type="application/pdf", cache="default"),
                FilePart(url="s3://bucket/c.csv"),
                AudioPart("d2F2", "mp3"),
            ),
        ),
        Message(
            "assistant",
            (
                ReasoningPart("Thinking.", "sig"),
                ReasoningPart(redacted="c2Vj"),
                ReasoningPart("Another's.", "gemini.s"),
                RefusalPart("No."),
                ToolCallPart("call with spaces", "look", '{"at":1}'),
                ToolCallPart("t2", "look", "{"),
            ),
        ),
        Message("tool", (ToolResultPart("call with spaces", (TextPart("seen"), ImagePart(data="aWk="))),)),
        Message("tool", (ToolResultPart("t2", (), is_error=True, cache="5m"),)),
    ),
    tools=(Tool("look", "Looks.", {"type": "object"}, strict=True, cache="default"),),
    tool_choice=ToolChoice("auto"),
    max_tokens=9000,
    temperature=0.5,
    top_p=0.9,
    top_k=3,
    stop=("END",),
    reasoning=Reasoning("low"),
    seed=1,
    n=2,
    metadata={"team": "a"},
    service_tier="priority",
    extra={"logit_bias": {}},
    stream=True,
)


def test_everything(shape: Any) -> None:
    request = BEDROCK.write_request(EVERYTHING, model=CLAUDE, quirks=OPENAI)
    assert request.path == "/model/eu.anthropic.claude-sonnet-4-20250514-v1%3A0/converse-stream"
    assert request.headers == (("accept", "application/vnd.amazon.eventstream"),)
    assert request.dropped == ("seed", "n", "logit_bias", "temperature", "top_k")
    body = json.loads(request.body)
    named = body["messages"][1]["content"][3]["toolUse"]["toolUseId"]
    assert named.startswith("tooluse_")
    assert body == {
        "system": [{"text": "Be brief."}, {"cachePoint": {"type": "default", "ttl": "1h"}}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"text": "Look."},
                    {"image": {"format": "jpeg", "source": {"bytes": "aWk="}}},
                    {"document": {"format": "pdf", "name": "A b", "source": {"bytes": "cGRm"}}},
                    {"cachePoint": {"type": "default"}},
                    {
                        "document": {
                            "format": "csv",
                            "name": "document",
                            "source": {"s3Location": {"uri": "s3://bucket/c.csv"}},
                        }
                    },
                    {"audio": {"format": "mp3", "source": {"bytes": "d2F2"}}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"reasoningContent": {"reasoningText": {"text": "Thinking.", "signature": "sig"}}},
                    {"reasoningContent": {"redactedContent": "c2Vj"}},
                    {"text": "No."},
                    {"toolUse": {"toolUseId": named, "name": "look", "input": {"at": 1}}},
                    {"toolUse": {"toolUseId": "t2", "name": "look", "input": {"invalid_json": "{"}}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "toolResult": {
                            "toolUseId": named,
                            "content": [{"text": "seen"}, {"image": {"format": "png", "source": {"bytes": "aWk="}}}],
                        }
                    },
                    {"toolResult": {"toolUseId": "t2", "content": [{"text": "(empty)"}], "status": "error"}},
                    {"cachePoint": {"type": "default", "ttl": "5m"}},
                ],
            },
        ],
        "inferenceConfig": {"maxTokens": 9000, "topP": 0.9, "stopSequences": ["END"]},
        "additionalModelRequestFields": {"thinking": {"type": "enabled", "budget_tokens": 2048}},
        "additionalModelResponseFieldPaths": ["/stop_sequence"],
        "toolConfig": {
            "tools": [
                {
                    "toolSpec": {
                        "name": "look",
                        "description": "Looks.",
                        "inputSchema": {"json": {"type": "object"}},
                        "strict": True,
                    }
                },
                {"cachePoint": {"type": "default"}},
            ],
            "toolChoice": {"auto": {}},
        },
        "requestMetadata": {"team": "a"},
        "serviceTier": {"type": "priority"},
    }
    report = ParamValidator().validate({"modelId": CLAUDE, **body}, shape)
    assert report.generate_report() == ""


@pytest.mark.parametrize(
    ("model", "reasoning", "fields", "dropped"),
    [
        (CLAUDE, Reasoning("high"), {"thinking": {"type": "enabled", "budget_tokens": 16_384}}, ()),
        (CLAUDE, Reasoning(budget_tokens=2000), {"thinking": {"type": "enabled", "budget_tokens": 2000}}, ()),
        (CLAUDE, Reasoning("none"), {}, ()),
        ("anthropic.claude-3-haiku-20240307-v1:0", Reasoning("high"), {}, ("reasoning",)),
        ("anthropic.claude-opus-4-7-v1", Reasoning("high"), {"thinking": {"type": "adaptive"}}, ()),
        ("anthropic.claude-opus-4-7-v1", Reasoning("none"), {"thinking": {"type": "disabled"}}, ()),
        ("openai.gpt-oss-120b-1:0", Reasoning("xhigh"), {"reasoning_effort": "high"}, ()),
        (
            "amazon.nova-2-lite-v1:0",
            Reasoning("minimal"),
            {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "low"}},
            (),
        ),
        ("meta.llama3", Reasoning("high"), {}, ("reasoning",)),
    ],
)
def test_thinking(
    model: str, reasoning: Reasoning, fields: dict[str, Any], dropped: tuple[str, ...], shape: Any
) -> None:
    body, lost = sent(ChatRequest("route", (USER,), reasoning=reasoning), model)
    assert (body.get("additionalModelRequestFields", {}), lost) == (fields, dropped)
    assert ParamValidator().validate({"modelId": model, **body}, shape).generate_report() == ""
    if fields.get("thinking") == {"type": "adaptive"}:
        assert body["outputConfig"] == {"effort": "high"}
    if "budget_tokens" in fields.get("thinking", {}):
        assert body["inferenceConfig"]["maxTokens"] > fields["thinking"]["budget_tokens"]


def test_claude_may_not_think_beside_a_forced_tool_or_an_unsigned_call() -> None:
    tool = Tool("f", parameters={"type": "object"})
    forced = ChatRequest("r", (USER,), (tool,), ToolChoice("tool", "f"), reasoning=Reasoning("high"), temperature=0.2)
    body, dropped = sent(forced)
    assert dropped == ("reasoning",)
    assert body["inferenceConfig"] == {"temperature": 0.2}
    assert body["toolConfig"]["toolChoice"] == {"tool": {"name": "f"}}
    call = Message("assistant", (ToolCallPart("a", "f", "{}"),))
    result = Message("tool", (ToolResultPart("a", (TextPart("x"),)),))
    assert sent(ChatRequest("r", (USER, call, result), (tool,), reasoning=Reasoning("high")))[1] == ("reasoning",)


def test_tools_that_were_called_are_declared() -> None:
    call = Message("assistant", (ToolCallPart("a", "f", "{}"),))
    result = Message("tool", (ToolResultPart("a", (TextPart("x"),)),))
    body, _ = sent(ChatRequest("r", (USER, call, result)))
    assert body["toolConfig"] == {"tools": [{"toolSpec": {"name": "f", "inputSchema": {"json": {"type": "object"}}}}]}
    none = ChatRequest("r", (USER,), (Tool("f"),), ToolChoice("none"))
    assert "toolConfig" not in sent(none)[0]
    body, dropped = sent(ChatRequest("r", (USER, call, result), (Tool("f"),), ToolChoice("none")))
    assert dropped == ("tool_choice",)
    assert "toolChoice" not in body["toolConfig"]


def test_structured_output(shape: Any) -> None:
    form = ResponseFormat("json_schema", "place", "A place.", {"type": "object"}, True)
    body, dropped = sent(ChatRequest("r", (USER,), response_format=form), "anthropic.claude-sonnet-4-5-v1:0")
    assert dropped == ()
    assert body["outputConfig"] == {
        "textFormat": {
            "type": "json_schema",
            "structure": {"jsonSchema": {"schema": '{"type":"object"}', "name": "place", "description": "A place."}},
        }
    }
    assert ParamValidator().validate({"modelId": "m", **body}, shape).generate_report() == ""
    assert sent(ChatRequest("r", (USER,), response_format=form))[1] == ("response_format",)


@pytest.mark.parametrize(
    "part",
    [
        ImagePart("https://x/a.png"),
        FilePart(file_id="f"),
        FilePart(url="https://x/a.pdf"),
        ImagePart(data="x", media_type="image/bmp"),
    ],
)
def test_what_bedrock_would_have_to_fetch_is_refused(part: Any) -> None:
    with pytest.raises(InvalidInput, match="cannot be sent") as caught:
        sent(ChatRequest("r", (USER, Message("user", (part,)))))
    assert caught.value.field == "messages.1.parts.0"


BLOCKS: list[dict[str, Any]] = [
    {"reasoningContent": {"reasoningText": {"text": "I think.", "signature": "sig"}}},
    {"reasoningContent": {"redactedContent": "c2Vj"}},
    {"text": "Hello."},
    {"toolUse": {"toolUseId": "t1", "name": "f", "input": {"a": 1}}},
]
COUNTS = {
    "inputTokens": 10,
    "outputTokens": 5,
    "totalTokens": 22,
    "cacheReadInputTokens": 4,
    "cacheWriteInputTokens": 3,
}


def frame(kind: str, payload: dict[str, Any], *, message: str = "event") -> bytes:
    name = ":event-type" if message == "event" else ":exception-type"
    headers = {name: kind, ":content-type": "application/json", ":message-type": message}
    return packed(headers, json.dumps({**payload, "p": "abcdefgh"}).encode())


def delta(index: int, value: dict[str, Any]) -> bytes:
    return frame("contentBlockDelta", {"contentBlockIndex": index, "delta": value})


STREAM = [
    frame("messageStart", {"role": "assistant"}),
    delta(0, {"reasoningContent": {"text": "I th"}}),
    delta(0, {"reasoningContent": {"text": "ink."}}),
    delta(0, {"reasoningContent": {"signature": "sig"}}),
    frame("contentBlockStop", {"contentBlockIndex": 0}),
    delta(1, {"reasoningContent": {"redactedContent": "c2Vj"}}),
    delta(2, {"text": "Hel"}),
    delta(2, {"text": "lo."}),
    frame("contentBlockStart", {"contentBlockIndex": 3, "start": {"toolUse": {"toolUseId": "t1", "name": "f"}}}),
    delta(3, {"toolUse": {"input": '{"a"'}}),
    delta(3, {"toolUse": {"input": ":1}"}}),
    frame("messageStop", {"stopReason": "tool_use"}),
    frame("metadata", {"usage": COUNTS, "metrics": {"latencyMs": 5}}),
]


def test_a_stream_tells_what_the_whole_answer_tells() -> None:
    whole = BEDROCK.read_answer(
        json.dumps(
            {
                "output": {"message": {"role": "assistant", "content": BLOCKS}},
                "stopReason": "tool_use",
                "usage": COUNTS,
                "metrics": {"latencyMs": 5},
            }
        ).encode()
    )
    assert whole == ChatAnswer(
        "",
        "",
        Message(
            "assistant",
            (
                ReasoningPart("I think.", "sig"),
                ReasoningPart(redacted="c2Vj"),
                TextPart("Hello."),
                ToolCallPart("t1", "f", '{"a": 1}'),
            ),
        ),
        "tool_calls",
        Usage(17, 5, 4, 3),
    )
    data = b"".join(STREAM)
    for size in (1, 7, 100, len(data)):
        reader = BEDROCK.stream_reader()
        passed, events = b"", []
        for start in range(0, len(data), size):
            raw, found = reader.feed(data[start : start + size])
            passed += raw
            events += found
        assert reader.done
        assert reader.failure is None
        assert passed == data
        parts = fold(events).message.parts
        assert parts[:3] == whole.message.parts[:3]
        assert parts[3] == ToolCallPart("t1", "f", '{"a":1}')
        assert (fold(events).usage, fold(events).finish_reason) == (whole.usage, "tool_calls")


def test_frames_are_those_of_amazons_own_library() -> None:
    buffer = EventStreamBuffer()
    buffer.add_data(b"".join(STREAM))
    assert [event.headers[":event-type"] for event in buffer][:2] == ["messageStart", "contentBlockDelta"]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("end_turn", "stop"),
        ("max_tokens", "length"),
        ("guardrail_intervened", "content_filter"),
        ("model_context_window_exceeded", "length"),
        ("malformed_tool_use", "error"),
    ],
)
def test_ends(word: str, reason: str) -> None:
    reader = BEDROCK.stream_reader()
    fields = {"stopReason": word, "additionalModelResponseFields": {"stop_sequence": "END"}}
    _, events = reader.feed(STREAM[0] + frame("messageStop", fields))
    assert not reader.done
    found = fold(events)
    assert (found.finish_reason, found.stop_sequence) == (reason, "END")


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("throttlingException", UpstreamBusy),
        ("validationException", UpstreamRejected),
        ("modelStreamErrorException", UpstreamError),
        ("serviceUnavailableException", UpstreamError),
    ],
)
def test_exceptions_in_a_stream(kind: str, error: type[Exception]) -> None:
    reader = BEDROCK.stream_reader()
    broken = frame(kind, {"message": "Slow down."}, message="exception")
    passed, events = reader.feed(STREAM[0] + delta(0, {"text": "Hi"}) + broken + delta(0, {"text": "more"}))
    assert events == [AnswerStarted(), TextDelta("Hi")]
    assert passed == STREAM[0] + delta(0, {"text": "Hi"})
    assert type(reader.failure) is error
    assert "Slow down." in str(reader.failure)
    assert reader.feed(delta(0, {"text": "more"})) == (b"", [])


def head(total: int, headers: int) -> bytes:
    lengths = struct.pack(">II", total, headers)
    return lengths + struct.pack(">I", crc32(lengths))


def sealed(headers: bytes) -> bytes:
    body = head(16 + len(headers), len(headers)) + headers
    return body + struct.pack(">I", crc32(body))


@pytest.mark.parametrize(
    "data",
    [
        b'{"message":"not a stream"}',
        head(15, 0),
        head(2**32 - 1, 0),
        head(MAX_HEADERS + MAX_PAYLOAD, MAX_HEADERS + 1),
        head(16 + MAX_PAYLOAD + 1, 0),
        head(20, 16),
        STREAM[0][:-1] + bytes([STREAM[0][-1] ^ 1]),
        STREAM[0][:20] + b"X" + STREAM[0][21:],
        sealed(b"\x05ab"),
        sealed(b"\x01a\x07\x00\xff"),
        sealed(b"\x01a\x63"),
        sealed(b"\x01\xff\x00"),
        sealed(b"\x01a\x04\x00"),
    ],
)
def test_what_is_no_stream(data: bytes) -> None:
    reader = BEDROCK.stream_reader()
    assert reader.feed(data) == (b"", [])
    assert isinstance(reader.failure, BadAnswer)
    assert "damaged" in reader.failure.message


def test_headers_of_every_type_are_passed_over() -> None:
    reader = BEDROCK.stream_reader()
    others = b"\x01a\x00\x01b\x01\x01c\x02\x00\x01d\x03\x00\x00\x01e\x04" + b"\0" * 4 + b"\x01f\x05" + b"\0" * 8
    others += b"\x01g\x06\x00\x02xy" + b"\x01h\x08" + b"\0" * 8 + b"\x01i\x09" + b"\0" * 16
    assert reader.feed(sealed(others)) == (sealed(others), [AnswerStarted()])
    assert reader.failure is None


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"output":{}}', b"\xff", b'{"output":{"message":7}}'])
def test_what_is_no_answer(raw: bytes) -> None:
    with pytest.raises(BadAnswer):
        BEDROCK.read_answer(raw)
    with pytest.raises(UpstreamError, match="Too long"):
        BEDROCK.read_answer(b'{"message":"Too long."}')

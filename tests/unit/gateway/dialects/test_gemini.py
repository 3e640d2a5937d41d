"""Gemini as a provider: requests as its reference has them, answers and streams as it sends them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from detent.gateway.dialects.folding import fold
from detent.gateway.dialects.gemini import GeminiProvider
from detent.gateway.dialects.quirks import OPENAI
from detent.gateway.errors import BadAnswer, UpstreamBusy, UpstreamError
from detent.kernel.chat import (
    ChatRequest,
    ChoiceFinished,
    FilePart,
    ImagePart,
    Message,
    Reasoning,
    ReasoningPart,
    ResponseFormat,
    TextPart,
    Tool,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
    Usage,
    UsageReported,
)

GEMINI = GeminiProvider()
USER = Message("user", (TextPart("Hi"),))


def body(request: ChatRequest, model: str = "gemini-2.5-flash") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(GEMINI.write_request(request, model=model, quirks=OPENAI).body)
    return found


def test_a_conversation_with_tools() -> None:
    request = ChatRequest(
        model="route",
        messages=(
            Message("system", (TextPart("Be brief."),)),
            Message("user", (TextPart("Weather?"), ImagePart(data="aWk=", media_type="image/png"))),
            Message(
                "assistant",
                (
                    ReasoningPart("Thinking.", "gemini.s0"),
                    ReasoningPart("Claude's.", "anthropic-state"),
                    TextPart("I look."),
                    ReasoningPart("", "gemini.s1"),
                    ToolCallPart("call_gm_1", "weather", '{"city":"Bern"}', "gemini.s2"),
                    ToolCallPart("x9", "weather", '{"city":"Rome"}', "openai.foreign"),
                ),
            ),
            Message("tool", (ToolResultPart("call_gm_1", (TextPart("sun"),)),)),
            Message("tool", (ToolResultPart("x9", (TextPart("no"),), is_error=True),)),
        ),
        tools=(Tool("weather", "Tells.", {"type": "object", "properties": {"city": {"type": "string"}}}),),
        tool_choice=ToolChoice("tool", "weather"),
        temperature=0.5,
        top_p=0.9,
        top_k=10,
        max_tokens=100,
        seed=7,
        stop=("a", "b", "c", "d", "e", "f"),
        parallel_tool_calls=False,
        stream=True,
    )
    sent = GEMINI.write_request(request, model="gemini-2.5-flash", quirks=OPENAI)
    assert sent.path == "/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
    assert sent.dropped == ("parallel_tool_calls", "stop[5:]")
    assert json.loads(sent.body) == {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [
            {
                "role": "user",
                "parts": [{"text": "Weather?"}, {"inlineData": {"mimeType": "image/png", "data": "aWk="}}],
            },
            {
                "role": "model",
                "parts": [
                    {"text": "Thinking.", "thought": True, "thoughtSignature": "s0"},
                    {"text": "I look.", "thoughtSignature": "s1"},
                    {"functionCall": {"name": "weather", "args": {"city": "Bern"}}, "thoughtSignature": "s2"},
                    {"functionCall": {"name": "weather", "args": {"city": "Rome"}, "id": "x9"}},
                ],
            },
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"name": "weather", "response": {"output": "sun"}}},
                    {"functionResponse": {"name": "weather", "response": {"error": "no"}, "id": "x9"}},
                ],
            },
        ],
        "tools": [
            {
                "functionDeclarations": [
                    {
                        "name": "weather",
                        "description": "Tells.",
                        "parametersJsonSchema": {"type": "object", "properties": {"city": {"type": "string"}}},
                    }
                ]
            }
        ],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["weather"]}},
        "generationConfig": {
            "temperature": 0.5,
            "topP": 0.9,
            "topK": 10,
            "maxOutputTokens": 100,
            "seed": 7,
            "stopSequences": ["a", "b", "c", "d", "e"],
        },
    }


def test_gemini_3_gets_a_signature_for_calls_that_it_did_not_make() -> None:
    turn = Message(
        "assistant", (ToolCallPart("a", "f", "{}"), ToolCallPart("b", "f", "[1]"), ToolCallPart("c", "f", "{"))
    )
    image = ImagePart(data="aWk=", media_type="image/png")
    back = Message("tool", (ToolResultPart("a", (TextPart("see"), image)),))
    request = ChatRequest("route", (USER, turn, back))
    sent = body(request, "gemini-3-flash-preview")["contents"]
    assert sent[1]["parts"] == [
        {
            "functionCall": {"name": "f", "args": {}, "id": "a"},
            "thoughtSignature": "skip_thought_signature_validator",
        },
        {"functionCall": {"name": "f", "args": {"value": [1]}, "id": "b"}},
        {"functionCall": {"name": "f", "args": {"invalid_json": "{"}, "id": "c"}},
    ]
    inline = {"inlineData": {"mimeType": "image/png", "data": "aWk="}}
    answer = {"name": "f", "response": {"output": "see"}, "id": "a"}
    assert sent[2]["parts"] == [{"functionResponse": {**answer, "parts": [inline]}}]
    older = body(request)["contents"]
    assert "thoughtSignature" not in older[1]["parts"][0]
    assert older[2]["parts"] == [{"functionResponse": answer}, inline]


@pytest.mark.parametrize(
    ("model", "reasoning", "config"),
    [
        ("gemini-2.5-flash", Reasoning("none"), {"thinkingBudget": 0, "includeThoughts": False}),
        ("gemini-2.5-pro", Reasoning("none"), {"thinkingBudget": 128, "includeThoughts": False}),
        ("gemini-2.5-flash", Reasoning("low"), {"thinkingBudget": 2048, "includeThoughts": True}),
        ("gemini-2.5-flash", Reasoning(budget_tokens=99_999), {"thinkingBudget": 24_576, "includeThoughts": True}),
        ("gemini-3-pro-preview", Reasoning("minimal"), {"thinkingLevel": "low", "includeThoughts": True}),
        ("gemini-3-flash-preview", Reasoning("none"), {"thinkingLevel": "minimal", "includeThoughts": False}),
        ("gemini-3-flash-preview", Reasoning(budget_tokens=2000), {"thinkingLevel": "low", "includeThoughts": True}),
        ("gemini-3.1-pro", Reasoning("xhigh"), {"thinkingLevel": "high", "includeThoughts": True}),
        ("gemini-2.5-flash", Reasoning(), {"includeThoughts": True}),
    ],
)
def test_thinking(model: str, reasoning: Reasoning, config: dict[str, Any]) -> None:
    sent = body(ChatRequest("route", (USER,), reasoning=reasoning), model)
    assert sent["generationConfig"] == {"thinkingConfig": config}


def test_schemas_lose_only_what_gemini_does_not_know() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "definitions": {"Kind": {"const": "a"}},
        "properties": {
            "kind": {"$ref": "#/definitions/Kind"},
            "pattern": {"type": "string", "pattern": "^a", "default": "a"},
            "all": {"allOf": [{"type": "integer", "exclusiveMinimum": 0}], "description": "One."},
        },
        "required": ["kind"],
        "additionalProperties": False,
    }
    form = ResponseFormat("json_schema", "answer", schema=schema)
    sent = GEMINI.write_request(ChatRequest("route", (USER,), response_format=form), model="m", quirks=OPENAI)
    assert json.loads(sent.body)["generationConfig"] == {
        "responseMimeType": "application/json",
        "responseJsonSchema": {
            "type": "object",
            "$defs": {"Kind": {"enum": ["a"]}},
            "properties": {
                "kind": {"$ref": "#/$defs/Kind"},
                "pattern": {"type": "string"},
                "all": {"type": "integer", "description": "One."},
            },
            "required": ["kind"],
            "additionalProperties": False,
        },
    }
    assert sent.dropped == ("response_format.schema.exclusiveMinimum", "response_format.schema.pattern")


def test_files_and_paths() -> None:
    files = (FilePart(url="gs://b/a.pdf"), FilePart(file_id="https://x/files/1"), ImagePart("https://x/a.webp?q=1"))
    sent = GEMINI.write_request(ChatRequest("route", (Message("user", files),)), model="tunedModels/a b", quirks=OPENAI)
    assert sent.path == "/tunedModels/a%20b:generateContent"
    assert json.loads(sent.body)["contents"][0]["parts"] == [
        {"fileData": {"fileUri": "gs://b/a.pdf", "mimeType": "application/pdf"}},
        {"fileData": {"fileUri": "https://x/files/1"}},
        {"fileData": {"fileUri": "https://x/a.webp?q=1", "mimeType": "image/webp"}},
    ]


PIECES: list[dict[str, Any]] = [
    {"candidates": [{"content": {"role": "model", "parts": [{"text": "I ", "thought": True}]}, "index": 0}]},
    {"candidates": [{"content": {"parts": [{"text": "think.", "thought": True}]}, "index": 0}]},
    {"candidates": [{"content": {"parts": [{"text": "Hel"}]}, "index": 0}]},
    {"candidates": [{"content": {"parts": [{"text": "lo."}, {"text": "", "thoughtSignature": "s1"}]}, "index": 0}]},
    {
        "candidates": [
            {
                "content": {
                    "parts": [
                        {"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "s2"},
                        {"functionCall": {"name": "f", "id": "own"}},
                    ]
                },
                "index": 0,
            }
        ]
    },
    {"candidates": [{"content": {"parts": [{"text": ""}]}, "finishReason": "STOP", "index": 0}]},
]
COUNTS = {
    "promptTokenCount": 10,
    "toolUsePromptTokenCount": 2,
    "cachedContentTokenCount": 4,
    "candidatesTokenCount": 5,
    "thoughtsTokenCount": 7,
    "totalTokenCount": 24,
}


def stream(pieces: list[dict[str, Any]]) -> bytes:
    shared = {"modelVersion": "gemini-2.5-flash", "responseId": "r1", "usageMetadata": COUNTS}
    return b"".join(b"data: " + json.dumps({**piece, **shared}).encode() + b"\r\n\r\n" for piece in pieces)


def test_a_stream_tells_what_the_whole_answer_tells() -> None:
    reader = GEMINI.stream_reader()
    passed, events = reader.feed(stream(PIECES))
    assert reader.done
    assert reader.failure is None
    assert passed == stream(PIECES).replace(b"\r\n", b"\n")
    parts = [part for piece in PIECES for part in piece["candidates"][0]["content"]["parts"]]
    whole = GEMINI.read_answer(
        json.dumps(
            {
                "candidates": [{"content": {"parts": parts}, "finishReason": "STOP", "index": 0}],
                "modelVersion": "gemini-2.5-flash",
                "responseId": "r1",
                "usageMetadata": COUNTS,
            }
        ).encode()
    )
    assert fold(events) == whole
    first = whole.message.parts[3]
    assert isinstance(first, ToolCallPart)
    assert whole.message.parts == (
        ReasoningPart("I think."),
        TextPart("Hello."),
        ReasoningPart("", "gemini.s1"),
        ToolCallPart(first.id, "f", '{"a":1}', "gemini.s2"),
        ToolCallPart("own", "f", "{}"),
    )
    assert first.id.startswith("call_gm_")
    assert whole.finish_reason == "tool_calls"
    assert whole.usage == Usage(12, 12, 4, 0, 7)
    # And back: what was read is what is sent.
    sent = body(ChatRequest("route", (USER, whole.message)))["contents"][1]["parts"]
    assert sent == [
        {"text": "Hello.", "thoughtSignature": "s1"},
        {"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "s2"},
        {"functionCall": {"name": "f", "args": {}, "id": "own"}},
    ]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("MALFORMED_FUNCTION_CALL", "error"),
        ("SOMETHING_NEW", "error"),
    ],
)
def test_ends(word: str, reason: str) -> None:
    raw = {"candidates": [{"finishReason": word}], "responseId": "r"}
    assert GEMINI.read_answer(json.dumps(raw).encode()).finish_reason == reason
    reader = GEMINI.stream_reader()
    _, events = reader.feed(stream([{"candidates": [{"finishReason": word}]}]))
    assert ChoiceFinished(reason) in events  # type: ignore[arg-type]
    assert reader.done


def test_a_blocked_prompt_is_a_filtered_answer() -> None:
    raw = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 3}}
    found = GEMINI.read_answer(json.dumps(raw).encode())
    assert (found.finish_reason, found.message.parts, found.usage) == ("content_filter", (), Usage(3))
    assert found.extra == {"block_reason": "SAFETY"}
    reader = GEMINI.stream_reader()
    _, events = reader.feed(b"data: " + json.dumps(raw).encode() + b"\n\n")
    assert events[1:] == [ChoiceFinished("content_filter"), UsageReported(Usage(3))]
    assert reader.done


BUSY = {
    "error": {
        "code": 429,
        "message": "Quota exceeded.",
        "status": "RESOURCE_EXHAUSTED",
        "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17.5s"}],
    }
}


@pytest.mark.parametrize("raw", [json.dumps(BUSY).encode(), json.dumps([BUSY]).encode()])
def test_errors_under_a_good_status(raw: bytes) -> None:
    with pytest.raises(UpstreamBusy, match="Quota exceeded") as caught:
        GEMINI.read_answer(raw)
    assert caught.value.retry_after == 17.5
    reader = GEMINI.stream_reader()
    assert reader.feed(stream(PIECES[:1]))[1]
    assert reader.feed(b"data: " + raw + b"\n\n") == (b"", [])
    assert isinstance(reader.failure, UpstreamBusy)
    # Instead of a stream, without its framing, and in two reads.
    reader = GEMINI.stream_reader()
    for half in (raw[:50], raw[50:]):
        assert reader.failure is None
        assert reader.feed(half) == (b"", [])
    assert isinstance(reader.failure, UpstreamBusy)


@pytest.mark.parametrize(
    "raw", [b"", b"null", b"[]", b"{}", b"\xff", b'{"candidates":[]}', b'{"candidates":7}', b"[" * 9999]
)
def test_what_is_no_answer(raw: bytes) -> None:
    with pytest.raises(BadAnswer):
        GEMINI.read_answer(raw)


def test_what_is_no_stream() -> None:
    for raw in (b"data: {\n\n", b'data: {"candidates":[{"index":-1}]}\n\n', b"[" * 70_000):
        reader = GEMINI.stream_reader()
        reader.feed(raw)
        assert isinstance(reader.failure, BadAnswer)
    reader = GEMINI.stream_reader()
    reader.feed(b'data: {"error":{"message":"broken"}}\n\n')
    assert isinstance(reader.failure, UpstreamError)
    assert "broken" in reader.failure.message


def test_figures_that_cannot_be_right_are_none() -> None:
    for counts in ({"promptTokenCount": 1, "cachedContentTokenCount": 2}, {"candidatesTokenCount": -1}):
        raw = {"candidates": [{"finishReason": "STOP"}], "usageMetadata": counts}
        assert GEMINI.read_answer(json.dumps(raw).encode()).usage is None

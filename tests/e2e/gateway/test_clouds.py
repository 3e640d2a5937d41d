"""Gemini and Bedrock behind a real worker, asked by the SDKs of other makers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import anthropic
import openai
import pytest

from detent.gateway.dialects.eventstream import packed
from detent.gateway.snapshot import publish

pytestmark = pytest.mark.e2e

ASK: Any = [{"role": "user", "content": "Weather?"}]
TOOL = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}


class Stage:
    """One worker; behind route `gemini` a provider that speaks Gemini, behind `bedrock` one that speaks Converse."""

    def __init__(self, tools: ModuleType, folder: Path) -> None:
        self.gemini = tools.Upstream()
        self.bedrock = tools.Upstream()
        google, amazon = self.gemini.url + "beta", self.bedrock.url.removesuffix("/v1")
        found = tools.snapshot(
            {"gemini": [google], "bedrock": [amazon]}, dialects={google: "gemini", amazon: "bedrock"}
        )
        publish(found, folder / "snapshot")
        self.worker = tools.Worker(folder, {})
        self.worker.wait_ready()
        self.openai = openai.OpenAI(base_url=f"{self.worker.url}/v1", api_key=tools.KEY, max_retries=0)
        self.anthropic = anthropic.Anthropic(base_url=self.worker.url, api_key=tools.KEY, max_retries=0)


@pytest.fixture(scope="module")
def stage(tools: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    found = Stage(tools, tmp_path_factory.mktemp("gateway"))
    yield found
    found.openai.close()
    found.anthropic.close()
    assert found.worker.stop() == 0, found.worker.errors.read_text()
    found.gemini.close()
    found.bedrock.close()


def candidate(*parts: dict[str, Any], **more: Any) -> bytes:
    usage = {"promptTokenCount": 10, "cachedContentTokenCount": 4, "candidatesTokenCount": 3, "thoughtsTokenCount": 2}
    return json.dumps(
        {
            "candidates": [{"content": {"role": "model", "parts": list(parts)}, "index": 0, **more}],
            "usageMetadata": usage,
            "modelVersion": "gemini-real",
            "responseId": "r1",
        }
    ).encode()


CALL = {"functionCall": {"name": "weather", "args": {"city": "Bern"}}, "thoughtSignature": "state"}


def test_an_openai_client_and_its_tools_at_gemini(stage: Stage, tools: ModuleType) -> None:
    pieces = [
        candidate({"text": "I look.", "thought": True}),
        candidate({"text": "Let me see."}),
        candidate(CALL, finishReason="STOP"),
    ]
    stage.gemini.script(
        (tools.STREAM_HEAD, *(tools.chunk(b"data: " + p + b"\r\n\r\n") for p in pieces), tools.END, tools.KEEP),
        (tools.answer(candidate({"text": "Sunny."}, finishReason="STOP")), tools.KEEP),
    )
    functions: Any = [{"type": "function", "function": TOOL}]
    with stage.openai.chat.completions.stream(
        model="gemini", messages=ASK, tools=functions, stream_options={"include_usage": True}
    ) as stream:
        first = stream.get_final_completion()
    said = first.choices[0].message
    assert (said.content, first.choices[0].finish_reason) == ("Let me see.", "tool_calls")
    assert said.tool_calls is not None
    assert json.loads(said.tool_calls[0].function.arguments) == {"city": "Bern"}
    assert first.usage is not None
    assert (first.usage.prompt_tokens, first.usage.completion_tokens) == (10, 5)
    asked = stage.gemini.requests[0]
    assert asked.line == "POST /v1beta/models/real-model:streamGenerateContent?alt=sse HTTP/1.1"
    turn: Any = said.to_dict()
    turn.pop("parsed", None)
    result: Any = {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": "sun"}
    second = stage.openai.chat.completions.create(model="gemini", messages=[*ASK, turn, result], tools=functions)
    assert second.choices[0].message.content == "Sunny."
    sent = stage.gemini.requests[1].json["contents"]
    assert [content["role"] for content in sent] == ["user", "model", "user"]
    assert sent[1]["parts"][-1]["functionCall"] == CALL["functionCall"]
    assert sent[2]["parts"] == [{"functionResponse": {"name": "weather", "response": {"output": "sun"}}}]
    span = stage.worker.spans()[-1]
    assert (span.response_model, span.cached_input_tokens, span.reasoning_tokens) == ("gemini-real", 4, 2)


def test_geminis_quota_is_a_rate_limit(stage: Stage, tools: ModuleType) -> None:
    body = {"error": {"code": 429, "message": "Quota exceeded.", "status": "RESOURCE_EXHAUSTED"}}
    stage.gemini.script((tools.answer(json.dumps(body).encode(), "429 Too Many Requests"), tools.KEEP))
    with pytest.raises(openai.RateLimitError, match=r"Quota exceeded\."):
        stage.openai.chat.completions.create(model="gemini", messages=ASK)


def frame(kind: str, form: str = "event", **payload: Any) -> bytes:
    headers = {f":{form}-type": kind, ":content-type": "application/json", ":message-type": form}
    return packed(headers, json.dumps(payload).encode())


BINARY_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/vnd.amazon.eventstream\r\ntransfer-encoding: chunked\r\n\r\n"
)


def test_an_anthropic_client_at_bedrock(stage: Stage, tools: ModuleType) -> None:
    data = b"".join(
        (
            frame("messageStart", role="assistant"),
            frame("contentBlockDelta", contentBlockIndex=0, delta={"reasoningContent": {"text": "Hm."}}),
            frame("contentBlockDelta", contentBlockIndex=0, delta={"reasoningContent": {"signature": "sig"}}),
            frame("contentBlockStop", contentBlockIndex=0),
            frame("contentBlockDelta", contentBlockIndex=1, delta={"text": "Hel"}),
            frame("contentBlockDelta", contentBlockIndex=1, delta={"text": "lo."}),
            frame("contentBlockStop", contentBlockIndex=1),
            frame("messageStop", stopReason="end_turn"),
            frame("metadata", usage={"inputTokens": 6, "outputTokens": 5, "cacheReadInputTokens": 4}),
        )
    )
    cuts = [data[at : at + 100] for at in range(0, len(data), 100)]
    stage.bedrock.script((BINARY_HEAD, *map(tools.chunk, cuts), tools.END, tools.KEEP))
    with stage.anthropic.messages.stream(model="bedrock", max_tokens=100, messages=ASK) as stream:
        found = stream.get_final_message()
    thinking, text = found.content
    assert isinstance(thinking, anthropic.types.ThinkingBlock)
    assert (thinking.thinking, thinking.signature) == ("Hm.", "sig")
    assert isinstance(text, anthropic.types.TextBlock)
    assert (text.text, found.stop_reason) == ("Hello.", "end_turn")
    assert (found.usage.input_tokens, found.usage.cache_read_input_tokens, found.usage.output_tokens) == (6, 4, 5)
    sent = stage.bedrock.requests[0]
    assert sent.line == "POST /model/real-model/converse-stream HTTP/1.1"
    assert sent.headers["accept"] == "application/vnd.amazon.eventstream"
    assert sent.json["inferenceConfig"] == {"maxTokens": 100}


def test_bedrock_that_slows_down_within_a_stream(stage: Stage, tools: ModuleType) -> None:
    stage.bedrock.script(
        (
            BINARY_HEAD,
            tools.chunk(frame("messageStart", role="assistant")),
            tools.chunk(frame("contentBlockDelta", contentBlockIndex=0, delta={"text": "Hel"})),
            0.05,
            tools.chunk(frame("throttlingException", "exception", message="Slow down.")),
            tools.END,
            tools.KEEP,
        )
    )
    with pytest.raises(anthropic.APIStatusError, match=r"Slow down\."):
        list(stage.anthropic.messages.create(model="bedrock", max_tokens=9, messages=ASK, stream=True))


def test_bedrock_behind_the_responses_api(stage: Stage, tools: ModuleType) -> None:
    def converse(*content: dict[str, Any]) -> Any:
        body = {
            "output": {"message": {"role": "assistant", "content": list(content)}},
            "stopReason": "end_turn",
            "usage": {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5},
        }
        return (tools.answer(json.dumps(body).encode()), tools.KEEP)

    stage.bedrock.script(converse({"text": "One."}), converse({"text": "Two."}))
    first = stage.openai.responses.create(model="bedrock", input="First?")
    second = stage.openai.responses.create(model="bedrock", input="Second?", previous_response_id=first.id)
    assert (first.output_text, second.output_text) == ("One.", "Two.")
    assert stage.bedrock.requests[1].json["messages"] == [
        {"role": "user", "content": [{"text": "First?"}]},
        {"role": "assistant", "content": [{"text": "One."}]},
        {"role": "user", "content": [{"text": "Second?"}]},
    ]

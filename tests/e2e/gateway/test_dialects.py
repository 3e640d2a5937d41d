"""Clients of one dialect at providers of another, through a real worker, called by the SDKs that people use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import anthropic
import openai
import pytest

from detent.gateway.snapshot import publish

pytestmark = pytest.mark.e2e


class Stage:
    """One worker; behind route `gpt` a provider that speaks OpenAI's dialect, behind `claude` one of Anthropic's."""

    def __init__(self, tools: ModuleType, folder: Path) -> None:
        self.gpt = tools.Upstream()
        self.claude = tools.Upstream()
        self.claude_url = self.claude.url.removesuffix("/v1")
        both = [self.claude_url, self.gpt.url]
        self._snapshots = [
            tools.snapshot({}),
            tools.snapshot(
                {"gpt": [self.gpt.url], "claude": [self.claude_url], "both": both},
                dialects={self.claude_url: "anthropic"},
            ),
        ]
        self._folder = folder / "snapshot"
        publish(self._snapshots[1], self._folder)
        self.worker = tools.Worker(folder, {})
        self.worker.wait_ready()
        self.openai = openai.OpenAI(base_url=f"{self.worker.url}/v1", api_key=tools.KEY, max_retries=0)
        self.anthropic = anthropic.Anthropic(base_url=self.worker.url, api_key=tools.KEY, max_retries=0)

    def span(self) -> Any:
        return self.worker.spans()[-1]

    def forget(self) -> None:
        """Let the worker forget how its deployments fared."""
        for snapshot in self._snapshots:
            publish(snapshot, self._folder)
            self.openai.models.list()


@pytest.fixture(scope="module")
def shared(tools: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    found = Stage(tools, tmp_path_factory.mktemp("gateway"))
    yield found
    found.openai.close()
    found.anthropic.close()
    assert found.worker.stop() == 0, found.worker.errors.read_text()
    found.gpt.close()
    found.claude.close()


@pytest.fixture
def stage(shared: Stage) -> Stage:
    shared.forget()
    return shared


def message(*content: Any, reason: str = "end_turn", **usage: int) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-real",
        "content": list(content),
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 5, **usage},
    }


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def events(*found: dict[str, Any]) -> bytes:
    return b"".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in found)


def claude_stream(*blocks: tuple[dict[str, Any], list[dict[str, Any]]], reason: str = "end_turn") -> list[bytes]:
    """A stream of Anthropic's: each block's beginning and its deltas."""
    start = {**message(), "content": [], "stop_reason": None, "usage": {"input_tokens": 10, "output_tokens": 1}}
    pieces = [events({"type": "message_start", "message": start}, {"type": "ping"})]
    for index, (block, deltas) in enumerate(blocks):
        pieces.append(events({"type": "content_block_start", "index": index, "content_block": block}))
        pieces += [events({"type": "content_block_delta", "index": index, "delta": delta}) for delta in deltas]
        pieces.append(events({"type": "content_block_stop", "index": index}))
    usage = {"output_tokens": 5}
    pieces.append(
        events({"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage})
    )
    pieces.append(events({"type": "message_stop"}))
    return pieces


def whole(upstream: Any, tools: ModuleType, body: Any, status: str = "200 OK") -> None:
    upstream.script((tools.answer(json.dumps(body).encode(), status), tools.KEEP))


def streamed(upstream: Any, tools: ModuleType, pieces: list[bytes]) -> None:
    upstream.script((tools.STREAM_HEAD, *(tools.chunk(piece) for piece in pieces), tools.END, tools.KEEP))


ASK = [{"role": "user", "content": "Hi!!"}]
WEATHER = {"name": "weather", "description": "of a place", "parameters": {"type": "object", "properties": {}}}


def test_openai_client_at_anthropic(stage: Stage, tools: ModuleType) -> None:
    whole(stage.claude, tools, message(text("Hello there"), cache_read_input_tokens=4))
    messages: Any = [{"role": "system", "content": "Be brief."}, *ASK]
    answer = stage.openai.chat.completions.create(model="claude", messages=messages, max_tokens=50)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("Hello there", "stop")
    assert answer.created > 1_700_000_000
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (14, 5)
    sent = stage.claude.requests[-1]
    assert sent.line == "POST /v1/messages HTTP/1.1"
    assert sent.headers["anthropic-version"] == "2023-06-01"
    assert (sent.json["model"], sent.json["max_tokens"]) == ("real-model", 50)
    assert "Be brief." in json.dumps(sent.json["system"])
    span = stage.span()
    assert (span.input_tokens, span.cached_input_tokens, span.output_tokens) == (14, 4, 5)
    assert span.cost == 10 * 1000 + 4 * 500 + 5 * 2000
    assert (span.response_model, span.route) == ("claude-real", "claude")
    assert json.loads(span.output)["content"] == "Hello there"


def test_openai_client_streams_from_anthropic(stage: Stage, tools: ModuleType) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
    streamed(
        stage.claude,
        tools,
        claude_stream(
            (text(""), [{"type": "text_delta", "text": "Let me "}, {"type": "text_delta", "text": "see."}]),
            (call, [{"type": "input_json_delta", "partial_json": p} for p in ('{"place":', '"Lyon"}')]),
            reason="tool_use",
        ),
    )
    found: Any = stage.openai.chat.completions.create(
        model="claude",
        messages=ASK,  # type: ignore[arg-type]
        tools=[{"type": "function", "function": WEATHER}],  # type: ignore[list-item]
        stream=True,
        stream_options={"include_usage": True},
    )
    pieces = list(found)
    deltas = [piece.choices[0].delta for piece in pieces if piece.choices]
    assert "".join(delta.content or "" for delta in deltas) == "Let me see."
    calls = [call for delta in deltas for call in delta.tool_calls or ()]
    assert (calls[0].id, calls[0].function.name) == ("toolu_1", "weather")
    assert "".join(call.function.arguments or "" for call in calls) == '{"place":"Lyon"}'
    assert [p.choices[0].finish_reason for p in pieces if p.choices][-1] == "tool_calls"
    assert pieces[-1].usage is not None
    assert (pieces[-1].usage.prompt_tokens, pieces[-1].usage.completion_tokens) == (10, 5)
    span = stage.span()
    assert (span.output_tokens, span.finish_reason, span.usage_estimated) == (5, "tool_calls", False)
    assert span.ttft is not None
    assert json.loads(span.output)["tool_calls"][0]["function"]["arguments"] == '{"place":"Lyon"}'


def test_anthropic_client_at_openai(stage: Stage, tools: ModuleType) -> None:
    whole(stage.gpt, tools, json.loads(tools.completion("Hello there")))
    answer = stage.anthropic.messages.create(model="gpt", max_tokens=64, system="Be brief.", messages=ASK)  # type: ignore[arg-type]
    assert answer.content[0].type == "text"
    assert (answer.content[0].text, answer.stop_reason) == ("Hello there", "end_turn")
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (10, 5)
    sent = stage.gpt.requests[-1]
    assert sent.line == "POST /v1/chat/completions HTTP/1.1"
    assert sent.json["model"] == "real-model"
    assert stage.span().http_status == 200


def test_anthropic_client_streams_from_openai(stage: Stage, tools: ModuleType) -> None:
    stage.gpt.script(tools.GOOD_STREAM)
    with stage.anthropic.messages.stream(model="gpt", max_tokens=64, messages=ASK) as stream:  # type: ignore[arg-type]
        assert "".join(stream.text_stream) == "Hello"
        final = stream.get_final_message()
    assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", 5)
    assert stage.gpt.requests[-1].json["stream_options"] == {"include_usage": True}
    assert (stage.span().stream, stage.span().output_tokens) == (True, 5)


def test_anthropic_client_at_anthropic_passes_everything(stage: Stage, tools: ModuleType) -> None:
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    whole(stage.claude, tools, {**message(thinking, text("Hi")), "own_field": 1})
    betas = ["context-1m-2025-08-07", *(f"something-that-is-new-2026-01-{day}" for day in range(10, 28))]
    answer = stage.anthropic.beta.messages.create(
        model="claude",
        max_tokens=4096,
        thinking={"type": "enabled", "budget_tokens": 2048},
        system=[{"type": "text", "text": "Long.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        messages=ASK,  # type: ignore[arg-type]
        betas=betas,
        extra_body={"unheard_of": {"kept": True}},
    )
    assert [block.type for block in answer.content] == ["thinking", "text"]
    sent = stage.claude.requests[-1]
    assert sent.headers["anthropic-beta"] == ",".join(betas)
    assert sent.headers["anthropic-version"] == stage.anthropic.default_headers["anthropic-version"]
    assert sent.json["unheard_of"] == {"kept": True}
    assert sent.json["system"][0]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
    assert (sent.json["model"], sent.headers.get("authorization")) == ("real-model", None)


def test_anthropic_stream_passes_byte_by_byte(stage: Stage, tools: ModuleType) -> None:
    pieces = claude_stream(
        (
            {"type": "thinking", "thinking": "", "signature": ""},
            [{"type": "thinking_delta", "thinking": "Hm."}, {"type": "signature_delta", "signature": "c2ln"}],
        ),
        (text(""), [{"type": "text_delta", "text": "Hi"}]),
    )
    streamed(stage.claude, tools, pieces)
    body = json.dumps({"model": "claude", "max_tokens": 9, "messages": ASK, "stream": True}).encode()
    got = stage.worker.ask("POST", "/v1/messages", body, {"x-api-key": tools.KEY})
    assert got.read() == b"".join(pieces)
    span = stage.span()
    assert (span.input_tokens, span.output_tokens, span.finish_reason) == (10, 5, "stop")


def test_a_cut_stream_is_an_error_in_the_clients_dialect(stage: Stage, tools: ModuleType) -> None:
    pieces = claude_stream((text(""), [{"type": "text_delta", "text": "Half an"}]))[:3]
    for route in ("claude", "gpt"):
        script = (tools.STREAM_HEAD, *(tools.chunk(piece) for piece in pieces), tools.RESET)
        if route == "gpt":
            script = (tools.STREAM_HEAD, tools.chunk(tools.event("Half an")), tools.RESET)
        (stage.claude if route == "claude" else stage.gpt).script(script)
        with (
            pytest.raises(anthropic.APIStatusError, match="closed the connection"),
            stage.anthropic.messages.stream(model=route, max_tokens=9, messages=ASK) as stream,  # type: ignore[arg-type]
        ):
            for _ in stream:
                pass
        span = stage.span()
        assert (span.status, span.error_type) == ("error", "upstream_cut")
        assert span.usage_estimated or span.output_tokens
    stage.claude.script((tools.STREAM_HEAD, *(tools.chunk(piece) for piece in pieces), tools.RESET))
    with pytest.raises(openai.APIError, match="closed the connection"):
        list(stage.openai.chat.completions.create(model="claude", messages=ASK, stream=True))  # type: ignore[arg-type]


def test_errors_are_each_sdks_own(stage: Stage, tools: ModuleType) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        stage.anthropic.messages.create(model="none", max_tokens=9, messages=ASK)  # type: ignore[arg-type]
    assert missing.value.body["error"]["type"] == "not_found_error"  # type: ignore[index, call-overload]
    with pytest.raises(anthropic.AuthenticationError):
        stage.anthropic.with_options(api_key="sk-wrong").messages.create(model="gpt", max_tokens=9, messages=ASK)  # type: ignore[arg-type]
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        stage.anthropic.post("/v1/messages", body={"model": "gpt", "messages": ASK}, cast_to=object)
    fault = {"type": "error", "error": {"type": "invalid_request_error", "message": "no such tool"}}
    whole(stage.claude, tools, fault, "400 Bad Request")
    with pytest.raises(anthropic.BadRequestError, match="no such tool"):
        stage.anthropic.messages.create(model="claude", max_tokens=9, messages=ASK)  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match="no such tool"):
        stage.openai.chat.completions.create(model="claude", messages=ASK)  # type: ignore[arg-type]
    whole(stage.claude, tools, {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, "529 Busy")
    with pytest.raises(openai.InternalServerError, match="busy"):
        stage.openai.chat.completions.create(model="claude", messages=ASK)  # type: ignore[arg-type]


def test_the_next_provider_may_speak_another_dialect(stage: Stage, tools: ModuleType) -> None:
    whole(stage.claude, tools, {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, "529 Busy")
    whole(stage.gpt, tools, json.loads(tools.completion("second")))
    for _ in range(2):
        answer = stage.anthropic.messages.create(model="both", max_tokens=9, messages=ASK)  # type: ignore[arg-type]
        assert answer.content[0].text == "second"  # type: ignore[union-attr]
    assert stage.span().attempts == 2
    assert stage.openai.embeddings  # passed on only to who has it: the first of both cannot
    whole(stage.gpt, tools, {"object": "list", "model": "e", "data": [], "usage": {"prompt_tokens": 1}})
    stage.openai.embeddings.create(model="both", input="x", encoding_format="float")
    assert stage.gpt.requests[-1].line == "POST /v1/embeddings HTTP/1.1"


def test_count_tokens(stage: Stage, tools: ModuleType) -> None:
    whole(stage.claude, tools, {"input_tokens": 2095})
    assert stage.anthropic.messages.count_tokens(model="claude", messages=ASK).input_tokens == 2095  # type: ignore[arg-type]
    assert stage.claude.requests[-1].line == "POST /v1/messages/count_tokens HTTP/1.1"
    span = stage.span()
    assert (span.operation, span.input_tokens, span.cost) == ("count_tokens", 0, 0)
    estimated = stage.anthropic.messages.count_tokens(model="gpt", messages=[{"role": "user", "content": "x" * 400}])
    assert 100 <= estimated.input_tokens <= 120


def test_a_coding_agents_payload(stage: Stage, tools: ModuleType) -> None:
    result = "line of a large file\n" * 50_000
    turns: Any = [
        {"role": "user", "content": [{**text("Fix it."), "cache_control": {"type": "ephemeral"}}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "I look.", "signature": "c2ln"},
                {"type": "tool_use", "id": "toolu_1", "name": "read", "input": {"path": "a"}},
                {"type": "tool_use", "id": "toolu_2", "name": "read", "input": {"path": "b"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": result},
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": [text("gone")], "is_error": True},
            ],
        },
    ]
    tools_given: Any = [
        {"name": "read", "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}}}
    ]
    whole(stage.claude, tools, message(text("Done.")))
    stage.anthropic.messages.create(model="claude", max_tokens=99, messages=turns, tools=tools_given)
    assert stage.claude.requests[-1].json["messages"] == turns
    whole(stage.gpt, tools, json.loads(tools.completion("Done.")))
    stage.anthropic.messages.create(model="gpt", max_tokens=99, messages=turns, tools=tools_given)
    sent = stage.gpt.requests[-1].json["messages"]
    results = [m for m in sent if m["role"] == "tool"]
    assert [m["tool_call_id"] for m in results] == ["toolu_1", "toolu_2"]
    assert results[0]["content"] == result
    assert [c["id"] for m in sent if m["role"] == "assistant" for c in m["tool_calls"]] == ["toolu_1", "toolu_2"]
    assert stage.span().attributes["detent.content_omitted_bytes"] > 1_000_000

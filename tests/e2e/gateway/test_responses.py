"""The Responses API with state of our own, whoever serves the model, called by the SDK that people use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import openai
import pytest

from detent.gateway.snapshot import publish

pytestmark = pytest.mark.e2e


class Stage:
    """One worker before a provider of chat completions (`chat`) and OpenAI itself (`own`)."""

    def __init__(self, tools: ModuleType, folder: Path) -> None:
        self.chat, self.own = tools.Upstream(), tools.Upstream()
        targets = {"chat": [self.chat.url], "own": [self.own.url]}
        flavours = {self.chat.url: "vllm", self.own.url: "openai"}
        publish(tools.snapshot(targets, flavours=flavours), folder / "snapshot")
        self.worker = tools.Worker(folder, {})
        self.worker.wait_ready()
        self.sdk = openai.OpenAI(base_url=f"{self.worker.url}/v1", api_key=tools.KEY, max_retries=0)

    def span(self) -> Any:
        return self.worker.spans()[-1]


@pytest.fixture(scope="module")
def stage(tools: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    found = Stage(tools, tmp_path_factory.mktemp("gateway"))
    yield found
    found.sdk.close()
    assert found.worker.stop() == 0, found.worker.errors.read_text()
    found.chat.close()
    found.own.close()


def say(stage: Stage, tools: ModuleType, text: str) -> None:
    stage.chat.script((tools.answer(tools.completion(text)), tools.KEEP))


def test_a_conversation_by_previous_response(stage: Stage, tools: ModuleType) -> None:
    say(stage, tools, "Hello Ada.")
    first = stage.sdk.responses.create(model="chat", instructions="Be kind.", input="I am Ada.")
    assert (first.output_text, first.status) == ("Hello Ada.", "completed")
    assert first.usage is not None
    assert (first.usage.input_tokens, first.usage.output_tokens) == (10, 5)
    say(stage, tools, "You are Ada.")
    second = stage.sdk.responses.create(model="chat", input="Who am I?", previous_response_id=first.id)
    assert (second.output_text, second.previous_response_id) == ("You are Ada.", first.id)
    sent = stage.chat.requests[-1].json["messages"]
    assert [(m["role"], m["content"]) for m in sent if m["role"] != "system"] == [
        ("user", "I am Ada."),
        ("assistant", "Hello Ada."),
        ("user", "Who am I?"),
    ]
    assert "store" not in stage.chat.requests[-1].json
    assert stage.sdk.responses.retrieve(first.id).output_text == "Hello Ada."
    items = list(stage.sdk.responses.input_items.list(second.id, order="asc"))
    assert len(items) == 3
    stage.sdk.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        stage.sdk.responses.retrieve(first.id)


def test_a_stream_is_stored_too(stage: Stage, tools: ModuleType) -> None:
    stage.chat.script(tools.GOOD_STREAM)
    with stage.sdk.responses.stream(model="chat", input="Hi") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert (kinds[0], kinds[-1], final.output_text) == ("response.created", "response.completed", "Hello")
    assert stage.sdk.responses.retrieve(final.id).output_text == "Hello"
    assert (stage.span().stream, stage.span().output_tokens, stage.span().operation) == (True, 5, "chat")


def test_nothing_is_kept_unasked(stage: Stage, tools: ModuleType) -> None:
    say(stage, tools, "Secret.")
    found = stage.sdk.responses.create(model="chat", input="Hi", store=False)
    with pytest.raises(openai.NotFoundError):
        stage.sdk.responses.retrieve(found.id)
    with pytest.raises(openai.NotFoundError):
        stage.sdk.responses.create(model="chat", input="Hi", previous_response_id=found.id)
    assert stage.span().error_type


def test_openai_itself_gets_all_of_it_and_keeps_nothing(stage: Stage, tools: ModuleType) -> None:
    message = {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "Hello.", "annotations": []}],
    }
    response = {
        "id": "resp_0123456789abcdef",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": "gpt-real",
        "output": [message],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9},
    }
    stage.own.script((tools.answer(json.dumps(response).encode()), tools.KEEP))
    first = stage.sdk.responses.create(model="own", input="Hi", extra_body={"unheard_of": 1})
    assert first.output_text == "Hello."
    sent = stage.own.requests[-1]
    assert sent.line == "POST /v1/responses HTTP/1.1"
    assert (sent.json["store"], sent.json["unheard_of"], sent.json["model"]) == (False, 1, "real-model")
    assert (stage.span().input_tokens, stage.span().cost) == (7, 7 * 1000 + 2 * 2000)
    stage.sdk.responses.create(model="own", input="More", previous_response_id=first.id)
    again = stage.own.requests[-1].json
    assert "previous_response_id" not in again
    assert len(again["input"]) == 3


def test_a_cut_response_fails(stage: Stage, tools: ModuleType) -> None:
    stage.chat.script((tools.STREAM_HEAD, tools.chunk(tools.event("Half")), tools.RESET))
    kinds = []
    with stage.sdk.responses.stream(model="chat", input="Hi") as stream, pytest.raises(openai.APIError):
        kinds.extend(event.type for event in stream)
    assert "response.completed" not in kinds
    assert stage.span().error_type == "upstream_cut"


def test_other_projects_and_paths(stage: Stage, tools: ModuleType) -> None:
    say(stage, tools, "x")
    found = stage.sdk.responses.create(model="chat", input="Hi")
    headers = {"authorization": f"Bearer {tools.KEY}"}
    assert stage.worker.ask("GET", f"/v1/responses/{found.id}/nothing", None, headers).status == 404
    assert stage.worker.ask("POST", f"/v1/responses/{found.id}", b"{}", headers).status == 405
    assert stage.worker.ask("GET", f"/v1/responses/{found.id}", None, {}).status == 401
    assert stage.worker.ask("GET", f"/v1/responses/{found.id}/input_items?limit=0", None, headers).status == 400
    assert stage.worker.ask("GET", "/v1/responses/..%2f..%2fsnapshot", None, headers).status == 404

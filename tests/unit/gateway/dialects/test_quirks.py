"""What differs among OpenAI-compatible providers, on translated requests and on those passed through."""

from __future__ import annotations

import json
from typing import Any

import pytest

from detent.gateway.dialects import PROVIDERS
from detent.gateway.dialects.quirks import (
    ANTHROPIC,
    FLAVOURS,
    OPENAI,
    budget_of,
    effort_of,
    fitted,
    nearest,
    quirks_of,
)
from detent.kernel.chat import (
    ChatRequest,
    Message,
    Reasoning,
    ReasoningPart,
    ResponseFormat,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)

ASKED = ChatRequest(
    model="chat",
    messages=(
        Message("developer", (TextPart("One."), TextPart("Two.", "1h"))),
        Message("user", (TextPart("Hello"),)),
        Message("assistant", (ReasoningPart("Hm.", "sig"), ToolCallPart("c1", "f", "{}"))),
        Message("tool", (ToolResultPart("c1", (TextPart("a"), TextPart("b"))),)),
    ),
    tools=(Tool("f", "does", {"type": "object"}, True),),
    parallel_tool_calls=False,
    response_format=ResponseFormat("json_schema", schema={"type": "object"}),
    reasoning=Reasoning(effort="xhigh"),
    max_tokens=50,
    top_k=4,
    seed=3,
    user="u",
    stream=True,
)


def written(flavour: str, model: str = "m") -> tuple[dict[str, Any], tuple[str, ...]]:
    out = PROVIDERS["openai"].write_request(ASKED, model=model, quirks=FLAVOURS[flavour])
    return json.loads(out.body), out.dropped


def test_openai_itself() -> None:
    body, dropped = written("openai", "gpt-5.4")
    assert body["messages"][0] == {
        "role": "developer",
        "content": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}],
    }
    assert body["messages"][2] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    assert (body["max_completion_tokens"], body["reasoning_effort"], body["seed"]) == (50, "xhigh", 3)
    assert body["stream_options"] == {"include_usage": True}
    assert dropped == ("cache", "messages.reasoning", "top_k")


def test_a_model_that_does_not_reason_is_not_asked_to() -> None:
    body, dropped = written("openai", "gpt-4.1")
    assert "reasoning_effort" not in body
    assert "reasoning" in dropped


def test_mistral() -> None:
    body, dropped = written("mistral")
    assert body["messages"][0] == {"role": "system", "content": "One.\n\nTwo."}
    assert body["messages"][3] == {"role": "tool", "tool_call_id": "c1", "content": "a\nb"}
    assert (body["max_tokens"], body["random_seed"]) == (50, 3)
    assert not {"user", "seed", "stream_options", "max_completion_tokens"} & set(body)
    assert dropped == ("cache", "messages.reasoning", "reasoning", "top_k", "user")


def test_deepseek_knows_no_schema() -> None:
    body, dropped = written("deepseek")
    assert body["response_format"] == {"type": "json_object"}
    assert "JSON Schema" in body["messages"][0]["content"]
    assert body["messages"][3]["reasoning_content"] == "Hm."
    assert "strict" not in body["tools"][0]["function"]
    assert {"response_format", "strict", "parallel_tool_calls", "seed"} < set(dropped)


def test_openrouter_takes_marks_thinking_and_its_signatures() -> None:
    body, dropped = written("openrouter")
    assert body["messages"][0]["content"][1]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
    assert body["messages"][2]["reasoning_details"] == [
        {"type": "reasoning.text", "text": "Hm.", "index": 0, "signature": "sig"}
    ]
    assert (body["reasoning"], body["top_k"]) == ({"effort": "xhigh"}, 4)
    assert dropped == ()


def test_vllm_gets_the_nearest_effort() -> None:
    assert written("vllm")[0]["reasoning_effort"] == "high"


@pytest.mark.parametrize("flavour", sorted(FLAVOURS))
def test_no_flavour_is_sent_what_it_refuses(flavour: str) -> None:
    body, _ = written(flavour)
    quirks = FLAVOURS[flavour]
    assert not set(quirks.refused) & set(body)
    assert quirks.max_tokens_field in body
    assert ("stream_options" in body) is quirks.stream_usage


def test_azure_has_two_paths() -> None:
    dated = quirks_of("azure", api_version="2024-10-21")
    assert dated.auth == "api-key"
    assert dated.path_for("my gpt/5") == ("/openai/deployments/my%20gpt%2F5/chat/completions?api-version=2024-10-21")
    assert quirks_of("azure").path_for("gpt") == "/chat/completions"


def test_who_is_not_in_the_table_is_openai() -> None:
    assert quirks_of("") is OPENAI
    assert quirks_of("nobody") is OPENAI
    assert quirks_of("", dialect="anthropic") is ANTHROPIC


# Passed through


def fit(flavour: str, **fields: Any) -> dict[str, Any]:
    raw = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}).encode()
    found: dict[str, Any] = json.loads(fitted(raw, FLAVOURS[flavour]))
    return {name: value for name, value in found.items() if name not in {"model", "messages"}}


def test_bytes_that_need_nothing_are_the_same() -> None:
    raw = b'{"model": "m",  "max_tokens": 5}'
    for quirks in FLAVOURS.values():
        assert fitted(raw, quirks) is raw
    spoken = b'{"messages": [{"content": "max_completion_tokens \\"seed\\""}]}'
    assert fitted(spoken, FLAVOURS["mistral"]) is spoken
    named = b'{"messages": [{"content": "seed"}]}'
    assert fitted(named, FLAVOURS["mistral"]) is named


def test_fields_are_renamed_and_left_out() -> None:
    assert fit("vllm", max_completion_tokens=5, guided_json={"a": [1]}) == {"max_tokens": 5, "guided_json": {"a": [1]}}
    assert fit("vllm", max_tokens=4, max_completion_tokens=5) == {"max_tokens": 5}
    assert fit("openai", max_tokens=4, seed=1) == {"max_tokens": 4, "seed": 1}
    assert fit("mistral", seed=1, user="u", stream=True, stream_options={"include_usage": True}) == {
        "random_seed": 1,
        "stream": True,
    }
    assert fit("deepseek", seed=1, parallel_tool_calls=True) == {}


def test_developers_become_the_system() -> None:
    raw = json.dumps(
        {"messages": [{"role": "developer", "content": 'say "developer"'}, {"role": "user", "content": "x", "y": 1.50}]}
    ).encode()
    assert fitted(raw, OPENAI) is raw
    found = fitted(raw, FLAVOURS["ollama"])
    assert json.loads(found)["messages"] == [
        {"role": "system", "content": 'say "developer"'},
        {"role": "user", "content": "x", "y": 1.5},
    ]


def test_efforts_and_budgets_agree() -> None:
    for effort in ("minimal", "low", "medium", "high"):
        assert effort_of(budget_of(effort)) == effort  # type: ignore[arg-type]
    assert effort_of(0) == "none"
    assert effort_of(10**6) == "xhigh"
    assert nearest("max", ("low", "high")) == "high"
    assert nearest("medium", ("low", "high")) == "low"
    assert nearest("minimal", ("low", "medium", "high")) == "low"

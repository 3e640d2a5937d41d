"""A conversation that several makers' models took part in: each gets back its own thinking state, as it wrote it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from detent.gateway.dialects import CLIENTS, PROVIDERS
from detent.gateway.dialects.quirks import ANTHROPIC, OPENAI, Quirks
from detent.kernel.chat import ChatAnswer, ChatRequest, Message, ReasoningPart, TextPart, ToolCallPart, ToolResultPart

TURN = Message(
    "assistant",
    (
        ReasoningPart("Claude thinks.", "claude-state"),
        ReasoningPart(redacted="claude-sealed"),
        ReasoningPart("GPT thinks.", "openai.gpt-state", id="rs_1"),
        ReasoningPart("Gemini thinks.", "gemini.gemini-state"),
        ToolCallPart("c1", "f", "{}", "gemini.call-state"),
    ),
)
STATES = ("claude-state", "claude-sealed", "gpt-state", "gemini-state", "call-state")


def states(raw: bytes) -> set[str]:
    return {state for state in STATES if f'"{state}"'.encode() in raw}


@pytest.mark.parametrize(
    ("dialect", "model", "quirks", "own"),
    [
        ("anthropic", "claude-sonnet-4-5", ANTHROPIC, {"claude-state", "claude-sealed"}),
        ("bedrock", "anthropic.claude-sonnet-4-5-v1:0", OPENAI, {"claude-state", "claude-sealed"}),
        ("responses", "gpt-5", OPENAI, {"gpt-state"}),
        ("gemini", "gemini-3-pro", OPENAI, {"gemini-state", "call-state"}),
    ],
)
@pytest.mark.parametrize("by", ["", "openai", "responses"])
def test_each_maker_gets_its_own(dialect: str, model: str, quirks: Quirks, own: set[str], by: str) -> None:
    """Be it told in the neutral type, or by a client that got it in its dialect and sends it back."""
    turn = came_back(by) if by else TURN
    result = Message("tool", (ToolResultPart("c1", (TextPart("done"),)),))
    request = ChatRequest("route", (Message("user", (TextPart("Hi"),)), turn, result), max_tokens=9000)
    assert states(PROVIDERS[dialect].write_request(request, model=model, quirks=quirks).body) == own


def came_back(dialect: str) -> Message:
    """The turn as a client has it that echoes what it was given."""
    client = CLIENTS[dialect]
    hello: dict[str, Any] = {"role": "user", "content": "Hi"}
    field = "input" if dialect == "responses" else "messages"
    asked = client.read(json.dumps({"model": "route", field: [hello]}).encode(), max_depth=64)
    given = json.loads(client.write_answer(asked, ChatAnswer("x", "m", TURN, "tool_calls")))
    turn = given["output"] if dialect == "responses" else [given["choices"][0]["message"]]
    body = {"model": "route", field: [hello, *turn]}
    return client.read(json.dumps(body).encode(), max_depth=64).neutral().messages[1]

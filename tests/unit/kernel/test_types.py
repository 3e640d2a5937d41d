"""Chat and telemetry types: small arithmetic, frozen, and the same after a journey through JSON."""

from __future__ import annotations

import msgspec

from detent.kernel.chat import (
    ChatAnswer,
    ChatRequest,
    ImagePart,
    Message,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    Usage,
)
from detent.kernel.ports import Finding, Verification
from detent.kernel.telemetry import Score, Span

REQUEST = ChatRequest(
    model="support",
    messages=(
        Message("system", (TextPart("Be brief."),)),
        Message("user", (TextPart("What is "), ImagePart(url="https://example.com/a.png"), TextPart("this?"))),
        Message("assistant", (ToolCallPart("c1", "look", '{"at": 1}'),)),
        Message("tool", (ToolResultPart("c1", (TextPart("a cat"),), is_error=False),)),
    ),
    extra={"logit_bias": {"50256": -100}},
)
ANSWER = ChatAnswer("a1", "m", Message("assistant", (TextPart("A cat."),)), "stop", Usage(7, 3))
SPAN = Span(
    trace_id="0" * 31 + "1", span_id="0" * 15 + "1", name="chat support", start=20, end=50, attributes={"a.b": [1]}
)


def test_they_survive_json_and_msgpack() -> None:
    for value in (REQUEST, ANSWER, SPAN, Score(id="s", name="thumbs", value=True, source="user", time=1)):
        assert msgspec.json.decode(msgspec.json.encode(value), type=type(value)) == value
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=type(value)) == value


def test_small_arithmetic() -> None:
    assert REQUEST.messages[1].text == "What is this?"
    assert ANSWER.usage.total_tokens == 10
    assert (SPAN.duration, msgspec.structs.replace(SPAN, end=10).duration) == (30, 0)


def test_a_verification_is_ok_without_findings() -> None:
    clean = Verification(3, "h", "r", None, ())
    assert clean.ok
    assert not msgspec.structs.replace(clean, findings=(Finding(2, "edited", "body"),)).ok


def test_no_price_is_not_free() -> None:
    assert SPAN.cost is None

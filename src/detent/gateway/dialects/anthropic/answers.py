"""Whole answers of Anthropic's messages dialect, read and written; its tokens and its reasons to stop.

Source: https://platform.claude.com/docs/en/api/messages
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from detent.gateway.dialects.anthropic.blocks import is_block, read_block, write_block
from detent.gateway.dialects.anthropic.requests import JSON_TOOL
from detent.gateway.dialects.fields import Fields, encoded
from detent.gateway.errors import BadAnswer, UpstreamError
from detent.gateway.surrogates import mended
from detent.gateway.usage import Count
from detent.kernel.chat import (
    ChatAnswer,
    FinishReason,
    Message,
    Part,
    TextPart,
    ToolCallPart,
    Usage,
)
from detent.kernel.errors import InvalidInput, WorldError

_REASONS: Final[dict[str, FinishReason]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "pause_turn": "pause",
    "refusal": "refusal",
    "compaction": "pause",
}
_WRITTEN: Final[dict[FinishReason, str]] = {
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "refusal": "refusal",
    "pause": "pause_turn",
}
_ANSWER_EXTRA: Final = ("container", "stop_details")


class UsageFields(msgspec.Struct):
    """Tokens as Anthropic counts them: input without what was read from the cache or written to it."""

    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    output_tokens_details: dict[str, Any] | None = None


def read_usage(fields: UsageFields) -> Usage:
    """The neutral figures: input with everything, thinking within output."""
    read = fields.cache_read_input_tokens or 0
    written = fields.cache_creation_input_tokens or 0
    output = fields.output_tokens or 0
    thought = (fields.output_tokens_details or {}).get("thinking_tokens")
    reasoning = thought if isinstance(thought, int) and 0 <= thought <= output else 0
    return Usage((fields.input_tokens or 0) + read + written, output, read, written, reasoning)


def write_usage(usage: Usage) -> dict[str, Any]:
    """The same, written."""
    found: dict[str, Any] = {
        "input_tokens": max(usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens, 0),
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_input_tokens,
        "output_tokens": usage.output_tokens,
    }
    if usage.reasoning_tokens:
        found["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return found


def read_reason(reason: str) -> FinishReason:
    """Why an answer ended."""
    return _REASONS.get(reason, "stop")


def write_reason(reason: FinishReason, stop_sequence: str) -> str:
    """The same in this dialect's words."""
    return "stop_sequence" if stop_sequence and reason == "stop" else _WRITTEN.get(reason, "end_turn")


def provider_error(raw: bytes) -> WorldError:
    """An error object of a provider (`{"type", "message"}`, perhaps within `{"error"}`) as ours."""
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        value = None
    inner = value.get("error", value) if isinstance(value, dict) else value
    words = [inner.get("type"), inner.get("message")] if isinstance(inner, dict) else [inner]
    said = ": ".join(word for word in words if isinstance(word, str) and word)
    return UpstreamError(f"The provider reported an error: {said[:500] or 'without a message'}")


# Reading


def read_answer(raw: bytes) -> ChatAnswer:
    """A whole answer.

    Raises:
        UpstreamError: it is an error in spite of its status.
        BadAnswer: it is no answer.
    """
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        if (whole := mended(raw)) is not None:
            return read_answer(whole)
        raise BadAnswer("The provider's answer is no message.") from None
    if not isinstance(value, dict):
        raise BadAnswer("The provider's answer is no message.")
    if value.get("type") == "error" or value.get("error"):
        raise provider_error(encoded(value))
    content = value.pop("content", None)
    if not isinstance(content, list):
        raise BadAnswer("The provider's answer holds no content.")
    try:
        return _read(value, content)
    except InvalidInput as error:
        raise BadAnswer(f"The provider's answer has a fault: {error.message}") from None
    except RecursionError:
        raise BadAnswer("The provider's answer is nested too deeply.") from None


def _read(value: dict[str, Any], content: list[Any]) -> ChatAnswer:
    fields = Fields(value)
    parts: list[Part] = []
    answered = False
    for number, item in enumerate(content):
        part = read_block(item, f"content[{number}]")
        if isinstance(part, ToolCallPart) and part.name == JSON_TOOL:
            answered = True
            part = TextPart(part.arguments)
        if not (isinstance(part, TextPart) and not part.text and not part.extra):
            parts.append(part)
    reason = read_reason(fields.text("stop_reason"))
    if reason == "tool_calls" and answered and not any(isinstance(part, ToolCallPart) for part in parts):
        reason = "stop"
    usage = fields.value("usage")
    try:
        told = msgspec.convert(usage, UsageFields) if usage is not None else UsageFields()
        counted = None if None in (told.input_tokens, told.output_tokens) else read_usage(told)
    except msgspec.ValidationError:
        counted = None
    fields.value("type")
    fields.value("role")
    return ChatAnswer(
        fields.text("id"),
        fields.text("model"),
        Message("assistant", tuple(parts)),
        reason,
        counted,
        fields.text("stop_sequence"),
        extra=fields.rest(),
    )


# Writing


def write_answer(answer: ChatAnswer) -> bytes:
    """A whole answer; of several choices the first, for this dialect knows one only."""
    content: list[dict[str, Any]] = []
    for number, part in enumerate(answer.message.parts):
        if isinstance(part, TextPart) and not part.text and not is_block(part):
            continue
        block = write_block(part, f"content[{number}]", own=is_block(part))
        if isinstance(part, TextPart) and "citations" in part.extra:
            block["citations"] = part.extra["citations"]
        content.append(block)
    body: dict[str, Any] = {
        "id": answer.id,
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": content,
        "stop_reason": write_reason(answer.finish_reason, answer.stop_sequence),
        "stop_sequence": answer.stop_sequence or None,
        "usage": write_usage(answer.usage or Usage()),
    }
    body.update((name, answer.extra[name]) for name in _ANSWER_EXTRA if name in answer.extra)
    return encoded(body)

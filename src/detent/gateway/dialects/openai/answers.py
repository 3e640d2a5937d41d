"""Whole answers of the OpenAI chat completions dialect, read and written.

Source: https://platform.openai.com/docs/api-reference/chat/object
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from detent.gateway.dialects.fields import Fields, encoded
from detent.gateway.dialects.openai.parts import read_call, read_content, read_reasoning, write_call, write_reasoning
from detent.gateway.errors import BadAnswer
from detent.gateway.sse import upstream_error
from detent.gateway.surrogates import mended
from detent.gateway.usage import read_usage
from detent.kernel.chat import (
    ChatAnswer,
    FinishReason,
    Message,
    Part,
    ReasoningPart,
    RefusalPart,
    TextPart,
    ToolCallPart,
    Usage,
)
from detent.kernel.errors import InvalidInput

_REASONS: Final[dict[str, FinishReason]] = {
    "stop": "stop",
    "eos": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "refusal",
    "pause": "pause",
    "error": "error",
    "cancelled": "cancelled",
    "abort": "cancelled",
    "insufficient_system_resource": "error",
}
_WRITTEN: Final[dict[FinishReason, str]] = {
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "content_filter",
}
_ANSWER_EXTRA: Final = ("service_tier", "system_fingerprint")
_MESSAGE_EXTRA: Final = ("annotations", "audio")
_NO_ID: Final = re.compile(r"[^a-zA-Z0-9_-]")


def read_reason(reason: str, *, called: bool, refused: bool) -> FinishReason:
    """Why a choice ended; some servers say `stop` behind a tool call, and a refusal is told by its text only."""
    found = _REASONS.get(reason, "stop")
    if found == "stop":
        return "tool_calls" if called else "refusal" if refused else "stop"
    return found


def write_reason(reason: FinishReason, *, refused: bool, legacy: bool) -> str:
    """The same in this dialect's words."""
    if reason == "refusal" and refused:
        return "stop"
    found = _WRITTEN.get(reason, "stop")
    return "function_call" if legacy and found == "tool_calls" else found


def spare_id(answer: str, choice: int, number: int) -> str:
    """An id for a tool call whose provider gave none: the same for the same answer, another in the next."""
    return f"call_{_NO_ID.sub('', answer)[-24:] or 'detent'}_{choice}_{number}"


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
        raise BadAnswer("The provider's answer is no chat completion.") from None
    if not isinstance(value, dict):
        raise BadAnswer("The provider's answer is no chat completion.")
    if value.get("error"):
        raise upstream_error(encoded(value["error"]))
    choices = value.get("choices")
    if not isinstance(choices, list) or not choices:
        raise BadAnswer("The provider's answer holds no choices.")
    try:
        return _read(value, choices)
    except InvalidInput as error:
        raise BadAnswer(f"The provider's answer has a fault: {error.message}") from None
    except RecursionError:
        raise BadAnswer("The provider's answer is nested too deeply.") from None


def _read(value: dict[str, Any], choices: list[Any]) -> ChatAnswer:
    fields = Fields(value)
    name = fields.text("id")
    found: dict[int, tuple[Message, FinishReason]] = {}
    for number, item in enumerate(choices):
        choice = Fields(item, f"choices[{number}]")
        index = choice.integer("index")
        place = index if index is not None and index not in found else number
        message = read_message(choice.object("message") or {}, f"choices[{number}].message", name, number)
        called = any(isinstance(part, ToolCallPart) for part in message.parts)
        refused = any(isinstance(part, RefusalPart) for part in message.parts)
        reason = choice.value("finish_reason")
        found[place] = (
            message,
            read_reason(reason if isinstance(reason, str) else "", called=called, refused=refused),
        )
    fields.value("choices")
    usage = fields.value("usage")
    (message, reason), *more = (found[index] for index in sorted(found))
    created = fields.value("created")
    model = fields.text("model")
    extra = fields.rest()
    extra.pop("object", None)
    return ChatAnswer(
        name,
        model,
        message,
        reason,
        read_usage(encoded(usage)) if usage is not None else None,
        "",
        int(created) if isinstance(created, int | float) else 0,
        tuple(more),
        extra,
    )


def read_message(value: dict[str, Any], at: str, answer: str, choice: int) -> Message:
    """An assistant's message, tolerant of what servers put into it."""
    fields = Fields(value, at)
    fields.value("role")
    parts: list[Part] = read_reasoning(fields)
    parts.extend(_without_empty(read_content(fields.value("content"), f"{at}.content")))
    refusal = fields.value("refusal")
    if isinstance(refusal, str) and refusal:
        parts.append(RefusalPart(refusal))
    for number, item in enumerate(fields.items("tool_calls")):
        call = read_call(item, f"{at}.tool_calls[{number}]", spare_id(answer, choice, number))
        if call is not None:
            parts.append(call)
    old = fields.within("function_call")
    if old is not None:
        parts.append(ToolCallPart(spare_id(answer, choice, 0), old.needed("name"), old.text("arguments")))
    return Message("assistant", tuple(parts), "", fields.rest())


def _without_empty(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    return tuple(part for part in parts if not (isinstance(part, TextPart) and not part.text))


# Writing


def write_answer(answer: ChatAnswer, *, legacy: bool) -> bytes:
    """A whole answer.

    Args:
        legacy: whether the client knows functions only, as they were before tools.
    """
    choices = [
        {
            "index": index,
            "message": _write_message(message, legacy=legacy),
            "logprobs": None,
            "finish_reason": write_reason(
                reason, refused=any(isinstance(part, RefusalPart) for part in message.parts), legacy=legacy
            ),
        }
        for index, (message, reason) in enumerate([(answer.message, answer.finish_reason), *answer.more])
    ]
    body: dict[str, Any] = {
        "id": answer.id,
        "object": "chat.completion",
        "created": answer.created,
        "model": answer.model,
        "choices": choices,
    }
    if answer.usage is not None:
        body["usage"] = write_usage(answer.usage)
    body.update((name, answer.extra[name]) for name in _ANSWER_EXTRA if name in answer.extra)
    return encoded(body)


def recorded(answer: ChatAnswer) -> bytes:
    """What a span keeps of an answer, whatever dialect it came in: a message, or a list of them when there are more."""
    found = []
    for message in (answer.message, *(message for message, _ in answer.more)):
        written = _write_message(message, legacy=False)
        if written["refusal"] is None:
            del written["refusal"]
        found.append(written)
    return encoded(found[0] if len(found) == 1 else found)


def _write_message(message: Message, *, legacy: bool) -> dict[str, Any]:
    text = message.text
    calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
    refusals = [part.text for part in message.parts if isinstance(part, RefusalPart)]
    found: dict[str, Any] = {
        "role": "assistant",
        "content": text if text or not (calls or refusals) else None,
        "refusal": "".join(refusals) if refusals else None,
    }
    found.update(
        write_reasoning([part for part in message.parts if isinstance(part, ReasoningPart)], "reasoning_content")
    )
    if calls and legacy:
        found["function_call"] = {"name": calls[0].name, "arguments": calls[0].arguments}
    elif calls:
        found["tool_calls"] = [write_call(part) for part in calls]
    found.update((name, message.extra[name]) for name in _MESSAGE_EXTRA if name in message.extra)
    return found


def write_usage(usage: Usage) -> dict[str, Any]:
    """Tokens, as this dialect counts them."""
    prompt = {"cached_tokens": usage.cached_input_tokens}
    if usage.cache_write_tokens:
        prompt["cache_write_tokens"] = usage.cache_write_tokens
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": prompt,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }

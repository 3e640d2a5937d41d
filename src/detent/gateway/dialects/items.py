"""Items of the Responses API and the messages they make up.

An assistant's turn is one neutral message and several items there (reasoning, message, function calls), so items are
gathered on the way in and taken apart on the way out. A call's thinking state (Gemini) has no place in a function
call; it travels in a reasoning item of its own before the call, which clients send back as they do any other.

Source: https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from detent.gateway.dialects.fields import Fields, unsayable, wrong
from detent.gateway.dialects.marks import OPENAI, marked, own, unmarked
from detent.kernel.chat import (
    AudioPart,
    CacheTtl,
    FilePart,
    ImagePart,
    Message,
    Part,
    ReasoningPart,
    RefusalPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from detent.kernel.errors import InvalidInput

NAME: Final = "responses"
_CALL: Final = "call."
_REDACTED: Final = "redacted."
_ANTHROPIC: Final = "anthropic."
_FOREIGN: Final = (_CALL, _REDACTED, _ANTHROPIC, "gemini.")
_ROLES: Final[dict[str, Role]] = {
    "user": "user",
    "system": "system",
    "developer": "developer",
    "assistant": "assistant",
}
_ENCODER: Final = msgspec.json.Encoder()


# Thinking state


def encrypted(part: ReasoningPart) -> str:
    """What stands in `encrypted_content`: OpenAI's own state as it is, any other with a word for whose it is."""
    if not part.signature:
        return marked(_REDACTED, part.redacted)
    if part.signature.startswith(OPENAI):
        return own(OPENAI, part.signature)
    anthropic = unmarked(part.signature)
    return marked(_ANTHROPIC, anthropic) if anthropic else part.signature


def carried(signature: str) -> str:
    """`encrypted_content` of the item that carries a call's state."""
    return _CALL + signature


def opened(state: str) -> tuple[str, str, str]:
    """Signature, redacted thinking and a call's signature out of `encrypted_content`."""
    if state.startswith(_CALL):
        return "", "", state[len(_CALL) :]
    if state.startswith(_REDACTED):
        return "", state[len(_REDACTED) :], ""
    if state.startswith(_ANTHROPIC):
        return state[len(_ANTHROPIC) :], "", ""
    return (state if state.startswith(_FOREIGN) else marked(OPENAI, state)), "", ""


def named(id: str, signature: str, redacted: str) -> str:
    """The id of a reasoning item, which is OpenAI's only where the state is: other items were named by the gateway."""
    return id if signature.startswith(OPENAI) or not (signature or redacted) else ""


def is_openai(state: str) -> bool:
    """Whether `encrypted_content` is OpenAI's own."""
    return bool(state) and not state.startswith(_FOREIGN)


# Reading


def read_items(items: Sequence[Any], at: str) -> tuple[Message, ...]:
    """Messages of an input, or of what a response put out.

    Raises:
        InvalidInput: an item has the wrong form, or is one that only OpenAI itself can use; names it.
    """
    reader = _Reader()
    for number, item in enumerate(items):
        reader.take(item, f"{at}.{number}")
    return reader.done()


class _Reader:
    """Gathers an assistant's items into one message."""

    __slots__ = ("_messages", "_signature", "_turn")

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._turn: list[Part] = []
        self._signature = ""

    def take(self, item: object, at: str) -> None:
        fields = Fields(dict(item) if isinstance(item, dict) else item, at)
        kind = fields.text("type")
        if not kind:
            kind = "message" if isinstance(item, dict) and "role" in item else "item_reference"
        match kind:
            case "message":
                self._message(fields)
            case "function_call":
                self._call(fields.needed("call_id"), fields.needed("name"), fields.text("arguments"), {})
            case "custom_tool_call":
                text = fields.text("input")
                self._call(fields.needed("call_id"), fields.needed("name"), wrapped(text), {"type": "custom"})
            case "function_call_output" | "custom_tool_call_output":
                self._result(fields, kind)
            case "reasoning":
                self._reasoning(fields)
            case "item_reference":
                raise InvalidInput(
                    f"The item {fields.text('id')[:100]!r} is not known here.",
                    hint="Send the item itself, or `previous_response_id` of a response that was stored.",
                    field=fields.path("id"),
                )
            case _:
                raise InvalidInput(
                    f"An item of the type {kind[:100]!r} belongs to a tool that runs at OpenAI, and no other provider.",
                    hint="Use a route to a provider that serves the Responses API itself, or leave the item out.",
                    field=fields.path("type"),
                )

    def done(self) -> tuple[Message, ...]:
        self._close()
        return tuple(self._messages)

    def _message(self, fields: Fields) -> None:
        name = fields.needed("role")
        role = _ROLES.get(name)
        if role is None:
            raise wrong(fields.path("role"), f"one of {', '.join(_ROLES)}", name)
        content = fields.value("content")
        phase = fields.text("phase")
        if isinstance(content, str):
            parts: tuple[Part, ...] = (TextPart(content),)
        else:
            parts = read_content(content, fields.path("content"))
        if role == "assistant":
            if phase:
                parts = tuple(
                    msgspec.structs.replace(part, extra={**part.extra, "phase": phase})
                    if isinstance(part, TextPart)
                    else part
                    for part in parts
                )
            self._turn.extend(parts)
            return
        self._close()
        self._messages.append(Message(role, parts))

    def _call(self, id: str, name: str, arguments: str, extra: dict[str, Any]) -> None:
        self._turn.append(ToolCallPart(id, name, arguments, self._signature, extra=extra))
        self._signature = ""

    def _result(self, fields: Fields, kind: str) -> None:
        self._close()
        call = fields.needed("call_id")
        output = fields.value("output")
        extra = {"type": "custom"} if kind.startswith("custom") else {}
        if isinstance(output, str):
            content: tuple[TextPart | ImagePart | FilePart, ...] = (TextPart(output),)
        else:
            at = fields.path("output")
            found = read_content(output, at)
            content = tuple(part for part in found if isinstance(part, TextPart | ImagePart | FilePart))
            if len(content) != len(found):
                raise wrong(at, "text, or parts of text, images and files", output)
        self._messages.append(Message("tool", (ToolResultPart(call, content, fields.text("name"), extra=extra),)))

    def _reasoning(self, fields: Fields) -> None:
        signature, redacted, call = opened(fields.text("encrypted_content"))
        if call:
            self._signature = call
            return
        text = reasoning_text(fields.items("summary"), fields.items("content"))
        self._turn.append(ReasoningPart(text, signature, redacted, named(fields.text("id"), signature, redacted)))

    def _close(self) -> None:
        if self._signature:  # its call is gone; the state may still be its maker's
            self._turn.append(ReasoningPart("", self._signature))
            self._signature = ""
        if self._turn:
            self._messages.append(Message("assistant", tuple(self._turn)))
            self._turn = []


def reasoning_text(summary: Iterable[Any], content: Iterable[Any]) -> str:
    """The readable part of a reasoning item."""
    texts = [part.get("text") for part in (*summary, *content) if isinstance(part, dict)]
    return "\n\n".join(text for text in texts if isinstance(text, str) and text)


def wrapped(text: str) -> str:
    """A custom tool's free text as a function's arguments."""
    return _ENCODER.encode({"input": text}).decode()


def unwrapped(arguments: str) -> str:
    """The free text out of a function's arguments; whatever the model wrote, when that is not what it holds."""
    try:
        found = msgspec.json.decode(arguments)
    except (msgspec.MsgspecError, RecursionError):
        return arguments
    text = found.get("input") if isinstance(found, dict) and len(found) == 1 else None
    return text if isinstance(text, str) else arguments


def read_content(content: object, at: str) -> tuple[Part, ...]:
    """The parts of a message, or of what a tool gave back."""
    if not isinstance(content, list):
        raise wrong(at, "text or a list of parts", content)
    return tuple(_part(part, f"{at}.{number}") for number, part in enumerate(content))


def _part(value: object, at: str) -> Part:
    fields = Fields(dict(value) if isinstance(value, dict) else value, at)
    kind = fields.needed("type")
    cache: CacheTtl = ""
    extra: dict[str, Any] = {}
    if (point := fields.object("prompt_cache_breakpoint")) is not None:
        cache, extra = "default", {"prompt_cache_breakpoint": point}
    match kind:
        case "input_text" | "output_text" | "text":
            text = fields.needed("text")
            if found := fields.items("annotations"):
                extra["annotations"] = found
            return TextPart(text, cache, extra)
        case "refusal":
            return RefusalPart(fields.needed("refusal"))
        case "input_image":
            return _image(fields, cache, extra)
        case "input_file":
            data = fields.text("file_data")
            media, inline = split_data(data) if data.startswith("data:") else ("", data)
            return FilePart(
                inline,
                fields.text("file_url"),
                fields.text("file_id"),
                fields.text("filename"),
                media,
                cache,
                extra,
            )
        case "input_audio":
            audio = fields.within("input_audio")
            if audio is None:
                raise wrong(fields.path("input_audio"), "an object", None)
            return AudioPart(audio.needed("data"), audio.text("format"))
    raise wrong(fields.path("type"), "the type of a part of text, an image, a file or audio", kind)


def _image(fields: Fields, cache: CacheTtl, extra: dict[str, Any]) -> ImagePart:
    url = fields.text("image_url")
    detail = fields.text("detail")
    if not url:
        if fields.text("file_id"):
            raise unsayable(fields.path("file_id"), "An image by file id", "another provider's")
        raise wrong(fields.path("image_url"), "a URL", None)
    if url.startswith("data:"):
        media, data = split_data(url)
        return ImagePart("", data, media, detail, cache, extra)
    return ImagePart(url, detail=detail, cache=cache, extra=extra)


def split_data(url: str) -> tuple[str, str]:
    """Media type and base64 of a `data:` URL (RFC 2397)."""
    head, _, data = url[5:].partition(",")
    return head.partition(";")[0], data


# Writing


def write_input(messages: Iterable[Message], *, same: bool) -> list[dict[str, Any]]:
    """Items for a provider that keeps no state.

    Args:
        same: the request was read from this dialect, so that what it has for itself is understood.
    """
    items: list[dict[str, Any]] = []
    for message in messages:
        if message.role == "assistant":
            items.extend(_turn(message.parts, same=same))
            continue
        content: list[dict[str, Any]] = []
        for part in message.parts:
            if isinstance(part, ToolResultPart):
                items.append(_result(part, same=same))
            elif (found := _input_part(part, same=same)) is not None:
                content.append(found)
        if content:
            role = "user" if message.role == "tool" else message.role
            items.append({"type": "message", "role": role, "content": content})
    return items


def _turn(parts: Iterable[Part], *, same: bool) -> Iterable[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    phase = ""
    for part in parts:
        if isinstance(part, TextPart | RefusalPart):
            said = str(part.extra.get("phase") or "") if same else ""
            if content and said != phase:
                yield _said(content, phase)
                content = []
            phase = said
            content.append(output_part(part))
            continue
        if content:
            yield _said(content, phase)
            content = []
        if isinstance(part, ToolCallPart):
            if same and part.extra.get("type") == "custom":
                text = unwrapped(part.arguments)
                yield {"type": "custom_tool_call", "call_id": part.id, "name": part.name, "input": text}
            else:
                yield {"type": "function_call", "call_id": part.id, "name": part.name, "arguments": part.arguments}
        elif isinstance(part, ReasoningPart) and (state := own(OPENAI, part.signature)):
            # Without its encrypted state an item is looked up at the provider, where nothing is stored.
            summary = [{"type": "summary_text", "text": part.text}] if part.text else []
            item = {"type": "reasoning", "summary": summary, "encrypted_content": state}
            yield {**item, "id": part.id} if part.id else item
    if content:
        yield _said(content, phase)


def _said(content: list[dict[str, Any]], phase: str) -> dict[str, Any]:
    item: dict[str, Any] = {"type": "message", "role": "assistant", "content": content}
    if phase:
        item["phase"] = phase
    return item


def output_part(part: TextPart | RefusalPart) -> dict[str, Any]:
    """A part of an assistant's message."""
    if isinstance(part, RefusalPart):
        return {"type": "refusal", "refusal": part.text}
    return {"type": "output_text", "text": part.text, "annotations": part.extra.get("annotations") or []}


def _result(part: ToolResultPart, *, same: bool) -> dict[str, Any]:
    custom = same and part.extra.get("type") == "custom"
    output: Any
    if all(isinstance(piece, TextPart) for piece in part.content):
        output = "".join(piece.text for piece in part.content if isinstance(piece, TextPart))
    else:
        output = [found for piece in part.content if (found := _input_part(piece, same=same)) is not None]
    kind = "custom_tool_call_output" if custom else "function_call_output"
    return {"type": kind, "call_id": part.id, "output": output}


def _input_part(part: Part, *, same: bool) -> dict[str, Any] | None:
    item: dict[str, Any]
    match part:
        case TextPart(text):
            item = {"type": "input_text", "text": text}
        case RefusalPart(text):
            item = {"type": "input_text", "text": text}
        case ImagePart():
            url = part.url or f"data:{part.media_type or 'image/png'};base64,{part.data}"
            item = {"type": "input_image", "image_url": url, "detail": part.detail or "auto"}
        case FilePart():
            item = {"type": "input_file"}
            if part.file_id:
                item["file_id"] = part.file_id
            elif part.url:
                item["file_url"] = part.url
            else:
                item["file_data"] = f"data:{part.media_type or 'application/pdf'};base64,{part.data}"
                item["filename"] = part.name or "file"
        case AudioPart():
            item = {"type": "input_audio", "input_audio": {"data": part.data, "format": part.format or "wav"}}
        case _:
            return None
    if same and (point := part.extra.get("prompt_cache_breakpoint")) is not None:
        item["prompt_cache_breakpoint"] = point
    return item


def output_items(
    parts: Iterable[Part], suffix: str, is_custom: Callable[[str], bool], *, cut: bool
) -> list[dict[str, Any]]:
    """What a response put out, with ids that follow from the response's own and the item's place.

    Args:
        suffix: the response's id without its prefix.
        is_custom: whether a tool of that name takes free text.
        cut: whether the last item is not complete.
    """
    items: list[dict[str, Any]] = []
    content: list[dict[str, Any]] | None = None
    for part in parts:
        if isinstance(part, TextPart | RefusalPart):
            if content is None:
                content = []
                items.append(message_item(suffix, len(items), "completed", content))
            content.append({**output_part(part), **({"logprobs": []} if isinstance(part, TextPart) else {})})
            continue
        content = None
        if isinstance(part, ReasoningPart):
            items.append(reasoning_item(suffix, len(items), part.text, encrypted(part), part.id))
        elif isinstance(part, ToolCallPart):
            if part.signature:
                items.append(reasoning_item(suffix, len(items), "", carried(part.signature)))
            items.append(call_item(suffix, len(items), part, "completed", custom=is_custom(part.name)))
    if cut and items and "status" in items[-1]:
        items[-1]["status"] = "incomplete"
    return items


def message_item(suffix: str, place: int, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    """A message that the model said."""
    return {
        "id": f"msg_{suffix}_{place}",
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": content,
    }


def reasoning_item(suffix: str, place: int, text: str, state: str, id: str = "") -> dict[str, Any]:
    """What the model thought; its maker's id for it, where it had one."""
    item: dict[str, Any] = {
        "id": id or f"rs_{suffix}_{place}",
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": text}] if text else [],
    }
    if state:
        item["encrypted_content"] = state
    return item


def call_item(suffix: str, place: int, part: ToolCallPart, status: str, *, custom: bool) -> dict[str, Any]:
    """A call of a function, or of a tool that takes free text."""
    if custom:
        return {
            "id": f"ctc_{suffix}_{place}",
            "type": "custom_tool_call",
            "status": status,
            "call_id": part.id,
            "name": part.name,
            "input": unwrapped(part.arguments) if part.arguments else "",
        }
    return {
        "id": f"fc_{suffix}_{place}",
        "type": "function_call",
        "status": status,
        "call_id": part.id,
        "name": part.name,
        "arguments": part.arguments,
    }

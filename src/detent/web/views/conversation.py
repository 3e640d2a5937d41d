"""What was said in a call, as turns and parts that a template can lay out. Nothing in it ever becomes markup."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from detent.web.words import size

PartKind = Literal["text", "json", "tool_call", "tool_result", "reasoning", "refusal", "media", "unknown"]

_ROLES: Final = {"system", "developer", "user", "assistant", "tool", "function"}
_LONGEST: Final = 200_000
"""Characters of one part that a page shows; the `.json` twin holds all."""


class Part(msgspec.Struct, frozen=True):
    """A piece of a turn. `label` names a tool, a medium, or what is unknown about it."""

    kind: PartKind
    text: str
    label: str = ""
    id: str = ""
    cut: int = 0


class Turn(msgspec.Struct, frozen=True):
    """One message."""

    role: str
    parts: tuple[Part, ...]
    name: str = ""
    output: bool = False


def conversation(input: str, output: str) -> tuple[Turn, ...]:
    """Turns of a span's content, whatever it holds: what is not a conversation is shown as the JSON or text it is."""
    turns = []
    if input:
        value = _load(input)
        messages = value.get("messages") if isinstance(value, dict) and "messages" in value else value
        if isinstance(messages, list) and messages and all(_is_message(m) for m in messages):
            turns += [_turn(message) for message in messages]
        else:
            turns.append(Turn("input", (_plain(value, input),)))
    if output:
        value = _load(output)
        messages = value if isinstance(value, list) else [value]
        if messages and all(_is_message(m) for m in messages):
            turns += [_turn(message, output=True) for message in messages]
        else:
            turns.append(Turn("output", (_plain(value, output),), output=True))
    return tuple(turns)


def _load(text: str) -> Any:
    try:
        return msgspec.json.decode(text.encode("utf-8", "replace"))
    except (msgspec.MsgspecError, RecursionError):
        return None


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and len(value["role"]) <= 40


def _turn(message: dict[str, Any], *, output: bool = False) -> Turn:
    role = message["role"]
    parts: list[Part] = []
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(reasoning, str) and reasoning:
        parts.append(_part("reasoning", reasoning))
    content = message.get("content", message.get("parts"))
    if isinstance(content, str):
        if content:
            parts.append(
                _part("tool_result", content, id=_text(message.get("tool_call_id")))
                if role == "tool"
                else _said(content)
            )
    elif isinstance(content, list):
        parts += [_content_part(item) for item in content]
    elif content is not None:
        parts.append(_part("json", _pretty(content)))
    if isinstance(message.get("refusal"), str) and message["refusal"]:
        parts.append(_part("refusal", message["refusal"]))
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        parts += [_call(call) for call in calls]
    return Turn(role, tuple(parts), name=_text(message.get("name")), output=output)


def _content_part(item: Any) -> Part:
    if isinstance(item, str):
        return _said(item)
    if not isinstance(item, dict):
        return _part("json", _pretty(item))
    kind = item.get("type")
    if kind in {"text", "input_text", "output_text"} and isinstance(item.get("text") or item.get("content"), str):
        return _said(_text(item.get("text") or item.get("content")))
    if kind in {"reasoning", "thinking"}:
        return _part("reasoning", _text(item.get("text") or item.get("thinking")))
    if kind in {"tool_call", "tool_use"}:
        return _call(item)
    if kind in {"tool_result", "tool_call_response"}:
        value = item.get("content", item.get("result", item.get("response")))
        return _part("tool_result", value if isinstance(value, str) else _pretty(value), id=_text(item.get("id")))
    if kind in {"image_url", "image", "input_audio", "audio", "file", "input_image"}:
        return _media(str(kind), item)
    return _part("unknown", _pretty(item), label=_text(kind)[:60])


def _media(kind: str, item: dict[str, Any]) -> Part:
    """A medium is named, never loaded: its address is the sender's, and the page asks nobody else for anything."""
    inner = _inner(item, kind)
    source = inner.get("url") or inner.get("data") or inner.get("file_data") or inner.get("file_id") or ""
    address = _text(source)
    if address.startswith("data:"):
        medium, _, data = address[5:].partition(";base64,")
        return Part("media", f"{medium[:60]}, inline, about {size(len(data) * 3 // 4)}", label=kind)
    if len(address) > 300:
        return Part("media", f"inline, about {size(len(address) * 3 // 4)}", label=kind)
    return Part("media", address, label=kind)


def _call(call: Any) -> Part:
    if not isinstance(call, dict):
        return _part("unknown", _pretty(call), label="tool call")
    function = _inner(call, "function")
    arguments = function.get("arguments", function.get("input", ""))
    text = arguments if isinstance(arguments, str) else _pretty(arguments)
    parsed = _load(text) if isinstance(arguments, str) else None
    shown = _pretty(parsed) if isinstance(parsed, dict | list) else text
    return _part("tool_call", shown, label=_text(function.get("name"))[:200], id=_text(call.get("id")))


def _inner(item: dict[str, Any], key: str) -> dict[str, Any]:
    """The object under a key, or the item itself where it is written flat."""
    found = item.get(key)
    return found if isinstance(found, dict) else item


def _said(text: str) -> Part:
    """Text, set as JSON where it is some."""
    stripped = text.strip()
    if stripped[:1] in {"{", "["} and stripped[-1:] in {"}", "]"} and len(text) <= _LONGEST:
        value = _load(stripped)
        if isinstance(value, dict | list) and value:
            return _part("json", _pretty(value))
    return _part("text", text)


def _plain(value: Any, raw: str) -> Part:
    if isinstance(value, dict | list):
        return _part("json", _pretty(value))
    return _part("text", value if isinstance(value, str) else raw)


def _part(kind: PartKind, text: str, *, label: str = "", id: str = "") -> Part:
    return Part(kind, text[:_LONGEST], label, id[:200], max(0, len(text) - _LONGEST))


def _pretty(value: Any) -> str:
    try:
        return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    except (msgspec.MsgspecError, RecursionError, TypeError):
        return str(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)

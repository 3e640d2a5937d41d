"""Contents of messages in the OpenAI dialect, read and written: what requests and answers share."""

from __future__ import annotations

import re
from typing import Any, Final

from detent.gateway.dialects.fields import Fields, encoded, unsayable, wrong
from detent.gateway.dialects.marks import GEMINI, marked, own
from detent.kernel.chat import (
    AudioPart,
    CacheTtl,
    FilePart,
    ImagePart,
    Part,
    ReasoningPart,
    RefusalPart,
    TextPart,
    ToolCallPart,
)
from detent.kernel.errors import InvalidInput

_DATA_URL: Final = re.compile(r"data:([^;,]*)(?:;[^,]*)?;base64,", re.ASCII)
_TTLS: Final[dict[str, CacheTtl]] = {"5m": "5m", "1h": "1h"}


def read_content(value: object, at: str) -> tuple[Part, ...]:
    """A message's content: text, or a list of parts.

    Raises:
        InvalidInput: it is neither, or a part has the wrong form.
    """
    if value is None:
        return ()
    if isinstance(value, str):
        return (TextPart(value),) if value else ()
    if not isinstance(value, list):
        raise wrong(at, "text or a list of parts", value)
    parts: list[Part] = []
    for number, item in enumerate(value):
        parts.extend(_read_part(item, f"{at}[{number}]"))
    return tuple(parts)


def _read_part(item: object, at: str) -> tuple[Part, ...]:
    if isinstance(item, str):
        return (TextPart(item),)
    fields = Fields(item, at)
    kind = fields.needed("type")
    cache = read_cache(fields)
    match kind:
        case "text" | "input_text" | "output_text":
            return (TextPart(fields.needed("text"), cache, fields.rest()),)
        case "image_url":
            found = fields.value("image_url")
            inner = Fields({"url": found} if isinstance(found, str) else found, fields.path("image_url"))
            url, media_type, data = _data_url(inner.needed("url"))
            detail = inner.text("detail")
            return (ImagePart(url, data, media_type, detail, cache, {**fields.rest(), **inner.rest()}),)
        case "input_audio":
            inner = _inner(fields, "input_audio")
            return (AudioPart(inner.needed("data"), inner.text("format"), fields.rest()),)
        case "file":
            inner = _inner(fields, "file")
            url, media_type, data = _data_url(inner.text("file_data"))
            if url and not url.startswith(("http:", "https:")):
                url, data = "", url
            name = inner.text("filename")
            return (FilePart(data, url, inner.text("file_id"), name, media_type, cache, fields.rest()),)
        case "refusal":
            return (RefusalPart(fields.needed("refusal"), fields.rest()),)
        case "thinking" | "reasoning":  # Mistral's way
            inner_value = fields.value("thinking")
            if isinstance(inner_value, str):
                return (ReasoningPart(inner_value),)
            texts = read_content(inner_value, fields.path("thinking"))
            return (ReasoningPart("".join(part.text for part in texts if isinstance(part, TextPart))),)
    raise InvalidInput(
        f"The field '{at}.type' cannot be used: there is no part of type '{kind[:40]}'.",
        hint="Send text, image_url, input_audio or file.",
        field=f"{at}.type",
    )


def _inner(fields: Fields, name: str) -> Fields:
    inner = fields.within(name)
    if inner is None:
        raise wrong(fields.path(name), "an object", None)
    return inner


def read_cache(fields: Fields) -> CacheTtl:
    """A mark in Anthropic's form, as OpenRouter and others take it within this dialect."""
    mark = fields.within("cache_control")
    return "" if mark is None else _TTLS.get(mark.text("ttl"), "default")


def write_cache(cache: CacheTtl) -> dict[str, Any]:
    """The same, written."""
    return {"type": "ephemeral"} if cache == "default" else {"type": "ephemeral", "ttl": cache}


def _data_url(url: str) -> tuple[str, str, str]:
    """URL, media type and base64 data: one or the other."""
    found = _DATA_URL.match(url)
    return ("", found[1].lower(), url[found.end() :]) if found else (url, "", "")


def write_part(part: Part, at: str, *, marks: bool, extras: bool) -> dict[str, Any] | None:
    """A part of a user's content; None for what stands elsewhere in a message.

    Args:
        marks: whether cache marks are understood.
        extras: whether what the part has beside is of this dialect.

    Raises:
        InvalidInput: a file that is given by URL.
    """
    found: dict[str, Any]
    match part:
        case TextPart():
            found = {"type": "text", "text": part.text}
        case ImagePart():
            image: dict[str, Any] = {
                "url": part.url or f"data:{part.media_type or sniffed(part.data)};base64,{part.data}"
            }
            if part.detail:
                image["detail"] = part.detail
            found = {"type": "image_url", "image_url": image}
        case AudioPart():
            found = {"type": "input_audio", "input_audio": {"data": part.data, "format": part.format or "wav"}}
        case FilePart():
            found = {"type": "file", "file": _write_file(part, at)}
        case RefusalPart():
            found = {"type": "refusal", "refusal": part.text}
        case _:
            return None
    if marks and not isinstance(part, AudioPart | RefusalPart) and part.cache:
        found["cache_control"] = write_cache(part.cache)
    return {**part.extra, **found} if extras and part.extra else found


def _write_file(part: FilePart, at: str) -> dict[str, Any]:
    if part.file_id:
        return {"file_id": part.file_id}
    if part.url:
        raise unsayable(at, "A file by URL", "openai")
    data = part.data
    if part.media_type:
        data = f"data:{part.media_type};base64,{data}"
    return {"filename": part.name or "file", "file_data": data} if part.name or part.media_type else {"file_data": data}


_MAGIC: Final = (("iVBORw0KGgo", "image/png"), ("/9j/", "image/jpeg"), ("R0lGOD", "image/gif"), ("UklGR", "image/webp"))


def sniffed(data: str) -> str:
    """The media type of an image, by its first bytes."""
    return next((kind for start, kind in _MAGIC if data.startswith(start)), "image/png")


def read_reasoning(fields: Fields) -> list[Part]:
    """Thinking in a message, in whichever way it is named.

    `reasoning_details` (OpenRouter's) carry signatures and sealed thinking; the plain text beside them repeats theirs.
    """
    details = fields.value("reasoning_details")
    texts = [fields.value(name) for name in ("reasoning_content", "reasoning")]
    parts: list[Part] = []
    for item in details if isinstance(details, list) else ():
        part = _detail(item)
        if part is not None:
            parts.append(part)
    if parts:
        return parts
    return [*[ReasoningPart(text) for text in texts if isinstance(text, str) and text][:1]]


def _detail(item: object) -> ReasoningPart | None:
    if not isinstance(item, dict):
        return None
    text = item.get("text") or item.get("summary") or ""
    signature = item.get("signature") or ""
    redacted = item.get("data") or ""
    name = item.get("id") or ""
    if not all(isinstance(value, str) for value in (text, signature, redacted, name)):
        return None
    if not (text or signature or redacted):
        return None
    form = item.get("format")
    return ReasoningPart(text, signature, redacted, name, {"format": form} if isinstance(form, str) else {})


def write_detail(part: ReasoningPart, index: int) -> dict[str, Any]:
    """One entry of `reasoning_details`."""
    found: dict[str, Any] = {"type": "reasoning.text", "text": part.text, "index": index}
    if part.redacted and not part.text:
        found = {"type": "reasoning.encrypted", "data": part.redacted, "index": index}
    elif part.redacted:
        found["data"] = part.redacted
    if part.signature:
        found["signature"] = part.signature
    if part.id:
        found["id"] = part.id
    if "format" in part.extra:
        found["format"] = part.extra["format"]
    return found


def write_reasoning(parts: list[ReasoningPart], field: str) -> dict[str, Any]:
    """Thinking in a message: as plain text, and with what is opaque beside it where there is any."""
    if not parts or not field:
        return {}
    found: dict[str, Any] = {}
    text = "".join(part.text for part in parts)
    if text:
        found[field] = text
    if len(parts) > 1 or parts[0].signature or parts[0].redacted or parts[0].id:
        found["reasoning_details"] = [write_detail(part, index) for index, part in enumerate(parts)]
    return found


def write_call(part: ToolCallPart) -> dict[str, Any]:
    """One entry of `tool_calls`; Google hangs its thinking state on calls under `extra_content`."""
    found: dict[str, Any] = {
        "id": part.id,
        "type": "function",
        "function": {"name": part.name, "arguments": part.arguments},
    }
    if state := own(GEMINI, part.signature):
        found["extra_content"] = {"google": {"thought_signature": state}}
    return found


def read_call(item: object, at: str, spare: str) -> ToolCallPart | None:
    """One entry of `tool_calls`; None for one that is no function call.

    Args:
        spare: the id of a call that has none.
    """
    if isinstance(item, dict) and item.get("type") not in ("", "function", None):
        return None
    fields = Fields(item, at)
    inner = fields.within("function")
    if inner is None:
        raise wrong(fields.path("function"), "an object", None)
    arguments = inner.value("arguments")
    if arguments is None:
        arguments = ""
    elif not isinstance(arguments, str):  # an object, where a server forgot to write it as text
        arguments = encoded(arguments).decode()
    signature = google_signature(fields.value("extra_content"))
    return ToolCallPart(fields.text("id") or spare, inner.needed("name"), arguments, signature, read_cache(fields))


def google_signature(extra: object) -> str:
    """Gemini's thinking state on a call, as its OpenAI-compatible endpoint carries it."""
    inner = extra.get("google") if isinstance(extra, dict) else None
    found = inner.get("thought_signature") if isinstance(inner, dict) else None
    return marked(GEMINI, found) if isinstance(found, str) else ""

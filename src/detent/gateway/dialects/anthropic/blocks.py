"""Content blocks of Anthropic's messages dialect, read and written: what requests and answers share.

Blocks that the neutral type does not know (a server tool's calls and results, a container's files) become text parts
whose `extra` is the block as it came, so that the same dialect writes it again; search results also bring their text.
"""

from __future__ import annotations

import base64
import re
from typing import Any, Final

import msgspec

from detent.gateway.dialects.fields import Fields, encoded, unsayable, wrong
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
    ToolResultPart,
)
from detent.kernel.errors import InvalidInput

NAME: Final = "anthropic"
_OBJECTS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TTLS: Final[dict[str, CacheTtl]] = {"5m": "5m", "1h": "1h"}
_BAD_ID: Final = re.compile(r"[^a-zA-Z0-9_-]")
_MAGIC: Final = (("iVBORw0KGgo", "image/png"), ("/9j/", "image/jpeg"), ("R0lGOD", "image/gif"), ("UklGR", "image/webp"))


def read_cache(fields: Fields) -> CacheTtl:
    """A mark up to which the prompt may be cached."""
    mark = fields.within("cache_control")
    return "" if mark is None else _TTLS.get(mark.text("ttl"), "default")


def write_cache(cache: CacheTtl) -> dict[str, Any]:
    """The same, written."""
    return {"type": "ephemeral"} if cache == "default" else {"type": "ephemeral", "ttl": cache}


# Reading


def read_blocks(value: object, at: str) -> tuple[Part, ...]:
    """A message's content: text, or a list of blocks.

    Raises:
        InvalidInput: it is neither, or a block has the wrong form.
    """
    if value is None:
        return ()
    if isinstance(value, str):
        return (TextPart(value),) if value else ()
    if not isinstance(value, list):
        raise wrong(at, "text or a list of blocks", value)
    return tuple([read_block(item, f"{at}[{number}]") for number, item in enumerate(value)])


def read_block(item: object, at: str) -> Part:
    """One block.

    Raises:
        InvalidInput: it has the wrong form.
    """
    if not isinstance(item, dict):
        raise wrong(at, "an object", item)
    kind = item.get("type")
    if not isinstance(kind, str):
        raise wrong(f"{at}.type", "text", kind)
    reader = _READERS.get(kind)
    if reader is None:
        return TextPart("", "", item)
    if kind == "search_result":
        return _read_search_result(item, at)
    fields = Fields(item, at)
    fields.value("type")
    found: Part = reader(fields)
    return found


def _read_text(fields: Fields) -> TextPart:
    return TextPart(fields.needed("text"), read_cache(fields), fields.rest())


def _read_image(fields: Fields) -> ImagePart:
    cache = read_cache(fields)
    source = _source(fields)
    match source:
        case {"type": "base64", "media_type": str(media_type), "data": str(data)}:
            return ImagePart("", data, media_type, "", cache, fields.rest())
        case {"type": "url", "url": str(url)}:
            return ImagePart(url, "", "", "", cache, fields.rest())
        case {"type": "file", "file_id": str()}:
            return ImagePart("", "", "", "", cache, {**fields.rest(), "source": source})
    raise wrong(fields.path("source"), "a source of type base64, url or file", source)


def _read_document(fields: Fields) -> FilePart:
    cache = read_cache(fields)
    title = fields.text("title")
    source = _source(fields)
    match source:
        case {"type": "base64", "media_type": str(media_type), "data": str(data)}:
            return FilePart(data, "", "", title, media_type, cache, fields.rest())
        case {"type": "text", "data": str(text)}:
            return FilePart(_base64(text), "", "", title, "text/plain", cache, fields.rest())
        case {"type": "url", "url": str(url)}:
            return FilePart("", url, "", title, "", cache, fields.rest())
        case {"type": "file", "file_id": str(name)}:
            return FilePart("", "", name, title, "", cache, fields.rest())
        case {"type": "content"}:
            text = _text_of(source.get("content"))
            return FilePart(_base64(text), "", "", title, "text/plain", cache, {**fields.rest(), "source": source})
    raise wrong(fields.path("source"), "a source of type base64, text, url, file or content", source)


def _source(fields: Fields) -> dict[str, Any]:
    found = fields.object("source")
    if found is None:
        raise wrong(fields.path("source"), "an object", None)
    return found


def _read_tool_use(fields: Fields) -> ToolCallPart:
    arguments = fields.object("input")
    cache = read_cache(fields)
    return ToolCallPart(
        fields.needed("id"), fields.needed("name"), encoded(arguments or {}).decode(), "", cache, fields.rest()
    )


def _read_tool_result(fields: Fields) -> ToolResultPart:
    cache = read_cache(fields)
    content: list[TextPart | ImagePart | FilePart] = []
    for part in read_blocks(fields.value("content"), fields.path("content")):
        if not isinstance(part, TextPart | ImagePart | FilePart):
            raise InvalidInput(
                f"The field '{fields.path('content')}' cannot be used: a tool gives back text, images or documents.",
                hint="Correct the request.",
                field=fields.path("content"),
            )
        content.append(part)
    name = fields.needed("tool_use_id")
    return ToolResultPart(name, tuple(content), "", bool(fields.flag("is_error")), cache, fields.rest())


def _read_thinking(fields: Fields) -> ReasoningPart:
    return ReasoningPart(fields.text("thinking"), fields.text("signature"), extra=fields.rest())


def _read_redacted(fields: Fields) -> ReasoningPart:
    return ReasoningPart(redacted=fields.needed("data"), extra=fields.rest())


def _read_search_result(item: dict[str, Any], at: str) -> TextPart:
    words = [item.get("title"), item.get("source"), _text_of(item.get("content"))]
    if not all(isinstance(word, str) for word in words):
        raise wrong(at, "a search result with title, source and content", item)
    return TextPart("\n".join(str(word) for word in words if word), "", item)


def _text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    found = [item.get("text") for item in content if isinstance(item, dict)] if isinstance(content, list) else []
    return "\n".join(text for text in found if isinstance(text, str))


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


_READERS: Final[dict[str, Any]] = {
    "text": _read_text,
    "image": _read_image,
    "document": _read_document,
    "tool_use": _read_tool_use,
    "tool_result": _read_tool_result,
    "thinking": _read_thinking,
    "redacted_thinking": _read_redacted,
    "search_result": _read_search_result,
}


# Writing


def is_block(part: Part) -> bool:
    """Whether a part is one of this dialect's blocks that the neutral type has no word for."""
    return isinstance(part, TextPart) and "type" in part.extra


def write_block(part: Part, at: str, *, own: bool) -> dict[str, Any]:
    """One block.

    Args:
        own: whether what the part has beside is of this dialect.

    Raises:
        InvalidInput: there is no block for it.
    """
    if own and is_block(part):
        return part.extra
    found: dict[str, Any]
    match part:
        case TextPart():
            found = {"type": "text", "text": part.text}
        case RefusalPart():
            found = {"type": "text", "text": part.text}
        case ImagePart():
            found = {"type": "image", "source": _write_image(part, at, own=own)}
        case FilePart():
            found = _write_file(part, at, own=own)
        case ToolCallPart():
            found = {"type": "tool_use", "id": written_id(part.id), "name": part.name, "input": read_arguments(part)}
        case ToolResultPart():
            found = _write_result(part, at, own=own)
        case ReasoningPart():
            if part.redacted:
                found = {"type": "redacted_thinking", "data": part.redacted}
            else:
                found = {"type": "thinking", "thinking": part.text, "signature": part.signature}
        case AudioPart():
            raise unsayable(at, "Audio", NAME)
    if not isinstance(part, RefusalPart | ReasoningPart | AudioPart) and part.cache:
        found["cache_control"] = write_cache(part.cache)
    return {**part.extra, **found} if own and part.extra else found


def written_id(name: str) -> str:
    """A call's id with the characters that this dialect allows."""
    return _BAD_ID.sub("_", name)


def read_arguments(part: ToolCallPart) -> msgspec.Raw | dict[str, Any]:
    """A call's arguments as an object, its bytes untouched; what is none is kept as text, for models write such too."""
    if not part.arguments.strip():
        return {}
    try:
        _OBJECTS.decode(part.arguments)
    except (msgspec.MsgspecError, RecursionError):
        return {"invalid_arguments": part.arguments}
    return msgspec.Raw(part.arguments.encode())


def _write_image(part: ImagePart, at: str, *, own: bool) -> dict[str, Any]:
    if own and isinstance(part.extra.get("source"), dict):
        source: dict[str, Any] = part.extra["source"]
        return source
    if part.data:
        return {"type": "base64", "media_type": part.media_type or sniffed(part.data), "data": part.data}
    if not part.url:
        raise unsayable(at, "An image by another provider's id", NAME)
    return {"type": "url", "url": part.url}


def sniffed(data: str) -> str:
    """The media type of an image, by its first bytes."""
    return next((kind for start, kind in _MAGIC if data.startswith(start)), "image/png")


def _write_file(part: FilePart, at: str, *, own: bool) -> dict[str, Any]:
    media_type = part.media_type or ("application/pdf" if part.data.startswith("JVBERi0") else "")
    source: dict[str, Any]
    if own and isinstance(part.extra.get("source"), dict):
        source = part.extra["source"]
    elif part.url:
        source = {"type": "url", "url": part.url}
    elif part.file_id:
        if not own:
            raise unsayable(at, "A file by another provider's id", NAME)
        source = {"type": "file", "file_id": part.file_id}
    elif media_type == "application/pdf":
        source = {"type": "base64", "media_type": media_type, "data": part.data}
    elif media_type.startswith("image/"):
        return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": part.data}}
    elif media_type.startswith("text/") or media_type in {"application/json", "application/xml"}:
        try:
            text = base64.b64decode(part.data, validate=True).decode()
        except ValueError:
            raise unsayable(at, "A text that is not UTF-8", NAME) from None
        source = {"type": "text", "media_type": "text/plain", "data": text}
    else:
        raise unsayable(at, f"A file of type '{media_type[:60]}'", NAME)
    found = {"type": "document", "source": source}
    if part.name:
        found["title"] = part.name
    return found


def _write_result(part: ToolResultPart, at: str, *, own: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "tool_result", "tool_use_id": written_id(part.id)}
    content = part.content
    match content:
        case ():
            pass
        case (TextPart(text=text, cache="") as only,) if not only.extra:
            found["content"] = text
        case _:
            found["content"] = [
                write_block(inner, f"{at}.content[{number}]", own=own)
                for number, inner in enumerate(content)
                if own or not isinstance(inner, TextPart) or inner.text
            ]
    if part.is_error:
        found["is_error"] = True
    return found

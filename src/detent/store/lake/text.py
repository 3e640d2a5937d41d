"""Words: what of a span can be searched, how a question is read, and where an answer stands in the text.

The full-text index keeps no positions and sees only what is made here: the distinct words of a span, and one made-up
word for every field and attribute that can be asked for exactly. It gives candidates; `Question` then looks at the span
itself, so an answer is exact whatever the index thinks.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import msgspec
import orjson

from detent.kernel.telemetry import Span, SpanFilter

_FIELD_WORD = "\ue000"
"""First letter of a made-up word. It is of private use, hence in no word of a text."""

# Each letter of a script that is written without spaces is a word of its own; a run of them is searched as a phrase.
_SINGLE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0e7f\U00020000-\U0003ffff"
_WORDS = re.compile(rf"[{_SINGLE}]|[^\W{_SINGLE}]+")
_ASCII = bytes(ord(chr(code).lower()) if chr(code).isalnum() or code == ord("_") else 32 for code in range(128)) * 2
_CHUNKS = re.compile(r'"([^"]*)"?|(\S+)')
_BLOB = re.compile(r"[!-~]{257,}")
_SNIPPET = 160
_PREVIEW = 120


def words(text: str) -> list[str]:
    """The words of a text in order: lower case, compatibility forms made one."""
    return _spaced(text).split()


def _spaced(text: str) -> str:
    """The words of a text with space between them, as the index splits them again."""
    if text.isascii():
        # Bytes, because translating them is a hundred times faster than translating text.
        return text.encode().translate(_ASCII).decode()
    return " ".join(_WORDS.findall(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())))


def searchable(span: Span) -> str:
    """The text of a span: its name and every string in its input and output, one a line.

    Inlined files (a data URL, or more than 256 letters of ASCII without a space) are no text.
    """
    parts = [span.name]
    for content in (span.input, span.output):
        if content:
            try:
                _strings(orjson.loads(content), parts)
            except orjson.JSONDecodeError:
                parts.append(content)
    return "\n".join(parts)


def _strings(value: Any, into: list[str]) -> None:
    if isinstance(value, str):
        if len(value) <= 256 or not (value.startswith("data:") or _BLOB.fullmatch(value)):
            into.append(value)
    elif isinstance(value, dict):
        for item in value.values():
            _strings(item, into)
    elif isinstance(value, list):
        for item in value:
            _strings(item, into)


def attribute_text(value: Any) -> str:
    """An attribute's value as filters compare it."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return msgspec.json.encode(value).decode()


@lru_cache(maxsize=1 << 15)
def _known_field_word(field: str, value: str) -> str:
    return f"{_FIELD_WORD}{zlib.crc32(f'{field}={value}'.encode('utf-8', 'replace')):x}"


def field_word(field: str, value: str) -> str:
    """The made-up word that says: this field has this value."""
    return _known_field_word(field, value)


def preview(span: Span) -> str:
    """What a span was asked last, for a list: the beginning of the last text in its input."""
    if not span.input:
        return ""
    parts: list[str] = []
    try:
        _strings(orjson.loads(span.input), parts)
    except orjson.JSONDecodeError:
        parts.append(span.input)
    text = " ".join(parts[-1][: 2 * _PREVIEW].split()) if parts else ""
    return text if len(text) <= _PREVIEW else text[: _PREVIEW - 1] + "…"


def index_words(span: Span) -> str:
    """Everything a span can be found by, as the index takes it."""
    found = [_spaced(searchable(span))]
    add = found.append
    if span.status != "ok":
        add(field_word("status", span.status))
    for field in ("operation", "provider", "route", "key_id", "release", "session_id", "user_id", "error_type"):
        value = getattr(span, field)
        if value:
            add(field_word(field, value))
    if span.request_model:
        add(field_word("model", span.request_model))
    if span.response_model and span.response_model != span.request_model:
        add(field_word("model", span.response_model))
    for key, value in span.attributes.items():
        add(field_word("." + key, attribute_text(value)))
    return " ".join(found)


class Question:
    """A filter made ready: what to ask the index for, and how to look at a candidate."""

    __slots__ = ("_phrases", "match", "needs_content", "where")

    def __init__(self, where: SpanFilter) -> None:
        self.where = where
        self._phrases = [phrase for phrase in map(words, _chunks(where.text)) if phrase]
        wanted = {word for phrase in self._phrases for word in phrase}
        if where.status and where.status != "ok":
            wanted.add(field_word("status", where.status))
        for field in (
            "operation",
            "provider",
            "model",
            "route",
            "key_id",
            "release",
            "session_id",
            "user_id",
            "error_type",
        ):
            value = getattr(where, field)
            if value:
                wanted.add(field_word(field, value))
        for key, value in where.attributes.items():
            wanted.add(field_word("." + key, value))
        self.match = " AND ".join(f'"{word}"' for word in sorted(wanted))
        self.needs_content = bool(self._phrases or where.attributes)

    def fields_hold(self, span: Span) -> bool:
        """Whether everything but text and attributes holds."""
        where = self.where
        return (
            where.since <= span.start
            and (not where.until or span.start < where.until)
            and span.duration >= where.min_duration
            and (not where.min_cost or (span.cost is not None and span.cost >= where.min_cost))
            and (not where.status or span.status == where.status)
            and (not where.operation or span.operation == where.operation)
            and (not where.provider or span.provider == where.provider)
            and (not where.model or where.model in {span.request_model, span.response_model})
            and (not where.route or span.route == where.route)
            and (not where.key_id or span.key_id == where.key_id)
            and (not where.release or span.release == where.release)
            and (not where.session_id or span.session_id == where.session_id)
            and (not where.user_id or span.user_id == where.user_id)
            and (not where.error_type or span.error_type == where.error_type)
        )

    def content_holds(self, span: Span) -> bool:
        """Whether text and attributes hold; needs the span with its content."""
        for key, value in self.where.attributes.items():
            if key not in span.attributes or attribute_text(span.attributes[key]) != value:
                return False
        if not self._phrases:
            return True
        text = words(searchable(span))
        return all(_stands_in(phrase, text) for phrase in self._phrases)

    def snippet(self, span: Span) -> str:
        """A piece of the span's text around the first hit, hits between double asterisks; empty if none was asked."""
        if not self._phrases:
            return ""
        return snippet(searchable(span), (word for phrase in self._phrases for word in phrase))


def _chunks(text: str) -> list[str]:
    return [quoted or plain for quoted, plain in _CHUNKS.findall(text)]


def _stands_in(phrase: list[str], text: list[str]) -> bool:
    first, length, at = phrase[0], len(phrase), -1
    while True:
        try:
            at = text.index(first, at + 1)
        except ValueError:
            return False
        if text[at : at + length] == phrase:
            return True


def snippet(text: str, wanted: Iterable[str]) -> str:
    """About 160 letters of a text around its first wanted word, every wanted word between two asterisks."""
    sought = set(wanted)
    parts: list[str] = []
    begin = at = 0
    end = min(_SNIPPET, len(text))
    for found in _WORDS.finditer(text):
        if parts and found.end() > end:
            break
        word = found.group()
        if (word.lower() if word.isascii() else "".join(words(word))) not in sought:
            continue
        if not parts:
            begin = at = max(found.start() - _SNIPPET // 4, 0)
            end = min(max(begin + _SNIPPET, found.end()), len(text))
        parts += [text[at : found.start()], "**", word, "**"]
        at = found.end()
    parts.append(text[at:end])
    return ("…" if begin else "") + " ".join("".join(parts).split()) + ("…" if end < len(text) else "")

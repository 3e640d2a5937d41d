"""A request's body as a JSON object: checked once, and its fields kept as the client wrote them."""

from __future__ import annotations

import json
import re
from typing import Any, Final, TypeVar

import msgspec

from detent.gateway.errors import MalformedBody, TooDeep
from detent.gateway.surrogates import mended
from detent.kernel.errors import InvalidInput

T = TypeVar("T")

_STRING: Final = re.compile(rb'"[^"]*"')
_SMALL: Final = 8192  # bytes; counting brackets in more costs as much as looking at them
_MAX_BRACKETS: Final = 1_000_000  # wide rather than deep, but each layer costs a pass over all of them
_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b'[]{}"'))
_AT: Final = re.compile(r" - at `\$\.?(.*)`$")
_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_WHOLE: Final = msgspec.json.Decoder()
_ENCODER: Final = msgspec.json.Encoder()


def read_object(
    raw: bytes, head: msgspec.json.Decoder[T], *, max_depth: int, reference: str
) -> tuple[T, dict[str, msgspec.Raw]]:
    """The part of a body that a dialect reads of every request, and all its top-level fields, raw.

    Args:
        head: decodes the part.
        reference: URL of the dialect's documentation, for the hint of an error.

    Raises:
        MalformedBody: no JSON object in UTF-8.
        TooDeep: nested too deeply.
        InvalidInput: a field is missing, given twice, or has the wrong type or range; names it.
    """
    if not raw.isascii():
        try:
            raw.decode()
        except UnicodeDecodeError as error:
            raise MalformedBody(f"The body is not UTF-8: byte {error.start}.", hint="Send JSON in UTF-8.") from None
    many = len(raw) > _SMALL or raw.count(b"[") + raw.count(b"{") > max_depth
    if many and _deeper(raw, max_depth):
        raise TooDeep(f"The body is nested deeper than {max_depth}.", hint="Flatten it.")
    try:
        fields = _FIELDS.decode(raw)
        found = head.decode(raw)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), reference) from None
    except (msgspec.DecodeError, RecursionError) as error:
        if mended(raw) is not None:
            raise MalformedBody(
                "The body holds half of a surrogate pair, or is no valid JSON.",
                hint="Cut text between characters, not within one.",
            ) from None
        raise MalformedBody(f"The body is no valid JSON: {error}.", hint="Send one JSON object.") from None
    if not _plain_size(raw, fields):
        _refuse_twins(raw)
    return found, fields


def whole(raw: bytes) -> Any:
    """A checked body as Python values.

    Raises:
        MalformedBody: what was not looked at before cannot be read, a number out of all range for instance.
    """
    try:
        return _WHOLE.decode(raw)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise MalformedBody(f"The body cannot be read: {error}.", hint="Correct the request.") from None


def replaced(fields: dict[str, msgspec.Raw], **values: bytes) -> bytes:
    """The object with some fields' values exchanged; all others stay the client's own bytes."""
    return _ENCODER.encode({**fields, **{name: msgspec.Raw(value) for name, value in values.items()}})


def _deeper(raw: bytes, limit: int) -> bool:
    """Whether brackets outside of strings nest deeper than the limit: inner pairs are taken away layer by layer.

    Escaped backslashes and quotes go first, so that each quote left begins or ends a string; then all but quotes and
    brackets. Plain replacing takes a tenth of the time of an expression on text full of escapes.
    """
    plain = raw.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in raw else raw
    marks = plain.translate(_ONE_KIND, _NO_BRACKETS)
    brackets = _STRING.sub(b"", marks.replace(b'""', b""))
    if len(brackets) > _MAX_BRACKETS:
        return True
    for _ in range(limit):
        fewer = brackets.replace(b"[]", b"")
        if not fewer or len(fewer) == len(brackets):
            return b"[" in fewer
        brackets = fewer
    return True


def _plain_size(raw: bytes, fields: dict[str, msgspec.Raw]) -> bool:
    """Whether the object is just as long as its fields, written tight or with Python's spaces: none was given twice."""
    count = len(fields)
    tight = 1 + sum(len(name) + 4 for name in fields) + sum(memoryview(value).nbytes for value in fields.values())
    return len(raw) == tight or len(raw) == tight + 2 * count - 1


def _refuse_twins(raw: bytes) -> None:
    pairs = json.loads(raw, object_pairs_hook=list)
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise InvalidInput(
                f"The field '{name[:100]}' is given twice.", hint="Send each field once.", field=name[:100]
            )


def _invalid(message: str, reference: str) -> InvalidInput:
    found = _AT.search(message)
    field = found[1] if found else None
    what = message[: found.start()] if found else message
    if "missing required field" in what:
        name = what.rpartition(" `")[2].rstrip("`")
        field = f"{field}.{name}" if field else name
    return InvalidInput(
        f"{'The field ' + repr(field) if field else 'The body'} cannot be used: {what}.",
        hint=f"See {reference} for the fields and their types.",
        field=field or None,
    )

"""A chat completion's body: checked as far as the gateway must know it, and passed on as it came.

The top level is taken apart into names and raw values. Values stay the client's own bytes, so fields that Detent has
never heard of survive; only `model` is replaced, and on a stream `stream_options.include_usage` is asked for.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Final, TypeVar

import msgspec

from detent.gateway.errors import MalformedBody, TooDeep, TooManyParts
from detent.gateway.surrogates import mended
from detent.kernel.errors import InvalidInput

_Positive = Annotated[int, msgspec.Meta(ge=1)]
_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_MAX_BRACKETS: Final = 1_000_000  # wide rather than deep, but each layer costs a pass over all of them
_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
H = TypeVar("H")
_AT: Final = re.compile(r" - at `\$\.?(.*)`$")


class _Message(msgspec.Struct, gc=False):
    role: str
    content: str | list[msgspec.Raw] | None = None


class _StreamOptions(msgspec.Struct, gc=False):
    include_usage: bool | None = None


class Head(msgspec.Struct, gc=False):
    """The fields that the gateway itself reads."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: _Positive | None = None
    max_completion_tokens: _Positive | None = None
    n: _Positive | None = None
    temperature: float | None = None
    top_p: float | None = None
    user: str | None = None


class ChatBody:
    """A checked body.

    Attributes:
        head: what the gateway reads of it.
        hide_usage: a stream whose client did not ask for the usage event.
    """

    __slots__ = ("_fields", "_messages", "_raw", "head", "hide_usage")

    def __init__(self, raw: bytes, head: Head, fields: dict[str, msgspec.Raw]) -> None:
        self.head = head
        self._raw = raw
        self._fields = fields
        self._messages = b""
        options = head.stream_options
        self.hide_usage = bool(head.stream) and not (options is not None and options.include_usage)

    @property
    def model(self) -> str:
        """The route's name as the client wrote it."""
        return self.head.model

    @property
    def stream(self) -> bool:
        """Whether a streamed answer is wanted."""
        return bool(self.head.stream)

    @property
    def user(self) -> str:
        """The client's own name for its user."""
        return self.head.user or ""

    @property
    def max_tokens(self) -> int | None:
        """The most output tokens that it asked for."""
        return self.head.max_completion_tokens or self.head.max_tokens

    @property
    def answers(self) -> int:
        """How many answers it asks for."""
        return self.head.n or 1

    @property
    def parameters(self) -> dict[str, Any]:
        """`gen_ai.request.*` attributes of the span."""
        head = self.head
        found: dict[str, Any] = {}
        if head.temperature is not None:
            found["gen_ai.request.temperature"] = head.temperature
        if head.top_p is not None:
            found["gen_ai.request.top_p"] = head.top_p
        if (limit := self.max_tokens) is not None:
            found["gen_ai.request.max_tokens"] = limit
        if head.n is not None:
            found["gen_ai.request.choice.count"] = head.n
        return found

    @property
    def messages(self) -> bytes:
        """The messages as the client wrote them."""
        if not self._messages:
            self._messages = bytes(self._fields["messages"])
        return self._messages

    def for_model(self, name: str, name_json: bytes) -> bytes:
        """The body that goes to a provider."""
        if name == self.head.model and not self.hide_usage:
            return self._raw
        fields = {**self._fields, "model": msgspec.Raw(name_json)}
        if self.hide_usage:
            options: dict[str, Any] = {}
            if self.head.stream_options is not None:
                options = msgspec.json.decode(fields["stream_options"], type=dict[str, msgspec.Raw])
            fields["stream_options"] = msgspec.Raw(_ENCODER.encode({**options, "include_usage": True}))
        return _ENCODER.encode(fields)


_ENCODER: Final = msgspec.json.Encoder()
_HEADS: Final = msgspec.json.Decoder(Head)
_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_body(raw: bytes, *, max_depth: int) -> ChatBody:
    """Check a body.

    Raises:
        MalformedBody: no JSON object in UTF-8.
        TooDeep: nested too deeply.
        InvalidInput: a field is missing, given twice, or has the wrong type or range; names it.
    """
    head, fields = check_json(raw, _HEADS, max_depth=max_depth)
    return ChatBody(raw, head, fields)


def check_json(raw: bytes, heads: msgspec.json.Decoder[H], *, max_depth: int) -> tuple[H, dict[str, msgspec.Raw]]:
    """What a decoder reads of a JSON object, and its fields, each as the client wrote it.

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
    if raw.count(b"[") + raw.count(b"{") > max_depth and _deeper(raw, max_depth):
        raise TooDeep(f"The body is nested deeper than {max_depth}.", hint="Flatten it.")
    try:
        fields = _FIELDS.decode(raw)
        head = heads.decode(raw)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except (msgspec.DecodeError, RecursionError) as error:
        if mended(raw) is not None:
            raise MalformedBody(
                "The body holds half of a surrogate pair, or is no valid JSON.",
                hint="Cut text between characters, not within one.",
            ) from None
        raise MalformedBody(f"The body is no valid JSON: {error}.", hint="Send one JSON object.") from None
    if not _plain_size(raw, fields):
        _refuse_twins(raw)
    return head, fields


def check_parts(raw: bytes, limit: int) -> None:
    """Refuse a body of very many small parts, which costs everybody on its way far more than its bytes do.

    Raises:
        TooManyParts: it holds more JSON objects than allowed.
    """
    if raw.count(b"{") > limit and _STRING.sub(b"", raw).count(b"{") > limit:
        raise TooManyParts(
            f"The body holds more than {limit} JSON objects.", hint="Send fewer messages or parts, or join them."
        )


def _deeper(raw: bytes, limit: int) -> bool:
    """Whether brackets outside of strings nest deeper than the limit: inner pairs are taken away layer by layer."""
    brackets = _STRING.sub(b"", raw).translate(_ONE_KIND, _NO_BRACKETS)
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


def _invalid(message: str) -> InvalidInput:
    """What a decoder found wrong, with the field's name."""
    found = _AT.search(message)
    field = found[1] if found else None
    what = message[: found.start()] if found else message
    if field is None and "missing required field" in what:
        field = what.rpartition(" `")[2].rstrip("`")
    return InvalidInput(
        f"{'The field ' + repr(field) if field else 'The body'} cannot be used: {what}.",
        hint="See https://platform.openai.com/docs/api-reference/chat/create for the fields and their types.",
        field=field or None,
    )

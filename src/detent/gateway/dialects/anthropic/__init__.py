"""Anthropic's messages dialect."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from detent.gateway.dialects.anthropic.answers import read_answer, write_answer
from detent.gateway.dialects.anthropic.blocks import NAME
from detent.gateway.dialects.anthropic.requests import VERSION, read_request, write_request
from detent.gateway.dialects.anthropic.streams import EventReader, EventWriter
from detent.gateway.dialects.objects import read_object, replaced, whole
from detent.gateway.dialects.port import Asked, ClientDialect, Outgoing, ProviderDialect
from detent.gateway.dialects.quirks import Quirks
from detent.gateway.sse import given
from detent.kernel.chat import ChatAnswer, ChatRequest
from detent.kernel.errors import DetentError, InvalidInput

__all__ = ["CLIENT", "NAME", "PROVIDER", "VERSION", "AnthropicAsked", "read_count", "write_count"]

_REFERENCE: Final = "https://platform.claude.com/docs/en/api/messages"
_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Message(msgspec.Struct):
    role: str
    content: str | list[msgspec.Raw]


class _Metadata(msgspec.Struct):
    user_id: str | None = None


class _Head(msgspec.Struct):
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    max_tokens: _Count | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: _Count | None = None
    metadata: _Metadata | None = None


_HEADS: Final = msgspec.json.Decoder(_Head)


class AnthropicAsked:
    """A request for a message, or for a count of its tokens."""

    __slots__ = ("_fields", "_head", "_raw")

    def __init__(self, raw: bytes, head: _Head, fields: dict[str, msgspec.Raw]) -> None:
        self._raw = raw
        self._head = head
        self._fields = fields

    @property
    def model(self) -> str:
        """The route's name."""
        return self._head.model

    @property
    def stream(self) -> bool:
        """Whether a streamed answer is wanted."""
        return bool(self._head.stream)

    @property
    def user(self) -> str:
        """The client's own name for its user."""
        return (self._head.metadata.user_id or "") if self._head.metadata is not None else ""

    @property
    def max_tokens(self) -> int | None:
        """The most output tokens."""
        return self._head.max_tokens

    @property
    def answers(self) -> int:
        """How many answers are asked for."""
        return 1

    @property
    def parameters(self) -> dict[str, Any]:
        """`gen_ai.request.*` attributes."""
        found: dict[str, Any] = {}
        for name in ("temperature", "top_p", "top_k", "max_tokens"):
            if (value := getattr(self._head, name)) is not None:
                found[f"gen_ai.request.{name}"] = value
        return found

    @property
    def messages(self) -> bytes:
        """The messages as the client wrote them, the system prompt first."""
        messages = bytes(self._fields["messages"])
        system = self._fields.get("system")
        if system is None or not given(system):
            return messages
        return b'[{"role":"system","content":%b},%b' % (bytes(system), messages[1:])

    def for_model(self, name: str, name_json: bytes) -> bytes:
        """The client's own bytes with another model's name."""
        return self._raw if name == self._head.model else replaced(self._fields, model=name_json)

    def neutral(self) -> ChatRequest:
        """The whole request, read.

        Raises:
            InvalidInput: a field has the wrong form; names it.
        """
        return read_request(whole(self._raw))


def _read(raw: bytes, max_depth: int) -> AnthropicAsked:
    head, fields = read_object(raw, _HEADS, max_depth=max_depth, reference=_REFERENCE)
    return AnthropicAsked(raw, head, fields)


def read_count(raw: bytes, *, max_depth: int) -> AnthropicAsked:
    """A request to count tokens (`/v1/messages/count_tokens`): as for a message, without its limit.

    Raises:
        InvalidInput: it cannot be used; names the field.
    """
    return _read(raw, max_depth)


def write_count(tokens: int) -> bytes:
    """The answer to a request to count tokens."""
    return b'{"input_tokens":%d}' % tokens


_TYPES: Final = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_body(error: DetentError) -> bytes:
    """An error as Anthropic writes one, with our code and hint beside it."""
    kind = _TYPES.get(error.status) or ("invalid_request_error" if error.status < 500 else "api_error")
    details: dict[str, Any] = {"error_code": error.code}
    if error.hint:
        details["hint"] = error.hint
    if error.field is not None:
        details["field"] = error.field
    return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": error.message, "details": details}})


class _Client:
    name = NAME

    def read(self, raw: bytes, *, max_depth: int) -> AnthropicAsked:
        """Check a body."""
        asked = _read(raw, max_depth)
        if asked.max_tokens is None:
            raise InvalidInput(
                "The field 'max_tokens' is missing.",
                hint=f"See {_REFERENCE} for the fields and their types.",
                field="max_tokens",
            )
        return asked

    def write_answer(self, asked: Asked, answer: ChatAnswer) -> bytes:  # noqa: ARG002
        """A whole answer."""
        return write_answer(answer)

    def stream_writer(self, asked: Asked) -> EventWriter:
        """A writer for one streamed answer."""
        return EventWriter(model=asked.model)

    def error_body(self, error: DetentError) -> bytes:
        """An error as Anthropic writes one."""
        return error_body(error)

    def error_event(self, error: DetentError) -> bytes:
        """An error within a stream."""
        return b"event: error\ndata: " + error_body(error) + b"\n\n"


class _Provider:
    name = NAME

    def write_request(self, request: ChatRequest, *, model: str, quirks: Quirks) -> Outgoing:
        """A request for one of the provider's models."""
        return write_request(request, model=model, quirks=quirks)

    def read_answer(self, raw: bytes) -> ChatAnswer:
        """A whole answer."""
        return read_answer(raw)

    def stream_reader(self) -> EventReader:
        """A reader for one streamed answer."""
        return EventReader()


CLIENT: Final[ClientDialect] = _Client()
PROVIDER: Final[ProviderDialect] = _Provider()

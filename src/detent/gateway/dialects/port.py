"""What a dialect is: reading and writing chats on the wire, on the client's side and on the provider's.

When both sides speak the same dialect the bytes are passed on and only watched (`StreamReader.feed` gives them back
event by event); otherwise a request is read into the neutral type and written again, and so is the answer. All of it is
pure: no clock, no I/O. What a reader cannot understand it refuses; what a writer cannot express it names in
`Outgoing.dropped`, so that nothing is lost silently.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from detent.gateway.dialects.quirks import Quirks
from detent.kernel.chat import ChatAnswer, ChatEvent, ChatRequest, Usage
from detent.kernel.errors import DetentError


class Asked(Protocol):
    """A client's request, checked as far as the gateway must know it."""

    @property
    def model(self) -> str:
        """The route's name as the client wrote it."""
        ...

    @property
    def stream(self) -> bool:
        """Whether a streamed answer is wanted."""
        ...

    @property
    def user(self) -> str:
        """The client's own name for its user; empty when it gave none."""
        ...

    @property
    def max_tokens(self) -> int | None:
        """The most output tokens that it asked for."""
        ...

    @property
    def answers(self) -> int:
        """How many answers it asks for (`n`)."""
        ...

    @property
    def parameters(self) -> dict[str, Any]:
        """`gen_ai.request.*` attributes of the span, by their full names."""
        ...

    @property
    def messages(self) -> bytes:
        """What the span keeps as input: a JSON list of messages, system prompts included."""
        ...

    def for_model(self, name: str, name_json: bytes) -> bytes:
        """The client's own bytes for a provider of the same dialect, with another model's name in them."""
        ...

    def neutral(self) -> ChatRequest:
        """The whole request, read into the neutral type.

        Raises:
            InvalidInput: a field has the wrong form; names it.
        """
        ...


class StreamWriter(Protocol):
    """Writes one streamed answer for a client."""

    def write(self, events: Sequence[ChatEvent]) -> bytes:
        """These events in the client's dialect; perhaps nothing yet."""
        ...

    def finish(self, usage: Usage) -> bytes:
        """What ends a stream in good order. Never called on one that broke off."""
        ...


class ClientDialect(Protocol):
    """A dialect that clients may speak."""

    name: str

    def read(self, raw: bytes, *, max_depth: int) -> Asked:
        """Check a body.

        Raises:
            InvalidInput: it cannot be used; names the field.
        """
        ...

    def write_answer(self, asked: Asked, answer: ChatAnswer) -> bytes:
        """A whole answer."""
        ...

    def stream_writer(self, asked: Asked) -> StreamWriter:
        """A writer for one streamed answer."""
        ...

    def error_body(self, error: DetentError) -> bytes:
        """An error as this dialect's clients expect one."""
        ...

    def error_event(self, error: DetentError) -> bytes:
        """An error within a stream that began well; nothing follows it."""
        ...


class Outgoing(msgspec.Struct, frozen=True):
    """A request as a provider wants it.

    Attributes:
        path: behind the provider's base path, query included.
        body: JSON.
        headers: those that this request needs beside the provider's credential and content type.
        dropped: fields of the request that this dialect has no word for, by the neutral type's names.
    """

    path: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    dropped: tuple[str, ...] = ()


class StreamReader(Protocol):
    """Reads one streamed answer of a provider."""

    @property
    def done(self) -> bool:
        """Whether the stream said that it is finished."""
        ...

    @property
    def failure(self) -> DetentError | None:
        """What is wrong with the stream; the events before the fault have been given."""
        ...

    def feed(self, data: bytes) -> tuple[bytes, list[ChatEvent]]:
        """Take what was read, in any chunks: the whole events in it as the provider wrote them, and what they say."""
        ...


class ProviderDialect(Protocol):
    """A dialect that providers may speak."""

    name: str

    def write_request(self, request: ChatRequest, *, model: str, quirks: Quirks) -> Outgoing:
        """A request for one of the provider's models.

        Raises:
            InvalidInput: it holds what this dialect cannot say and what may not be dropped.
        """
        ...

    def read_answer(self, raw: bytes) -> ChatAnswer:
        """A whole answer.

        Raises:
            UpstreamError: it is an error in spite of its status.
            BadAnswer: it is no answer.
        """
        ...

    def stream_reader(self) -> StreamReader:
        """A reader for one streamed answer."""
        ...

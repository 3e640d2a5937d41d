"""How a request travels to a deployment and its answer back: passed on as it is, or translated.

A carrier is made for one request and one deployment. It hides from the call what the two sides speak.
"""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from detent.gateway.answer import Said, read_answer
from detent.gateway.dialects import CLIENTS, PROVIDERS
from detent.gateway.dialects.openai import OpenAiAsked
from detent.gateway.dialects.openai.answers import recorded
from detent.gateway.dialects.port import Asked, ClientDialect
from detent.gateway.dialects.quirks import OPENAI, fitted
from detent.gateway.errors import BadAnswer, openai_event
from detent.gateway.operations import Operation
from detent.gateway.proxied import Proxied, ProxyBody
from detent.gateway.sse import ChatStream
from detent.gateway.watched import WatchedStream
from detent.gateway.world import Deployment
from detent.kernel.chat import ChatAnswer, Usage
from detent.kernel.errors import DetentError
from detent.kernel.ids import new_trace_id

Headers = tuple[tuple[str, str], ...]
_STREAMS: Final = (b"text/event-stream", b"application/vnd.amazon.eventstream")
_CLOSINGS: Final = {"anthropic": b'event: message_stop\ndata: {"type":"message_stop"}\n\n'}


class Stream(Protocol):
    """A streamed answer on its way: what came of it so far, and what the client gets to see."""

    opened: bool
    begun: bool
    done: bool
    failure: DetentError | None
    finish_reason: str
    id: str
    model: str
    usage: Usage | None
    characters: int

    def feed(self, data: bytes) -> bytes:
        """Take what was read; give what the client gets, perhaps nothing."""
        ...

    def closing(self) -> bytes:
        """What ends the answer for the client when the provider finished it but did not say so."""
        ...

    def output(self) -> bytes:
        """The answer so far as JSON: a message, or a list of them when there are several choices."""
        ...


class Carrier(Protocol):
    """One request on its way to one deployment.

    Attributes:
        dropped: fields of the request that the deployment's dialect has no word for; known once it was written.
        same: whether the provider speaks the client's dialect, so that its words may go to the client as they are.
        hold: whether a stream is asked for, so that the first-token time-out runs until its first real output.
    """

    dropped: tuple[str, ...]
    same: bool
    hold: bool

    def request(self, traceparent: str) -> bytes:
        """The whole HTTP request.

        Raises:
            InvalidInput: the deployment's dialect cannot say what is asked.
        """
        ...

    def streams(self, headers: dict[bytes, bytes]) -> bool:
        """Whether an answer with this head is passed on as a stream.

        Raises:
            BadAnswer: a stream was asked for, and this is none.
        """
        ...

    def whole(self, data: bytes) -> Said:
        """Read an answer in one piece.

        Raises:
            UpstreamError: it is an error in spite of its status.
            BadAnswer: it is no answer.
        """
        ...

    def stream(self, keep: int) -> Stream:
        """Read a streamed answer, and remember so many characters of it."""
        ...

    def error_event(self, error: DetentError) -> bytes | None:
        """An error within a stream that began well; None when it can only be told by cutting the connection."""
        ...


class Passed:
    """OpenAI's chat completions to a provider that speaks them: the client's own bytes there, the provider's back."""

    __slots__ = ("_asked", "_deployment", "hold")

    dropped: tuple[str, ...] = ()
    same = True

    def __init__(self, asked: OpenAiAsked, deployment: Deployment) -> None:
        self._asked = asked
        self._deployment = deployment
        self.hold = asked.stream

    def request(self, traceparent: str) -> bytes:
        """The client's bytes, with the deployment's own name of the model and its flavour's names of fields."""
        deployment = self._deployment
        body = self._asked.body.for_model(deployment.model, deployment.model_json)
        quirks = deployment.quirks
        if quirks is not OPENAI:
            body = fitted(body, quirks)
        return deployment.request(deployment.chat_path, body, traceparent=traceparent, stream=self.hold)

    def streams(self, headers: dict[bytes, bytes]) -> bool:
        """As asked for."""
        return self.hold and _is_stream(headers)

    def whole(self, data: bytes) -> Said:
        """The provider's bytes, looked into."""
        return read_answer(data)

    def stream(self, keep: int) -> ChatStream:
        """The provider's events, looked into."""
        return ChatStream(hide_usage=self._asked.body.hide_usage, keep=keep)

    def error_event(self, error: DetentError) -> bytes:
        """As OpenAI writes one."""
        return openai_event(error)


class Kept:
    """Another dialect that both sides speak: the client's own bytes there, the provider's back."""

    __slots__ = ("_asked", "_client", "_deployment", "_headers", "_path", "hold")

    dropped: tuple[str, ...] = ()
    same = True

    def __init__(
        self, client: ClientDialect, path: str, asked: Asked, deployment: Deployment, headers: Headers
    ) -> None:
        self._client = client
        self._path = path
        self._asked = asked
        self._deployment = deployment
        self._headers = headers
        self.hold = asked.stream

    def request(self, traceparent: str) -> bytes:
        """The client's bytes, with the deployment's own name of the model."""
        deployment = self._deployment
        return deployment.request(
            self._path,
            self._asked.for_model(deployment.model, deployment.model_json),
            traceparent=traceparent,
            stream=self.hold,
            headers=self._headers,
        )

    def streams(self, headers: dict[bytes, bytes]) -> bool:
        """As asked for."""
        return self.hold and _is_stream(headers)

    def whole(self, data: bytes) -> Said:
        """The provider's bytes, looked into."""
        return _said(PROVIDERS[self._client.name].read_answer(data), data)

    def stream(self, keep: int) -> WatchedStream:
        """The provider's events, looked into."""
        name = self._client.name
        return WatchedStream(PROVIDERS[name].stream_reader(), None, keep=keep, closing=_CLOSINGS.get(name, b""))

    def error_event(self, error: DetentError) -> bytes:
        """In the client's dialect."""
        return self._client.error_event(error)


class Counted(Kept):
    """A count of a request's tokens by a provider that can count them."""

    __slots__ = ()

    def whole(self, data: bytes) -> Said:
        """The provider's count, as it is."""
        return Said(data, "", "", b"", 0, "", Usage())


class Translated:
    """A client and a provider that speak different dialects."""

    __slots__ = ("_asked", "_client", "_deployment", "_stream", "dropped", "hold")

    same = False

    def __init__(self, client: ClientDialect, asked: Asked, deployment: Deployment) -> None:
        self._client = client
        self._asked = asked
        self._deployment = deployment
        self.dropped: tuple[str, ...] = ()
        self.hold = asked.stream
        self._stream: WatchedStream | None = None

    def request(self, traceparent: str) -> bytes:
        """The request in the provider's dialect."""
        deployment = self._deployment
        written = PROVIDERS[deployment.dialect].write_request(
            self._asked.neutral(), model=deployment.model, quirks=deployment.quirks
        )
        self.dropped = written.dropped
        return deployment.request(
            written.path, written.body, traceparent=traceparent, stream=self.hold, headers=written.headers
        )

    def streams(self, headers: dict[bytes, bytes]) -> bool:
        """As asked for."""
        return self.hold and _is_stream(headers)

    def whole(self, data: bytes) -> Said:
        """The answer in the client's dialect."""
        answer = PROVIDERS[self._deployment.dialect].read_answer(data)
        if not (answer.id and answer.created):
            name, created = self._born()
            answer = msgspec.structs.replace(answer, id=answer.id or name, created=answer.created or created)
        return _said(answer, self._client.write_answer(self._asked, answer))

    def stream(self, keep: int) -> WatchedStream:
        """The events in the client's dialect."""
        reader = PROVIDERS[self._deployment.dialect].stream_reader()
        found = self._stream = WatchedStream(
            reader, self._client.stream_writer(self._asked), keep=keep, born=self._born()
        )
        return found

    def _born(self) -> tuple[str, int]:
        """Id and time of an answer whose provider says neither."""
        prefix = "msg_" if self._client.name == "anthropic" else "chatcmpl-"
        return prefix + new_trace_id(), self._deployment.now()

    def error_event(self, error: DetentError) -> bytes:
        """In the client's dialect."""
        told = self._stream.fail(error) if self._stream is not None else None
        return told or self._client.error_event(error)


def carrier(operation: Operation, asked: Asked, deployment: Deployment, headers: Headers = ()) -> Carrier:
    """The way from a request to a deployment.

    Args:
        headers: the client's own that go along when both sides speak the same dialect.
    """
    if isinstance(asked, ProxyBody):
        return Proxied(operation, asked, deployment)
    if isinstance(asked, OpenAiAsked) and deployment.dialect == "openai":
        return Passed(asked, deployment)
    client = CLIENTS[operation.dialect]
    if operation.dialect == deployment.dialect or (operation.dialect == "responses" and deployment.has_responses):
        kept = Counted if operation.kind == "count" else Kept
        return kept(client, operation.path, asked, deployment, headers)
    return Translated(client, asked, deployment)


def _said(answer: ChatAnswer, data: bytes) -> Said:
    message = recorded(answer)
    return Said(data, answer.id, answer.model, message, len(message), answer.finish_reason, answer.usage)


def _is_stream(headers: dict[bytes, bytes]) -> bool:
    if not headers.get(b"content-type", b"text/event-stream").lower().startswith(_STREAMS):
        raise BadAnswer("The provider answered a streamed call without a stream.")
    return True

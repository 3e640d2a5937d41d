"""How a request travels to a deployment and its answer back: passed on as it is, or translated.

A carrier is made for one request and one deployment. It hides from the call what the two sides speak.
"""

from __future__ import annotations

from typing import Protocol

from detent.gateway.answer import Said, read_answer
from detent.gateway.body import ChatBody
from detent.gateway.errors import BadAnswer, openai_event
from detent.gateway.operations import Operation
from detent.gateway.proxied import Proxied, ProxyBody
from detent.gateway.sse import ChatStream
from detent.gateway.world import Deployment
from detent.kernel.chat import Usage
from detent.kernel.errors import WorldError


class Stream(Protocol):
    """A streamed answer on its way: what came of it so far, and what the client gets to see."""

    opened: bool
    begun: bool
    done: bool
    failure: WorldError | None
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


Question = ChatBody | ProxyBody
"""A client's request, checked."""


class Carrier(Protocol):
    """One request on its way to one deployment.

    Attributes:
        dropped: fields of the request that the deployment's dialect has no word for.
        same: whether the provider speaks the client's dialect, so that its words may go to the client as they are.
        hold: whether a stream is asked for, so that the first-token time-out runs until its first real output.
    """

    dropped: tuple[str, ...]
    same: bool
    hold: bool

    def request(self, traceparent: str) -> bytes:
        """The whole HTTP request."""
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

    def error_event(self, error: WorldError) -> bytes | None:
        """An error within a stream that began well; None when it can only be told by cutting the connection."""
        ...


class Passed:
    """OpenAI's chat completions to a provider that speaks them: the client's own bytes there, the provider's back."""

    __slots__ = ("_body", "_deployment", "hold")

    dropped: tuple[str, ...] = ()
    same = True

    def __init__(self, body: ChatBody, deployment: Deployment) -> None:
        self._body = body
        self._deployment = deployment
        self.hold = body.stream

    def request(self, traceparent: str) -> bytes:
        """The client's bytes, with the deployment's own name of the model."""
        deployment = self._deployment
        return deployment.request(
            "/chat/completions",
            self._body.for_model(deployment.model, deployment.model_json),
            traceparent=traceparent,
            stream=self.hold,
        )

    def streams(self, headers: dict[bytes, bytes]) -> bool:
        """As asked for."""
        if not self.hold:
            return False
        if not headers.get(b"content-type", b"text/event-stream").lower().startswith(b"text/event-stream"):
            raise BadAnswer("The provider answered a streamed call without a stream.")
        return True

    def whole(self, data: bytes) -> Said:
        """The provider's bytes, looked into."""
        return read_answer(data)

    def stream(self, keep: int) -> ChatStream:
        """The provider's events, looked into."""
        return ChatStream(hide_usage=self._body.hide_usage, keep=keep)

    def error_event(self, error: WorldError) -> bytes:
        """As OpenAI writes one."""
        return openai_event(error)


def carrier(operation: Operation, asked: Question, deployment: Deployment) -> Carrier:
    """The way from a request to a deployment."""
    if isinstance(asked, ProxyBody):
        return Proxied(operation, asked, deployment)
    return Passed(asked, deployment)

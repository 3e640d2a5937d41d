"""OpenAI's chat completions dialect, and everybody's who copies it."""

from __future__ import annotations

from typing import Any, Final

from detent.gateway.body import ChatBody, read_body
from detent.gateway.dialects.objects import whole
from detent.gateway.dialects.openai.answers import read_answer, write_answer
from detent.gateway.dialects.openai.requests import NAME, read_request, write_request
from detent.gateway.dialects.openai.streams import ChunkReader, ChunkWriter
from detent.gateway.dialects.port import Asked, ClientDialect, Outgoing, ProviderDialect
from detent.gateway.dialects.quirks import Quirks
from detent.gateway.errors import openai_body, openai_event
from detent.kernel.chat import ChatAnswer, ChatRequest
from detent.kernel.errors import DetentError

__all__ = ["CLIENT", "NAME", "PROVIDER", "OpenAiAsked"]


class OpenAiAsked:
    """A request for a chat completion.

    Attributes:
        body: as the pass-through knows it.
    """

    __slots__ = ("_raw", "body")

    def __init__(self, body: ChatBody, raw: bytes) -> None:
        self.body = body
        self._raw = raw

    @property
    def legacy(self) -> bool:
        """Whether the client knows functions only, as they were before tools."""
        return b'"functions"' in self._raw and b'"tools"' not in self._raw

    @property
    def model(self) -> str:
        """The route's name."""
        return self.body.head.model

    @property
    def stream(self) -> bool:
        """Whether a streamed answer is wanted."""
        return bool(self.body.head.stream)

    @property
    def user(self) -> str:
        """The client's own name for its user."""
        return self.body.head.user or ""

    @property
    def max_tokens(self) -> int | None:
        """The most output tokens."""
        return self.body.head.max_completion_tokens or self.body.head.max_tokens

    @property
    def answers(self) -> int:
        """How many answers are asked for."""
        return self.body.head.n or 1

    @property
    def parameters(self) -> dict[str, Any]:
        """`gen_ai.request.*` attributes."""
        head = self.body.head
        found: dict[str, Any] = {}
        if head.temperature is not None:
            found["gen_ai.request.temperature"] = head.temperature
        if head.top_p is not None:
            found["gen_ai.request.top_p"] = head.top_p
        if self.max_tokens is not None:
            found["gen_ai.request.max_tokens"] = self.max_tokens
        if head.n is not None:
            found["gen_ai.request.choice.count"] = head.n
        return found

    @property
    def messages(self) -> bytes:
        """The messages as the client wrote them."""
        return self.body.messages

    def for_model(self, name: str, name_json: bytes) -> bytes:
        """The client's own bytes with another model's name."""
        return self.body.for_model(name, name_json)

    def neutral(self) -> ChatRequest:
        """The whole request, read.

        Raises:
            InvalidInput: a field has the wrong form; names it.
        """
        return read_request(whole(self._raw))


class _Client:
    name = NAME

    def read(self, raw: bytes, *, max_depth: int) -> OpenAiAsked:
        """Check a body."""
        return OpenAiAsked(read_body(raw, max_depth=max_depth), raw)

    def write_answer(self, asked: Asked, answer: ChatAnswer) -> bytes:
        """A whole answer."""
        return write_answer(answer, legacy=isinstance(asked, OpenAiAsked) and asked.legacy)

    def stream_writer(self, asked: Asked) -> ChunkWriter:
        """A writer for one streamed answer."""
        if isinstance(asked, OpenAiAsked):
            return ChunkWriter(model=asked.model, usage=not asked.body.hide_usage, legacy=asked.legacy)
        return ChunkWriter(model=asked.model, usage=False, legacy=False)

    def error_body(self, error: DetentError) -> bytes:
        """An error as OpenAI writes one."""
        return openai_body(error)

    def error_event(self, error: DetentError) -> bytes:
        """An error within a stream."""
        return openai_event(error)


class _Provider:
    name = NAME

    def write_request(self, request: ChatRequest, *, model: str, quirks: Quirks) -> Outgoing:
        """A request for one of the provider's models."""
        return write_request(request, model=model, quirks=quirks)

    def read_answer(self, raw: bytes) -> ChatAnswer:
        """A whole answer."""
        return read_answer(raw)

    def stream_reader(self) -> ChunkReader:
        """A reader for one streamed answer."""
        return ChunkReader()


CLIENT: Final[ClientDialect] = _Client()
PROVIDER: Final[ProviderDialect] = _Provider()

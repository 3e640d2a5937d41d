"""A streamed answer on its way to the client: passed on as it is, or translated, and watched either way."""

from __future__ import annotations

from msgspec.structs import replace

from detent.gateway.dialects.folding import fold
from detent.gateway.dialects.openai.answers import recorded
from detent.gateway.dialects.port import StreamReader, StreamWriter
from detent.gateway.dialects.responses import ResponsesWriter
from detent.kernel.chat import (
    AnswerStarted,
    ChatEvent,
    ChoiceFinished,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
    UsageReported,
)
from detent.kernel.errors import DetentError


class WatchedStream:
    """A stream between a provider's reader and, where it is translated, a client's writer.

    Attributes:
        begun: whether real output has come.
        opened: whether the answer has begun, be it without output.
        done: whether the stream said that it is finished.
        failure: what is wrong with it; what came before the fault has been given.
        characters: length of all output seen.
    """

    __slots__ = (
        "_born",
        "_closing",
        "_events",
        "_keep",
        "_reader",
        "_writer",
        "begun",
        "characters",
        "done",
        "failure",
        "finish_reason",
        "id",
        "model",
        "opened",
        "usage",
    )

    def __init__(
        self,
        reader: StreamReader,
        writer: StreamWriter | None,
        *,
        keep: int,
        closing: bytes = b"",
        born: tuple[str, int] = ("", 0),
    ) -> None:
        """Watch a stream.

        Args:
            writer: None passes the provider's own events on.
            keep: characters of the answer to remember.
            closing: what ends an answer that is passed on and whose provider forgot to.
            born: id and time of a translated answer whose provider says neither.
        """
        self._born = born
        self._reader = reader
        self._writer = writer
        self._keep = keep
        self._closing = closing
        self._events: list[ChatEvent] = []
        self.begun = False
        self.opened = False
        self.done = False
        self.failure: DetentError | None = None
        self.finish_reason = ""
        self.id = ""
        self.model = ""
        self.usage: Usage | None = None
        self.characters = 0

    def feed(self, data: bytes) -> bytes:
        """Take what was read; give what the client gets, perhaps nothing."""
        if self.done or self.failure is not None:
            return b""
        reader = self._reader
        raw, events = reader.feed(data)
        for place, event in enumerate(events):
            if isinstance(event, AnswerStarted) and not (event.id and event.created):
                name, created = self._born
                events[place] = event = AnswerStarted(  # noqa: PLW2901  (the one that is written is the one seen)
                    event.id or name, event.model, event.created or created, event.usage
                )
            self._take(event)
        self.done = reader.done
        self.failure = reader.failure
        if self._writer is None:
            return raw
        written = self._writer.write(events)
        return written + self._writer.finish(self.usage or Usage()) if self.done else written

    @property
    def response(self) -> bytes:
        """The finished response object of the Responses API, for the store; empty before the end, and elsewhere."""
        found: bytes = getattr(self._writer if self._writer is not None else self._reader, "response", b"")
        return found

    def fail(self, error: DetentError) -> bytes | None:
        """What tells the client of an error in a stream that must be told by what came before; None elsewhere."""
        writer = self._writer
        return writer.fail(error) if isinstance(writer, ResponsesWriter) else None

    def closing(self) -> bytes:
        """What ends the answer when its provider finished it but did not say so."""
        return self._closing if self._writer is None else self._writer.finish(self.usage or Usage())

    def output(self) -> bytes:
        """The answer as far as it has come, as JSON: a message, or a list of them when there are several choices."""
        return recorded(fold(self._events))

    def _take(self, event: ChatEvent) -> None:
        size = 0
        match event:
            case TextDelta(text=text) | RefusalDelta(text=text) | ReasoningDelta(text=text):
                size = len(text)
                self.begun = self.begun or bool(text)
            case ToolCallStarted(name=name):
                size = len(name)
                self.begun = True
            case ToolCallDelta(arguments=arguments):
                size = len(arguments)
            case ChoiceFinished(finish_reason=reason):
                self.begun = True
                self.finish_reason = self.finish_reason or reason
                self.usage = _so_far(self.usage)  # what was told before the end is not the whole of it
            case UsageReported(usage=usage):
                self.usage = usage
                return
            case AnswerStarted(id=name, model=model, usage=known):
                self.opened = True
                self.id, self.model = self.id or name, self.model or model
                self.usage = _so_far(known) or self.usage
                return
        self.characters += size
        if self.characters <= self._keep:
            self._events.append(event)


def _so_far(usage: Usage | None) -> Usage | None:
    """Figures of an answer that goes on: those of the prompt hold, those of the output do not yet."""
    return None if usage is None else replace(usage, output_tokens=0, reasoning_tokens=0, audio_output_tokens=0)

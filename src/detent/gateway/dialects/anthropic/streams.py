"""Streamed answers of Anthropic's messages dialect, read and written.

Source: https://platform.claude.com/docs/en/build-with-claude/streaming
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from detent.gateway.dialects.anthropic.answers import (
    UsageFields,
    provider_error,
    read_reason,
    read_usage,
    write_reason,
    write_usage,
)
from detent.gateway.dialects.anthropic.requests import JSON_TOOL
from detent.gateway.dialects.fields import encoded
from detent.gateway.dialects.framing import MAX_EVENT, Framing
from detent.gateway.errors import BadAnswer
from detent.gateway.sse import given
from detent.gateway.surrogates import mended
from detent.kernel.chat import (
    AnswerStarted,
    ChatEvent,
    ChoiceFinished,
    FinishReason,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
    UsageReported,
)
from detent.kernel.errors import WorldError

_ABSENT: Final = msgspec.Raw()
_EMPTY: Final = msgspec.Raw(b"{}")


class _Delta(msgspec.Struct):
    type: str = ""
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _Block(msgspec.Struct):
    type: str = ""
    id: str | None = None
    name: str | None = None
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    input: msgspec.Raw = _ABSENT


class _Message(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    usage: UsageFields | None = None


class _Event(msgspec.Struct):
    type: str = ""
    index: int = 0
    delta: _Delta | None = None
    content_block: _Block | None = None
    message: _Message | None = None
    usage: UsageFields | None = None
    error: msgspec.Raw = _ABSENT


_EVENTS: Final = msgspec.json.Decoder(_Event)
_COUNTS: Final = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "output_tokens_details",
)


class EventReader:
    """Reads one streamed answer."""

    __slots__ = ("_answered", "_called", "_counted", "_empty", "_framing", "_kinds", "done", "failure")

    def __init__(self) -> None:
        self.done = False
        self.failure: WorldError | None = None
        self._framing = Framing()
        self._counted = UsageFields()
        self._kinds: dict[int, str] = {}
        self._empty: set[int] = set()  # tool calls without arguments so far
        self._called = False
        self._answered = False  # in JSON, by the tool that stands for it

    def feed(self, data: bytes) -> tuple[bytes, list[ChatEvent]]:
        """Take what was read: the whole events in it as the provider wrote them, and what they say."""
        if self._over():
            return b"", []
        kept: list[bytes] = []
        events: list[ChatEvent] = []
        for raw, name, text in self._framing.feed(data):
            if text and not self._read(name, text, events):
                return b"".join(kept), events
            kept.append(raw)
            if self._over():
                break
        if self._framing.too_large and not self._over():
            self.failure = BadAnswer(f"An event of the provider's stream is larger than {MAX_EVENT} bytes.")
        return b"".join(kept), events

    def _over(self) -> bool:
        return self.done or self.failure is not None

    def _read(self, name: bytes, data: bytes, events: list[ChatEvent]) -> bool:
        event = _event_of(data)
        if event is None and (whole := mended(data)) is not None:
            event = _event_of(whole)
        if event is None:
            self.failure = BadAnswer("The provider's stream holds an event that is no JSON.")
            return False
        kind = event.type
        if kind == "content_block_delta":
            if event.delta is not None:
                self._delta(event.index, event.delta, events)
        elif kind == "content_block_start":
            if event.content_block is not None:
                self._start(event.index, event.content_block, events)
        elif kind == "content_block_stop":
            if event.index in self._empty:
                self._empty.discard(event.index)
                events.append(ToolCallDelta("{}", event.index))
        elif kind == "message_delta":
            self._end(event, events)
        elif kind == "message_start":
            message = event.message or _Message()
            usage = self._count(message.usage)
            events.append(AnswerStarted(message.id or "", message.model or "", 0, usage))
        elif kind == "message_stop":
            self.done = True
        elif kind == "error" or name == b"error" or given(event.error):
            self.failure = provider_error(bytes(event.error) if given(event.error) else data)
            return False
        return True

    def _count(self, found: UsageFields | None) -> Usage | None:
        """Figures are cumulative; those that a later event leaves out stay."""
        if found is None:
            return None
        for field in _COUNTS:
            if (value := getattr(found, field)) is not None:
                setattr(self._counted, field, value)
        return read_usage(self._counted)

    def _start(self, index: int, block: _Block, events: list[ChatEvent]) -> None:
        kind = block.type
        if kind == "tool_use" and block.name == JSON_TOOL:
            kind = "json"
            self._answered = True
        self._kinds[index] = kind
        if kind == "text":
            if block.text:
                events.append(TextDelta(block.text, index))
        elif kind == "thinking":
            if block.thinking or block.signature:
                events.append(ReasoningDelta(block.thinking or "", block.signature or "", index=index))
        elif kind == "redacted_thinking":
            events.append(ReasoningDelta(redacted=block.data or "", index=index))
        elif kind == "tool_use":
            self._called = True
            events.append(ToolCallStarted(block.id or "", block.name or "", index))
            if given(block.input) and block.input != _EMPTY and bytes(block.input).strip(b"{} \t") != b"":
                events.append(ToolCallDelta(bytes(block.input).decode(), index))
            else:
                self._empty.add(index)
        elif kind == "json" and given(block.input) and block.input != _EMPTY:
            events.append(TextDelta(bytes(block.input).decode(), index))

    def _delta(self, index: int, delta: _Delta, events: list[ChatEvent]) -> None:
        if delta.text:
            events.append(TextDelta(delta.text, index))
        elif delta.partial_json:
            kind = self._kinds.get(index)
            if kind == "tool_use":
                self._empty.discard(index)
                events.append(ToolCallDelta(delta.partial_json, index))
            elif kind == "json":
                events.append(TextDelta(delta.partial_json, index))
        elif delta.thinking:
            events.append(ReasoningDelta(delta.thinking, index=index))
        elif delta.signature:
            events.append(ReasoningDelta(signature=delta.signature, index=index))

    def _end(self, event: _Event, events: list[ChatEvent]) -> None:
        delta = event.delta
        if delta is not None and delta.stop_reason:
            reason = read_reason(delta.stop_reason)
            if reason == "tool_calls" and self._answered and not self._called:
                reason = "stop"
            events.append(ChoiceFinished(reason, 0, delta.stop_sequence or ""))
        usage = self._count(event.usage)
        whole = event.usage is not None and event.usage.output_tokens is not None
        if usage is not None and whole and self._counted.input_tokens is not None:
            events.append(UsageReported(usage))


def _event_of(data: bytes) -> _Event | None:
    """One event's data; None when it is no JSON. What has types we do not know is read without them."""
    try:
        return _EVENTS.decode(data)
    except msgspec.ValidationError:
        return _odd(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _odd(data: bytes) -> _Event | None:
    try:
        value = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(value, dict):
        return _Event()
    known: dict[str, Any] = {}
    for field, kind in (
        ("type", str),
        ("index", int),
        ("delta", _Delta),
        ("content_block", _Block),
        ("message", _Message),
        ("usage", UsageFields),
    ):
        found = value.get(field)
        if isinstance(found, dict):
            known[field] = _lenient(found, kind)
        elif isinstance(found, kind) and not isinstance(found, bool):
            known[field] = found
    if value.get("error"):
        known["error"] = msgspec.Raw(encoded(value["error"]))
    return _Event(**known)


def _lenient(value: dict[str, Any], kind: Any) -> Any:
    """A struct of those fields that fit."""
    if kind in {str, int}:
        return kind()
    found = kind()
    for field in msgspec.structs.fields(kind):
        if field.name in value:
            try:
                setattr(found, field.name, msgspec.convert(value[field.name], field.type))
            except (msgspec.ValidationError, TypeError):
                continue
    return found


class EventWriter:
    """Writes one streamed answer for a client: one block after the other, never two at once.

    What a stream of another dialect interleaves (parallel tool calls) is held until the block before is complete.
    """

    __slots__ = (
        "_arguments",
        "_block",
        "_closed",
        "_kind",
        "_model",
        "_open",
        "_queue",
        "_reason",
        "_started",
        "_stop_sequence",
    )

    def __init__(self, *, model: str) -> None:
        self._model = model
        self._started = False
        self._open: int | None = None  # the part that the open block tells
        self._kind = ""
        self._block = -1
        self._arguments: list[str] = []
        self._closed: set[int] = set()
        self._queue: dict[int, list[ChatEvent]] = {}
        self._reason: FinishReason = "stop"
        self._stop_sequence = ""

    def write(self, events: Sequence[ChatEvent]) -> bytes:
        """These events of the first choice, as far as it is their turn."""
        out: list[bytes] = []
        for event in events:
            match event:
                case AnswerStarted():
                    self._start(event, out)
                case ChoiceFinished(reason, 0, stop_sequence):
                    self._reason, self._stop_sequence = reason, stop_sequence
                    self._flush(out)
                case ChoiceFinished() | UsageReported():
                    pass
                case _ if event.choice == 0:
                    if not self._started:
                        self._start(AnswerStarted(), out)
                    self._take(event, event.index, out)
        return b"".join(out)

    def finish(self, usage: Usage) -> bytes:
        """The reason and the usage, and the end."""
        out: list[bytes] = []
        if not self._started:
            self._start(AnswerStarted(), out)
        self._flush(out)
        delta = {
            "stop_reason": write_reason(self._reason, self._stop_sequence),
            "stop_sequence": self._stop_sequence or None,
        }
        out.append(_written({"type": "message_delta", "delta": delta, "usage": write_usage(usage)}))
        out.append(_written({"type": "message_stop"}))
        return b"".join(out)

    def _start(self, event: AnswerStarted, out: list[bytes]) -> None:
        if self._started:
            return
        self._started = True
        message: dict[str, Any] = {
            "id": event.id,
            "type": "message",
            "role": "assistant",
            "model": event.model or self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": write_usage(event.usage or Usage()),
        }
        out.append(_written({"type": "message_start", "message": message}))

    def _take(self, event: ChatEvent, index: int, out: list[bytes]) -> None:
        if index == self._open:
            self._tell(event, out)
        elif self._open is None:
            self._begin(event, index, out)
        else:
            self._queue.setdefault(index, []).append(event)
            if self._complete():
                self._next(out)

    def _complete(self) -> bool:
        """Whether the open block can be closed: always, unless it is a call whose arguments are not whole."""
        if self._kind != "tool_use":
            return True
        if not self._arguments or not self._arguments[-1].rstrip().endswith("}"):
            return False
        try:
            msgspec.json.decode("".join(self._arguments))
        except (msgspec.MsgspecError, RecursionError):
            return False
        return True

    def _next(self, out: list[bytes]) -> None:
        """Close the open block and tell what waits, up to a block that may still grow."""
        while self._queue:
            self._close(out)
            index = next(iter(self._queue))
            for event in self._queue.pop(index):
                if self._open is None:
                    self._begin(event, index, out)
                else:
                    self._tell(event, out)
            if not self._complete():
                break

    def _flush(self, out: list[bytes]) -> None:
        """Nothing grows any more: tell all that waits."""
        while self._queue:
            self._kind = ""
            self._next(out)
        self._close(out)

    def _close(self, out: list[bytes]) -> None:
        if self._open is not None:
            self._closed.add(self._open)
            self._open = None
            out.append(b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % self._block)

    def _begin(self, event: ChatEvent, index: int, out: list[bytes]) -> None:
        block: dict[str, Any]
        match event:
            case TextDelta() | RefusalDelta():
                block = {"type": "text", "text": ""}
            case ReasoningDelta():
                if index in self._closed and not event.text:
                    return  # its block has gone without the signature, and nothing can hold it now
                if event.redacted and not event.text:
                    block = {"type": "redacted_thinking", "data": event.redacted}
                else:
                    block = {"type": "thinking", "thinking": "", "signature": ""}
            case ToolCallStarted():
                block = {"type": "tool_use", "id": event.id, "name": event.name, "input": {}}
            case _:
                return
        self._open = index
        self._kind = block["type"]
        self._block += 1
        self._arguments = []
        out.append(_written({"type": "content_block_start", "index": self._block, "content_block": block}))
        self._tell(event, out)

    def _tell(self, event: ChatEvent, out: list[bytes]) -> None:
        match event:
            case TextDelta(text) | RefusalDelta(text):
                if text:
                    out.append(self._delta(b"text_delta", b"text", text))
            case ToolCallDelta(arguments):
                if arguments:
                    self._arguments.append(arguments)
                    out.append(self._delta(b"input_json_delta", b"partial_json", arguments))
            case ReasoningDelta() if self._kind == "thinking":
                if event.text:
                    out.append(self._delta(b"thinking_delta", b"thinking", event.text))
                if event.signature:
                    out.append(self._delta(b"signature_delta", b"signature", event.signature))

    def _delta(self, kind: bytes, field: bytes, text: str) -> bytes:
        return (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
            b'"delta":{"type":"%b","%b":%b}}\n\n' % (self._block, kind, field, encoded(text))
        )


def _written(event: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), encoded(event))

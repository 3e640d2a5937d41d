"""Streamed answers of the OpenAI chat completions dialect, read and written.

Source: https://platform.openai.com/docs/api-reference/chat/streaming
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from detent.gateway.dialects.fields import encoded
from detent.gateway.dialects.framing import MAX_EVENT, Framing
from detent.gateway.dialects.marks import GEMINI, own
from detent.gateway.dialects.openai.answers import read_reason, spare_id, write_reason, write_usage
from detent.gateway.dialects.openai.parts import google_signature, write_detail
from detent.gateway.errors import BadAnswer
from detent.gateway.sse import given, upstream_error
from detent.gateway.surrogates import mended
from detent.gateway.usage import read_usage
from detent.kernel.chat import (
    AnswerStarted,
    ChatEvent,
    ChoiceFinished,
    ReasoningDelta,
    ReasoningPart,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
    UsageReported,
)
from detent.kernel.errors import WorldError

_ABSENT: Final = msgspec.Raw()
_DONE: Final = b"data: [DONE]\n\n"


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None
    extra_content: msgspec.Raw = _ABSENT


class _Detail(msgspec.Struct):
    index: int | None = None
    text: str | None = None
    summary: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: list[_Detail] | None = None
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    created: int | None = None
    choices: list[_Choice] | None = None
    usage: msgspec.Raw = _ABSENT
    error: msgspec.Raw = _ABSENT


_CHUNKS: Final = msgspec.json.Decoder(_Chunk)


class _Told:
    """What one choice has told so far: which part stands where, and which calls are open."""

    __slots__ = ("called", "calls", "places", "refused")

    def __init__(self) -> None:
        self.places: dict[object, int] = {}
        self.calls: dict[int, _OpenCall] = {}
        self.called = 0
        self.refused = False

    def place(self, key: object) -> int:
        found = self.places.get(key)
        if found is None:
            found = self.places[key] = len(self.places)
        return found


class _OpenCall:
    """A tool call that is being told; it begins for the reader when its name is known."""

    __slots__ = ("held", "id", "place", "started")

    def __init__(self, id: str, place: int) -> None:
        self.id = id
        self.place = place
        self.started = False
        self.held = ""


class ChunkReader:
    """Reads one streamed answer."""

    __slots__ = ("_framing", "_id", "_opened", "_told", "done", "failure")

    def __init__(self) -> None:
        self.done = False
        self.failure: WorldError | None = None
        self._framing = Framing()
        self._told: dict[int, _Told] = {}
        self._opened = False
        self._id = ""

    def feed(self, data: bytes) -> tuple[bytes, list[ChatEvent]]:
        """Take what was read: the whole events in it as the provider wrote them, and what they say."""
        if self.done or self.failure is not None:
            return b"", []
        kept: list[bytes] = []
        events: list[ChatEvent] = []
        for event in self._framing.feed(data):
            if event.data.strip() == b"[DONE]":
                self.done = True
                kept.append(event.raw)
                break
            if event.data and not self._read(event.name, event.data, events):
                return b"".join(kept), events
            kept.append(event.raw)
        if self._framing.too_large and not self.done:
            self.failure = BadAnswer(f"An event of the provider's stream is larger than {MAX_EVENT} bytes.")
        return b"".join(kept), events

    def _read(self, name: bytes, data: bytes, events: list[ChatEvent]) -> bool:
        chunk = _chunk_of(data)
        if chunk is None and (whole := mended(data)) is not None:
            chunk = _chunk_of(whole)
        if chunk is None:
            self.failure = BadAnswer("The provider's stream holds an event that is no JSON.")
            return False
        if name == b"error" or given(chunk.error):
            self.failure = upstream_error(bytes(chunk.error) if chunk.error else data)
            return False
        if not self._opened and (chunk.id or chunk.model or chunk.choices):
            self._opened = True
            self._id = chunk.id or ""
            events.append(AnswerStarted(self._id, chunk.model or "", chunk.created or 0))
        for choice in chunk.choices or ():
            told = self._told.get(choice.index)
            if told is None:
                told = self._told[choice.index] = _Told()
            if choice.delta is not None:
                self._tell(told, choice.index, choice.delta, events)
            if choice.finish_reason:
                self._end(told, choice.index, events)
                reason = read_reason(choice.finish_reason, called=bool(told.called), refused=told.refused)
                events.append(ChoiceFinished(reason, choice.index))
        if given(chunk.usage) and (usage := read_usage(chunk.usage)) is not None:
            events.append(UsageReported(usage))
        return True

    def _tell(self, told: _Told, choice: int, delta: _Delta, events: list[ChatEvent]) -> None:
        if delta.reasoning_details:
            for number, detail in enumerate(delta.reasoning_details):
                key = ("reasoning", number if detail.index is None else detail.index)
                text = detail.text or detail.summary or ""
                if text or detail.signature or detail.data:
                    events.append(
                        ReasoningDelta(
                            text, detail.signature or "", detail.data or "", detail.id or "", told.place(key), choice
                        )
                    )
        else:
            text = delta.reasoning_content or delta.reasoning or ""
            if text:
                events.append(ReasoningDelta(text, index=told.place(("reasoning", 0)), choice=choice))
        if delta.content:
            events.append(TextDelta(delta.content, told.place("text"), choice))
        if delta.refusal:
            told.refused = True
            events.append(RefusalDelta(delta.refusal, told.place("refusal"), choice))
        for number, call in enumerate(delta.tool_calls or ()):
            self._call(told, choice, call, number, events)
        if delta.function_call is not None:
            self._call(told, choice, _Call(0, None, delta.function_call), 0, events)

    def _call(self, told: _Told, choice: int, call: _Call, number: int, events: list[ChatEvent]) -> None:
        index = number if call.index is None else call.index
        name = (call.function.name or "") if call.function else ""
        known = told.calls.get(index)
        # Some servers number all parallel calls with 0: another id with a name is another call.
        if known is None or (call.id and known.started and name and call.id != known.id):
            spare = spare_id(self._id, choice, told.called)
            known = told.calls[index] = _OpenCall(call.id or spare, told.place(("call", told.called)))
            told.called += 1
        elif call.id and not known.started:
            known.id = call.id
        if not known.started and name:
            known.started = True
            events.append(ToolCallStarted(known.id, name, known.place, choice, _signature(call.extra_content)))
            if known.held:
                events.append(ToolCallDelta(known.held, known.place, choice))
        arguments = call.function.arguments if call.function else None
        if arguments:
            if known.started:
                events.append(ToolCallDelta(arguments, known.place, choice))
            else:
                known.held += arguments

    def _end(self, told: _Told, choice: int, events: list[ChatEvent]) -> None:
        """Calls that never got a name."""
        for call in told.calls.values():
            if not call.started and call.held:
                call.started = True
                events.append(ToolCallStarted(call.id, "", call.place, choice))
                events.append(ToolCallDelta(call.held, call.place, choice))


def _chunk_of(data: bytes) -> _Chunk | None:
    """One event's data; None when it is no JSON."""
    try:
        return _CHUNKS.decode(data)
    except msgspec.ValidationError:
        return _odd(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _odd(data: bytes) -> _Chunk | None:
    """A chunk whose parts have types we do not know: what can be read of it; None when it is no JSON after all."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(value, dict):
        return _Chunk()
    error, usage, created = value.get("error"), value.get("usage"), value.get("created")
    choices = value.get("choices")
    return _Chunk(
        id=_str(value.get("id")),
        model=_str(value.get("model")),
        created=int(created) if isinstance(created, int | float) else None,
        choices=[_odd_choice(choice) for choice in choices if isinstance(choice, dict)]
        if isinstance(choices, list)
        else None,
        usage=msgspec.Raw(encoded(usage)) if usage is not None else _ABSENT,
        error=msgspec.Raw(encoded(error)) if error else _ABSENT,
    )


def _odd_choice(value: dict[str, Any]) -> _Choice:
    index = value.get("index")
    delta = value.get("delta")
    return _Choice(
        index=index if isinstance(index, int) else 0,
        delta=_odd_delta(delta) if isinstance(delta, dict) else None,
        finish_reason=_str(value.get("finish_reason")),
    )


def _odd_delta(value: dict[str, Any]) -> _Delta:
    """A delta field by field; content may be a list of parts, text and thinking (Mistral's)."""
    texts: list[str] = []
    thoughts: list[str] = []
    content = value.get("content")
    for part in content if isinstance(content, list) else [{"text": content}]:
        if isinstance(part, dict):
            inner = part.get("thinking")
            for thought in inner if isinstance(inner, list) else [{"text": inner}]:
                if isinstance(thought, dict) and isinstance(thought.get("text"), str):
                    thoughts.append(thought["text"])
            if isinstance(part.get("text"), str):
                texts.append(part["text"])
    return _Delta(
        content="".join(texts),
        refusal=_str(value.get("refusal")),
        reasoning_content="".join(thoughts) or _str(value.get("reasoning_content")),
        reasoning=_str(value.get("reasoning")),
        reasoning_details=_known(value.get("reasoning_details"), list[_Detail]),
        tool_calls=_known(value.get("tool_calls"), list[_Call]),
        function_call=_known(value.get("function_call"), _Function),
    )


def _signature(extra: msgspec.Raw) -> str:
    """The signature beside a call; none where nobody can read it."""
    try:
        return google_signature(msgspec.json.decode(extra)) if given(extra) else ""
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""


def _str(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _known(value: object, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind) if value is not None else None
    except msgspec.ValidationError:
        return None


class ChunkWriter:
    """Writes one streamed answer for a client.

    Args:
        usage: whether the client asked for the usage event.
        legacy: whether it knows functions only, as they were before tools.
    """

    __slots__ = ("_begun", "_calls", "_counts", "_head", "_legacy", "_refused", "_tail", "_thoughts", "_usage")

    def __init__(self, *, model: str, usage: bool, legacy: bool) -> None:
        self._usage = usage
        self._legacy = legacy
        self._begun: set[int] = set()
        self._refused: set[int] = set()
        self._calls: dict[tuple[int, int], int] = {}
        self._thoughts: dict[tuple[int, int], int] = {}
        self._counts: dict[tuple[str, int], int] = {}
        self._head = b""
        self._tail = b""
        self._start(AnswerStarted(model=model))

    def _start(self, event: AnswerStarted) -> None:
        body = {"id": event.id, "object": "chat.completion.chunk", "created": event.created, "model": event.model}
        self._head = b"data: " + encoded(body)[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if self._usage else b"]}\n\n"

    def write(self, events: Sequence[ChatEvent]) -> bytes:
        """These events as chunks."""
        out: list[bytes] = []
        for event in events:
            match event:
                case AnswerStarted():
                    self._start(event)
                    self._open(0, out)
                case TextDelta(text, _, choice):
                    self._open(choice, out)
                    out.append(self._chunk(choice, b'{"content":' + encoded(text) + b"}"))
                case RefusalDelta(text, _, choice):
                    self._open(choice, out)
                    self._refused.add(choice)
                    out.append(self._chunk(choice, b'{"refusal":' + encoded(text) + b"}"))
                case ReasoningDelta():
                    self._open(event.choice, out)
                    out.append(self._chunk(event.choice, encoded(self._thought(event))))
                case ToolCallStarted():
                    self._open(event.choice, out)
                    self._call(event, out)
                case ToolCallDelta(arguments, index, choice):
                    self._arguments(arguments, index, choice, out)
                case ChoiceFinished(reason, choice):
                    self._open(choice, out)
                    word = write_reason(reason, refused=choice in self._refused, legacy=self._legacy)
                    out.append(self._chunk(choice, b"{}", encoded(word)))
                case UsageReported():
                    pass  # it is told at the end
        return b"".join(out)

    def finish(self, usage: Usage) -> bytes:
        """The usage, if it was asked for, and the end."""
        if not self._usage:
            return _DONE
        return self._head + b'],"usage":' + encoded(write_usage(usage)) + b"}\n\n" + _DONE

    def _open(self, choice: int, out: list[bytes]) -> None:
        if choice not in self._begun:
            self._begun.add(choice)
            out.append(self._chunk(choice, b'{"role":"assistant","content":null}'))

    def _chunk(self, choice: int, delta: bytes, reason: bytes = b"null") -> bytes:
        return b'%b{"index":%d,"delta":%b,"finish_reason":%b}%b' % (self._head, choice, delta, reason, self._tail)

    def _thought(self, event: ReasoningDelta) -> dict[str, Any]:
        """Plain text as most clients read it, and the parts as those do that send signatures back."""
        place = (event.choice, event.index)
        number = self._thoughts.get(place)
        if number is None:
            number = self._thoughts[place] = self._next("thought", event.choice)
        part = ReasoningPart(event.text, event.signature, event.redacted, event.id)
        found: dict[str, Any] = {"reasoning_details": [write_detail(part, number)]}
        if event.text:
            found["reasoning_content"] = event.text
        return found

    def _call(self, event: ToolCallStarted, out: list[bytes]) -> None:
        number = self._calls[event.choice, event.index] = self._next("call", event.choice)
        function = {"name": event.name, "arguments": ""}
        if self._legacy:
            if number == 0:
                out.append(self._chunk(event.choice, encoded({"function_call": function})))
            return
        call: dict[str, Any] = {"index": number, "id": event.id, "type": "function", "function": function}
        if state := own(GEMINI, event.signature):
            call["extra_content"] = {"google": {"thought_signature": state}}
        out.append(self._chunk(event.choice, encoded({"tool_calls": [call]})))

    def _next(self, kind: str, choice: int) -> int:
        """The number of a choice's next call or thought."""
        number = self._counts.get((kind, choice), 0)
        self._counts[kind, choice] = number + 1
        return number

    def _arguments(self, arguments: str, index: int, choice: int, out: list[bytes]) -> None:
        number = self._calls.get((choice, index))
        if number is None:
            return
        text = encoded(arguments)
        if not self._legacy:
            delta = b'{"tool_calls":[{"index":%d,"function":{"arguments":%b}}]}' % (number, text)
        elif number == 0:
            delta = b'{"function_call":{"arguments":%b}}' % text
        else:
            return
        out.append(self._chunk(choice, delta))

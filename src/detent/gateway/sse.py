"""Streams of the OpenAI dialect: whole events out of any chunks, what they said, and what the client may see.

Events are forwarded as the provider wrote them, only that line ends become LF. Nothing waits for more than the end of
its event, and a block of events that was read together is decoded in one call.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from detent.gateway.errors import BadAnswer, UpstreamError
from detent.gateway.surrogates import mended
from detent.gateway.usage import read_usage
from detent.kernel.chat import Usage
from detent.kernel.errors import DetentError, WorldError

_MAX_EVENT: Final = 16 * 1024 * 1024
_DONE: Final = b"data: [DONE]\n\n"
_BOM: Final = b"\xef\xbb\xbf"
_MAX_CHOICES: Final = 127


_ABSENT: Final = msgspec.Raw()


class Delta(msgspec.Struct, gc=False):
    """What a choice gained. Providers name reasoning in two ways."""

    role: str | None = None
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: msgspec.Raw = _ABSENT
    function_call: msgspec.Raw = _ABSENT
    audio: msgspec.Raw = _ABSENT


class Choice(msgspec.Struct, gc=False):
    """One choice of a chunk."""

    index: int = 0
    delta: Delta | None = None
    finish_reason: str | None = None


class Chunk(msgspec.Struct, gc=False):
    """The parts of an event that matter here."""

    id: str | None = None
    model: str | None = None
    choices: list[Choice] | None = None
    usage: msgspec.Raw = _ABSENT
    error: msgspec.Raw = _ABSENT


_DECODER: Final = msgspec.json.Decoder(Chunk)
_NULL: Final = msgspec.Raw(b"null")
_EMPTY: Final = msgspec.Raw(b"[]")


class ChatStream:
    """Reads one stream.

    Args:
        hide_usage: the usage event was asked for by us, not by the client, who does not get to see it.
        keep: how many characters of the answer to remember; 0 remembers none.

    Attributes:
        begun: whether real output has come: text, a tool call, a refusal, reasoning, or the end of a choice.
        opened: whether an event with a choice has come, be it empty as the first one usually is.
        done: whether the stream said that it is finished; what comes after is not read.
        finish_reason: of the first choice that gave one; empty before.
        failure: what is wrong with the stream; what came before the fault has been given.
        usage: as the provider counted, None when it gave no usable figure.
        characters: length of all output seen.
    """

    __slots__ = (
        "_after_cr",
        "_hide_usage",
        "_keep",
        "_others",
        "_tail",
        "_texts",
        "_tools",
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

    def __init__(self, *, hide_usage: bool, keep: int) -> None:
        self.opened = False
        self.begun = False
        self.done = False
        self.failure: DetentError | None = None
        self.finish_reason = ""
        self.id = ""
        self.model = ""
        self.usage: Usage | None = None
        self.characters = 0
        self._hide_usage = hide_usage
        self._keep = keep
        self._texts: list[str] = []
        self._tools: dict[int, dict[str, Any]] = {}
        self._others: dict[int, tuple[list[str], dict[int, dict[str, Any]]]] = {}
        self._tail = bytearray()
        self._after_cr = False

    def feed(self, data: bytes) -> bytes:
        """Take what was read; give the whole events that the client gets, perhaps none."""
        if self.done or self.failure is not None:
            return b""
        if self._after_cr or b"\r" in data:
            data = self._plain(data)
        tail = self._tail
        if not tail and data.endswith(b"\n\n"):  # as providers write: whole events
            return self._block(data)
        # An event's end may straddle two reads; look no further back than it can reach.
        start = max(len(tail) - 1, 0)
        tail += data
        end = tail.rfind(b"\n\n", start)
        if end < 0:
            if len(tail) > _MAX_EVENT:
                self.failure = BadAnswer(f"An event of the provider's stream is larger than {_MAX_EVENT} bytes.")
            return b""
        block = bytes(tail[: end + 2])
        del tail[: end + 2]
        return self._block(block)

    def closing(self) -> bytes:
        """What ends the stream when its provider finished the answer but did not say so."""
        return _DONE

    def output(self) -> bytes:
        """The answer as far as it has come, as JSON: a message, or a list of them when there are several choices."""
        first = _message(self._texts, self._tools)
        if not self._others:
            return msgspec.json.encode(first)
        return msgspec.json.encode([first, *(_message(*self._others[index]) for index in sorted(self._others))])

    def _plain(self, data: bytes) -> bytes:
        """CR LF and lone CR as LF; a pair that is split between two reads stays one line end."""
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
            self._after_cr = False
        if data:
            self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _block(self, block: bytes) -> bytes:
        """Read whole events. The common form (`data: {json}`, one line each) is decoded in one call."""
        done = block.endswith(_DONE)
        lines = block[6:-16] if done else block[6:-2]
        if block.startswith(b"data: {") and lines:
            try:
                chunks = _DECODER.decode_lines(lines.replace(b"\n\ndata: ", b"\n"))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                return self._one_by_one(block)
            hidden = False
            for chunk in chunks:
                if given(chunk.error):
                    return self._one_by_one(block)
                if self._hide_usage and not chunk.choices and given(chunk.usage):
                    hidden = True
                    if chunk is not chunks[-1]:
                        return self._one_by_one(block)
            for chunk in chunks:
                self._take(chunk)
            if hidden:
                end = len(lines) + 8
                start = block.rfind(b"\n\ndata: ", 0, end - 2) + 2
                block = (block[:start] if start >= 2 else b"") + (_DONE if done else b"")
            self.done = done
            return block
        return self._one_by_one(block)

    def _one_by_one(self, block: bytes) -> bytes:
        """Read events in whatever form the standard allows."""
        kept: list[bytes] = []
        for event in block.split(b"\n\n"):
            lines = event.removeprefix(_BOM).strip(b"\n")
            if not lines:
                continue
            name, data = _fields(lines)
            if data.strip() == b"[DONE]":
                self.done = True
                kept.append(_DONE[:-2])
                break
            if data and not self._event(name, data):
                if self.failure is not None:
                    break
                continue
            kept.append(lines)
        return b"".join(event + b"\n\n" for event in kept)

    def _event(self, name: bytes, data: bytes) -> bool:
        """Read one event's data; whether the client gets it."""
        chunk = _chunk_of(data)
        if chunk is None and (whole := mended(data)) is not None:
            chunk = _chunk_of(whole)
        if chunk is None:
            self.failure = BadAnswer("The provider's stream holds an event that is no JSON.")
            return False
        if name == b"error" or given(chunk.error):
            self.failure = upstream_error(bytes(chunk.error) if chunk.error else data)
            return False
        self._take(chunk)
        return not (self._hide_usage and not chunk.choices and given(chunk.usage))

    def _take(self, chunk: Chunk) -> None:
        if chunk.choices:
            self.opened = True
            for choice in chunk.choices:
                delta = choice.delta
                if delta is not None:
                    text = delta.content
                    if text:
                        self.begun = True
                        self.characters += len(text)
                        if self.characters <= self._keep:
                            (self._texts if choice.index == 0 else self._other(choice.index)[0]).append(text)
                    else:
                        self._take_rest(choice.index, delta)
                if choice.finish_reason:
                    self.begun = True
                    self.finish_reason = self.finish_reason or choice.finish_reason
            if not self.id:
                self.id = chunk.id or ""
                self.model = chunk.model or ""
        if given(chunk.usage):
            self.usage = read_usage(chunk.usage) or self.usage

    def _take_rest(self, index: int, delta: Delta) -> None:
        for text in (delta.refusal, delta.reasoning_content, delta.reasoning):
            if text:
                self.begun = True
                self.characters += len(text)
        for raw in (delta.function_call, delta.audio):
            if given(raw):
                self.begun = True
                self.characters += len(bytes(raw))
        if given(delta.tool_calls) and delta.tool_calls != _EMPTY:
            self.begun = True
            self._take_tools(index, bytes(delta.tool_calls))

    def _take_tools(self, index: int, raw: bytes) -> None:
        try:
            calls = _TOOL_DECODER.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self.characters += len(raw)
            return
        for call in calls:
            function = call.function or ToolFunction()
            self.characters += len(function.name or "") + len(function.arguments or "")
            if self.characters > self._keep:
                continue
            tools = self._other(index)[1] if index else self._tools
            known = tools.setdefault(
                call.index, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
            )
            known["id"] = call.id or known["id"]
            known["function"]["name"] += function.name or ""
            known["function"]["arguments"] += function.arguments or ""

    def _other(self, index: int) -> tuple[list[str], dict[int, dict[str, Any]]]:
        """What is kept of a further choice; a number out of all reason is kept with the last of them."""
        return self._others.setdefault(min(max(index, 1), _MAX_CHOICES), ([], {}))


class ToolFunction(msgspec.Struct):
    """Part of a function call."""

    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct):
    """Part of a tool call."""

    index: int = 0
    id: str | None = None
    function: ToolFunction | None = None


_TOOL_DECODER: Final = msgspec.json.Decoder(list[ToolCall])


def _message(texts: list[str], tools: dict[int, dict[str, Any]]) -> dict[str, Any]:
    content = "".join(texts)
    found: dict[str, Any] = {"role": "assistant", "content": content or None if tools else content}
    if tools:
        found["tool_calls"] = [tools[index] for index in sorted(tools)]
    return found


def given(raw: msgspec.Raw) -> bool:
    """Whether a raw value is there and not null."""
    return bool(raw) and raw != _NULL


def upstream_error(raw: bytes) -> WorldError:
    """A provider's error value (an object with a message, or text) as ours."""
    message = ""
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        value = None
    if isinstance(value, dict):
        inner = value.get("error", value)
        found = inner.get("message") if isinstance(inner, dict) else inner
        message = found if isinstance(found, str) else ""
    elif isinstance(value, str):
        message = value
    return UpstreamError(f"The provider reported an error: {message[:500] or 'without a message'}")


def _fields(event: bytes) -> tuple[bytes, bytes]:
    """Name and data of an event, as the WHATWG standard reads its lines."""
    name = b""
    data: list[bytes] = []
    for line in event.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")
    return name, b"\n".join(data)


def _chunk_of(data: bytes) -> Chunk | None:
    """One event's data; None when it is no JSON."""
    try:
        return _DECODER.decode(data)
    except msgspec.ValidationError:
        return _odd(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _odd(data: bytes) -> Chunk | None:
    """A chunk whose parts have types we do not know: what can be read of it; None when it is no JSON after all."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(value, dict):
        return Chunk()
    error = value.get("error")
    usage = value.get("usage")
    choices = []
    for choice in value["choices"] if isinstance(value.get("choices"), list) else []:
        try:
            choices.append(msgspec.convert(choice, Choice))
        except msgspec.ValidationError:
            choices.append(_odd_choice(choice))
    return Chunk(
        choices=choices or None,
        usage=msgspec.Raw(msgspec.json.encode(usage)) if usage is not None else _ABSENT,
        error=msgspec.Raw(msgspec.json.encode(error)) if error else _ABSENT,
    )


def _odd_choice(choice: Any) -> Choice:
    """A choice whose content is, for instance, a list of parts: their texts."""
    delta = choice.get("delta") if isinstance(choice, dict) else None
    content = delta.get("content") if isinstance(delta, dict) else None
    texts = [part.get("text") for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    finish = choice.get("finish_reason") if isinstance(choice, dict) else None
    return Choice(
        delta=Delta(content="".join(text for text in texts if isinstance(text, str))),
        finish_reason=finish if isinstance(finish, str) else None,
    )

"""The OpenAI Responses API of providers that serve it themselves.

Nothing is ever stored there: the whole conversation is sent, and reasoning comes back in its encrypted form.

Source: https://platform.openai.com/docs/api-reference/responses and .../responses-streaming
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from detent.gateway.dialects.fields import encoded
from detent.gateway.dialects.framing import Event, Framing
from detent.gateway.dialects.items import NAME, named, opened, read_items, reasoning_text, wrapped, write_input
from detent.gateway.dialects.port import Outgoing
from detent.gateway.dialects.quirks import Quirks
from detent.gateway.dialects.responses import ENCRYPTED, OWN, REASONS
from detent.gateway.dialects.thinking import effort
from detent.gateway.errors import BadAnswer, UpstreamBusy, UpstreamError
from detent.gateway.surrogates import mended
from detent.gateway.usage import read_figures
from detent.kernel.chat import (
    AnswerStarted,
    ChatAnswer,
    ChatEvent,
    ChatRequest,
    ChoiceFinished,
    FinishReason,
    Message,
    Part,
    ReasoningDelta,
    RefusalDelta,
    RefusalPart,
    ResponseFormat,
    TextDelta,
    Tool,
    ToolCallDelta,
    ToolCallPart,
    ToolCallStarted,
    Usage,
    UsageReported,
)
from detent.kernel.errors import DetentError, InvalidInput

_NULL: Final = msgspec.Raw(b"null")
_ABSENT: Final = msgspec.Raw()


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    input_tokens: int
    output_tokens: int
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None

    def neutral(self) -> Usage | None:
        """The figures; None when they cannot be right."""
        inputs, outputs = self.input_tokens_details or _Details(), self.output_tokens_details or _Details()
        cached, written = inputs.cached_tokens or 0, inputs.cache_write_tokens or 0
        reasoning = outputs.reasoning_tokens or 0
        figures = (self.input_tokens, self.output_tokens, cached, written, reasoning)
        if min(figures) < 0 or cached + written > self.input_tokens or reasoning > self.output_tokens:
            return None
        return Usage(*figures)


class _Error(msgspec.Struct):
    message: str | None = None
    code: str | int | None = None
    type: str | None = None


class _Incomplete(msgspec.Struct):
    reason: str | None = None


class _Response(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    created_at: float | None = None
    status: str | None = None
    error: _Error | None = None
    incomplete_details: _Incomplete | None = None
    output: list[Any] | None = None
    usage: msgspec.Raw = _ABSENT
    object: str | None = None


class _Event(msgspec.Struct):
    type: str = ""
    delta: str | None = None
    output_index: int = 0
    content_index: int = 0
    summary_index: int = 0
    item: dict[str, Any] | None = None
    arguments: str | None = None
    text: str | None = None
    response: msgspec.Raw = _NULL
    error: _Error | None = None
    code: str | None = None
    message: str | None = None


_RESPONSES: Final = msgspec.json.Decoder(_Response)
_EVENTS: Final = msgspec.json.Decoder(_Event)
_BUSY: Final = frozenset({"rate_limit_exceeded", "rate_limit_error", "slow_down"})


class ResponsesProvider:
    """A provider that serves the Responses API."""

    name = NAME

    def write_request(self, request: ChatRequest, *, model: str, quirks: Quirks) -> Outgoing:  # noqa: ARG002
        """A request that stores nothing at the provider."""
        same = request.dialect == NAME
        body: dict[str, Any] = {
            "model": model,
            "input": write_input(request.messages, same=same),
            "store": False,
        }
        dropped = [name for name in _UNSAID if getattr(request, name) not in (None, ())]
        if request.n not in (None, 1):
            dropped.append("n")
        extra = request.extra if same else {}
        dropped += [name for name in request.extra if not same or name not in OWN]
        include = list(extra.get("include") or [])
        if ENCRYPTED not in include and (request.reasoning is not None or REASONS.search(model)):
            include.append(ENCRYPTED)
        if include:
            body["include"] = include
        if request.tools:
            body["tools"] = [_tool(tool, same=same) for tool in request.tools]
        if (choice := request.tool_choice) is not None:
            body["tool_choice"] = choice.mode if choice.mode != "tool" else _named(request, choice.tool, same=same)
        text: dict[str, Any] = {}
        if request.response_format is not None:
            text["format"] = _written_format(request.response_format)
        if "verbosity" in extra:
            text["verbosity"] = extra["verbosity"]
        if text:
            body["text"] = text
        if request.reasoning is not None:
            found = {"effort": effort(request.reasoning), "summary": request.reasoning.summary}
            if thinking := {name: value for name, value in found.items() if value}:
                body["reasoning"] = thinking
        for name, value in (
            ("parallel_tool_calls", request.parallel_tool_calls),
            ("max_output_tokens", request.max_tokens),
            ("temperature", request.temperature),
            ("top_p", request.top_p),
            ("stream", request.stream or None),
            ("user", request.user or None),
            ("metadata", request.metadata or None),
            ("service_tier", request.service_tier or None),
        ):
            if value is not None:
                body[name] = value
        for name, value in extra.items():
            if name in OWN and name not in {"include", "verbosity"}:
                body[name] = value
        return Outgoing("/responses", encoded(body), dropped=tuple(dropped))

    def read_answer(self, raw: bytes) -> ChatAnswer:
        """A whole response.

        Raises:
            UpstreamError: it failed.
            UpstreamBusy: it failed because of a limit.
            BadAnswer: it is no response.
        """
        try:
            found = _RESPONSES.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            if (better := mended(raw)) is not None:
                return self.read_answer(better)
            raise BadAnswer("The provider's answer is no response.") from None
        if found.error is not None or found.status == "failed":
            raise _failure(found.error)
        if found.output is None:
            raise BadAnswer("The provider's answer holds no output.")
        parts: list[Part] = []
        try:
            for message in read_items([item for item in found.output if _known(item)], "output"):
                parts.extend(message.parts)
        except InvalidInput as error:
            raise BadAnswer(f"The provider's answer cannot be read: {error.message}") from None
        return ChatAnswer(
            found.id or "",
            found.model or "",
            Message("assistant", tuple(_joined(parts))),
            _reason(found, parts),
            _counted(found.usage),
            created=int(found.created_at or 0),
        )

    def stream_reader(self) -> ResponsesReader:
        """A reader for one streamed response."""
        return ResponsesReader()


_UNSAID: Final = ("top_k", "presence_penalty", "frequency_penalty", "stop", "seed")
_KNOWN: Final = frozenset({"message", "function_call", "custom_tool_call", "reasoning"})


def _known(item: object) -> bool:
    """Whether an item of an output can be told in the neutral type; what a hosted tool did cannot."""
    kind = item.get("type") if isinstance(item, dict) else None
    return isinstance(kind, str) and kind in _KNOWN


def _joined(parts: Sequence[Part]) -> list[Part]:
    """Parts as a stream tells them: without what only names their source."""
    return [
        msgspec.structs.replace(part, extra={}) if isinstance(part, ToolCallPart) and part.extra else part
        for part in parts
    ]


def _tool(tool: Tool, *, same: bool) -> dict[str, Any]:
    extra = dict(tool.extra) if same else {}
    if extra.get("type") == "custom":
        return {"name": tool.name, "description": tool.description, **extra}
    return {
        **extra,
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters or {"type": "object", "properties": {}},
        # Here a tool is strict unless it says otherwise; in every other dialect it is not.
        "strict": tool.strict if tool.strict is not None or same else False,
    }


def _named(request: ChatRequest, name: str, *, same: bool) -> dict[str, Any]:
    custom = same and any(tool.name == name and tool.extra.get("type") == "custom" for tool in request.tools)
    return {"type": "custom" if custom else "function", "name": name}


def _written_format(form: ResponseFormat) -> dict[str, Any]:
    if form.kind != "json_schema":
        return {"type": form.kind}
    written: dict[str, Any] = {"type": "json_schema", "name": form.name or "answer", "schema": form.schema}
    if form.description:
        written["description"] = form.description
    if form.strict is not None:
        written["strict"] = form.strict
    return written


def _failure(error: _Error | None) -> UpstreamError | UpstreamBusy:
    said = (error.message if error else None) or "without a message"
    if error is not None and (error.code in _BUSY or error.type in _BUSY):
        return UpstreamBusy(f"The provider is over its limit: {said[:500]}", hint="Wait, or add a target to the route.")
    return UpstreamError(f"The provider reported an error: {said[:500]}")


def _counted(raw: msgspec.Raw) -> Usage | None:
    figures = read_figures(raw, _Usage)
    return figures.neutral() if figures is not None else None


def _reason(response: _Response, parts: Sequence[Part]) -> FinishReason:
    if response.status == "incomplete":
        why = response.incomplete_details.reason if response.incomplete_details else None
        return "content_filter" if why == "content_filter" else "length"
    if response.status == "cancelled":
        return "cancelled"
    if any(isinstance(part, ToolCallPart) for part in parts):
        return "tool_calls"
    return "refusal" if any(isinstance(part, RefusalPart) for part in parts) else "stop"


class ResponsesReader:
    """Reads one streamed response.

    Attributes:
        response: the finished response object as the provider wrote it, for the store; empty before the end.
    """

    __slots__ = (
        "_called",
        "_framing",
        "_indexes",
        "_refused",
        "_seen",
        "_signature",
        "_started",
        "done",
        "failure",
        "response",
    )

    def __init__(self) -> None:
        self.done = False
        self.failure: DetentError | None = None
        self.response = b""
        self._framing = Framing()
        self._indexes: dict[tuple[int, int], int] = {}
        self._seen: dict[int, str] = {}
        self._signature = ""
        self._started = False
        self._called = False
        self._refused = False

    def feed(self, data: bytes) -> tuple[bytes, list[ChatEvent]]:
        """Take what was read."""
        raw: list[bytes] = []
        events: list[ChatEvent] = []
        for event in self._framing.feed(data):
            if self.done or self.failure is not None:
                break
            if event.data:
                self._take(event, events)
            if self.failure is None:
                raw.append(event.raw)
        if self._framing.too_large and self.failure is None:
            self.failure = BadAnswer("An event of the provider's stream is too large.")
        return b"".join(raw), events

    def _take(self, event: Event, out: list[ChatEvent]) -> None:
        data = event.data
        if data == b"[DONE]":
            return
        try:
            found = _EVENTS.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            better = mended(data)
            if better is None:
                self._odd(data)
                return
            self._take(Event(event.raw, event.name, better), out)
            return
        step = _STEPS.get(found.type)
        if step is not None:
            step(self, found, out)

    def _odd(self, data: bytes) -> None:
        """An event in another form than ours: of a kind that we do not read, it is let pass."""
        try:
            value = msgspec.json.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self.failure = BadAnswer("The provider's stream holds an event that is no JSON.")
            return
        kind = value.get("type") if isinstance(value, dict) else None
        if isinstance(kind, str) and kind in _STEPS:
            self.failure = BadAnswer("The provider's stream holds an event of the wrong form.")

    def _index(self, place: int, content: int) -> int:
        return self._indexes.setdefault((place, content), len(self._indexes))

    def _created(self, event: _Event, out: list[ChatEvent]) -> None:
        if self._started:
            return
        self._started = True
        found = self._object(event)
        if found is not None:
            out.append(AnswerStarted(found.id or "", found.model or "", int(found.created_at or 0)))

    def _object(self, event: _Event) -> _Response | None:
        try:
            return _RESPONSES.decode(event.response)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self.failure = BadAnswer("The provider's stream holds no response.")
            return None

    def _added(self, event: _Event, out: list[ChatEvent]) -> None:
        item = event.item or {}
        kind = item.get("type")
        if kind in {"function_call", "custom_tool_call"}:
            self._called = True
            call, name = str(item.get("call_id") or item.get("id") or ""), str(item.get("name") or "")
            out.append(ToolCallStarted(call, name, self._index(event.output_index, 0), signature=self._signature))
            self._signature = ""

    def _text(self, event: _Event, out: list[ChatEvent]) -> None:
        if event.delta:
            index = self._index(event.output_index, event.content_index)
            self._seen[index] = "text"
            out.append(TextDelta(event.delta, index))

    def _text_done(self, event: _Event, out: list[ChatEvent]) -> None:
        index = self._index(event.output_index, event.content_index)
        if index not in self._seen and event.text:
            self._seen[index] = "text"
            out.append(TextDelta(event.text, index))

    def _refusal(self, event: _Event, out: list[ChatEvent]) -> None:
        if event.delta:
            self._refused = True
            out.append(RefusalDelta(event.delta, self._index(event.output_index, event.content_index)))

    def _summary(self, event: _Event, out: list[ChatEvent]) -> None:
        """Parts of a summary are told as one text, a paragraph each."""
        if event.delta:
            index = self._index(event.output_index, 0)
            part = f"{event.type[:26]}{event.summary_index or event.content_index}"
            before = self._seen.get(index)
            self._seen[index] = part
            out.append(ReasoningDelta(event.delta if before in (None, part) else "\n\n" + event.delta, index=index))

    def _arguments(self, event: _Event, out: list[ChatEvent]) -> None:
        if event.delta:
            index = self._index(event.output_index, 0)
            self._seen[index] = "call"
            out.append(ToolCallDelta(event.delta, index))

    def _item_done(self, event: _Event, out: list[ChatEvent]) -> None:
        item = event.item or {}
        match item.get("type"):
            case "reasoning":
                state: object = item.get("encrypted_content")
                signature, redacted, call = opened(state if isinstance(state, str) else "")
                if call:
                    self._signature = call
                    return
                index = self._index(event.output_index, 0)
                unseen = index not in self._seen
                text = reasoning_text(_listed(item, "summary"), _listed(item, "content")) if unseen else ""
                name = named(str(item.get("id") or ""), signature, redacted)
                out.append(ReasoningDelta(text, signature, redacted, name, index))
            case "function_call":
                index = self._index(event.output_index, 0)
                written = item.get("arguments")
                if index not in self._seen and isinstance(written, str) and written:
                    out.append(ToolCallDelta(written, index))
            case "custom_tool_call":
                free = item.get("input")
                arguments = wrapped(free if isinstance(free, str) else "")
                out.append(ToolCallDelta(arguments, self._index(event.output_index, 0)))

    def _end(self, event: _Event, out: list[ChatEvent]) -> None:
        found = self._object(event)
        if found is None:
            return
        if found.status == "failed" or found.error is not None:
            self.failure = _failure(found.error)
            return
        self.response = bytes(event.response)
        parts: list[Part] = []
        if self._called:
            parts.append(ToolCallPart("", "", ""))
        elif self._refused:
            parts.append(RefusalPart(""))
        out.append(ChoiceFinished(_reason(found, parts)))
        if (usage := _counted(found.usage)) is not None:
            out.append(UsageReported(usage))
        self.done = True

    def _failed(self, event: _Event, _out: list[ChatEvent]) -> None:
        if event.response != _NULL:
            found = self._object(event)
            if found is not None:
                self.failure = _failure(found.error)
            return
        self.failure = _failure(event.error or _Error(event.message, event.code))


def _listed(item: dict[str, Any], name: str) -> list[Any]:
    value = item.get(name)
    return value if isinstance(value, list) else []


_STEPS: Final[dict[str, Callable[[ResponsesReader, _Event, list[ChatEvent]], None]]] = {
    "response.created": ResponsesReader._created,
    "response.in_progress": ResponsesReader._created,
    "response.queued": ResponsesReader._created,
    "response.output_item.added": ResponsesReader._added,
    "response.output_text.delta": ResponsesReader._text,
    "response.output_text.done": ResponsesReader._text_done,
    "response.refusal.delta": ResponsesReader._refusal,
    "response.reasoning_summary_text.delta": ResponsesReader._summary,
    "response.reasoning_text.delta": ResponsesReader._summary,
    "response.function_call_arguments.delta": ResponsesReader._arguments,
    "response.output_item.done": ResponsesReader._item_done,
    "response.completed": ResponsesReader._end,
    "response.incomplete": ResponsesReader._end,
    "response.failed": ResponsesReader._failed,
    "error": ResponsesReader._failed,
}


PROVIDER: Final = ResponsesProvider()

"""The OpenAI Responses API for clients: requests checked and read, responses and their streams written.

State is always kept by Detent (`detent.gateway.conversations`), never by the provider: `previous_response_id` is turned
into the whole input, and upstream every request says `store: false`. So any provider can stand behind it.

Source: https://platform.openai.com/docs/api-reference/responses and .../responses-streaming
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec

from detent.gateway.dialects.fields import Fields, wrong
from detent.gateway.dialects.items import (
    NAME,
    call_item,
    carried,
    encrypted,
    is_openai,
    message_item,
    output_items,
    read_items,
    reasoning_item,
    unwrapped,
)
from detent.gateway.dialects.objects import read_object, whole
from detent.gateway.errors import openai_body
from detent.kernel.chat import (
    AnswerStarted,
    ChatAnswer,
    ChatEvent,
    ChatRequest,
    ChoiceFinished,
    Effort,
    FinishReason,
    Message,
    Reasoning,
    ReasoningDelta,
    ReasoningPart,
    RefusalDelta,
    ResponseFormat,
    TextDelta,
    TextPart,
    Tool,
    ToolCallDelta,
    ToolCallPart,
    ToolCallStarted,
    ToolChoice,
    Usage,
)
from detent.kernel.errors import DetentError, InvalidInput

_REFERENCE: Final = "https://platform.openai.com/docs/api-reference/responses/create"
_Positive = Annotated[int, msgspec.Meta(ge=1)]
_NULL: Final = msgspec.Raw(b"null")
_ENCODER: Final = msgspec.json.Encoder()
_json: Final = _ENCODER.encode
REASONS: Final = re.compile(r"(?:^|/)(?:o\d|gpt-(?:[5-9]|\d\d)|codex)")
"""Names of OpenAI's models that reason; others refuse to be asked for reasoning."""

_EFFORTS: Final[dict[str, Effort]] = {
    name: name for name in ("none", "minimal", "low", "medium", "high", "xhigh", "max")
}
ENCRYPTED: Final = "reasoning.encrypted_content"
"""What `include` says for reasoning that can be sent back where nothing is stored."""

_CUSTOM_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "The tool's input, as plain text."}},
    "required": ["input"],
    "additionalProperties": False,
}
OWN: Final = frozenset(
    {
        "access_programs",
        "context_management",
        "include",
        "max_tool_calls",
        "moderation",
        "prompt",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "stream_options",
        "top_logprobs",
        "truncation",
        "verbosity",
    }
)
"""What a request may hold that the neutral type has no word for, by the names in `ChatRequest.extra`."""


# Requests


class _Reasoning(msgspec.Struct):
    effort: str | None = None


class Head(msgspec.Struct):
    """What the gateway reads of every request."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    input: str | list[msgspec.Raw] | None = None
    instructions: str | None = None
    previous_response_id: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    conversation: msgspec.Raw = _NULL
    prompt: msgspec.Raw = _NULL
    background: bool | None = None
    store: bool | None = None
    stream: bool | None = None
    include: list[str] | None = None
    max_output_tokens: _Positive | None = None
    temperature: float | None = None
    top_p: float | None = None
    user: str | None = None
    safety_identifier: str | None = None
    reasoning: _Reasoning | None = None


_HEADS: Final = msgspec.json.Decoder(Head)


class ResponsesAsked:
    """A checked request.

    Attributes:
        head: what the gateway reads of it.
        earlier: items of the conversation before this request's input, as JSON, oldest first.
        response_id: id of the answer; from the provider's where it is empty. Ids of stored responses must be unique,
            so the gateway gives one.
        created: seconds since the epoch that the answer says; 0 for the provider's.
    """

    __slots__ = ("_custom", "_echo", "_fields", "_raw", "created", "earlier", "head", "response_id")

    def __init__(self, raw: bytes, head: Head, fields: dict[str, msgspec.Raw]) -> None:
        self.head = head
        self.earlier: tuple[msgspec.Raw, ...] = ()
        self.response_id = ""
        self.created = 0
        self._raw = raw
        self._fields = fields
        self._echo: dict[str, Any] | None = None
        self._custom: frozenset[str] | None = None

    @property
    def model(self) -> str:
        """The route's name."""
        return self.head.model

    @property
    def stream(self) -> bool:
        """Whether a stream is wanted."""
        return bool(self.head.stream)

    @property
    def user(self) -> str:
        """The client's name for its user."""
        return self.head.safety_identifier or self.head.user or ""

    @property
    def max_tokens(self) -> int | None:
        """The most output tokens."""
        return self.head.max_output_tokens

    @property
    def answers(self) -> int:
        """How many answers are asked for."""
        return 1

    @property
    def previous(self) -> str:
        """The response that this one goes on from; empty for none."""
        return self.head.previous_response_id or ""

    @property
    def stores(self) -> bool:
        """Whether the answer is to be kept. The API's default is yes."""
        return self.head.store is not False

    @property
    def parameters(self) -> dict[str, Any]:
        """Attributes of the span."""
        head = self.head
        found: dict[str, Any] = {}
        if head.temperature is not None:
            found["gen_ai.request.temperature"] = head.temperature
        if head.top_p is not None:
            found["gen_ai.request.top_p"] = head.top_p
        if head.max_output_tokens is not None:
            found["gen_ai.request.max_tokens"] = head.max_output_tokens
        if head.reasoning is not None and head.reasoning.effort:
            found["gen_ai.request.reasoning.effort"] = head.reasoning.effort
        return found

    @property
    def messages(self) -> bytes:
        """Instructions and items, the conversation's earlier ones included."""
        first = [{"role": "developer", "content": self.head.instructions}] if self.head.instructions else []
        return _json([*first, *self.earlier, *self.own_items()])

    def own_items(self) -> list[msgspec.Raw]:
        """This request's own input as items."""
        given = self.head.input
        if isinstance(given, str):
            return [msgspec.Raw(_json({"type": "message", "role": "user", "content": given}))]
        return given or []

    def after(self, earlier: Sequence[msgspec.Raw]) -> None:
        """Put the conversation so far before the input."""
        self.earlier = tuple(earlier)

    def with_input(self, items: list[msgspec.Raw]) -> None:
        """Exchange the input, for references that were looked up."""
        self.head.input = items

    def for_model(self, name: str, name_json: bytes) -> bytes:
        """The client's own bytes with the whole conversation in them, for a provider that stores nothing of it."""
        fields = {**self._fields, "model": msgspec.Raw(name_json), "store": msgspec.Raw(b"false")}
        fields.pop("previous_response_id", None)
        if self.earlier or isinstance(self.head.input, list):
            items = [_anonymous(item) for item in self.earlier if _passes(item)]
            items += [item for item in self.own_items() if _passes(item)]
            fields["input"] = msgspec.Raw(_json(items))
        include = self.head.include or []
        if ENCRYPTED not in include and (self.head.reasoning is not None or REASONS.search(name)):
            # Reasoning must come back with its state, or the next turn could not go on from it.
            fields["include"] = msgspec.Raw(_json([*include, ENCRYPTED]))
        return _json(fields)

    def neutral(self) -> ChatRequest:
        """The whole request."""
        return _neutral(Fields(whole(self._raw)), self)

    def is_custom(self, tool: str) -> bool:
        """Whether a tool of that name takes free text."""
        if self._custom is None:
            tools = self._fields.get("tools", _NULL)
            found: set[str] = set()
            if b'"custom"' in bytes(tools):
                listed = whole(bytes(tools))
                for each in listed if isinstance(listed, list) else []:
                    if isinstance(each, dict) and each.get("type") == "custom":
                        found.add(str(each.get("name")))
            self._custom = frozenset(found)
        return tool in self._custom

    def response(
        self, id: str, model: str, created: int, status: str, output: Any, usage: Usage | None, **more: Any
    ) -> dict[str, Any]:
        """A response object, the request's own fields repeated in it."""
        if self._echo is None:
            fields = self._fields
            self._echo = {
                name: fields[name] if name in fields and fields[name] != _NULL else default
                for name, default in _ECHO.items()
            }
            self._echo["store"] = self.stores
        return {
            "id": id,
            "object": "response",
            "created_at": created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "model": model,
            "output": output,
            **self._echo,
            "usage": None if usage is None else _usage_object(usage),
            **more,
        }

    def names(self, id: str, created: int) -> tuple[str, int]:
        """Id and time of the answer, given what the provider said."""
        if self.response_id:
            return self.response_id, self.created or created
        if re.fullmatch(r"resp_[A-Za-z0-9_-]{8,120}", id):
            return id, self.created or created
        return "resp_" + hashlib.sha256(id.encode(errors="surrogatepass")).hexdigest()[:32], self.created or created


_ECHO: Final[dict[str, Any]] = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}


def _passes(item: msgspec.Raw) -> bool:
    """Whether OpenAI can use an item: reasoning must carry its own encrypted state, nothing being stored there."""
    if b'"reasoning"' not in bytes(item):
        return True
    found = whole(bytes(item))
    if not isinstance(found, dict) or found.get("type") != "reasoning":
        return True
    state = found.get("encrypted_content")
    return isinstance(state, str) and is_openai(state)


def _anonymous(item: msgspec.Raw) -> msgspec.Raw:
    """A stored item without its id, which may be ours; OpenAI checks how ids begin, and needs none of these."""
    found = whole(bytes(item))
    if not isinstance(found, dict) or found.get("type") not in _ANONYMOUS or found.pop("id", None) is None:
        return item
    return msgspec.Raw(_json(found))


_ANONYMOUS: Final = frozenset(
    {"message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output"}
)


def _usage_object(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }


def _neutral(fields: Fields, asked: ResponsesAsked) -> ChatRequest:
    for name in ("input", "previous_response_id", "store", "background", "conversation", "stream"):
        fields.value(name)
    if fields.object("prompt") is not None:
        raise InvalidInput(
            "A prompt template that is kept at OpenAI can be used only there.",
            hint="Send `instructions` and `input`, or use a route to OpenAI.",
            field="prompt",
        )
    messages: list[Message] = []
    if instructions := fields.text("instructions"):
        messages.append(Message("developer", (TextPart(instructions),)))
    listed = [whole(bytes(item)) for item in (*asked.earlier, *asked.own_items())]
    messages.extend(read_items(listed, "input"))
    tools, choice = _tools(fields)
    text = fields.within("text")
    extra: dict[str, Any] = {}
    form: ResponseFormat | None = None
    if text is not None:
        form = _format(text.within("format"))
        if verbosity := text.text("verbosity"):
            extra["verbosity"] = verbosity
    reasoning = fields.within("reasoning")
    thinking: Reasoning | None = None
    if reasoning is not None:
        word = reasoning.text("effort")
        if word and word not in _EFFORTS:
            raise wrong("reasoning.effort", f"one of {', '.join(_EFFORTS)}", word)
        summary = reasoning.text("summary") or reasoning.text("generate_summary")
        thinking = Reasoning(_EFFORTS.get(word, ""), None, summary)
    metadata = fields.object("metadata") or {}
    if any(not isinstance(value, str) for value in metadata.values()):
        raise wrong("metadata", "an object of texts", metadata)
    request = ChatRequest(
        model=fields.needed("model"),
        messages=tuple(messages),
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=fields.flag("parallel_tool_calls"),
        response_format=form,
        reasoning=thinking,
        max_tokens=fields.integer("max_output_tokens"),
        temperature=fields.number("temperature"),
        top_p=fields.number("top_p"),
        stream=asked.stream,
        user=fields.text("user") or asked.user,
        metadata=metadata,
        service_tier=fields.text("service_tier"),
        dialect=NAME,
    )
    extra.update(fields.rest())
    return msgspec.structs.replace(request, extra=extra)


def _tools(fields: Fields) -> tuple[tuple[Tool, ...], ToolChoice | None]:
    tools: list[Tool] = []
    for number, value in enumerate(fields.items("tools")):
        tool = Fields(dict(value) if isinstance(value, dict) else value, f"tools.{number}")
        kind = tool.needed("type")
        if kind == "function":
            name, description = tool.needed("name"), tool.text("description")
            strict = tool.flag("strict")
            tools.append(Tool(name, description, tool.object("parameters") or {}, strict, extra=tool.rest()))
        elif kind == "custom":
            name, description = tool.needed("name"), tool.text("description")
            tools.append(Tool(name, description, _CUSTOM_SCHEMA, extra={"type": "custom", **tool.rest()}))
        else:
            raise InvalidInput(
                f"The tool {kind[:100]!r} runs at OpenAI; no other provider has it.",
                hint="Use a route to a provider that serves the Responses API itself, or offer a function instead.",
                field=tool.path("type"),
            )
    value = fields.value("tool_choice")
    if value is None:
        return tuple(tools), None
    if isinstance(value, str):
        if value not in {"auto", "none", "required"}:
            raise wrong("tool_choice", "auto, none, required or an object", value)
        return tuple(tools), ToolChoice("auto" if value == "auto" else "none" if value == "none" else "required")
    choice = Fields(dict(value) if isinstance(value, dict) else value, "tool_choice")
    kind = choice.needed("type")
    if kind in {"function", "custom"}:
        return tuple(tools), ToolChoice("tool", choice.needed("name"))
    if kind == "allowed_tools":
        allowed = {each.get("name") for each in choice.items("tools") if isinstance(each, dict)}
        mode = choice.text("mode")
        kept = tuple(tool for tool in tools if tool.name in allowed)
        return kept, ToolChoice("required" if mode == "required" else "auto")
    raise InvalidInput(
        f"The tool {kind[:100]!r} runs at OpenAI; no other provider has it.",
        hint="Choose a function.",
        field="tool_choice.type",
    )


def _format(form: Fields | None) -> ResponseFormat | None:
    if form is None:
        return None
    match form.needed("type"):
        case "text":
            return ResponseFormat()
        case "json_object":
            return ResponseFormat("json_object")
        case "json_schema":
            schema = form.object("schema")
            if schema is None:
                raise wrong(form.path("schema"), "an object", None)
            return ResponseFormat(
                "json_schema", form.needed("name"), form.text("description"), schema, form.flag("strict")
            )
        case other:
            raise wrong(form.path("type"), "text, json_object or json_schema", other)


# The client's side


class ResponsesClient:
    """What clients of the Responses API send and get."""

    name = NAME

    def read(self, raw: bytes, *, max_depth: int) -> ResponsesAsked:
        """Check a request.

        Raises:
            InvalidInput: it cannot be used; names the field.
        """
        head, fields = read_object(raw, _HEADS, max_depth=max_depth, reference=_REFERENCE)
        if head.input is None and head.prompt == _NULL and not head.previous_response_id:
            raise InvalidInput("The field 'input' is missing.", hint="Send text or a list of items.", field="input")
        if head.background:
            raise InvalidInput(
                "Responses in the background are not offered.", hint="Leave out `background`.", field="background"
            )
        if head.conversation != _NULL:
            raise InvalidInput(
                "Conversation objects are not offered.",
                hint="Go on from a response with `previous_response_id`.",
                field="conversation",
            )
        return ResponsesAsked(raw, head, fields)

    def write_answer(self, asked: ResponsesAsked, answer: ChatAnswer) -> bytes:
        """A whole response."""
        name, created = asked.names(answer.id, answer.created)
        output = output_items(
            answer.message.parts, name.removeprefix("resp_"), asked.is_custom, cut=answer.finish_reason == "length"
        )
        status, more = _status(answer.finish_reason)
        return _json(
            asked.response(name, answer.model or asked.model, created, status, output, answer.usage or Usage(), **more)
        )

    def stream_writer(self, asked: ResponsesAsked) -> ResponsesWriter:
        """A writer for one streamed response."""
        return ResponsesWriter(asked)

    def error_body(self, error: DetentError) -> bytes:
        """An error as OpenAI writes one."""
        return openai_body(error)

    def error_event(self, error: DetentError) -> bytes:
        """An error within a stream. It holds the error twice: as the reference has it, and as OpenAI's SDK looks for
        it to raise."""
        return _error_event(error, 0)


def _error_event(error: DetentError, number: int) -> bytes:
    inner = msgspec.json.decode(openai_body(error), type=dict[str, msgspec.Raw])["error"]
    body = {
        "type": "error",
        "code": error.code,
        "message": error.message,
        "param": error.field,
        "sequence_number": number,
        "error": inner,
    }
    return b"event: error\ndata: " + _json(body) + b"\n\n"


def _status(reason: FinishReason) -> tuple[str, dict[str, Any]]:
    if reason == "length":
        return "incomplete", {"incomplete_details": {"reason": "max_output_tokens"}}
    if reason == "content_filter":
        return "incomplete", {"incomplete_details": {"reason": "content_filter"}}
    if reason == "error":
        return "failed", {"error": {"code": "server_error", "message": "The model stopped with an error."}}
    return ("cancelled" if reason == "cancelled" else "completed"), {}


class _Open:
    """A part of the answer that is being written.

    `head` is its delta event up to the sequence number, `tail` what stands between that and the text.
    """

    __slots__ = ("content", "head", "item", "kind", "place", "texts")

    def __init__(self, kind: str, place: int, item: dict[str, Any], content: int, fields: bytes) -> None:
        self.kind = kind
        self.place = place
        self.item = item
        self.content = content
        self.texts: list[str] = []
        name = _DELTAS[kind]
        self.head = b'event: %b\ndata: {"type":"%b",%b"sequence_number":' % (name, name, fields)


_DELTAS: Final = {
    "text": b"response.output_text.delta",
    "refusal": b"response.refusal.delta",
    "reasoning": b"response.reasoning_summary_text.delta",
    "call": b"response.function_call_arguments.delta",
    "custom": b"response.custom_tool_call_input.delta",
}


class ResponsesWriter:
    """Writes one streamed response: typed events, numbered, each item opened, filled and closed.

    Attributes:
        response: the finished response object as JSON, for the store; empty before the end.
    """

    __slots__ = ("_asked", "_created", "_id", "_items", "_message", "_model", "_number", "_open", "_reason", "response")

    def __init__(self, asked: ResponsesAsked) -> None:
        self.response = b""
        self._asked = asked
        self._id = ""
        self._created = 0
        self._model = ""
        self._number = 0
        self._reason: FinishReason = "stop"
        self._items: list[dict[str, Any]] = []
        self._open: dict[int, _Open] = {}
        self._message: int | None = None

    def write(self, events: Sequence[ChatEvent]) -> bytes:
        """These events as the client's."""
        out: list[bytes] = []
        for event in events:
            if isinstance(event, TextDelta):
                if event.choice == 0:
                    self._delta(out, "text", event.index, event.text)
            elif isinstance(event, ToolCallDelta):
                if event.choice == 0 and (part := self._open.get(event.index)) is not None:
                    self._more(out, part, event.arguments)
            elif isinstance(event, AnswerStarted):
                self._begin(out, event)
            elif isinstance(event, ReasoningDelta):
                if event.choice == 0:
                    self._reasoning(out, event)
            elif isinstance(event, RefusalDelta):
                if event.choice == 0:
                    self._delta(out, "refusal", event.index, event.text)
            elif isinstance(event, ToolCallStarted):
                if event.choice == 0:
                    self._call(out, event)
            elif isinstance(event, ChoiceFinished) and event.choice == 0:
                self._reason = event.finish_reason
        return b"".join(out)

    def finish(self, usage: Usage) -> bytes:
        """Close what is open and end the response."""
        out: list[bytes] = []
        self._close_all(out)
        status, more = _status(self._reason)
        self._end(out, status, usage, more)
        return b"".join(out)

    def fail(self, error: DetentError) -> bytes:
        """End a response that broke off: `response.failed` with what there is, and the error."""
        out: list[bytes] = []
        self._ready(out)
        detail = {"code": "rate_limit_exceeded" if error.status == 429 else "server_error", "message": error.message}
        self._end(out, "failed", None, {"error": detail})
        out.append(_error_event(error, self._number))
        return b"".join(out)

    def _end(self, out: list[bytes], status: str, usage: Usage | None, more: Mapping[str, Any]) -> None:
        self._ready(out)
        self.response = _json(
            self._asked.response(self._id, self._model, self._created, status, self._items, usage, **more)
        )
        name = "response." + (status if status in {"incomplete", "failed"} else "completed")
        self._event(out, name, response=msgspec.Raw(self.response))

    def _event(self, out: list[bytes], name: str, **fields: Any) -> None:
        body = _json({"type": name, "sequence_number": self._number, **fields})
        self._number += 1
        out.append(b"event: %b\ndata: %b\n\n" % (name.encode(), body))

    def _begin(self, out: list[bytes], event: AnswerStarted) -> None:
        if self._id:
            return
        self._id, self._created = self._asked.names(event.id, event.created)
        self._model = event.model or self._asked.model
        begun = msgspec.Raw(_json(self._asked.response(self._id, self._model, self._created, "in_progress", [], None)))
        self._event(out, "response.created", response=begun)
        self._event(out, "response.in_progress", response=begun)

    def _ready(self, out: list[bytes]) -> str:
        if not self._id:
            self._begin(out, AnswerStarted())
        return self._id.removeprefix("resp_")

    def _delta(self, out: list[bytes], kind: str, index: int, text: str) -> None:
        part = self._open.get(index)
        if part is None or part.kind != kind:
            part = self._start(out, kind, index)
        self._more(out, part, text)

    def _more(self, out: list[bytes], part: _Open, text: str) -> None:
        if not text:
            return
        part.texts.append(text)
        if part.kind != "custom":  # its text is known when the arguments are whole
            out.append(b'%b%d,"delta":%b}\n\n' % (part.head, self._number, _json(text)))
            self._number += 1

    def _start(self, out: list[bytes], kind: str, index: int) -> _Open:
        """A part of a message: within the open one, or in a new one."""
        suffix = self._ready(out)
        if self._message is None:
            self._close_all(out, calls=False)
            self._message = len(self._items)
            item = message_item(suffix, self._message, "in_progress", [])
            self._add(out, item)
        else:
            self._close_parts(out)
        place = self._message
        item = self._items[place]
        number = len(item["content"])
        part: dict[str, Any] = {"type": "refusal", "refusal": ""}
        logprobs = b""
        if kind == "text":
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            logprobs = b'"logprobs":[],'
        item["content"].append(part)
        self._event(
            out, "response.content_part.added", item_id=item["id"], output_index=place, content_index=number, part=part
        )
        at = b'"item_id":"%b","output_index":%d,"content_index":%d,%b' % (item["id"].encode(), place, number, logprobs)
        opened = self._open[index] = _Open(kind, place, item, number, at)
        return opened

    def _reasoning(self, out: list[bytes], event: ReasoningDelta) -> None:
        part = self._open.get(event.index)
        if part is None or part.kind != "reasoning":
            suffix = self._ready(out)
            self._close_all(out, calls=False)
            item = reasoning_item(suffix, len(self._items), "", "", event.id)
            place = self._add(out, item)
            at = b'"item_id":%b,"output_index":%d,"summary_index":0,' % (_json(item["id"]), place)
            part = self._open[event.index] = _Open("reasoning", place, item, 0, at)
        if event.text:
            if not part.texts:
                self._summary(out, part, "response.reasoning_summary_part.added", "")
            self._more(out, part, event.text)
        if event.signature or event.redacted:
            part.item["encrypted_content"] = encrypted(ReasoningPart("", event.signature, event.redacted))

    def _summary(self, out: list[bytes], part: _Open, name: str, text: str) -> None:
        self._event(
            out,
            name,
            item_id=part.item["id"],
            output_index=part.place,
            summary_index=0,
            part={"type": "summary_text", "text": text},
        )

    def _call(self, out: list[bytes], event: ToolCallStarted) -> None:
        suffix = self._ready(out)
        self._close_all(out, calls=False)
        if event.signature:
            carrier = reasoning_item(suffix, len(self._items), "", carried(event.signature))
            place = self._add(out, carrier)
            self._event(out, "response.output_item.done", output_index=place, item=carrier)
        custom = self._asked.is_custom(event.name)
        call = ToolCallPart(event.id, event.name, "")
        item = call_item(suffix, len(self._items), call, "in_progress", custom=custom)
        place = self._add(out, item)
        at = b'"item_id":"%b","output_index":%d,' % (item["id"].encode(), place)
        self._open[event.index] = _Open("custom" if custom else "call", place, item, 0, at)

    def _add(self, out: list[bytes], item: dict[str, Any]) -> int:
        place = len(self._items)
        self._items.append(item)
        self._event(out, "response.output_item.added", output_index=place, item=item)
        return place

    def _status(self, place: int) -> str:
        """Of an item that closes: the last one is incomplete when the answer was cut at its limit."""
        return "incomplete" if self._reason == "length" and place == len(self._items) - 1 else "completed"

    def _close_parts(self, out: list[bytes]) -> None:
        for index in [index for index, part in self._open.items() if part.kind in {"text", "refusal"}]:
            part = self._open.pop(index)
            text = "".join(part.texts)
            content = part.item["content"][part.content]
            at = {"item_id": part.item["id"], "output_index": part.place, "content_index": part.content}
            if part.kind == "text":
                content["text"] = text
                self._event(out, "response.output_text.done", **at, text=text, logprobs=[])
            else:
                content["refusal"] = text
                self._event(out, "response.refusal.done", **at, refusal=text)
            self._event(out, "response.content_part.done", **at, part=content)

    def _close_all(self, out: list[bytes], *, calls: bool = True) -> None:
        """Close the message and reasoning; calls may still grow side by side, so they close at the end."""
        self._close_parts(out)
        if self._message is not None:
            item = self._items[self._message]
            item["status"] = self._status(self._message)
            self._event(out, "response.output_item.done", output_index=self._message, item=item)
            self._message = None
        for index in [i for i, part in self._open.items() if calls or part.kind == "reasoning"]:
            part = self._open.pop(index)
            text = "".join(part.texts)
            at = {"item_id": part.item["id"], "output_index": part.place}
            if part.kind == "reasoning":
                if text:
                    part.item["summary"] = [{"type": "summary_text", "text": text}]
                    self._event(out, "response.reasoning_summary_text.done", **at, summary_index=0, text=text)
                    self._summary(out, part, "response.reasoning_summary_part.done", text)
            elif part.kind == "call":
                part.item["arguments"] = text
                part.item["status"] = self._status(part.place)
                self._event(out, "response.function_call_arguments.done", **at, arguments=text)
            else:
                free = part.item["input"] = unwrapped(text) if text else ""
                part.item["status"] = self._status(part.place)
                if free:
                    self._event(out, "response.custom_tool_call_input.delta", **at, delta=free)
                self._event(out, "response.custom_tool_call_input.done", **at, input=free)
            self._event(out, "response.output_item.done", output_index=part.place, item=part.item)


CLIENT: Final = ResponsesClient()

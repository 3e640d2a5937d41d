"""Amazon Bedrock's Converse and ConverseStream: one form for all models there.

What only some models have (thinking, `top_k`) goes into `additionalModelRequestFields`, in their makers' words. Answers
hold neither an id nor the model's name. Thinking state is Anthropic's own and goes back and forth as it is.

Source: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final
from urllib.parse import quote

import msgspec

from detent.gateway.dialects.anthropic.requests import Ways, ways_of
from detent.gateway.dialects.eventstream import Message as Frame
from detent.gateway.dialects.eventstream import Messages
from detent.gateway.dialects.fields import encoded, unsayable
from detent.gateway.dialects.marks import unmarked
from detent.gateway.dialects.port import Outgoing
from detent.gateway.dialects.quirks import Quirks, nearest
from detent.gateway.dialects.thinking import budget, effort
from detent.gateway.errors import BadAnswer, UpstreamBusy, UpstreamError, UpstreamRejected
from detent.gateway.usage import read_figures
from detent.kernel.chat import (
    AnswerStarted,
    AudioPart,
    CacheTtl,
    ChatAnswer,
    ChatEvent,
    ChatRequest,
    ChoiceFinished,
    FilePart,
    FinishReason,
    ImagePart,
    Message,
    Part,
    Reasoning,
    ReasoningDelta,
    ReasoningPart,
    RefusalPart,
    TextDelta,
    TextPart,
    ToolCallDelta,
    ToolCallPart,
    ToolCallStarted,
    ToolResultPart,
    Usage,
    UsageReported,
)
from detent.kernel.errors import DetentError

NAME: Final = "bedrock"
_UNSAID: Final = ("presence_penalty", "frequency_penalty", "seed", "user", "parallel_tool_calls")
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_METADATA: Final = re.compile(r"[A-Za-z0-9\s:_@$#=/+,.-]{1,256}")
_UNNAMED: Final = re.compile(r"[^A-Za-z0-9\s()\[\]-]+")
_TIERS: Final = frozenset({"priority", "default", "flex", "reserved"})
_LEAST_BUDGET: Final = 1024
_ABSENT: Final = msgspec.Raw()
_IMAGES: Final = {
    "image/png": "png",
    "image/jpeg": "jpeg",
    "image/jpg": "jpeg",
    "image/gif": "gif",
    "image/webp": "webp",
}
_DOCUMENTS: Final = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}
_STOPS: Final[dict[str, FinishReason]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
    "refusal": "refusal",
    "pause_turn": "pause",
}
"""Any other (`malformed_tool_use`, `malformed_model_output`) is an error of the model."""


# Requests


class BedrockProvider:
    """Amazon Bedrock. Its base URL is `https://bedrock-runtime.REGION.amazonaws.com`."""

    name = NAME

    def write_request(self, request: ChatRequest, *, model: str, quirks: Quirks) -> Outgoing:  # noqa: ARG002
        """A request for one of its models: by id, inference profile or ARN.

        Raises:
            InvalidInput: it holds what only a provider that fetches files could use.
        """
        dropped = [name for name in _UNSAID if getattr(request, name) not in (None, "")]
        if request.n not in (None, 1):
            dropped.append("n")
        dropped += list(request.extra)
        system, messages, names = _written(request.messages)
        body: dict[str, Any] = {"messages": messages}
        if system:
            body["system"] = system
        config, fields, lost = _inference(request, model, messages)
        dropped += lost
        if config:
            body["inferenceConfig"] = config
        if fields:
            body["additionalModelRequestFields"] = fields
        if request.stop and "anthropic" in model:
            body["additionalModelResponseFieldPaths"] = ["/stop_sequence"]
        tools, lost = _tools(request, names)
        dropped += lost
        if tools:
            body["toolConfig"] = tools
        output, lost = _output(request, model, fields)
        dropped += lost
        if output:
            body["outputConfig"] = output
        if request.service_tier in _TIERS:
            body["serviceTier"] = {"type": request.service_tier}
        elif request.service_tier not in {"", "auto"}:
            dropped.append("service_tier")
        if request.metadata:
            if all(_METADATA.fullmatch(text) for pair in request.metadata.items() for text in pair):
                body["requestMetadata"] = request.metadata
            else:
                dropped.append("metadata")
        path = f"/model/{quote(model, safe='')}/converse"
        if request.stream:
            accept = ("accept", "application/vnd.amazon.eventstream")
            return Outgoing(path + "-stream", encoded(body), (accept,), tuple(dropped))
        return Outgoing(path, encoded(body), dropped=tuple(dropped))

    def read_answer(self, raw: bytes) -> ChatAnswer:
        """A whole answer.

        Raises:
            UpstreamError: it is an error in spite of its status.
            BadAnswer: it is no answer.
        """
        try:
            found = _ANSWERS.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise BadAnswer("The provider's answer is no Converse response.") from None
        if found.output is None or found.output.message is None:
            if found.message:
                raise UpstreamError(f"The provider reported an error: {found.message[:500]}")
            raise BadAnswer("The provider's answer holds no message.")
        parts = tuple(part for block in found.output.message.content for part in _parts(block))
        return ChatAnswer(
            "",
            "",
            Message("assistant", parts),
            _STOPS.get(found.stop_reason, "error"),
            _counted(found.usage),
            _stop_sequence(found.additional_model_response_fields),
        )

    def stream_reader(self) -> BedrockReader:
        """A reader for one streamed answer."""
        return BedrockReader()


def _written(messages: Sequence[Message]) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    """System blocks, messages with each role's neighbours in one, and the names of the tools that were called."""
    system: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    names: dict[str, None] = {}
    for number, message in enumerate(messages):
        blocks: list[dict[str, Any]] = []
        for place, part in enumerate(message.parts):
            if isinstance(part, ToolCallPart):
                names[part.name] = None
            blocks.extend(_blocks(part, f"messages.{number}.parts.{place}"))
        if message.role in {"system", "developer"}:
            system.extend(block for block in blocks if block.keys() & {"text", "cachePoint"})
            continue
        role = "assistant" if message.role == "assistant" else "user"
        if not blocks:
            continue
        if found and found[-1]["role"] == role:
            found[-1]["content"].extend(blocks)
        else:
            found.append({"role": role, "content": blocks})
    return system, found, list(names)


def _blocks(part: Part, at: str) -> Iterator[dict[str, Any]]:
    cache: CacheTtl = ""
    match part:
        case TextPart(text):
            if text.strip():  # blank text is refused
                yield {"text": text}
            cache = part.cache
        case RefusalPart(text):
            if text.strip():
                yield {"text": text}
        case ToolCallPart():
            yield {"toolUse": {"toolUseId": _id(part.id), "name": part.name, "input": _input(part.arguments)}}
            cache = part.cache
        case ToolResultPart():
            content = [block for piece in part.content for block in _plain(piece, at)] or [{"text": "(empty)"}]
            result: dict[str, Any] = {"toolUseId": _id(part.id), "content": content}
            if part.is_error:
                result["status"] = "error"
            yield {"toolResult": result}
            cache = part.cache
        case ReasoningPart():
            if not str(part.extra.get("format", "anthropic")).startswith("anthropic"):
                return
            if state := unmarked(part.signature):
                yield {"reasoningContent": {"reasoningText": {"text": part.text, "signature": state}}}
            elif part.redacted:
                yield {"reasoningContent": {"redactedContent": part.redacted}}
        case ImagePart() | FilePart():
            yield from _plain(part, at)
            cache = part.cache
        case AudioPart(data, form):
            yield {"audio": {"format": form or "wav", "source": {"bytes": data}}}
    if cache:
        yield _cache_point(cache)


def _cache_point(cache: CacheTtl) -> dict[str, Any]:
    return {"cachePoint": {"type": "default", **({} if cache == "default" else {"ttl": cache})}}


def _plain(part: TextPart | ImagePart | FilePart, at: str) -> Iterator[dict[str, Any]]:
    """Text, an image or a document, as they may also stand in a tool's result."""
    match part:
        case TextPart(text):
            if text.strip():
                yield {"text": text}
        case ImagePart():
            kind = part.media_type or f"image/{part.url.rpartition('.')[2].lower()}"
            form = _IMAGES.get("image/png" if part.data and not part.media_type else kind)
            if form is None:
                raise unsayable(at, f"An image of the type {kind[:50]!r}", "Bedrock")
            yield {"image": {"format": form, "source": _source(part.data, part.url, at, "An image by URL")}}
        case FilePart():
            if part.file_id:
                raise unsayable(at, "A file by its id", "Bedrock")
            form = _DOCUMENTS.get(part.media_type) or (part.name or part.url).rpartition(".")[2].lower()
            if form not in _DOCUMENTS.values():
                form = "pdf" if not part.media_type else "txt"
            name = _UNNAMED.sub(" ", part.name.rpartition(".")[0] or part.name).strip() or "document"
            source = _source(part.data, part.url, at, "A file by URL")
            yield {"document": {"format": form, "name": " ".join(name.split())[:200], "source": source}}


def _source(data: str, url: str, at: str, what: str) -> dict[str, Any]:
    if data:
        return {"bytes": data}
    if url.startswith("s3://"):
        return {"s3Location": {"uri": url}}
    raise unsayable(at, what, "Bedrock")


def _id(id: str) -> str:
    """A call's id within the bounds that Bedrock sets, the same for the call and its result."""
    if _ID.fullmatch(id):
        return id
    return "tooluse_" + hashlib.sha256(id.encode(errors="surrogatepass")).hexdigest()[:24]


def _input(arguments: str) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(arguments or "{}")
    except (msgspec.MsgspecError, RecursionError):
        return {"invalid_json": arguments}
    return found if isinstance(found, dict) else {"value": found}


def _inference(
    request: ChatRequest, model: str, messages: list[dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """`inferenceConfig`, the model's own fields, and what was left out."""
    dropped: list[str] = []
    config: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    most = request.max_tokens
    given = {"temperature": request.temperature, "top_p": request.top_p, "top_k": request.top_k}
    claude = ways_of(model) if "claude" in model else None
    if request.reasoning is not None:
        word = effort(request.reasoning)
        if claude is not None:
            thinking = _claude_thinks(request, claude, messages)
            if thinking is None:
                dropped += ["reasoning"] if word != "none" else []
            elif thinking:
                fields["thinking"] = thinking
                if (tokens := thinking.get("budget_tokens")) is not None:
                    most = tokens + claude.max_tokens if most is None else most
                    # Within a budget Claude does not think at another temperature than its own.
                    dropped += _without(given, "temperature", "top_k")
        elif not word:
            pass
        elif "gpt-oss" in model:
            fields["reasoning_effort"] = nearest(word, ("low", "medium", "high"))
        elif "nova" in model:
            if word != "none":
                level = nearest(word, ("low", "medium", "high"))
                fields["reasoningConfig"] = {"type": "enabled", "maxReasoningEffort": level}
        elif word != "none":
            dropped.append("reasoning")
    if claude is not None and not claude.sampling:
        dropped += _without(given, "temperature", "top_p", "top_k")
    top_k = given["top_k"]
    if top_k is not None:
        if "nova" in model:
            fields["inferenceConfig"] = {"topK": top_k}
        else:
            fields["top_k"] = top_k
    for name, value in (("maxTokens", most), ("temperature", given["temperature"]), ("topP", given["top_p"])):
        if value is not None:
            config[name] = value
    if request.stop:
        config["stopSequences"] = list(request.stop)
    return config, fields, dropped


def _without(given: dict[str, float | None], *names: str) -> list[str]:
    """Take these away; the names of those that there were."""
    found = [name for name in names if given[name] is not None]
    given.update(dict.fromkeys(names))
    return found


def _claude_thinks(request: ChatRequest, ways: Ways, messages: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Claude's `thinking`; empty for its default, None where it may not think or was asked not to.

    It may not beside a forced tool, nor when its last turn calls tools without the thinking that led to it.
    """
    wish = request.reasoning or Reasoning()
    if effort(wish) == "none":
        return {"type": "disabled"} if ways.adaptive else {}
    forced = request.tool_choice is not None and request.tool_choice.mode in {"required", "tool"}
    if not ways.thinking or forced:
        return None
    if ways.adaptive:
        return {"type": "adaptive"}
    if _unsigned_call(messages):
        return None
    top = None if request.max_tokens is None else request.max_tokens - 1
    tokens = budget(wish, least=_LEAST_BUDGET, most=top)
    if tokens is None:
        tokens = budget(Reasoning("medium"), most=top) or 0
    return {"type": "enabled", "budget_tokens": tokens} if tokens >= _LEAST_BUDGET else None


def _unsigned_call(messages: list[dict[str, Any]]) -> bool:
    for message in reversed(messages):
        if message["role"] == "assistant":
            blocks: list[dict[str, Any]] = message["content"]
            return any("toolUse" in block for block in blocks) and "reasoningContent" not in blocks[0]
    return False


def _output(request: ChatRequest, model: str, fields: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """`outputConfig`, and what was left out."""
    found: dict[str, Any] = {}
    dropped: list[str] = []
    claude = ways_of(model) if "claude" in model else None
    form = request.response_format
    if form is not None and form.kind != "text":
        if form.kind == "json_object" or (claude is not None and not claude.formats):
            dropped.append("response_format")
        else:
            schema = {"schema": encoded(form.schema).decode(), "name": form.name or "answer"}
            if form.description:
                schema["description"] = form.description
            found["textFormat"] = {"type": "json_schema", "structure": {"jsonSchema": schema}}
    if fields.get("thinking") == {"type": "adaptive"} and claude is not None and request.reasoning is not None:
        word = effort(request.reasoning)
        if word:
            found["effort"] = nearest(word, claude.efforts)
    return found, dropped


def _tools(request: ChatRequest, names: list[str]) -> tuple[dict[str, Any], list[str]]:
    """`toolConfig`, and what was left out. Tools that were called must be declared, be they offered still or not."""
    choice = request.tool_choice
    offered = () if choice is not None and choice.mode == "none" and not names else request.tools
    tools: list[dict[str, Any]] = []
    for tool in offered:
        spec: dict[str, Any] = {
            "name": tool.name,
            "inputSchema": {"json": tool.parameters or {"type": "object", "properties": {}}},
        }
        if tool.description:
            spec["description"] = tool.description
        if tool.strict is not None:
            spec["strict"] = tool.strict
        tools.append({"toolSpec": spec})
        if tool.cache:
            tools.append(_cache_point(tool.cache))
    if not offered:
        tools = [{"toolSpec": {"name": name, "inputSchema": {"json": {"type": "object"}}}} for name in names]
    if not tools:
        return {}, []
    config: dict[str, Any] = {"tools": tools}
    dropped: list[str] = []
    if choice is not None and offered:
        match choice.mode:
            case "required":
                config["toolChoice"] = {"any": {}}
            case "tool":
                config["toolChoice"] = {"tool": {"name": choice.tool}}
            case "auto":
                config["toolChoice"] = {"auto": {}}
            case "none":
                dropped.append("tool_choice")
    return config, dropped


# Answers


class _ReasoningText(msgspec.Struct):
    text: str = ""
    signature: str = ""


class _Thought(msgspec.Struct, rename="camel"):
    """A block has `reasoning_text`, a delta has `text` or `signature`."""

    reasoning_text: _ReasoningText | None = None
    redacted_content: str = ""
    text: str = ""
    signature: str = ""


class _ToolUse(msgspec.Struct, rename="camel"):
    tool_use_id: str = ""
    name: str = ""
    input: msgspec.Raw = msgspec.Raw(b"{}")


class _Text(msgspec.Struct):
    text: str = ""


class _Citations(msgspec.Struct):
    content: list[_Text] = []


class _Source(msgspec.Struct):
    bytes: str = ""


class _Image(msgspec.Struct):
    format: str = "png"
    source: _Source | None = None


class _Block(msgspec.Struct, rename="camel"):
    text: str | None = None
    tool_use: _ToolUse | None = None
    reasoning_content: _Thought | None = None
    citations_content: _Citations | None = None
    image: _Image | None = None


class _Message(msgspec.Struct):
    content: list[_Block] = []


class _Output(msgspec.Struct):
    message: _Message | None = None


class _Usage(msgspec.Struct, rename="camel"):
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_write_input_tokens: int = 0

    def neutral(self) -> Usage | None:
        """The figures; None when they cannot be right. Cached tokens are counted beside the input there."""
        cached, written = self.cache_read_input_tokens, self.cache_write_input_tokens
        if min(self.input_tokens, self.output_tokens, cached, written) < 0 or not self.input_tokens + cached + written:
            return None
        return Usage(self.input_tokens + cached + written, self.output_tokens, cached, written)


class _Answer(msgspec.Struct, rename="camel"):
    output: _Output | None = None
    stop_reason: str = ""
    usage: msgspec.Raw = _ABSENT
    additional_model_response_fields: Any = None
    message: str = ""


class _Delta(msgspec.Struct, rename="camel"):
    text: str | None = None
    tool_use: _ToolUse | None = None
    reasoning_content: _Thought | None = None


class _Start(msgspec.Struct, rename="camel"):
    tool_use: _ToolUse | None = None


class _Event(msgspec.Struct, rename="camel"):
    content_block_index: int = 0
    delta: _Delta | None = None
    start: _Start | None = None
    stop_reason: str = ""
    usage: msgspec.Raw = _ABSENT
    additional_model_response_fields: Any = None
    message: str = ""
    original_message: str = ""


_ANSWERS: Final = msgspec.json.Decoder(_Answer)
_EVENTS: Final = msgspec.json.Decoder(_Event)


def _parts(block: _Block) -> Iterator[Part]:
    if block.text is not None:
        yield TextPart(block.text)
    elif block.tool_use is not None:
        yield ToolCallPart(block.tool_use.tool_use_id, block.tool_use.name, bytes(block.tool_use.input).decode())
    elif (thought := block.reasoning_content) is not None:
        text = thought.reasoning_text or _ReasoningText()
        yield ReasoningPart(text.text, text.signature, thought.redacted_content)
    elif block.citations_content is not None:
        yield TextPart("".join(piece.text for piece in block.citations_content.content))
    elif block.image is not None and block.image.source is not None:
        yield ImagePart(data=block.image.source.bytes, media_type=f"image/{block.image.format}")


def _counted(raw: msgspec.Raw) -> Usage | None:
    figures = read_figures(raw, _Usage)
    return figures.neutral() if figures is not None else None


def _stop_sequence(fields: object) -> str:
    found = fields.get("stop_sequence") if isinstance(fields, dict) else None
    return found if isinstance(found, str) else ""


class BedrockReader:
    """Reads one streamed answer. It is finished with the `metadata` that follows `messageStop`."""

    __slots__ = ("_messages", "_started", "done", "failure")

    def __init__(self) -> None:
        self.done = False
        self.failure: DetentError | None = None
        self._messages = Messages()
        self._started = False

    def feed(self, data: bytes) -> tuple[bytes, list[ChatEvent]]:
        """Take what was read."""
        raw: list[bytes] = []
        events: list[ChatEvent] = []
        if self.done or self.failure is not None:
            return b"", events
        frames, fault = self._messages.feed(data)
        for frame in frames:
            failure = self.failure = self._take(frame, events)
            if failure is not None:
                return b"".join(raw), events
            raw.append(frame.raw)
            if frame.headers.get(":event-type") == "metadata":
                self.done = True
                return b"".join(raw), events
        if fault:
            self.failure = BadAnswer(f"The provider's stream is damaged: {fault}.")
        return b"".join(raw), events

    def _take(self, frame: Frame, out: list[ChatEvent]) -> DetentError | None:
        kind = frame.headers.get(":message-type", "event")
        if kind == "error":
            said = frame.headers.get(":error-message") or frame.headers.get(":error-code", "without a message")
            return UpstreamError(f"The provider reported an error: {said[:500]}")
        try:
            found = _EVENTS.decode(frame.payload or b"{}")
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return BadAnswer("The provider's stream holds an event of the wrong form.")
        if kind == "exception":
            return _failure(frame.headers.get(":exception-type", ""), found, frame.payload)
        if not self._started:
            self._started = True
            out.append(AnswerStarted())
        match frame.headers.get(":event-type"):
            case "contentBlockDelta":
                return self._delta(found, out)
            case "contentBlockStart":
                use = found.start.tool_use if found.start is not None else None
                if use is not None:
                    out.append(ToolCallStarted(use.tool_use_id, use.name, found.content_block_index))
            case "messageStop":
                stop = _stop_sequence(found.additional_model_response_fields)
                out.append(ChoiceFinished(_STOPS.get(found.stop_reason, "error"), 0, stop))
            case "metadata":
                if (usage := _counted(found.usage)) is not None:
                    out.append(UsageReported(usage))
            case _:
                pass
        return None

    def _delta(self, found: _Event, out: list[ChatEvent]) -> DetentError | None:
        delta, index = found.delta, found.content_block_index
        if delta is None:
            return None
        if delta.text is not None:
            out.append(TextDelta(delta.text, index))
        elif delta.tool_use is not None:
            try:
                piece = msgspec.json.decode(delta.tool_use.input, type=str)
            except msgspec.MsgspecError:
                return BadAnswer("The provider's stream holds arguments that are no text.")
            if piece:
                out.append(ToolCallDelta(piece, index))
        elif (thought := delta.reasoning_content) is not None:
            out.append(ReasoningDelta(thought.text, thought.signature, thought.redacted_content, index=index))
        return None


def _failure(kind: str, event: _Event, body: bytes) -> DetentError:
    said = (event.original_message or event.message or kind or "without a message")[:500]
    if kind == "throttlingException":
        return UpstreamBusy(f"The provider is over its limit: {said}", hint="Wait, or add a target to the route.")
    if kind == "validationException":
        return UpstreamRejected(f"The provider refused the request: {said}", said=body)
    return UpstreamError(f"The provider reported an error: {said}")


PROVIDER: Final = BedrockProvider()

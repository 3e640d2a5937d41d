"""Google Gemini's `generateContent` and `streamGenerateContent`, on the Gemini API and on Vertex AI.

Calls have no ids in older versions, so stable ones are made, and results find their function by them. Thought
signatures are kept on the part that they came with and sent back there, which Gemini 3 insists on.

Source: https://ai.google.dev/api/generate-content and https://ai.google.dev/gemini-api/docs/thought-signatures
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final
from urllib.parse import quote

import msgspec

from detent.gateway.dialects.fields import encoded
from detent.gateway.dialects.framing import Event, Framing
from detent.gateway.dialects.marks import GEMINI, marked, own
from detent.gateway.dialects.port import Outgoing
from detent.gateway.dialects.quirks import Quirks
from detent.gateway.dialects.schemas import GEMINI as KEYWORDS
from detent.gateway.dialects.schemas import reduced
from detent.gateway.dialects.thinking import budget, effort
from detent.gateway.errors import BadAnswer, UpstreamBusy, UpstreamError
from detent.gateway.surrogates import mended
from detent.gateway.usage import read_figures
from detent.kernel.chat import (
    AnswerStarted,
    AudioPart,
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

NAME: Final = "gemini"
_NEWER: Final = re.compile(r"gemini-(?:[3-9]|\d\d)")
_MADE: Final = "call_gm_"
_NO_SIGNATURE: Final = "skip_thought_signature_validator"
_MAX_BARE: Final = 64 * 1024
_MAX_STOPS: Final = 5
_UNSAID: Final = ("parallel_tool_calls", "user", "metadata", "service_tier")
_ABSENT: Final = msgspec.Raw()
_ENCODER: Final = msgspec.json.Encoder()
_FINISHES: Final[dict[str, FinishReason]] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "LANGUAGE": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "MODEL_ARMOR": "content_filter",
}
"""Any other reason (`MALFORMED_FUNCTION_CALL`, `UNEXPECTED_TOOL_CALL`, `OTHER`...) is an error of the model."""

_MEDIA: Final = {"mp3": "audio/mp3", "wav": "audio/wav", "flac": "audio/flac", "ogg": "audio/ogg", "aac": "audio/aac"}


class _FunctionCall(msgspec.Struct):
    name: str = ""
    args: dict[str, Any] | None = None
    id: str | None = None


class _Blob(msgspec.Struct, rename="camel"):
    mime_type: str = ""
    data: str = ""


class _Part(msgspec.Struct, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: _FunctionCall | None = None
    inline_data: _Blob | None = None


class _Content(msgspec.Struct):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, rename="camel"):
    content: _Content | None = None
    finish_reason: str | None = None
    finish_message: str | None = None
    index: int | None = None


class _Feedback(msgspec.Struct, rename="camel"):
    block_reason: str | None = None


class _Usage(msgspec.Struct, rename="camel"):
    prompt_token_count: int = 0
    candidates_token_count: int = 0
    thoughts_token_count: int = 0
    tool_use_prompt_token_count: int = 0
    cached_content_token_count: int = 0

    def neutral(self) -> Usage | None:
        """The figures; None when they cannot be right. Thoughts are counted beside the candidates there."""
        inputs = self.prompt_token_count + self.tool_use_prompt_token_count
        outputs = self.candidates_token_count + self.thoughts_token_count
        cached, thoughts = self.cached_content_token_count, self.thoughts_token_count
        if inputs <= 0 or min(outputs, cached, thoughts) < 0 or cached > inputs or thoughts > outputs:
            return None
        return Usage(inputs, outputs, cached, 0, thoughts)


class _Error(msgspec.Struct):
    code: int | None = None
    message: str | None = None
    status: str | None = None
    details: list[Any] | None = None


class _Answer(msgspec.Struct, rename="camel"):
    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: msgspec.Raw = _ABSENT
    model_version: str | None = None
    response_id: str | None = None
    error: _Error | None = None


_DECODER: Final = msgspec.json.Decoder(_Answer)
_LISTS: Final = msgspec.json.Decoder(list[_Answer])


class GeminiProvider:
    """A provider that speaks Gemini. Its base URL ends with the version, or on Vertex AI with `/publishers/google`."""

    name = NAME

    def write_request(self, request: ChatRequest, *, model: str, quirks: Quirks) -> Outgoing:  # noqa: ARG002
        """A request for one of its models."""
        dropped = [name for name in _UNSAID if getattr(request, name) not in (None, "", {})]
        dropped += list(request.extra)
        newer = _NEWER.search(model) is not None
        system, contents = _Contents(newer).written(request.messages)
        body: dict[str, Any] = {"contents": contents}
        if system:
            body["systemInstruction"] = {"parts": [{"text": text} for text in system]}
        if request.tools:
            declared, lost = _declared(request)
            dropped += lost
            body["tools"] = [{"functionDeclarations": declared}]
            if (choice := _choice(request)) is not None:
                body["toolConfig"] = {"functionCallingConfig": choice}
        config, lost = _config(request, model, newer=newer)
        dropped += lost
        if config:
            body["generationConfig"] = config
        name = quote(model.strip("/"), safe="/@")
        path = f"/{name}" if "/" in name else f"/models/{name}"
        path += ":streamGenerateContent?alt=sse" if request.stream else ":generateContent"
        return Outgoing(path, encoded(body), dropped=tuple(dict.fromkeys(dropped)))

    def read_answer(self, raw: bytes) -> ChatAnswer:
        """A whole answer.

        Raises:
            UpstreamError: it is an error in spite of its status.
            UpstreamBusy: the same, because of a limit.
            BadAnswer: it is no answer.
        """
        found = _decoded(raw)
        if found is None:
            raise BadAnswer("The provider's answer is no Gemini response.")
        if found.error is not None:
            raise _failure(found.error)
        made = found.response_id or ""
        usage = _counted(found)
        choices = [_message(candidate, made, number) for number, candidate in enumerate(found.candidates or ())]
        extra: dict[str, Any] = {}
        if not choices:
            blocked = found.prompt_feedback.block_reason if found.prompt_feedback else None
            if not blocked:
                raise BadAnswer("The provider's answer holds no candidates.")
            choices = [(Message("assistant", ()), "content_filter")]
            extra["block_reason"] = blocked
        (message, reason), *more = choices
        return ChatAnswer(made, found.model_version or "", message, reason, usage, more=tuple(more), extra=extra)

    def stream_reader(self) -> GeminiReader:
        """A reader for one streamed answer."""
        return GeminiReader()


# Requests


class _Contents:
    """Turns of `user` and `model`, each role's neighbours in one."""

    __slots__ = ("_names", "_newer", "contents")

    def __init__(self, newer: bool) -> None:  # noqa: FBT001  (a fact about the model, given once)
        self._newer = newer
        self._names: dict[str, str] = {}
        self.contents: list[dict[str, Any]] = []

    def written(self, messages: Sequence[Message]) -> tuple[list[str], list[dict[str, Any]]]:
        """System texts, and the contents."""
        system: list[str] = []
        for message in messages:
            if message.role in {"system", "developer"}:
                if message.text:
                    system.append(message.text)
            elif message.role == "assistant":
                self._add("model", list(self._model(message.parts)))
            else:
                self._add("user", [part for each in message.parts for part in self._user(each)])
        return system, self.contents

    def _add(self, role: str, parts: list[dict[str, Any]]) -> None:
        if not parts:
            return
        if self.contents and self.contents[-1]["role"] == role:
            self.contents[-1]["parts"].extend(parts)
        else:
            self.contents.append({"role": role, "parts": parts})

    def _model(self, parts: Sequence[Part]) -> Iterator[dict[str, Any]]:
        before: dict[str, Any] | None = None
        called = False
        for part in parts:
            written: dict[str, Any] | None = None
            match part:
                case TextPart(text) | RefusalPart(text):
                    written = {"text": text} if text else None
                case ReasoningPart():
                    state = own(GEMINI, part.signature)
                    if not state:
                        continue
                    if part.text:
                        written = {"text": part.text, "thought": True, "thoughtSignature": state}
                    elif before is not None and before.keys() == {"text"}:
                        before["thoughtSignature"] = state
                        continue
                    else:
                        written = {"text": "", "thoughtSignature": state}
                case ToolCallPart():
                    self._names[part.id] = part.name
                    call: dict[str, Any] = {"name": part.name, "args": _arguments(part.arguments)}
                    if part.id and not part.id.startswith(_MADE):
                        call["id"] = part.id
                    written = {"functionCall": call}
                    if state := own(GEMINI, part.signature):
                        written["thoughtSignature"] = state
                    elif self._newer and not called:
                        written["thoughtSignature"] = _NO_SIGNATURE
                    called = True
                case _:
                    written = _media(part)
            if written is not None:
                if before is not None:
                    yield before
                before = written
        if before is not None:
            yield before

    def _user(self, part: Part) -> Iterator[dict[str, Any]]:
        if not isinstance(part, ToolResultPart):
            if isinstance(part, TextPart | RefusalPart):
                if part.text:
                    yield {"text": part.text}
            elif (found := _media(part)) is not None:
                yield found
            return
        text = "".join(piece.text for piece in part.content if isinstance(piece, TextPart))
        media = [found for piece in part.content if (found := _media(piece)) is not None]
        name = part.name or self._names.get(part.id) or part.id or "unknown"
        answer: dict[str, Any] = {"name": name, "response": {"error" if part.is_error else "output": text}}
        if part.id and not part.id.startswith(_MADE):
            answer["id"] = part.id
        if media and self._newer:
            answer["parts"] = media
            media = []
        yield {"functionResponse": answer}
        yield from media


def _arguments(text: str) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(text or "{}")
    except (msgspec.MsgspecError, RecursionError):
        return {"invalid_json": text}
    return found if isinstance(found, dict) else {"value": found}


def _media(part: Part) -> dict[str, Any] | None:
    match part:
        case ImagePart(url=url, data=data, media_type=kind):
            kind = kind or "image/png" if data else kind or _guessed(url, "image/jpeg")
        case FilePart(url=url, data=data, media_type=kind):
            if part.file_id:
                return {"fileData": {"fileUri": part.file_id, **({"mimeType": kind} if kind else {})}}
            kind = kind or _guessed(url or part.name, "application/pdf")
        case AudioPart(data=data, format=form):
            url, kind = "", _MEDIA.get(form, f"audio/{form or 'wav'}")
        case _:
            return None
    if data:
        return {"inlineData": {"mimeType": kind, "data": data}}
    return {"fileData": {"fileUri": url, "mimeType": kind}}


def _guessed(name: str, default: str) -> str:
    """A media type by the name's ending; Gemini will not fetch a file without one."""
    ending = name.partition("?")[0].rpartition(".")[2].lower()
    return _ENDINGS.get(ending, default)


_ENDINGS: Final = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "gif": "image/gif",
    "heic": "image/heic",
    "pdf": "application/pdf",
    "txt": "text/plain",
    "md": "text/markdown",
    "html": "text/html",
    "csv": "text/csv",
    "json": "application/json",
    "mp4": "video/mp4",
    "mp3": "audio/mp3",
    "wav": "audio/wav",
}


def _declared(request: ChatRequest) -> tuple[list[dict[str, Any]], list[str]]:
    declared: list[dict[str, Any]] = []
    lost: set[str] = set()
    for tool in request.tools:
        entry: dict[str, Any] = {"name": tool.name}
        if tool.description:
            entry["description"] = tool.description
        if tool.parameters.get("properties") or tool.parameters.get("$ref") or tool.parameters.get("anyOf"):
            entry["parametersJsonSchema"], missing = reduced(tool.parameters, KEYWORDS)
            lost |= missing
        declared.append(entry)
    return declared, [f"tools.parameters.{word}" for word in sorted(lost)]


def _choice(request: ChatRequest) -> dict[str, Any] | None:
    choice = request.tool_choice
    if choice is None:
        return None
    if choice.mode == "tool":
        return {"mode": "ANY", "allowedFunctionNames": [choice.tool]}
    return {"mode": {"auto": "AUTO", "none": "NONE", "required": "ANY"}[choice.mode]}


def _config(request: ChatRequest, model: str, *, newer: bool) -> tuple[dict[str, Any], list[str]]:
    dropped: list[str] = []
    config: dict[str, Any] = {
        name: value
        for name, value in (
            ("temperature", request.temperature),
            ("topP", request.top_p),
            ("topK", request.top_k),
            ("maxOutputTokens", request.max_tokens),
            ("seed", request.seed),
            ("presencePenalty", request.presence_penalty),
            ("frequencyPenalty", request.frequency_penalty),
            ("candidateCount", request.n if request.n != 1 else None),
        )
        if value is not None
    }
    if request.stop:
        config["stopSequences"] = list(request.stop[:_MAX_STOPS])
        if len(request.stop) > _MAX_STOPS:
            dropped.append(f"stop[{_MAX_STOPS}:]")
    form = request.response_format
    if form is not None and form.kind != "text":
        config["responseMimeType"] = "application/json"
        if form.kind == "json_schema":
            config["responseJsonSchema"], lost = reduced(form.schema, KEYWORDS)
            dropped += [f"response_format.schema.{word}" for word in sorted(lost)]
    if request.reasoning is not None and (thinking := _thinking(request.reasoning, model, newer=newer)):
        config["thinkingConfig"] = thinking
    return config, dropped


def _thinking(reasoning: Reasoning, model: str, *, newer: bool) -> dict[str, Any]:
    """Levels since Gemini 3, tokens before. Models called `pro` cannot be kept from thinking, only asked for little."""
    if newer:
        word = effort(reasoning)
        if not word:
            return {"includeThoughts": True}
        least = "low" if "pro" in model else "minimal"
        level = {"none": least, "minimal": least, "xhigh": "high", "max": "high"}.get(word, word)
        return {"thinkingLevel": level, "includeThoughts": word != "none"}
    pro = "pro" in model
    tokens = budget(reasoning, least=128 if pro else 0, most=32_768 if pro else 24_576)
    if tokens is None:
        return {"includeThoughts": True}
    if not tokens and pro:
        return {"thinkingBudget": 128, "includeThoughts": False}
    return {"thinkingBudget": tokens, "includeThoughts": tokens > 0}


# Answers


def _decoded(raw: bytes) -> _Answer | None:
    """An answer, or the first of a list of them (as errors come where a stream was asked for); None for neither."""
    for _ in range(2):
        try:
            return _DECODER.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass
        try:
            listed = _LISTS.decode(raw)
            return listed[0] if listed else None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            better = mended(raw)
            if better is None:
                return None
            raw = better
    return None


def _counted(answer: _Answer) -> Usage | None:
    figures = read_figures(answer.usage_metadata, _Usage)
    return figures.neutral() if figures is not None else None


def _failure(error: _Error) -> UpstreamError | UpstreamBusy:
    said = (error.message or "without a message")[:500]
    if error.code == 429 or error.status == "RESOURCE_EXHAUSTED":
        return UpstreamBusy(
            f"The provider is over its limit: {said}",
            hint="Wait, or add a target to the route.",
            retry_after=_retry_after(error.details or []),
        )
    return UpstreamError(f"The provider reported an error: {said}")


def _retry_after(details: list[Any]) -> float | None:
    """`google.rpc.RetryInfo`: a duration as `"12.5s"`."""
    for each in details:
        delay = each.get("retryDelay") if isinstance(each, dict) else None
        if isinstance(delay, str) and re.fullmatch(r"\d{1,5}(?:\.\d{1,9})?s", delay):
            return min(float(delay[:-1]), 3600.0)
    return None


def _made(response: str, choice: int, number: int) -> str:
    """An id for a call that has none, the same whenever the answer is read."""
    return _MADE + hashlib.sha256(f"{response}\0{choice}\0{number}".encode(errors="surrogatepass")).hexdigest()[:24]


class _Choice:
    """One candidate as it grows: what part its next text belongs to."""

    __slots__ = ("calls", "finished", "index", "kind", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.index = -1
        self.kind = ""
        self.calls = 0
        self.finished = False

    def _place(self, kind: str) -> int:
        if self.kind != kind:
            self.kind = kind
            self.index += 1
        return self.index

    def apart(self, kind: str) -> int:
        """The place of a part that nothing is added to."""
        self.kind = ""
        place = self._place(kind)
        self.kind = ""
        return place

    def take(self, part: _Part, response: str, out: list[ChatEvent]) -> None:
        """A part's events."""
        state = marked(GEMINI, part.thought_signature or "")
        call = part.function_call
        if call is not None:
            index = self.apart("call")
            name = call.id or _made(response, self.number, self.calls)
            self.calls += 1
            out.append(ToolCallStarted(name, call.name, index, self.number, state))
            out.append(ToolCallDelta(_ENCODER.encode(call.args or {}).decode(), index, self.number))
        elif part.thought:
            if part.text or state:
                out.append(ReasoningDelta(part.text or "", state, index=self._place("thought"), choice=self.number))
            if state:
                self.kind = ""
        else:
            if part.text:
                out.append(TextDelta(part.text, self._place("text"), self.number))
            if state:  # of the text before it: kept as a part that says nothing
                out.append(ReasoningDelta("", state, index=self.apart("state"), choice=self.number))

    def reason(self, word: str) -> FinishReason:
        """How it ended."""
        found = _FINISHES.get(word, "error")
        return "tool_calls" if found == "stop" and self.calls else found


def _message(candidate: _Candidate, response: str, number: int) -> tuple[Message, FinishReason]:
    """A candidate read as a stream of one event would be, so that both ways tell the same; images beside."""
    choice = _Choice(number)
    parts: dict[int, Part] = {}
    events: list[ChatEvent] = []
    content = candidate.content.parts if candidate.content else None
    for part in content or ():
        if part.inline_data is not None:
            parts[choice.apart("image")] = ImagePart(data=part.inline_data.data, media_type=part.inline_data.mime_type)
        else:
            choice.take(part, response, events)
    for event in events:
        _grow(parts, event)
    whole = tuple(parts[index] for index in sorted(parts))
    return Message("assistant", whole), choice.reason(candidate.finish_reason or "OTHER")


def _grow(parts: dict[int, Part], event: ChatEvent) -> None:
    match event:
        case TextDelta(text, index):
            last = parts.get(index)
            parts[index] = TextPart(last.text + text if isinstance(last, TextPart) else text)
        case ReasoningDelta(text, signature, index=index):
            last = parts.get(index)
            parts[index] = ReasoningPart(last.text + text if isinstance(last, ReasoningPart) else text, signature)
        case ToolCallStarted(name, tool, index, signature=signature):
            parts[index] = ToolCallPart(name, tool, "", signature)
        case ToolCallDelta(arguments, index):
            parts[index] = msgspec.structs.replace(parts[index], arguments=arguments)
        case _:
            return


class GeminiReader:
    """Reads one streamed answer: responses that each hold a piece of it. The last one gives the reason for the end."""

    __slots__ = ("_bare", "_choices", "_framing", "_id", "_seen", "_started", "_usage", "done", "failure")

    def __init__(self) -> None:
        self.done = False
        self.failure: DetentError | None = None
        self._framing = Framing()
        self._bare = bytearray()
        self._seen = b""
        self._choices: dict[int, _Choice] = {}
        self._id = ""
        self._started = False
        self._usage: Usage | None = None

    def feed(self, data: bytes) -> tuple[bytes, list[ChatEvent]]:
        """Take what was read."""
        if not self._seen:
            self._seen = data.strip()[:1]
        if self._seen in (b"[", b"{"):
            self._take_bare(data)
            return b"", []
        raw: list[bytes] = []
        events: list[ChatEvent] = []
        for event in self._framing.feed(data):
            if self.failure is not None:
                break
            self._take(event, events)
            if self.failure is None:
                raw.append(event.raw)
        if self._framing.too_large and self.failure is None:
            self.failure = BadAnswer("An event of the provider's stream is too large.")
        return b"".join(raw), events

    def _take(self, event: Event, out: list[ChatEvent]) -> None:
        if not event.data:
            return
        found = _decoded(event.data)
        if found is None:
            self.failure = BadAnswer("The provider's stream holds an event that is no Gemini response.")
            return
        if found.error is not None:
            self.failure = _failure(found.error)
            return
        if not self._started:
            self._started = True
            self._id = found.response_id or ""
            out.append(AnswerStarted(self._id, found.model_version or ""))
        for candidate in found.candidates or ():
            self._candidate(candidate, out)
        if not self._choices and found.prompt_feedback is not None and found.prompt_feedback.block_reason:
            choice = self._choices[0] = _Choice(0)
            choice.finished = True
            out.append(ChoiceFinished("content_filter"))
        self.done = bool(self._choices) and all(choice.finished for choice in self._choices.values())
        usage = _counted(found)
        if usage is not None and (self.done or usage != self._usage):
            self._usage = usage
            out.append(UsageReported(usage))

    def _take_bare(self, data: bytes) -> None:
        """An error as it comes without the framing that was asked for: JSON over several lines, perhaps in a list."""
        if self.failure is not None:
            return
        self._bare += data
        found = _decoded(bytes(self._bare))
        if found is not None:
            self.failure = _failure(found.error or _Error(message="it sent no stream"))
        elif len(self._bare) > _MAX_BARE:
            self.failure = BadAnswer("The provider's answer is no stream.")

    def _candidate(self, candidate: _Candidate, out: list[ChatEvent]) -> None:
        number = candidate.index or 0
        choice = self._choices.get(number)
        if choice is None:
            if not 0 <= number < 128:
                self.failure = BadAnswer("The provider's stream numbers a candidate out of range.")
                return
            choice = self._choices[number] = _Choice(number)
        if choice.finished:
            return
        content = candidate.content.parts if candidate.content else None
        for part in content or ():
            choice.take(part, self._id, out)
        if candidate.finish_reason:
            choice.finished = True
            out.append(ChoiceFinished(choice.reason(candidate.finish_reason), number))


PROVIDER: Final = GeminiProvider()

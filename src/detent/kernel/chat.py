"""The neutral chat type: what every dialect is read into and written from.

Field names follow the OpenTelemetry GenAI conventions where those have one. A dialect's reader keeps what it does not
know in `extra`, so that the writer of the same dialect loses nothing.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Role = Literal["system", "developer", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "refusal", "pause", "error", "cancelled"]


CacheTtl = Literal["", "default", "5m", "1h"]
"""A mark up to which a provider may cache the prompt, and for how long; empty for no mark."""


class TextPart(msgspec.Struct, frozen=True, tag="text"):
    """Plain text."""

    text: str
    cache: CacheTtl = ""
    extra: dict[str, Any] = {}


class ImagePart(msgspec.Struct, frozen=True, tag="image"):
    """An image by URL or inline; exactly one of `url` and `data` (base64) is set."""

    url: str = ""
    data: str = ""
    media_type: str = ""
    detail: str = ""
    cache: CacheTtl = ""
    extra: dict[str, Any] = {}


class AudioPart(msgspec.Struct, frozen=True, tag="audio"):
    """Inline audio, base64."""

    data: str
    format: str = ""
    extra: dict[str, Any] = {}


class FilePart(msgspec.Struct, frozen=True, tag="file"):
    """A document: inline (base64), by URL, or by the provider's file id."""

    data: str = ""
    url: str = ""
    file_id: str = ""
    name: str = ""
    media_type: str = ""
    cache: CacheTtl = ""
    extra: dict[str, Any] = {}


class ToolCallPart(msgspec.Struct, frozen=True, tag="tool_call"):
    """The model asks for a tool; `arguments` is JSON text as the model wrote it, perhaps invalid.

    `signature` is opaque thinking state that some providers hang on a call; it goes back to the provider unchanged.
    """

    id: str
    name: str
    arguments: str
    signature: str = ""
    cache: CacheTtl = ""
    extra: dict[str, Any] = {}


class ToolResultPart(msgspec.Struct, frozen=True, tag="tool_result"):
    """What a tool gave back."""

    id: str
    content: tuple[TextPart | ImagePart | FilePart, ...]
    name: str = ""
    is_error: bool = False
    cache: CacheTtl = ""
    extra: dict[str, Any] = {}


class ReasoningPart(msgspec.Struct, frozen=True, tag="reasoning"):
    """Thinking shown by the model; `signature` and `redacted` are opaque and go back to the provider unchanged.

    `id` names the item where the dialect has names for them (the Responses API).
    """

    text: str = ""
    signature: str = ""
    redacted: str = ""
    id: str = ""
    extra: dict[str, Any] = {}


class RefusalPart(msgspec.Struct, frozen=True, tag="refusal"):
    """The model says that it will not."""

    text: str
    extra: dict[str, Any] = {}


Part = TextPart | ImagePart | AudioPart | FilePart | ToolCallPart | ToolResultPart | ReasoningPart | RefusalPart


class Message(msgspec.Struct, frozen=True):
    """One turn."""

    role: Role
    parts: tuple[Part, ...]
    name: str = ""
    extra: dict[str, Any] = {}

    @property
    def text(self) -> str:
        """All text parts, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


class Tool(msgspec.Struct, frozen=True):
    """A function the model may call; `parameters` is a JSON Schema."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = {}
    strict: bool | None = None
    cache: CacheTtl = ""
    extra: dict[str, Any] = {}


class ToolChoice(msgspec.Struct, frozen=True):
    """Whether tools may, must or must not be called; `tool` names the only one that may be."""

    mode: Literal["auto", "none", "required", "tool"] = "auto"
    tool: str = ""


class ResponseFormat(msgspec.Struct, frozen=True):
    """The form an answer must have; `schema` is a JSON Schema, given with `json_schema`."""

    kind: Literal["text", "json_object", "json_schema"] = "text"
    name: str = ""
    description: str = ""
    schema: dict[str, Any] = {}
    strict: bool | None = None


Effort = Literal["", "none", "minimal", "low", "medium", "high", "xhigh", "max"]


class Reasoning(msgspec.Struct, frozen=True):
    """How much the model should think: by effort or by a budget in tokens; where only one is known, it is derived.

    `summary` asks for a readable summary of it (`auto`, `concise`, `detailed`), empty for the dialect's own default.
    """

    effort: Effort = ""
    budget_tokens: int | None = None
    summary: str = ""


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one call. Input includes cached, cache-writing, audio and image tokens, output reasoning and audio.

    `estimated` is true when the provider gave no figure and Detent counted by itself. `images` counts those made.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    image_input_tokens: int = 0
    images: int = 0

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens


class ChatRequest(msgspec.Struct, frozen=True):
    """A chat completion as asked for. `model` is the route the client named.

    System prompts are messages with the role `system` or `developer`, in their place. `extra` holds what the client's
    dialect has and this type does not, by the dialect's own names; `dialect` says whose names those are, there and in
    every message, part and tool, so that a writer of another dialect leaves them out.
    """

    model: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning: Reasoning | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int | None = None
    stream: bool = False
    user: str = ""
    metadata: dict[str, str] = {}
    service_tier: str = ""
    extra: dict[str, Any] = {}
    dialect: str = ""


class ChatAnswer(msgspec.Struct, frozen=True):
    """A chat completion as answered. `model` is the one that really served it; `stop_sequence` the one that was hit.

    `more` holds the messages of further choices, where more than one was asked for.
    """

    id: str
    model: str
    message: Message
    finish_reason: FinishReason
    usage: Usage | None = None
    stop_sequence: str = ""
    created: int = 0
    more: tuple[tuple[Message, FinishReason], ...] = ()
    extra: dict[str, Any] = {}


# A streamed answer is a sequence of these. `choice` is the choice's number; `index` the part's place in the message,
# the same for everything that belongs to one part. Parts may interleave (parallel tool calls).


class AnswerStarted(msgspec.Struct, frozen=True, tag="started"):
    """The answer has begun; `usage` holds what is known of the input already."""

    id: str = ""
    model: str = ""
    created: int = 0
    usage: Usage | None = None


class TextDelta(msgspec.Struct, frozen=True, tag="text_delta"):
    """More text."""

    text: str
    index: int = 0
    choice: int = 0


class RefusalDelta(msgspec.Struct, frozen=True, tag="refusal_delta"):
    """More of a refusal."""

    text: str
    index: int = 0
    choice: int = 0


class ReasoningDelta(msgspec.Struct, frozen=True, tag="reasoning_delta"):
    """More thinking; `signature` and `redacted` come whole, usually at the part's end."""

    text: str = ""
    signature: str = ""
    redacted: str = ""
    id: str = ""
    index: int = 0
    choice: int = 0


class ToolCallStarted(msgspec.Struct, frozen=True, tag="tool_call_started"):
    """A tool call begins."""

    id: str
    name: str
    index: int = 0
    choice: int = 0
    signature: str = ""


class ToolCallDelta(msgspec.Struct, frozen=True, tag="tool_call_delta"):
    """More of a tool call's arguments, any piece of JSON text."""

    arguments: str
    index: int = 0
    choice: int = 0


class ChoiceFinished(msgspec.Struct, frozen=True, tag="choice_finished"):
    """A choice is complete."""

    finish_reason: FinishReason
    choice: int = 0
    stop_sequence: str = ""


class UsageReported(msgspec.Struct, frozen=True, tag="usage"):
    """The provider's figures; a later one replaces it."""

    usage: Usage


ChatEvent = (
    AnswerStarted
    | TextDelta
    | RefusalDelta
    | ReasoningDelta
    | ToolCallStarted
    | ToolCallDelta
    | ChoiceFinished
    | UsageReported
)

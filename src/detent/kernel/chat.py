"""The neutral chat type: what every dialect is read into and written from.

Field names follow the OpenTelemetry GenAI conventions where those have one. A dialect's reader keeps what it does not
know in `extra`, so that the writer of the same dialect loses nothing.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Role = Literal["system", "developer", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "refusal", "error", "cancelled"]


class TextPart(msgspec.Struct, frozen=True, tag="text"):
    """Plain text."""

    text: str
    extra: dict[str, Any] = {}


class ImagePart(msgspec.Struct, frozen=True, tag="image"):
    """An image by URL or inline; exactly one of `url` and `data` (base64) is set."""

    url: str = ""
    data: str = ""
    media_type: str = ""
    detail: str = ""
    extra: dict[str, Any] = {}


class AudioPart(msgspec.Struct, frozen=True, tag="audio"):
    """Inline audio, base64."""

    data: str
    format: str = ""
    extra: dict[str, Any] = {}


class FilePart(msgspec.Struct, frozen=True, tag="file"):
    """A document, inline (base64) or by the provider's file id."""

    data: str = ""
    file_id: str = ""
    name: str = ""
    media_type: str = ""
    extra: dict[str, Any] = {}


class ToolCallPart(msgspec.Struct, frozen=True, tag="tool_call"):
    """The model asks for a tool; `arguments` is JSON text as the model wrote it, perhaps invalid."""

    id: str
    name: str
    arguments: str
    extra: dict[str, Any] = {}


class ToolResultPart(msgspec.Struct, frozen=True, tag="tool_result"):
    """What a tool gave back."""

    id: str
    content: tuple[TextPart | ImagePart, ...]
    is_error: bool = False
    extra: dict[str, Any] = {}


class ReasoningPart(msgspec.Struct, frozen=True, tag="reasoning"):
    """Thinking shown by the model; `signature` and `redacted` are opaque and go back to the provider unchanged."""

    text: str = ""
    signature: str = ""
    redacted: str = ""
    extra: dict[str, Any] = {}


Part = TextPart | ImagePart | AudioPart | FilePart | ToolCallPart | ToolResultPart | ReasoningPart


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
    extra: dict[str, Any] = {}


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one call. Input includes cached and cache-writing tokens, output includes reasoning.

    `estimated` is true when the provider gave no figure and Detent counted by itself.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens


class ChatRequest(msgspec.Struct, frozen=True):
    """A chat completion as asked for. `model` is the route the client named."""

    model: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    stream: bool = False
    user: str = ""
    extra: dict[str, Any] = {}


class ChatAnswer(msgspec.Struct, frozen=True):
    """A chat completion as answered. `model` is the one that really served it."""

    id: str
    model: str
    message: Message
    finish_reason: FinishReason
    usage: Usage
    extra: dict[str, Any] = {}

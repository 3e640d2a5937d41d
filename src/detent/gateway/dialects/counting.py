"""Tokens of a request, estimated here where its provider cannot count them.

Text is taken at four bytes a token, as for English prose and code; a tokenizer would say it better, and is another one
for every model. Pictures and pages are taken at what the large providers charge for full-size ones.
"""

from __future__ import annotations

from typing import Final

from detent.gateway.dialects.fields import encoded
from detent.gateway.usage import estimate
from detent.kernel.chat import (
    AudioPart,
    ChatRequest,
    FilePart,
    ImagePart,
    Part,
    ReasoningPart,
    RefusalPart,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)

_IMAGE_TOKENS: Final = 1600
_PAGE_TOKENS: Final = 2000
_PAGE_BYTES: Final = 60_000
_AUDIO_BYTES_PER_TOKEN: Final = 3200  # ten tokens a second of 16 kHz, 16 bit
_MESSAGE_TOKENS: Final = 4


def estimate_tokens(request: ChatRequest) -> int:
    """Input tokens of a request: messages, tools and the form of the answer."""
    found = 0
    for message in request.messages:
        found += _MESSAGE_TOKENS + sum(map(_part, message.parts))
    for tool in request.tools:
        found += estimate(len(tool.name) + len(tool.description.encode()) + len(encoded(tool.parameters)))
    if request.response_format is not None and request.response_format.schema:
        found += estimate(len(encoded(request.response_format.schema)))
    return found


def _part(part: Part) -> int:
    match part:
        case TextPart() | RefusalPart():
            return estimate(len(part.text.encode()))
        case ReasoningPart():
            return estimate(len(part.text.encode()))
        case ToolCallPart():
            return estimate(len(part.name) + len(part.arguments.encode()))
        case ToolResultPart():
            return _MESSAGE_TOKENS + sum(map(_part, part.content))
        case ImagePart():
            return _IMAGE_TOKENS
        case AudioPart():
            return estimate(4 * (len(part.data) * 3 // 4 // _AUDIO_BYTES_PER_TOKEN))
        case FilePart():
            size = len(part.data) * 3 // 4
            if part.media_type.startswith("text/"):
                return estimate(size)
            return _PAGE_TOKENS * max(1, -(-size // _PAGE_BYTES))

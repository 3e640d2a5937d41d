"""What the data plane can be asked to do, by path."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

Kind = Literal["chat", "count", "proxy"]


class Operation(msgspec.Struct, frozen=True):
    """One endpoint.

    Attributes:
        name: `gen_ai.operation.name`.
        dialect: of its bodies and errors.
        kind: how it is served: as a chat in any dialect; as a count of a chat's tokens; or passed on as it is to a
            provider that has the same endpoint.
        path: behind the provider's base URL, when it is passed on.
        by_tokens: whether text goes in, so that its tokens can be estimated; sound and images are priced by the
            provider's own figures or not at all.
    """

    name: str
    dialect: str
    kind: Kind
    path: str
    by_tokens: bool = True


OPERATIONS: Final = {
    "/v1/chat/completions": Operation("chat", "openai", "chat", "/chat/completions"),
    "/v1/responses": Operation("chat", "responses", "chat", "/responses"),
    "/v1/messages": Operation("chat", "anthropic", "chat", "/v1/messages"),
    "/v1/messages/count_tokens": Operation("count_tokens", "anthropic", "count", "/v1/messages/count_tokens"),
    "/v1/embeddings": Operation("embeddings", "openai", "proxy", "/embeddings"),
    "/v1/moderations": Operation("moderation", "openai", "proxy", "/moderations"),
    "/v1/rerank": Operation("rerank", "openai", "proxy", "/rerank"),
    "/v1/completions": Operation("text_completion", "openai", "proxy", "/completions"),
    "/v1/audio/speech": Operation("speech", "openai", "proxy", "/audio/speech", by_tokens=False),
    "/v1/audio/transcriptions": Operation("transcription", "openai", "proxy", "/audio/transcriptions", by_tokens=False),
    "/v1/audio/translations": Operation("translation", "openai", "proxy", "/audio/translations", by_tokens=False),
    "/v1/images/generations": Operation("image_generation", "openai", "proxy", "/images/generations", by_tokens=False),
    "/v1/images/edits": Operation("image_edit", "openai", "proxy", "/images/edits", by_tokens=False),
    "/v1/images/variations": Operation("image_variation", "openai", "proxy", "/images/variations", by_tokens=False),
}
"""By the path that clients call."""


def dialect_of(path: str) -> str:
    """Whose error shape a path's clients expect."""
    found = OPERATIONS.get(path)
    if found is not None and found.dialect != "responses":  # whose errors are OpenAI's
        return found.dialect
    return "anthropic" if path.startswith("/v1/messages") else "openai"

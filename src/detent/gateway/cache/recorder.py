"""Gathers what a client gets, so that it can be kept when it is complete."""

from __future__ import annotations

from typing import Final

from detent.gateway.cache.model import Answer
from detent.kernel.chat import Usage

MAX_BYTES: Final = 1024 * 1024
"""An answer that is larger is not kept."""

_INCOMPLETE: Final = frozenset({"", "error", "cancelled"})


class Recorder:
    """Takes an answer's chunks as they go to the client. It forgets what grows too large."""

    __slots__ = ("_chunks", "_limit", "_size")

    def __init__(self, limit: int = MAX_BYTES) -> None:
        self._chunks: list[bytes] | None = []
        self._size = 0
        self._limit = limit

    def add(self, chunk: bytes) -> None:
        """One piece, as the client gets it."""
        if self._chunks is None:
            return
        self._size += len(chunk)
        if self._size > self._limit:
            self._chunks = None
        elif chunk:
            self._chunks.append(bytes(chunk))

    def answer(
        self,
        *,
        status: int,
        content_type: str,
        finish_reason: str,
        usage: Usage,
        cost: int | None,
        provider: str = "",
        model: str = "",
        response_model: str = "",
        response_id: str = "",
        output: str = "",
    ) -> Answer | None:
        """The answer; None when it is not complete and successful, or was too large.

        A stream that was cut, an error, and a call whose client went away have no finish reason, or one of those that
        say so.
        """
        if status != 200 or finish_reason in _INCOMPLETE or not self._chunks:
            return None
        return Answer(
            content_type=content_type,
            chunks=tuple(self._chunks),
            usage=usage,
            cost=cost,
            provider=provider,
            model=model,
            response_model=response_model,
            response_id=response_id,
            finish_reason=finish_reason,
            output=output,
        )

"""What makes OpenAI-compatible providers differ from OpenAI: a table, not a class each."""

from __future__ import annotations

from typing import Final

import msgspec


class Quirks(msgspec.Struct, frozen=True):
    """One flavour's ways.

    Attributes:
        auth: header that carries the credential; `authorization` means `Bearer` before it.
        max_tokens_field: what the limit of output tokens is called.
        stream_usage: whether `stream_options.include_usage` is understood.
    """

    auth: str = "authorization"
    max_tokens_field: str = "max_completion_tokens"
    stream_usage: bool = True


OPENAI: Final = Quirks()
FLAVOURS: Final[dict[str, Quirks]] = {"openai": OPENAI}
"""By the provider's flavour; see the guide for who belongs to which."""

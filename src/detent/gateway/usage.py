"""Tokens of a call: read from a provider's figures, or estimated where those are missing or cannot be right."""

from __future__ import annotations

from typing import Annotated, Final, TypeVar

import msgspec

from detent.kernel.chat import Usage

Count = Annotated[int, msgspec.Meta(ge=0, le=2**40)]
_BYTES_PER_TOKEN: Final = 4
F = TypeVar("F")


class _PromptDetails(msgspec.Struct):
    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: Count | None = None


class _OpenAiUsage(msgspec.Struct):
    prompt_tokens: Count
    completion_tokens: Count = 0
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    prompt_cache_hit_tokens: Count | None = None


_DECODER: Final = msgspec.json.Decoder(_OpenAiUsage)


def read_usage(raw: bytes | msgspec.Raw) -> Usage | None:
    """OpenAI's usage object; None when it is malformed, negative, or its parts exceed their whole."""
    try:
        found = _DECODER.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    details = found.prompt_tokens_details
    cached = (details.cached_tokens if details else None) or found.prompt_cache_hit_tokens or 0
    written = (details.cache_write_tokens if details else None) or 0
    reasoning = (found.completion_tokens_details.reasoning_tokens if found.completion_tokens_details else None) or 0
    if cached + written > found.prompt_tokens or reasoning > found.completion_tokens:
        return None
    return Usage(found.prompt_tokens, found.completion_tokens, cached, written, reasoning)


def settle(reported: Usage | None, *, messages: bytes, output_size: int, finished: bool = True) -> Usage:
    """The usage to account: the provider's, unless it gave none or claims that a real answer took no tokens.

    The estimate is four bytes to a token, as for English; it is marked as an estimate wherever it is shown.

    Args:
        messages: the request's messages as JSON.
        output_size: characters of the answer.
        finished: whether the answer came to its end; of one that did not, the provider's figures tell the prompt, and
            the least that the output can be.
    """
    if reported is None:
        return Usage(estimate(len(messages)), estimate(output_size), estimated=True)
    if finished and (reported.output_tokens or not output_size):
        return reported
    return msgspec.structs.replace(
        reported,
        input_tokens=reported.input_tokens or estimate(len(messages)),
        output_tokens=max(reported.output_tokens, estimate(output_size)),
        estimated=True,
    )


def read_figures(raw: msgspec.Raw, form: type[F]) -> F | None:
    """A provider's usage object in the form that its dialect has; None when it is absent, or no such thing.

    Read by itself, because an answer whose figures are wrong is still an answer.
    """
    if not raw:
        return None
    try:
        return msgspec.json.decode(raw, type=form)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def estimate(size: int) -> int:
    """Tokens of so many bytes, at least one for anything at all."""
    return -(-size // _BYTES_PER_TOKEN)

"""Answers of the OpenAI dialect that are not streamed: what they said, and what kind of failure they are if one."""

from __future__ import annotations

from typing import Final

import msgspec

from detent.gateway.errors import BadAnswer, CredentialRefused, UpstreamBusy, UpstreamError
from detent.gateway.sse import given, upstream_error
from detent.gateway.surrogates import mended
from detent.gateway.usage import read_usage
from detent.kernel.chat import Usage
from detent.kernel.errors import DetentError

_PASSED_ON: Final = range(400, 500)
_OURS: Final = {401, 403, 407, 408, 429}
_MAX_RETRY_AFTER: Final = 3600.0


_ABSENT: Final = msgspec.Raw()


class _Choice(msgspec.Struct):
    index: int = 0
    message: msgspec.Raw = _ABSENT
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: msgspec.Raw = _ABSENT
    error: msgspec.Raw = _ABSENT


_DECODER: Final = msgspec.json.Decoder(_Completion)


class ChatAnswer(msgspec.Struct, frozen=True):
    """What a completion said. `message` is the first choice's, as JSON; `size` counts the bytes of all of them."""

    id: str
    model: str
    message: bytes
    size: int
    finish_reason: str
    usage: Usage | None


def read_answer(data: bytes) -> ChatAnswer:
    """Read a completion.

    Raises:
        UpstreamError: it is an error in spite of its status.
        BadAnswer: it is no completion.
    """
    try:
        found = _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        if (whole := mended(data)) is not None:
            return read_answer(whole)
        raise BadAnswer("The provider's answer is no chat completion.") from None
    if given(found.error):
        raise upstream_error(bytes(found.error))
    if not found.choices:
        raise BadAnswer("The provider's answer holds no choices.")
    messages = [bytes(choice.message) for choice in found.choices]
    return ChatAnswer(
        found.id or "",
        found.model or "",
        messages[0],
        sum(map(len, messages)),
        found.choices[0].finish_reason or "",
        read_usage(found.usage) if found.usage else None,
    )


def is_passed_on(status: int) -> bool:
    """Whether a status is the client's own mistake, so that the provider's words go to the client."""
    return status in _PASSED_ON and status not in _OURS


def failure(status: int, headers: dict[bytes, bytes], data: bytes) -> DetentError:
    """A provider's status other than 200 as our error, with its own message in it."""
    said = upstream_error(data).message.removeprefix("The provider reported an error: ")
    said = "" if said == "without a message" else f": {said}"
    after = _retry_after(headers)
    if status == 429:
        return UpstreamBusy(
            f"The provider is over its limit{said or '.'}",
            hint="Wait, or add a target to the route.",
            retry_after=after,
        )
    if status in {401, 403}:
        return CredentialRefused(
            f"The provider refused the stored credential with {status}.", hint="Enter it again with --key-env."
        )
    return UpstreamError(f"The provider answered {status}{said or '.'}", retry_after=after)


def holds_error(data: bytes) -> bool:
    """Whether a body has OpenAI's error shape."""
    try:
        return isinstance(msgspec.json.decode(data, type=dict[str, msgspec.Raw]).get("error"), msgspec.Raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False


def _retry_after(headers: dict[bytes, bytes]) -> float | None:
    value = headers.get(b"retry-after", b"")
    return min(float(value), _MAX_RETRY_AFTER) if value.isdigit() else None

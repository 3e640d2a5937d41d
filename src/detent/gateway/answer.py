"""Answers of the OpenAI dialect that are not streamed: what they said, and what kind of failure they are if one."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec

from detent.gateway.errors import BadAnswer, CredentialRefused, UpstreamBusy, UpstreamError
from detent.gateway.sse import given, upstream_error
from detent.gateway.surrogates import mended
from detent.gateway.usage import read_usage
from detent.kernel.chat import Usage
from detent.kernel.clock import SECOND
from detent.kernel.errors import DetentError

_PASSED_ON: Final = range(400, 500)
_OURS: Final = {401, 403, 407, 408, 429}
_MAX_RETRY_AFTER: Final = 3600.0
_DELAY: Final = re.compile(rb'"retryDelay"\s*:\s*"(\d{1,5}(?:\.\d{1,9})?)s"')
"""How Google's APIs ask for a pause: `google.rpc.RetryInfo` in the body."""


_ABSENT: Final = msgspec.Raw()


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    message: msgspec.Raw = _ABSENT
    finish_reason: str | None = None


class _Completion(msgspec.Struct, gc=False):
    id: str | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: msgspec.Raw = _ABSENT
    error: msgspec.Raw = _ABSENT


_DECODER: Final = msgspec.json.Decoder(_Completion)


class Said(msgspec.Struct, frozen=True):
    """What an answer in one piece said.

    Attributes:
        data: what the client gets.
        message: the answer's message as JSON; a list of messages when there are several choices.
        size: bytes of all messages.
    """

    data: bytes
    id: str
    model: str
    message: bytes
    size: int
    finish_reason: str
    usage: Usage | None


def read_answer(data: bytes) -> Said:
    """Read a completion.

    Raises:
        UpstreamError: it is an error in spite of its status.
        BadAnswer: it is no completion.
    """
    try:
        found = _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        if (whole := mended(data)) is not None:
            return msgspec.structs.replace(read_answer(whole), data=data)
        raise BadAnswer("The provider's answer is no chat completion.") from None
    if given(found.error):
        raise upstream_error(bytes(found.error))
    if not found.choices:
        raise BadAnswer("The provider's answer holds no choices.")
    messages = [bytes(choice.message) for choice in found.choices]
    return Said(
        data,
        found.id or "",
        found.model or "",
        messages[0] if len(messages) == 1 else b"[" + b",".join(messages) + b"]",
        sum(map(len, messages)),
        found.choices[0].finish_reason or "",
        read_usage(found.usage) if found.usage else None,
    )


def is_passed_on(status: int) -> bool:
    """Whether a status is the client's own mistake, so that the provider's words go to the client."""
    return status in _PASSED_ON and status not in _OURS


def failure(status: int, headers: dict[bytes, bytes], data: bytes, now: int) -> DetentError:
    """A provider's status other than 200 as our error, with its own message in it.

    Args:
        now: ns since the epoch; a `Retry-After` may be a date.
    """
    said = upstream_error(data).message.removeprefix("The provider reported an error: ")
    said = "" if said == "without a message" else f": {said}"
    after = retry_after(headers, now)
    if after is None and (asked := _DELAY.search(data[:65536])) is not None:
        after = min(float(asked[1]), _MAX_RETRY_AFTER)
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
    error = UpstreamError(f"The provider answered {status}{said or '.'}", retry_after=after)
    error.overloaded = status in {503, 529}
    return error


def holds_error(data: bytes) -> bool:
    """Whether a body has OpenAI's error shape."""
    try:
        return isinstance(msgspec.json.decode(data, type=dict[str, msgspec.Raw]).get("error"), msgspec.Raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False


def retry_after(headers: dict[bytes, bytes], now: int) -> float | None:
    """Seconds that a provider asks to wait (RFC 9110, section 10.2.3: a number, or a date), an hour at most.

    `retry-after-ms`, which some providers send beside it, is finer and goes first.
    """
    fine = headers.get(b"retry-after-ms", b"")
    if fine.isdigit():
        return min(float(fine[:12]) / 1000, _MAX_RETRY_AFTER)
    value = headers.get(b"retry-after", b"").strip()
    if value.isdigit():
        return min(float(value[:12]), _MAX_RETRY_AFTER)
    if not value:
        return None
    try:
        moment = parsedate_to_datetime(value.decode("latin-1")).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(max(moment - now / SECOND, 0.0), _MAX_RETRY_AFTER)

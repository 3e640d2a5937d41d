"""What the data plane answers when it cannot answer: the room's errors, and OpenAI's shape for them."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from detent.kernel.errors import (
    CallerError,
    DetentError,
    Forbidden,
    InvalidInput,
    NotFound,
    TimedOut,
    TooLarge,
    TooMany,
    Unauthenticated,
    Unavailable,
    UpstreamFailed,
)

# The caller's mistakes


class MalformedBody(InvalidInput):
    """The body is no JSON object."""

    code = "malformed_json"


class TooDeep(InvalidInput):
    """The body's JSON is nested deeper than allowed."""

    code = "too_deep"


class TooManyParts(TooLarge):
    """The body holds more JSON objects (messages, parts, tools) than allowed."""

    code = "too_many_parts"


class MisdirectedScrape(CallerError):
    """Metrics were asked for under a name that is not known to be ours."""

    code = "misdirected_scrape"
    status = 421


class BodyTooLarge(TooLarge):
    """The body is larger than allowed."""

    code = "body_too_large"


class HeadTooLarge(TooLarge):
    """Request line and headers are larger than allowed."""

    code = "headers_too_large"
    status = 431


class UnsupportedEncoding(CallerError):
    """The body is compressed."""

    code = "unsupported_encoding"
    status = 415


class InvalidKey(Unauthenticated):
    """No key was sent, or one that is unknown, expired or revoked."""

    code = "invalid_api_key"


class MayNotCall(Forbidden):
    """The key is good, but not for calling models."""

    code = "permission_denied"


class UnknownModel(NotFound):
    """There is no such route, or not for this key."""

    code = "model_not_found"


class UnknownPath(NotFound):
    """The gateway serves no such path."""

    code = "unknown_path"


class UnknownResponse(NotFound):
    """A response or an item of one is named that is not stored, or not in this project."""

    code = "response_not_found"


class SlowRequest(CallerError):
    """The request did not arrive in time."""

    code = "request_timeout"
    status = 408


# Our own limits


class Overloaded(Unavailable):
    """As many calls are in flight as this worker takes."""

    code = "overloaded"


class LimitExceeded(TooMany):
    """A limit has no room for the call: requests, tokens or calls at once.

    Attributes:
        headers: what limits stand where, for the answer.
    """

    code = "rate_limit_exceeded"
    headers: tuple[tuple[bytes, bytes], ...] = ()


class BudgetSpent(TooMany):
    """A hard budget has no room for what the call may cost.

    Attributes:
        headers: what limits stand where, for the answer.
    """

    code = "insufficient_quota"
    headers: tuple[tuple[bytes, bytes], ...] = ()


class PriceUnknown(Forbidden):
    """The call falls under a hard budget, and no price is known for its model."""

    code = "price_unknown"


class QuotasUnreachable(Unavailable):
    """The shared counters cannot be reached, and calls are to be refused then."""

    code = "quotas_unreachable"


class NotReady(Unavailable):
    """There is no snapshot yet."""

    code = "not_ready"


class Draining(Unavailable):
    """The gateway is stopping and the time for calls in flight is over."""

    code = "draining"


class NoDeployment(Unavailable):
    """All of the route's deployments have failed lately, or asked to be left alone."""

    code = "no_deployment"


class ControlAway(Unavailable):
    """The control plane, which keeps files and batches, cannot be reached; calls to models go on."""

    code = "control_away"


class SpoolFull(Unavailable):
    """Calls are to be recorded or refused, and they cannot be recorded now."""

    code = "spool_full"


# Providers


class ConnectFailed(UpstreamFailed):
    """No connection to the provider."""

    code = "connect_failed"


class AddressRefused(UpstreamFailed):
    """The provider's name leads to an address that may not be called."""

    code = "address_refused"


class CredentialUnusable(UpstreamFailed):
    """The provider's stored credential does not open."""

    code = "credential_unusable"


class CredentialRefused(UpstreamFailed):
    """The provider refused our credential."""

    code = "credential_refused"


class UpstreamError(UpstreamFailed):
    """The provider answered with an error.

    Attributes:
        overloaded: whether it said that it has too much to do.
    """

    code = "upstream_error"
    overloaded = False


class UpstreamRejected(InvalidInput):
    """The provider found fault with the request; its own words are passed on.

    Attributes:
        answered: the provider's status, which the client gets too.
        said: the provider's body.
    """

    code = "upstream_rejected"

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        field: str | None = None,
        retry_after: float | None = None,
        answered: int = 400,
        said: bytes = b"",
    ) -> None:
        super().__init__(message, hint=hint, field=field, retry_after=retry_after)
        self.answered = answered
        self.said = said


class NoUpstream(Unavailable):
    """No route leads to a provider that can be reached."""

    code = "no_upstream"


class UpstreamBusy(TooMany):
    """The provider is over its limit for us."""

    code = "upstream_rate_limited"


class BadAnswer(UpstreamFailed):
    """The provider broke the protocol, or answered what nobody can read."""

    code = "bad_answer"


class UpstreamCut(UpstreamFailed):
    """The provider went away before its answer was finished."""

    code = "upstream_cut"


class ConnectTimedOut(TimedOut):
    """No connection in time."""

    code = "connect_timeout"


class FirstTokenTimedOut(TimedOut):
    """No first output in time."""

    code = "first_token_timeout"


class IdleTimedOut(TimedOut):
    """The answer stood still for too long."""

    code = "idle_timeout"


class TotalTimedOut(TimedOut):
    """The call as a whole took too long."""

    code = "total_timeout"


# Admission


class Shed(Unavailable):
    """A deployment has no room for the call, and waiting is no use.

    Attributes:
        position: how many would have had a turn before it.
    """

    code = "shed"

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        field: str | None = None,
        retry_after: float | None = None,
        position: int = 0,
    ) -> None:
        super().__init__(message, hint=hint, field=field, retry_after=retry_after)
        self.position = position


class QueueFull(Shed):
    """As many calls wait for the deployment as may, and others have more right to a place."""

    code = "queue_full"


class DeadlineUnmet(Shed):
    """The call would not begin in time: known on arrival, or found out while it waited."""

    code = "deadline_unmet"


CLIENT_GONE: Final = "client_disconnected"
"""`error_type` of a call whose client went away before the end."""

_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def openai_body(error: DetentError) -> bytes:
    """The error as OpenAI writes one, with our hint beside it."""
    kind = _TYPES.get(error.status) or ("invalid_request_error" if error.status < 500 else "api_error")
    body: dict[str, Any] = {"message": error.message, "type": kind, "param": error.field, "code": error.code}
    if error.hint:
        body["hint"] = error.hint
    return msgspec.json.encode({"error": body})


def openai_event(error: DetentError) -> bytes:
    """The error as an event within a stream that began well."""
    return b"data: " + openai_body(error) + b"\n\n"

"""Every error Detent raises on purpose, in three families.

    DetentError
    ├── CallerError          the caller's mistake: 4xx, change the request
    │   ├── InvalidInput         400 invalid_input
    │   ├── Unauthenticated      401 unauthenticated
    │   ├── Forbidden            403 forbidden
    │   ├── NotFound             404 not_found
    │   ├── MethodNotAllowed     405 method_not_allowed
    │   ├── Conflict             409 conflict
    │   ├── TooLarge             413 too_large
    │   └── TooMany              429 too_many
    ├── WorldError           the world's failure: 5xx, try again or repair what surrounds Detent
    │   ├── Unavailable          503 unavailable
    │   ├── UpstreamFailed       502 upstream_failed
    │   ├── TimedOut             504 timed_out
    │   ├── StorageFailed        507 storage_failed
    │   ├── BadSettings          500 bad_settings (stops the start)
    │   └── MissingExtra         501 missing_extra
    └── BugError             ours: 500 bug

Rooms add subclasses with their own codes in `<room>/errors.py`. A code never changes its meaning once released.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar


class DetentError(Exception):
    """Root of the tree. Carries what every face shows: a stable code, a sentence, a hint and (if known) the field.

    Attributes:
        code: stable snake_case identifier, safe to match on.
        status: HTTP status that a face answers with.
        message: one sentence saying what went wrong and why; never holds a secret or a user's content.
        hint: the next step, as a sentence or a command; may be empty.
        field: the input field at fault, as a dotted path; None when no single field is.
        retry_after: seconds after which the same call may succeed; None when unknown.
    """

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500

    def __init__(
        self, message: str, *, hint: str = "", field: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.field = field
        self.retry_after = retry_after

    def as_dict(self) -> dict[str, Any]:
        """The one error shape: `{"error": {"code", "message", "hint", "field"}}`, absent parts left out."""
        body: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.hint:
            body["hint"] = self.hint
        if self.field is not None:
            body["field"] = self.field
        return {"error": body}

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class CallerError(DetentError):
    """The caller's mistake; the same call will fail again."""

    code = "caller_error"
    status = 400


class InvalidInput(CallerError):
    """A value has the wrong form, type or range. Names the field, the reason and the way out."""

    code = "invalid_input"


class Unauthenticated(CallerError):
    """No credential, or one that is unknown, expired or revoked."""

    code = "unauthenticated"
    status = 401


class Forbidden(CallerError):
    """The credential is good but does not grant this permission."""

    code = "forbidden"
    status = 403


class NotFound(CallerError):
    """The named thing does not exist, or not for this caller."""

    code = "not_found"
    status = 404


class MethodNotAllowed(CallerError):
    """The path exists, but not for this method."""

    code = "method_not_allowed"
    status = 405


class Conflict(CallerError):
    """Something changed since it was read, or the name is taken."""

    code = "conflict"
    status = 409


class TooLarge(CallerError):
    """A body, field, depth or count is over its limit."""

    code = "too_large"
    status = 413


class TooMany(CallerError):
    """A rate, concurrency or money limit is used up; see `retry_after`."""

    code = "too_many"
    status = 429


class WorldError(DetentError):
    """Something around Detent failed; the same call may succeed later."""

    code = "world_error"
    status = 503


class Unavailable(WorldError):
    """A part that is needed is not running or cannot be reached."""

    code = "unavailable"


class UpstreamFailed(WorldError):
    """A model provider answered with an error or broke the protocol."""

    code = "upstream_failed"
    status = 502


class TimedOut(WorldError):
    """Something did not answer within its deadline."""

    code = "timed_out"
    status = 504


class StorageFailed(WorldError):
    """Disk full, not writable, damaged, or of a newer schema than this version knows."""

    code = "storage_failed"
    status = 507


class BadSettings(WorldError):
    """A setting cannot be honoured; Detent refuses to start rather than guess."""

    code = "bad_settings"
    status = 500


class MissingExtra(WorldError):
    """An optional dependency is not installed; the hint is the exact install command."""

    code = "missing_extra"
    status = 501


class BugError(DetentError):
    """A broken invariant of our own."""

    code = "bug"
    status = 500


def every_error(root: type[DetentError] = DetentError) -> Iterator[type[DetentError]]:
    """Walk the tree below `root`, parents first; the reference page and the meta-tests read it."""
    yield root
    for child in sorted(root.__subclasses__(), key=lambda c: c.__name__):
        yield from every_error(child)

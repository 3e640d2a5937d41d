"""What every route of the API begins with: who calls, where, and the checks that a permission does not cover."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Header, Path, Request, Response

from detent.app.http import CSRF_HEADER, principal_of, router, signed_in_of
from detent.app.platform import Platform
from detent.kernel.clock import DAY, HOUR, MINUTE, SECOND, parse_iso
from detent.kernel.errors import Forbidden, InvalidInput
from detent.kernel.identity import DEFAULT_PROJECT, Principal
from detent.kernel.secret import Secret

PREFIX: Final = "/api/v1"
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_AGO: Final = re.compile(r"(\d{1,6})(s|m|h|d|w)")
_UNITS: Final = {"s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}
_MAX_TIME: Final = 2**63 - 1


async def caller_of(request: Request) -> Principal:
    """The authenticated caller.

    Raises:
        Forbidden: a browser's session asks for a change without its CSRF token.
    """
    signed_in = signed_in_of(request)
    if signed_in is not None and request.method not in _SAFE:
        given = Secret(request.headers.get(CSRF_HEADER, ""))
        if given != Secret(signed_in.session.csrf):
            raise Forbidden(
                "The request does not carry the session's CSRF token.",
                hint=f"Send it as `{CSRF_HEADER}`, or call with a key.",
            )
    return principal_of(request)


async def installation_caller_of(request: Request) -> Principal:
    """A caller from the installation's own project, for what concerns all projects at once.

    Raises:
        Forbidden: the caller belongs to another project.
    """
    caller = await caller_of(request)
    if caller.project != DEFAULT_PROJECT:
        raise Forbidden(
            "This concerns the whole installation, and the key belongs to one project.",
            hint="Use a key of the default project.",
        )
    return caller


async def platform_of(request: Request) -> Platform:
    """The platform that the application was built on."""
    found = request.app.state.platform
    assert isinstance(found, Platform)
    return found


Caller = Annotated[Principal, Depends(caller_of)]
InstallationCaller = Annotated[Principal, Depends(installation_caller_of)]
ThePlatform = Annotated[Platform, Depends(platform_of)]

Name = Annotated[str, Path(min_length=1, max_length=64, description="Its name.")]
Id = Annotated[str, Path(min_length=1, max_length=64, description="Its id.")]
TraceId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="32 hex digits.")]
Reason = Annotated[str, "Why, for the ledger; one line."]

_PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    "4XX": {"description": "The caller's mistake: change the request.", "model": None},
    "5XX": {"description": "The world's failure, or a bug.", "model": None},
}
OnlyNew = Annotated[str | None, Header(alias="if-none-match", description="`*` refuses to change one that exists.")]
IfMatch = Annotated[
    str | None, Header(alias="if-match", description="The `ETag` it was read with; 409 when it changed meanwhile.")
]
_TAG: Final = re.compile(r'(?:W/)?"(\d{1,18})"')


def expected_of(if_match: str | None) -> int | None:
    """The version that an `If-Match` names; None for none, and for `*`.

    Raises:
        InvalidInput: it is no tag of ours.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    found = _TAG.fullmatch(if_match.strip())
    if not found:
        raise InvalidInput(
            "'If-Match' is no tag.", hint='Send the `ETag` that it was read with, e.g. "3".', field="if-match"
        )
    return int(found[1])


def tag(response: Response, version: int) -> None:
    """Say with which version a thing was read."""
    response.headers["etag"] = f'"{version}"'


def tag_next(response: Response, expected: int | None) -> None:
    """Say which version a change has made, where the caller said which one it changed."""
    if expected is not None:
        tag(response, expected + 1)


def nouns(name: str) -> APIRouter:
    """A router for one noun. A route that declares no permission is refused when its module is imported."""
    from detent.api.schemas.common import ErrorOut

    problems = {status: {**said, "model": ErrorOut} for status, said in _PROBLEMS.items()}
    return router(prefix=PREFIX, tags=[name], responses=problems)


def moment_of(text: str, now: int, *, field: str) -> int:
    """Nanoseconds from RFC 3339 text, or from `15m`, `2h`, `7d` ago; 0 for empty text.

    Raises:
        InvalidInput: the text is no time.
    """
    if not text:
        return 0
    ago = _AGO.fullmatch(text)
    if ago:
        return max(now - int(ago[1]) * _UNITS[ago[2]], 0)
    try:
        # In a query a plus sign that nobody encoded arrives as a space.
        found = parse_iso(text.replace(" ", "+") if text.count(" ") == 1 and "T" in text else text)
    except (ValueError, OverflowError):
        found = -1
    if not 0 <= found <= _MAX_TIME:
        raise InvalidInput(
            f"'{field}' is no time.", hint="Give RFC 3339, e.g. 2026-03-03T10:00:00Z, or 15m, 2h, 7d ago.", field=field
        )
    return found

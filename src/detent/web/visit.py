"""One request for a page: who asks, with which filters, and what a form sent."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from starlette.requests import ClientDisconnect, Request

from detent.app.http import CSRF_FIELD, CSRF_HEADER
from detent.app.platform import Platform
from detent.governance.people import SignedIn
from detent.kernel.errors import Forbidden, InvalidInput, TooLarge
from detent.kernel.identity import Permission, Principal

_MAX_FORM: Final = 256 * 1024
_MAX_FIELDS: Final = 280
_ROW: Final = re.compile(r"(.+)\.(\d{1,3})")


@dataclass(frozen=True, slots=True)
class Form:
    """The fields that a form sent; absent ones are empty."""

    fields: tuple[tuple[str, str], ...] = ()

    def get(self, name: str) -> str:
        """A field's text without the white space around it."""
        return next((value.strip() for key, value in self.fields if key == name), "")

    def secret(self, name: str) -> str:
        """A field exactly as typed."""
        return next((value for key, value in self.fields if key == name), "")

    def all(self, name: str) -> tuple[str, ...]:
        """Every value of a field that may be given more than once."""
        return tuple(value.strip() for key, value in self.fields if key == name and value.strip())

    def rows(self, name: str) -> tuple[int, ...]:
        """The numbers of the fields `name.0`, `name.1`... that were sent, in their order."""
        found = (_ROW.fullmatch(key) for key, _value in self.fields)
        return tuple(sorted({int(row[2]) for row in found if row is not None and row[1] == name}))

    def flag(self, name: str) -> bool:
        """Whether a box was ticked."""
        return bool(self.get(name))


@dataclass(frozen=True, slots=True)
class Visit:
    """One request for a page by somebody who may see it."""

    platform: Platform
    caller: Principal
    signed_in: SignedIn | None
    path: str
    query: Mapping[str, str]
    args: Mapping[str, str]
    now: int
    theme: str = ""

    def get(self, name: str, default: str = "") -> str:
        """A filter from the URL."""
        return self.query.get(name, "").strip() or default

    def choice(self, name: str, allowed: Mapping[str, Any] | tuple[str, ...], default: str = "") -> str:
        """A filter that takes one of a few values.

        Raises:
            InvalidInput: it has another.
        """
        value = self.get(name, default)
        if value and value not in allowed:
            raise InvalidInput(
                f"'{value[:40]}' is no value of '{name}'.", hint="Use one of: " + ", ".join(allowed) + ".", field=name
            )
        return value

    def number(self, name: str, default: float = 0.0) -> float:
        """A filter that takes a figure from 0.

        Raises:
            InvalidInput: it is none.
        """
        text = self.get(name)
        try:
            value = float(text) if text else default
        except ValueError:
            value = -1.0
        if not 0 <= value < 1e15:
            raise InvalidInput(f"'{text[:40]}' is no figure.", hint="Give a number from 0.", field=name)
        return value

    def may(self, permission: Permission) -> bool:
        """Whether the visitor holds a permission."""
        return self.caller.may(permission)

    def url(self, **changed: str | int) -> str:
        """This page with some filters changed; empty ones leave the URL."""
        merged = {**self.query, **{name: str(value) for name, value in changed.items()}}
        kept = {name: value for name, value in merged.items() if value}
        return self.path + ("?" + urlencode(kept) if kept else "")

    def twin(self, suffix: str, **changed: str | int) -> str:
        """The address of this page's `.json` or of a table's `.csv`, with the same filters."""
        path, mark, query = self.url(**changed).partition("?")
        return ("/home" if path == "/" else path) + suffix + mark + query

    @property
    def csrf(self) -> str:
        """What this session's forms repeat."""
        return self.signed_in.session.csrf if self.signed_in else ""


def check_csrf(visit: Visit, form: Form, request: Request) -> None:
    """Pass a form that this session's own page sent.

    Raises:
        Forbidden: the token is missing or another session's.
    """
    sent = form.secret(CSRF_FIELD) or request.headers.get(CSRF_HEADER, "")
    if not visit.csrf or not hmac.compare_digest(sent.encode(), visit.csrf.encode()):
        raise Forbidden("The form's token is missing or of an earlier session.", hint="Load the page again.")


async def read_form(request: Request) -> Form:
    """The fields of an URL-encoded body.

    Raises:
        InvalidInput: it is of another type, or not UTF-8.
        TooLarge: it is more than a form of ours can hold.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MAX_FORM:
                raise TooLarge("The form is too large.", hint=f"Send at most {_MAX_FORM // 1024} KiB.")
    except ClientDisconnect:
        raise InvalidInput("The form was cut off.", hint="Send it again.") from None
    if body and kind != "application/x-www-form-urlencoded":
        raise InvalidInput("The form has another type than expected.", hint="Send application/x-www-form-urlencoded.")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict")
    except ValueError:
        raise InvalidInput("The form cannot be read.", hint="Send percent-encoded UTF-8 fields.") from None
    return Form(tuple(pairs))

"""What the bodies of all nouns share.

Requests refuse what they do not know; the project comes from the credential, never from a body. Times are RFC 3339 in
UTC, durations milliseconds, money USD.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Generic, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from detent.kernel.clock import iso

T = TypeVar("T")
_MILLI: Final = 1_000_000

NameText = Annotated[str, Field(min_length=1, max_length=64, description="a-z, 0-9, dot, dash, underscore.")]
ModelText = Annotated[str, Field(min_length=1, max_length=200)]
UsdText = Annotated[str, Field(max_length=32, description='USD per million tokens as text, e.g. "0.15".')]
AmountText = Annotated[str, Field(min_length=1, max_length=32, description='USD as text, e.g. "100" or "0.25".')]
ReasonText = Annotated[str, Field(max_length=500, description="Why, for the ledger; one line, nothing personal.")]
TimeText = Annotated[str, Field(max_length=40)]


class In(BaseModel):
    """A request's body."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, str_strip_whitespace=False)


class Out(BaseModel):
    """An answer's body."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Page(Out, Generic[T]):
    """Part of a list; `after` continues it, null at the end."""

    items: list[T]
    after: str | None = None


class Problem(Out):
    """What went wrong: a stable code, a sentence, the way out, and the field at fault."""

    code: str
    message: str
    hint: str | None = None
    field: str | None = None


class ErrorOut(Out):
    """The one shape of every error."""

    error: Problem


class Removed(Out):
    """What is gone."""

    removed: str


def time_of(nanoseconds: int) -> str | None:
    """A time, or nothing for 0."""
    return iso(nanoseconds) if nanoseconds else None


def milliseconds(nanoseconds: int) -> float:
    """A duration in milliseconds with microsecond figures."""
    return round(nanoseconds / _MILLI, 3)


def without(value: msgspec.Struct, *names: str) -> dict[str, Any]:
    """A struct as JSON types, some of its fields left out."""
    built: dict[str, Any] = msgspec.to_builtins(value)
    return {name: item for name, item in built.items() if name not in names}

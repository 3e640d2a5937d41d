"""Reading JSON into neutral types: each field is taken once, by its type; what is left over becomes `extra`."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from detent.kernel.errors import InvalidInput

_NAMES: Final = {
    dict: "an object",
    list: "a list",
    str: "text",
    bool: "true or false",
    int: "an integer",
    float: "a number",
    type(None): "null",
}


class Fields:
    """One JSON object. Null means absent.

    Args:
        value: the object; it is used up.
        at: where it stands, as a dotted path, for errors.

    Raises:
        InvalidInput: it is no object; later, a field has the wrong type. Names the field.
    """

    __slots__ = ("_at", "_left")

    def __init__(self, value: object, at: str = "") -> None:
        if not isinstance(value, dict):
            raise wrong(at, "an object", value)
        self._left: dict[str, Any] = value
        self._at = at

    def path(self, name: str) -> str:
        """Where a field stands."""
        return f"{self._at}.{name}" if self._at else name

    def text(self, name: str) -> str:
        """A string; empty when absent."""
        value = self._left.pop(name, None)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise wrong(self.path(name), "text", value)
        return value

    def needed(self, name: str) -> str:
        """A string that must be there."""
        value = self._left.pop(name, None)
        if not isinstance(value, str):
            raise wrong(self.path(name), "text", value)
        return value

    def integer(self, name: str) -> int | None:
        """An integer."""
        value = self._left.pop(name, None)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise wrong(self.path(name), "an integer", value)
        return value

    def number(self, name: str) -> float | None:
        """A number."""
        value = self._left.pop(name, None)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise wrong(self.path(name), "a number", value)
        return float(value)

    def flag(self, name: str) -> bool | None:
        """True or false."""
        value = self._left.pop(name, None)
        if value is not None and not isinstance(value, bool):
            raise wrong(self.path(name), "true or false", value)
        return value

    def items(self, name: str) -> list[Any]:
        """A list; empty when absent."""
        value = self._left.pop(name, None)
        if value is None:
            return []
        if not isinstance(value, list):
            raise wrong(self.path(name), "a list", value)
        return value

    def object(self, name: str) -> dict[str, Any] | None:
        """An object."""
        value = self._left.pop(name, None)
        if value is not None and not isinstance(value, dict):
            raise wrong(self.path(name), "an object", value)
        return value

    def within(self, name: str) -> Fields | None:
        """An object, to be read further."""
        value = self.object(name)
        return None if value is None else Fields(value, self.path(name))

    def value(self, name: str) -> Any:
        """Whatever is there."""
        return self._left.pop(name, None)

    def rest(self) -> dict[str, Any]:
        """What has not been taken."""
        return {name: value for name, value in self._left.items() if value is not None}


def wrong(path: str, wanted: str, value: object) -> InvalidInput:
    """The error for a value of the wrong type."""
    return InvalidInput(
        f"The field '{path or 'body'}' must be {wanted}, not {_NAMES.get(type(value), 'that')}.",
        hint="Correct the request.",
        field=path or None,
    )


def unsayable(path: str, what: str, dialect: str) -> InvalidInput:
    """The error for a part of a request that a provider's dialect has no word for and that may not be left out."""
    return InvalidInput(
        f"{what} cannot be sent to a provider that speaks the {dialect} dialect.",
        hint="Use a route whose provider takes it, or leave it out.",
        field=path,
    )


encoded: Final = msgspec.json.Encoder().encode
"""JSON, as tight as it gets."""

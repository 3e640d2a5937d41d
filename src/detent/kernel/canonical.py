"""Canonical JSON (RFC 8785) and the digests made of it.

What is versioned in Detent is named by the SHA-256 of its canonical JSON, so equal content has one name everywhere.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import Any

import msgspec
import orjson

from detent.kernel.errors import InvalidInput

_MAX_INTEGER = 2**53 - 1
_MIN_WIDE, _MAX_WIDE = -(2**63), 2**64 - 1
_MAX_DEPTH = 128


def canonical_json(value: Any, *, wide: bool = False) -> bytes:
    """The one byte string that RFC 8785 gives this value: sorted keys, no spaces, ECMAScript numbers, UTF-8.

    Accepts JSON types and msgspec Structs (taken as their JSON objects).

    Args:
        wide: write integers of up to 64 bits in full, where RFC 8785 would round them. The ledger does so, because
            times in nanoseconds are among them.

    Raises:
        InvalidInput: NaN or infinity, an integer beyond 2**53 - 1 (it would not survive a JSON number; beyond 64 bits
            if `wide`), a lone surrogate, a key that is no string, a type that JSON does not have, or nesting deeper
            than 128.
    """
    try:
        plain = msgspec.to_builtins(value, order="deterministic")  # a set has one order, as a sorted array
    except TypeError as error:
        raise InvalidInput(f"The value has no JSON form: {error}.", hint="Convert it to JSON types first.") from None
    except RecursionError:
        raise _too_deep() from None
    if _is_simple(plain, 0, (_MIN_WIDE, _MAX_WIDE) if wide else (-_MAX_INTEGER, _MAX_INTEGER)):
        return orjson.dumps(plain, option=orjson.OPT_SORT_KEYS)
    return "".join(_write(plain)).encode()


def digest(value: Any) -> str:
    """Name of a value by content: `sha256:` and 64 hex digits over its canonical JSON."""
    return digest_bytes(canonical_json(value))


def digest_bytes(data: bytes) -> str:
    """Name of raw bytes by content, in the same form."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _is_simple(value: Any, depth: int, integers: tuple[int, int]) -> bool:
    """Whether a plain encoder with sorted keys already writes the canonical form; refuses what has none.

    It does unless there are floats (their text differs) or keys beyond ASCII (RFC 8785 sorts by UTF-16 code units).
    """
    if depth > _MAX_DEPTH:
        raise _too_deep()
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, str):
        _check_text(value)
        return True
    if isinstance(value, int):
        if not integers[0] <= value <= integers[1]:
            raise InvalidInput(f"The integer {value} does not survive as a JSON number.", hint="Send it as a string.")
        return True
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInput(f"{value} is not a JSON number.", hint="Send null or leave the field out.")
        return False
    if isinstance(value, list | tuple):
        # Every item is visited, because visiting is also the check.
        return sum(not _is_simple(item, depth + 1, integers) for item in value) == 0
    if isinstance(value, dict):
        simple = True
        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidInput(f"The key {key!r} is not a string.", hint="JSON objects have string keys.")
            _check_text(key)
            simple = _is_simple(item, depth + 1, integers) and key.isascii() and simple
        return simple
    raise InvalidInput(f"A {type(value).__name__} has no JSON form.", hint="Convert it to a JSON type first.")


def _too_deep() -> InvalidInput:
    return InvalidInput(f"The value is nested deeper than {_MAX_DEPTH} levels.", hint="Flatten it.")


def _check_text(text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInput("The text holds a lone surrogate.", hint="Send valid Unicode.") from None


def _write(value: Any) -> Iterable[str]:
    if isinstance(value, float):
        yield ecmascript_number(value)
    elif isinstance(value, list | tuple):
        yield "["
        for index, item in enumerate(value):
            if index:
                yield ","
            yield from _write(item)
        yield "]"
    elif isinstance(value, dict):
        yield "{"
        for index, key in enumerate(sorted(value, key=lambda k: k.encode("utf-16-be"))):
            if index:
                yield ","
            yield orjson.dumps(key).decode()
            yield ":"
            yield from _write(value[key])
        yield "}"
    else:
        yield orjson.dumps(value).decode()


def ecmascript_number(value: float) -> str:
    """The text of a finite float as ECMAScript's Number::toString gives it (ECMA-262, section 6.1.6.1.20)."""
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    mantissa, _, exponent_text = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    exponent = int(exponent_text or 0)
    if fraction == "0":
        fraction = ""
    digits = (whole + fraction).lstrip("0")
    # `point` is the position of the decimal point relative to the first significant digit.
    leading = len(whole + fraction) - len(digits)
    point = len(whole) + exponent - leading
    digits = digits.rstrip("0")
    count = len(digits)
    if count <= point <= 21:
        return sign + digits + "0" * (point - count)
    if 0 < point <= 21:
        return sign + digits[:point] + "." + digits[point:]
    if -6 < point <= 0:
        return sign + "0." + "0" * -point + digits
    power = point - 1
    tail = f"e{'+' if power > 0 else '-'}{abs(power)}"
    return sign + digits[0] + ("." + digits[1:] if count > 1 else "") + tail

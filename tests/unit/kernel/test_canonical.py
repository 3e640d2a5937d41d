"""Canonical JSON against RFC 8785's own vectors and against another implementation."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from typing import Any

import msgspec
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from detent.kernel.canonical import canonical_json, digest, digest_bytes, ecmascript_number
from detent.kernel.errors import InvalidInput

# RFC 8785, appendix B: IEEE 754 bits and their text.
NUMBERS = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef4f": "999999999999999900000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "41b3de4355555554": "333333333.33333325",
    "41b3de4355555555": "333333333.3333333",
    "41b3de4355555556": "333333333.3333334",
    "41b3de4355555557": "333333333.33333343",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), inner, max_size=5)
    ),
    max_leaves=25,
)


@pytest.mark.parametrize(("bits", "text"), NUMBERS.items())
def test_numbers_of_the_rfc(bits: str, text: str) -> None:
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    assert ecmascript_number(number) == text
    assert canonical_json([number]) == f"[{text}]".encode()


def test_the_sample_of_the_rfc() -> None:
    """Section 3.2.2 to 3.2.4: literals, numbers, strings."""
    given_value = json.loads(
        r"""{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
             "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
             "literals": [null, true, false]}"""
    )
    assert (
        canonical_json(given_value)
        == (
            '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
            '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
        ).encode()
    )


def test_keys_are_sorted_by_utf16_code_units() -> None:
    """Section 3.2.3: a smiley beyond the BMP sorts before a Hebrew presentation form, other than by code points."""
    keys = ["€", "\r", "\ufb33", "1", "😀", "\u0080", "ö"]
    assert list(json.loads(canonical_json(dict.fromkeys(keys, 0)))) == ["\r", "1", "\u0080", "ö", "€", "😀", "\ufb33"]


@given(JSON)
def test_another_implementation_agrees(value: Any) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)


@given(JSON)
def test_it_is_a_fixed_point(value: Any) -> None:
    once = canonical_json(value)
    assert canonical_json(json.loads(once, parse_int=float)) == once


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_survive(number: float) -> None:
    assert float(ecmascript_number(number)) == number


@given(st.dictionaries(st.text(max_size=3, alphabet="abc"), st.integers(0, 9)), st.randoms())
def test_order_of_insertion_does_not_matter(value: dict[str, int], random: Any) -> None:
    items = list(value.items())
    random.shuffle(items)
    assert digest(dict(items)) == digest(value)


class Point(msgspec.Struct, frozen=True):
    y: int
    x: float = 1.0
    tags: frozenset[str] = frozenset()


def test_structs_are_their_json_objects() -> None:
    assert canonical_json(Point(2)) == b'{"tags":[],"x":1,"y":2}'
    assert canonical_json(Point(2, tags=frozenset("cab"))) == b'{"tags":["a","b","c"],"x":1,"y":2}'


def test_digests_have_one_form() -> None:
    assert digest({}) == digest_bytes(b"{}") == "sha256:" + hashlib.sha256(b"{}").hexdigest()


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (math.nan, "nan is not a JSON number"),
        ([math.inf], "inf is not a JSON number"),
        ({"a": -math.inf}, "-inf is not a JSON number"),
        (2**53, "does not survive"),
        (-(2**53), "does not survive"),
        ("\ud800", "lone surrogate"),
        ({"\udfff": 1}, "lone surrogate"),
        ({1: 2}, "not a string"),
        (object(), "no JSON form"),
        ({"a": [1j]}, "no JSON form"),
        (deep(129), "nested deeper than 128"),
        (deep(100_000), "nested deeper than 128"),
        ([0.5, deep(129)], "nested deeper than 128"),
    ],
)
def test_what_has_no_canonical_form_is_refused(value: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        canonical_json(value)


def test_the_limit_itself_is_accepted() -> None:
    assert canonical_json(deep(127)) == b"[" * 128 + b"]" * 128
    assert canonical_json(2**53 - 1) == b"9007199254740991"


def test_wide_integers_are_kept_in_full_where_asked_for() -> None:
    assert (
        canonical_json({"t": 2**64 - 1, "m": -(2**63)}, wide=True)
        == b'{"m":-9223372036854775808,"t":18446744073709551615}'
    )
    with pytest.raises(InvalidInput, match="does not survive"):
        canonical_json(2**64, wide=True)

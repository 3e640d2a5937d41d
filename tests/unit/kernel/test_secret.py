"""A Secret shows itself only when asked to."""

from __future__ import annotations

import copy
import json
import logging
import pickle  # noqa: TID251 - to prove that it refuses
import traceback
from collections.abc import Callable

import msgspec
import orjson
import pytest

from detent.kernel.secret import Secret

PLAIN = "sk-canary-7b1f"
HELD = Secret(PLAIN)


class Holder(msgspec.Struct):
    name: str
    token: Secret


SHOWN: dict[str, Callable[[], str]] = {
    "str": lambda: str(HELD),
    "repr": lambda: repr(HELD),
    "format": lambda: f"{HELD} {HELD!r} {HELD:>40} {HELD!s}",
    "percent": lambda: "%s %r" % (HELD, HELD),  # noqa: UP031 - the old way must not leak either
    "in a list": lambda: repr([HELD, {"k": HELD}]),
    "in a struct": lambda: repr(Holder("a", HELD)),
    "as an error": lambda: "".join(traceback.format_exception(ValueError(HELD))),
    "in a log": lambda: logging.LogRecord("x", 10, "f", 1, "token %s", (HELD,), None).getMessage(),
    "a copy": lambda: repr(copy.deepcopy(copy.copy(HELD))),
    "its directory": lambda: repr(dir(HELD)),
}


@pytest.mark.parametrize("way", SHOWN)
def test_it_does_not_leak_through(way: str) -> None:
    shown = SHOWN[way]()
    assert PLAIN not in shown
    assert "7b1f" not in shown


SERIALISERS: dict[str, Callable[[], object]] = {
    "json": lambda: json.dumps(HELD),
    "orjson": lambda: orjson.dumps({"a": HELD}),
    "msgspec json": lambda: msgspec.json.encode(Holder("a", HELD)),
    "msgspec msgpack": lambda: msgspec.msgpack.encode(HELD),
    "msgspec builtins": lambda: msgspec.to_builtins(HELD),
    "pickle": lambda: pickle.dumps(HELD),
    "vars": lambda: vars(HELD),
}


@pytest.mark.parametrize("way", SERIALISERS)
def test_it_is_never_serialised(way: str) -> None:
    with pytest.raises(TypeError) as caught:
        SERIALISERS[way]()
    assert PLAIN not in str(caught.value)


def test_it_is_revealed_on_purpose() -> None:
    assert HELD.reveal() == PLAIN


def test_comparison() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert Secret("ä\udc80") == Secret("ä\udc80")
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2
    assert (bool(Secret("")), bool(Secret("a"))) == (False, True)

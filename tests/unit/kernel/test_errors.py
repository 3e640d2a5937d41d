"""The tree of errors, drawn and real."""

from __future__ import annotations

import re

import pytest

from detent.kernel import errors
from detent.kernel.errors import BugError, CallerError, DetentError, InvalidInput, WorldError, every_error

OURS = [error for error in every_error() if error.__module__ == "detent.kernel.errors"]


def test_the_drawing_is_the_tree() -> None:
    drawn = re.findall(r"(\w+) +(\d{3}) (\w+)", errors.__doc__ or "")
    leaves = [e for e in OURS if e.__mro__[1] in {CallerError, WorldError}]
    assert {(e.__name__, str(e.status), e.code) for e in leaves} == set(drawn)
    assert (BugError.status, BugError.code) == (500, "bug")


@pytest.mark.parametrize("error", OURS, ids=lambda e: e.__name__)
def test_each_has_a_code_of_its_own_and_a_status_of_its_family(error: type[DetentError]) -> None:
    assert re.fullmatch(r"[a-z][a-z_]*", error.code)
    assert [e for e in OURS if e.code == error.code] == [error]
    assert error.__doc__
    if issubclass(error, CallerError):
        assert 400 <= error.status < 500
    if issubclass(error, WorldError | BugError):
        assert 500 <= error.status < 600


def test_one_shape() -> None:
    bare = InvalidInput("It is wrong.")
    full = InvalidInput("It is wrong.", hint="Do it right.", field="a.b", retry_after=2.5)
    assert bare.as_dict() == {"error": {"code": "invalid_input", "message": "It is wrong."}}
    assert full.as_dict() == {
        "error": {"code": "invalid_input", "message": "It is wrong.", "hint": "Do it right.", "field": "a.b"}
    }
    assert (str(bare), str(full), full.retry_after) == ("It is wrong.", "It is wrong. Do it right.", 2.5)


def test_rooms_add_leaves() -> None:
    class Planted(errors.Conflict):
        """Planted."""

        code = "planted"

    assert Planted in list(every_error(errors.Conflict))

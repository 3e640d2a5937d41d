"""Who acts and what they may do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detent.kernel.errors import Forbidden
from detent.kernel.identity import ROLES, Actor, Permission, Principal, system

SETS = st.frozensets(st.sampled_from(Permission))


@given(SETS, SETS)
def test_nobody_hands_on_more_than_they_hold(held: frozenset[Permission], wanted: frozenset[Permission]) -> None:
    issued = Principal(Actor("user", "1"), "default", held).issue(wanted)
    assert issued == held & wanted


@given(SETS, st.sampled_from(Permission))
def test_passing_and_refusing(held: frozenset[Permission], asked: Permission) -> None:
    caller = Principal(Actor("key", "1"), "default", held)
    if asked in held:
        caller.require(asked)
        assert caller.may(asked)
    else:
        assert not caller.may(asked)
        with pytest.raises(Forbidden, match=f"'{asked.value}'"):
            caller.require(asked)


def test_roles() -> None:
    assert ROLES["admin"] == frozenset(Permission)
    assert all(rights < ROLES["admin"] for name, rights in ROLES.items() if name != "admin")
    writes = {p for p in Permission if p.value.endswith(":write")}
    for role in ("viewer", "auditor"):
        assert Permission.CONTENT_READ not in ROLES[role]
        assert not ROLES[role] & writes
    assert Permission.USERS_WRITE not in ROLES["engineer"]


def test_permissions_are_noun_and_verb() -> None:
    assert all(len(p.value.split(":")) == 2 for p in Permission)


def test_detent_itself() -> None:
    caller = system("scheduler", "team")
    assert (str(caller.actor), caller.project, caller.permissions) == (
        "system:scheduler",
        "team",
        frozenset(Permission),
    )

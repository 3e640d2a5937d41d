"""People: links, passwords, sessions, roles; and that rights follow the facts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import argon2
import msgspec
import pytest

from detent.app.platform import Platform, open_platform
from detent.governance import people
from detent.governance.people import Brake
from detent.kernel.clock import HOUR, SECOND, FixedClock
from detent.kernel.errors import Conflict, Forbidden, InvalidInput, NotFound, TooMany, Unauthenticated
from detent.kernel.identity import ROLES, Actor, Permission, Principal
from detent.kernel.ids import CountedIds
from detent.kernel.settings import Settings

PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def _quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords cost next to nothing here."""
    monkeypatch.setattr(people, "_HASHER", argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))


def test_a_password_costs_what_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert people._HASHER._parameters.memory_cost == 64 * 1024
    assert people._HASHER._parameters.time_cost == 3


def test_only_a_few_passwords_are_hashed_at_once(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    signed_in(platform, "ada", "viewer")
    monkeypatch.setattr(people, "_QUEUE_SECONDS", 0.01)
    for _ in range(people._AT_ONCE):
        people._hashing.acquire()
    try:
        with pytest.raises(TooMany, match="at once"):
            platform.people.sign_in("ada", PASSWORD)
    finally:
        for _ in range(people._AT_ONCE):
            people._hashing.release()
    assert platform.people.sign_in("ada", PASSWORD)


@pytest.fixture
def platform(home: Path, clock: FixedClock, ids: CountedIds) -> Iterator[Platform]:
    with open_platform(Settings(home=str(home)), clock=clock, ids=ids) as opened:
        yield opened


def signed_in(platform: Platform, name: str, role: str) -> Principal:
    """Somebody with a role and a password, signed in."""
    _account, link = platform.people.add(platform.access.operator(), name, role)
    first = platform.people.sign_in_link(link.reveal())
    caller = platform.access.by_cookie(first.cookie.reveal()).principal
    platform.people.set_password(caller, first.account.id, PASSWORD)
    again = platform.people.sign_in(name, PASSWORD)
    return platform.access.by_cookie(again.cookie.reveal()).principal


def kinds(platform: Platform) -> list[str]:
    return [fact.kind for fact in platform.ledger.read(limit=1000)]


def test_the_first_link_makes_an_admin_once(platform: Platform) -> None:
    first, second = platform.people.first_link(), platform.people.first_link()
    assert not platform.people.signed_up()
    in_first = platform.people.sign_in_link(first.reveal())
    in_second = platform.people.sign_in_link(second.reveal())
    assert in_first.account == in_second.account
    assert (in_first.account.name, in_first.account.role) == ("admin", "admin")
    assert platform.access.by_cookie(in_first.cookie.reveal()).principal.permissions == frozenset(Permission)
    assert kinds(platform) == ["user.added", "user.signed_in", "user.signed_in"]


def test_a_link_works_once_and_for_an_hour(platform: Platform, clock: FixedClock) -> None:
    link, late = platform.people.first_link(), platform.people.first_link()
    platform.people.sign_in_link(link.reveal())
    clock.advance(HOUR)
    for token in (link.reveal(), late.reveal(), "dtl_guess", ""):
        with pytest.raises(Unauthenticated):
            platform.people.sign_in_link(token)


def test_a_password_signs_in_and_nothing_else_does(platform: Platform) -> None:
    caller = signed_in(platform, "ada", "engineer")
    assert caller.permissions == ROLES["engineer"]
    for name, password in (("ada", "wrong horse battery"), ("ada", ""), ("bob", PASSWORD), ("admin", "")):
        with pytest.raises(Unauthenticated, match="Name or password"):
            platform.people.sign_in(name, password)


def test_an_account_without_password_cannot_be_entered_by_password(platform: Platform) -> None:
    platform.people.first_link()
    with pytest.raises(Unauthenticated):
        platform.people.sign_in("admin", "")


def test_guessing_slows_down(platform: Platform, clock: FixedClock) -> None:
    signed_in(platform, "ada", "viewer")
    for _ in range(5):
        with pytest.raises(Unauthenticated):
            platform.people.sign_in("ada", "wrong")
    with pytest.raises(TooMany) as refused:
        platform.people.sign_in("ada", PASSWORD)
    assert refused.value.retry_after == 1
    clock.advance(SECOND)
    assert platform.people.sign_in("ada", PASSWORD).account.name == "ada"


def test_the_brake_doubles_and_forgets(clock: FixedClock) -> None:
    brake = Brake(clock)
    waits = []
    for _ in range(20):
        brake.failed("ada")
        try:
            brake.check("ada")
        except TooMany as error:
            waits.append(error.retry_after)
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, *[300] * 7]
    brake.check("bob")
    brake.passed("ada")
    brake.check("ada")
    for number in range(5000):
        brake.failed(f"name-{number}")
    assert len(brake._failures) == 4096


def test_a_session_ends(platform: Platform, clock: FixedClock) -> None:
    found = platform.people.sign_in_link(platform.people.first_link().reveal())
    cookie = found.cookie.reveal()
    assert platform.people.session(cookie) is not None
    platform.people.sign_out(cookie)
    assert platform.people.session(cookie) is None
    with pytest.raises(Unauthenticated):
        platform.access.by_cookie(cookie)

    again = platform.people.sign_in_link(platform.people.first_link().reveal()).cookie.reveal()
    clock.advance(24 * 7 * HOUR)
    assert platform.people.session(again) is None


def test_cookie_and_password_are_stored_only_as_hashes(platform: Platform, home: Path) -> None:
    signed_in(platform, "ada", "engineer")
    cookie = platform.people.sign_in("ada", PASSWORD).cookie.reveal()
    platform.close()
    stored = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert cookie.encode() not in stored
    assert PASSWORD.encode() not in stored


def test_names_stand_in_no_fact(platform: Platform) -> None:
    signed_in(platform, "ada-lovelace", "engineer")
    facts = msgspec.json.encode(platform.ledger.read(limit=1000))
    assert b"ada-lovelace" not in facts


def test_changing_a_password_closes_the_other_sessions(platform: Platform) -> None:
    ada = signed_in(platform, "ada", "engineer")
    mine, other = platform.people.sign_in("ada", PASSWORD), platform.people.sign_in("ada", PASSWORD)
    with pytest.raises(Forbidden, match="current password"):
        platform.people.set_password(ada, ada.actor.id, "another good password", current="wrong")
    platform.people.set_password(ada, ada.actor.id, "another good password", current=PASSWORD, keep=mine.session)
    assert platform.people.session(mine.cookie.reveal()) is not None
    assert platform.people.session(other.cookie.reveal()) is None
    assert platform.people.sign_in("ada", "another good password")


@pytest.mark.parametrize("password", ["", "short", "x" * 1025])
def test_weak_passwords_are_refused(platform: Platform, password: str) -> None:
    ada = signed_in(platform, "ada", "engineer")
    with pytest.raises(InvalidInput):
        platform.people.set_password(ada, ada.actor.id, password, current=PASSWORD)


def test_a_role_change_and_a_shut_account_take_effect_at_once(platform: Platform) -> None:
    operator = platform.access.operator()
    signed_in(platform, "root", "admin")
    ada = signed_in(platform, "ada", "engineer")
    cookie = platform.people.sign_in("ada", PASSWORD).cookie.reveal()
    platform.people.set_role(operator, ada.actor.id, "viewer")
    assert platform.access.by_cookie(cookie).principal.permissions == ROLES["viewer"]
    platform.people.disable(operator, ada.actor.id)
    with pytest.raises(Unauthenticated):
        platform.access.by_cookie(cookie)
    with pytest.raises(Unauthenticated):
        platform.people.sign_in("ada", PASSWORD)


def test_nobody_gives_more_than_they_hold(platform: Platform) -> None:
    ada = signed_in(platform, "ada", "engineer")
    with pytest.raises(Forbidden):
        platform.people.add(ada, "bob", "viewer")
    helper = Principal(Actor("user", "x"), "default", ROLES["viewer"] | {Permission.USERS_WRITE, Permission.USERS_READ})
    with pytest.raises(Forbidden, match="more than you"):
        platform.people.add(helper, "bob", "admin")
    with pytest.raises(Forbidden, match="more than you"):
        platform.people.set_password(helper, ada.actor.id, "another good password")
    assert platform.people.add(helper, "bob", "viewer")[0].role == "viewer"


def test_the_last_admin_stays(platform: Platform) -> None:
    operator = platform.access.operator()
    admin = platform.people.sign_in_link(platform.people.first_link().reveal()).account
    for verb in (
        lambda: platform.people.set_role(operator, admin.id, "viewer"),
        lambda: platform.people.disable(operator, admin.id),
        lambda: platform.people.erase(operator, admin.id),
    ):
        with pytest.raises(Conflict, match="last admin"):
            verb()
    signed_in(platform, "root", "admin")
    platform.people.erase(operator, admin.id)
    assert [account.name for account in platform.people.all(operator)] == ["root"]
    with pytest.raises(NotFound):
        platform.people.get(operator, admin.id)


def test_an_edited_table_gives_no_rights(platform: Platform, home: Path) -> None:
    import sqlite3

    ada = signed_in(platform, "ada", "viewer")
    cookie = platform.people.sign_in("ada", PASSWORD).cookie.reveal()
    with sqlite3.connect(home / "ledger.db") as database:
        changed = database.execute("UPDATE accounts SET role = 'admin' WHERE id = ?", (ada.actor.id,)).rowcount
    database.close()
    assert changed == 1
    assert platform.access.by_cookie(cookie).principal.permissions == ROLES["viewer"]


def test_names_are_unique_and_readable(platform: Platform) -> None:
    operator = platform.access.operator()
    platform.people.add(operator, "ada", "viewer")
    with pytest.raises(Conflict):
        platform.people.add(operator, "ada", "viewer")
    for name in ("", "  ", "a\nb", "x" * 201):
        with pytest.raises(InvalidInput):
            platform.people.add(operator, name, "viewer")
    with pytest.raises(InvalidInput, match="no role"):
        platform.people.add(operator, "bob", "king")
    assert all(account.password_hash == "" for account in platform.people.all(operator))

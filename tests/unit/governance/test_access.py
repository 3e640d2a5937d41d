"""Access: a credential never holds more than its issuer does now."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from detent.app.platform import Platform, open_platform
from detent.gateway.snapshot import load
from detent.kernel.clock import HOUR, FixedClock
from detent.kernel.errors import Unauthenticated
from detent.kernel.identity import ROLES, Actor, Permission, Principal
from detent.kernel.ids import CountedIds
from detent.kernel.settings import Settings

CALL, READ, WRITE = Permission.GATEWAY_CALL, Permission.KEYS_READ, Permission.KEYS_WRITE


@pytest.fixture
def platform(home: Path, clock: FixedClock, ids: CountedIds) -> Iterator[Platform]:
    with open_platform(Settings(home=str(home)), clock=clock, ids=ids) as opened:
        yield opened


def person(platform: Platform, name: str, role: str) -> Principal:
    _account, link = platform.people.add(platform.access.operator(), name, role)
    found = platform.people.sign_in_link(link.reveal())
    return platform.access.by_cookie(found.cookie.reveal()).principal


def published(platform: Platform, key_id: str) -> tuple[Permission, ...] | None:
    """What the gateway lets a key do; None when it does not know it."""
    snapshot = load(platform.settings.folder / "snapshot")
    assert snapshot is not None
    return next((key.permissions for key in snapshot.keys.values() if key.id == key_id), None)


def test_a_key_is_its_holder(platform: Platform) -> None:
    made = platform.gateway.mint_key(platform.access.operator(), "app", permissions=frozenset({CALL, READ}))
    caller = platform.access.by_token(made.token.reveal())
    assert caller == Principal(Actor("key", made.key.id), "default", frozenset({CALL, READ}))


def test_a_bad_key_is_nobody(platform: Platform, clock: FixedClock) -> None:
    operator = platform.access.operator()
    expiring = platform.gateway.mint_key(operator, "short", expires=clock.now() + HOUR)
    revoked = platform.gateway.mint_key(operator, "gone")
    platform.gateway.revoke_key(operator, revoked.key.id)
    clock.advance(HOUR)
    for token in ("", "dtk_", "dtk_" + "A" * 43, expiring.token.reveal(), revoked.token.reveal(), "Bearer x"):
        with pytest.raises(Unauthenticated):
            platform.access.by_token(token)


def test_a_key_falls_with_its_issuer(platform: Platform) -> None:
    ada = person(platform, "ada", "engineer")
    made = platform.gateway.mint_key(ada, "app", permissions=frozenset({CALL, READ, WRITE}))
    token = made.token.reveal()
    assert platform.access.by_token(token).permissions == {CALL, READ, WRITE}
    assert published(platform, made.key.id) == tuple(sorted({CALL, READ, WRITE}))

    platform.people.set_role(platform.access.operator(), ada.actor.id, "auditor")
    assert platform.access.by_token(token).permissions == {READ}
    assert published(platform, made.key.id) == (READ,)

    platform.people.disable(platform.access.operator(), ada.actor.id)
    assert platform.access.by_token(token).permissions == frozenset()
    assert published(platform, made.key.id) == ()


def test_a_key_made_by_a_key_is_bounded_by_the_whole_chain(platform: Platform) -> None:
    ada = person(platform, "ada", "engineer")
    first = platform.gateway.mint_key(ada, "first", permissions=frozenset({CALL, WRITE}))
    second = platform.gateway.mint_key(
        platform.access.by_token(first.token.reveal()), "second", permissions=frozenset(Permission)
    )
    assert platform.access.by_token(second.token.reveal()).permissions == {CALL, WRITE}
    platform.gateway.revoke_key(platform.access.operator(), first.key.id)
    assert platform.access.by_token(second.token.reveal()).permissions == frozenset()


def test_roles_are_what_they_say(platform: Platform) -> None:
    for role, rights in ROLES.items():
        assert person(platform, f"a-{role}", role).permissions == rights
    assert platform.access.rights_of(Actor("user", "nobody")) == frozenset()
    assert platform.access.rights_of(Actor("key", "nothing")) == frozenset()
    assert platform.access.rights_of(Actor("system", "schedule")) == frozenset(Permission)

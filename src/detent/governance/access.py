"""Who a credential stands for, and what it may do now: never more than whoever issued it may at this moment."""

from __future__ import annotations

import os
import threading

import msgspec

from detent.gateway.keys import hash_token
from detent.gateway.model import Key
from detent.gateway.service import Gateway
from detent.governance.people import People, SignedIn
from detent.governance.views import User
from detent.kernel.clock import Clock
from detent.kernel.errors import Unauthenticated
from detent.kernel.identity import DEFAULT_PROJECT, ROLES, Actor, Permission, Principal
from detent.kernel.ports import Account, Ledger, Session

_EVERYTHING = frozenset(Permission)
_NOTHING: frozenset[Permission] = frozenset()
_DEEPEST = 8
"""How many keys may stand between a key and a person; more than that gives no rights."""


class SignedInPrincipal(msgspec.Struct, frozen=True):
    """A caller with a browser session."""

    principal: Principal
    signed_in: SignedIn

    @property
    def session(self) -> Session:
        """The browser's session."""
        return self.signed_in.session

    @property
    def account(self) -> Account:
        """Whose it is."""
        return self.signed_in.account


class Access:
    """Turns credentials into principals."""

    def __init__(self, gateway: Gateway, people: People, ledger: Ledger, *, clock: Clock) -> None:
        self._gateway = gateway
        self._people = people
        self._ledger = ledger
        self._clock = clock
        self._lock = threading.Lock()
        self._index: tuple[tuple[int, str], dict[str, Key], dict[str, Key]] = ((-1, ""), {}, {})

    def by_token(self, token: str) -> Principal:
        """The caller behind a virtual key.

        Raises:
            Unauthenticated: the key is malformed, unknown, revoked or expired.
        """
        hashed = hash_token(token)
        key = self._keys()[0].get(hashed) if hashed else None
        if key is None or not key.live(self._clock.now()):
            raise Unauthenticated("The key is unknown, revoked or expired.", hint="Make one with `detent keys create`.")
        return Principal(Actor("key", key.id), key.project, self.rights_of_key(key))

    def by_cookie(self, cookie: str) -> SignedInPrincipal:
        """The caller behind a browser session.

        Raises:
            Unauthenticated: there is no such session any more.
        """
        found = self._people.session(cookie)
        if found is None:
            raise Unauthenticated("You are not signed in any more.", hint="Sign in again.")
        rights = ROLES.get(found.account.role, _NOTHING)
        return SignedInPrincipal(Principal(Actor("user", found.account.id), DEFAULT_PROJECT, rights), found)

    def operator(self) -> Principal:
        """Whoever runs the command line on the machine: it can read the files anyway, so it may do everything."""
        return Principal(Actor("operator", str(os.getuid())), DEFAULT_PROJECT, _EVERYTHING)

    def rights_of_key(self, key: Key) -> frozenset[Permission]:
        """What a key may do now: its own permissions, as far as its issuer still holds them."""
        return frozenset(key.permissions) & self.rights_of(key.issuer)

    def rights_of(self, actor: Actor, *, depth: int = 0) -> frozenset[Permission]:
        """What an actor may do now; nothing for one that is gone, shut or revoked."""
        if actor.kind in {"operator", "system"}:
            return _EVERYTHING
        if actor.kind == "user":
            user: User | None = self._people.user(actor.id)
            return _NOTHING if user is None or user.disabled else ROLES.get(user.role, _NOTHING)
        key = self._keys()[1].get(actor.id)
        if key is None or depth >= _DEEPEST or not key.live(self._clock.now()):
            return _NOTHING
        return frozenset(key.permissions) & self.rights_of(key.issuer, depth=depth + 1)

    def _keys(self) -> tuple[dict[str, Key], dict[str, Key]]:
        """All keys by hash and by id, read again only when the ledger has moved on."""
        head = self._ledger.head()
        with self._lock:
            if self._index[0] != head:
                keys = self._gateway.keys_of("")
                self._index = (head, {key.hash: key for key in keys}, {key.id: key for key in keys})
            return self._index[1], self._index[2]

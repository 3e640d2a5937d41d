"""Whatever people and keys are made, changed and shut in whatever order: no credential holds more than its issuer."""

from __future__ import annotations

import contextlib
from typing import Any

from hypothesis import settings as example_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from detent.app.platform import open_platform
from detent.gateway.snapshot import load
from detent.governance.views import USERS
from detent.kernel.clock import FixedClock
from detent.kernel.errors import CallerError
from detent.kernel.identity import ROLES, Actor, Permission, Principal
from detent.kernel.ids import CountedIds
from detent.kernel.settings import Settings

roles = st.sampled_from(sorted(ROLES))
wanted = st.frozensets(st.sampled_from(sorted(Permission)), min_size=1)


class Rights(RuleBasedStateMachine):
    """An installation that anything allowed may happen to."""

    people: Bundle[Any] = Bundle("people")
    keys: Bundle[Any] = Bundle("keys")

    @initialize()
    def begin(self) -> None:
        self.clock = FixedClock()
        self.platform = open_platform(Settings(home="/unused"), clock=self.clock, ids=CountedIds(), memory=True)
        self.operator = self.platform.access.operator()
        self.tokens: dict[str, tuple[Any, str]] = {}
        self.names = 0

    def teardown(self) -> None:
        self.platform.close()

    def principal(self, actor: Actor) -> Principal:
        return Principal(actor, "default", self.platform.access.rights_of(actor))

    @rule(target=people, role=roles)
    def add(self, role: str) -> Actor:
        self.names += 1
        account, _link = self.platform.people.add(self.operator, f"person {self.names}", role)
        return Actor("user", account.id)

    @rule(person=people, role=roles)
    def set_role(self, person: Actor, role: str) -> None:
        with contextlib.suppress(CallerError):
            self.platform.people.set_role(self.operator, person.id, role)

    @rule(person=people, verb=st.sampled_from(["disable", "erase"]))
    def shut(self, person: Actor, verb: str) -> None:
        with contextlib.suppress(CallerError):
            getattr(self.platform.people, verb)(self.operator, person.id)

    @rule(target=keys, issuer=st.one_of(people, keys), permissions=wanted)
    def mint(self, issuer: Actor | None, permissions: frozenset[Permission]) -> Actor | None:
        if issuer is None:
            return None
        caller = self.principal(issuer)
        try:
            made = self.platform.gateway.mint_key(caller, "key", permissions=permissions)
        except CallerError:
            assert Permission.KEYS_WRITE not in caller.permissions or not permissions & caller.permissions
            return None
        assert frozenset(made.key.permissions) <= permissions & caller.permissions
        self.tokens[made.key.id] = (made.key, made.token.reveal())
        return Actor("key", made.key.id)

    @rule(key=keys)
    def revoke(self, key: Actor | None) -> None:
        if key is not None:
            self.platform.gateway.revoke_key(self.operator, key.id)

    @invariant()
    def nobody_holds_more_than_their_issuer(self) -> None:
        if not hasattr(self, "platform"):
            return
        users = self.platform.ledger.rows(USERS)
        snapshot = load(self.platform.settings.folder / "snapshot")
        published = {key.id: frozenset(key.permissions) for key in snapshot.keys.values()} if snapshot else {}
        for key, token in self.tokens.values():
            try:
                held = self.platform.access.by_token(token).permissions
            except CallerError:
                assert key.id not in published
                continue
            assert held <= frozenset(key.permissions)
            assert held <= self.platform.access.rights_of(key.issuer)
            if key.issuer.kind == "user":
                user = users.get(f"user/{key.issuer.id}")
                assert held <= (ROLES[user.role] if user and not user.disabled else frozenset())
            assert published[key.id] == held


TestRights = Rights.TestCase
TestRights.settings = example_settings(max_examples=25, stateful_step_count=15)

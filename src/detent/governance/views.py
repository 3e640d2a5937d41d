"""Current users: their roles as the facts say. Rights are decided on this, not on the erasable table of people."""

from __future__ import annotations

import msgspec

from detent.governance.facts import UserAdded, UserDisabled, UserErased, UserRoleSet
from detent.kernel.facts import Fact, View


class User(msgspec.Struct, frozen=True, kw_only=True):
    """An account as the ledger knows it."""

    id: str
    role: str
    disabled: bool = False
    added: int = 0


def _fold_user(user: User | None, fact: Fact) -> User | None:
    body = fact.body
    if isinstance(body, UserAdded):
        return User(id=fact.stream.removeprefix("user/"), role=body.role, added=fact.time)
    if user is None or isinstance(body, UserErased):
        return None
    if isinstance(body, UserRoleSet):
        return msgspec.structs.replace(user, role=body.role)
    if isinstance(body, UserDisabled):
        return msgspec.structs.replace(user, disabled=True)
    return user


USERS = View("users", User, (UserAdded, UserRoleSet, UserDisabled, UserErased), _fold_user)

VIEWS = (USERS,)

"""What can be recorded of people: ids and roles, never a name or anything else of the person."""

from __future__ import annotations

from detent.kernel.facts import FactBody, fact


@fact("user.added", sealed_at_once=True)
class UserAdded(FactBody, frozen=True, kw_only=True):
    """Somebody was given an account."""

    role: str


@fact("user.role_set", sealed_at_once=True)
class UserRoleSet(FactBody, frozen=True, kw_only=True):
    """Somebody's role changed."""

    role: str


@fact("user.disabled", sealed_at_once=True)
class UserDisabled(FactBody, frozen=True, kw_only=True):
    """An account was shut; the person is still known."""


@fact("user.erased", sealed_at_once=True)
class UserErased(FactBody, frozen=True, kw_only=True):
    """A person was removed with everything that was kept about them."""


@fact("user.password_set")
class UserPasswordSet(FactBody, frozen=True, kw_only=True):
    """A password was set or changed."""


@fact("user.signed_in")
class UserSignedIn(FactBody, frozen=True, kw_only=True):
    """Somebody signed in; by a one-time link or by password."""

    by: str


FACTS = (UserAdded, UserRoleSet, UserDisabled, UserErased, UserPasswordSet, UserSignedIn)

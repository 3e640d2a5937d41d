"""Account: the visitor's own password, rights and look."""

from __future__ import annotations

import msgspec

from detent.app.http import PUBLIC
from detent.governance.people import MIN_PASSWORD
from detent.kernel.errors import Forbidden, InvalidInput
from detent.web.page import Action, Goto, Outcome, Page
from detent.web.visit import Form, Visit


class AccountView(msgspec.Struct, frozen=True, kw_only=True):
    """Who the visitor is, and what they may do. Open to everybody who is signed in."""

    id: str
    name: str
    role: str
    permissions: tuple[str, ...]
    has_password: bool
    min_password: int
    session_created: int
    session_expires: int


def view(visit: Visit) -> AccountView:
    """The visitor."""
    if visit.signed_in is None:
        raise Forbidden("Only a signed-in person has an account page.", hint="Sign in at /login.")
    account, session = visit.signed_in.account, visit.signed_in.session
    return AccountView(
        id=account.id,
        name=account.name,
        role=account.role,
        permissions=tuple(sorted(permission.value for permission in visit.caller.permissions)),
        has_password=bool(account.password_hash),
        min_password=MIN_PASSWORD,
        session_created=session.created,
        session_expires=session.expires,
    )


def set_password(visit: Visit, form: Form) -> Outcome:
    """Set the visitor's password; their other sessions are closed."""
    if visit.signed_in is None:
        raise Forbidden("Only a signed-in person has a password.", hint="Sign in at /login.")
    password = form.secret("password")
    if password != form.secret("again"):
        raise InvalidInput("The two passwords differ.", hint="Type the same twice.", field="again")
    visit.platform.people.set_password(
        visit.caller,
        visit.caller.actor.id,
        password,
        current=form.secret("current"),
        keep=visit.signed_in.session,
    )
    return Goto("/account", "password-set")


PAGE = Page("/account", PUBLIC, "account.html", view)
ACTIONS = (Action("/account/password", PUBLIC, PAGE, set_password),)

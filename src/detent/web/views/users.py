"""Users: who may sign in, and as what."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from detent.kernel.identity import ROLES, Permission
from detent.web.page import Action, Goto, Outcome, Page, Stay
from detent.web.table import Table
from detent.web.visit import Form, Visit


class UserLine(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who has an account."""

    id: str
    name: str
    role: str
    disabled: bool
    created: int
    me: bool


class UsersView(msgspec.Struct, frozen=True, kw_only=True):
    """Everybody by name, and the roles that the visitor may give."""

    users: tuple[UserLine, ...]
    roles: tuple[str, ...]
    permissions: dict[str, tuple[str, ...]]


def view(visit: Visit) -> UsersView:
    """Everybody."""
    caller = visit.caller
    return UsersView(
        users=tuple(
            UserLine(
                id=account.id,
                name=account.name,
                role=account.role,
                disabled=account.disabled,
                created=account.created,
                me=caller.actor.id == account.id,
            )
            for account in visit.platform.people.all(caller)
        ),
        roles=tuple(role for role, rights in ROLES.items() if rights <= caller.permissions),
        permissions={role: tuple(sorted(right.value for right in rights)) for role, rights in ROLES.items()},
    )


def add(visit: Visit, form: Form) -> Outcome:
    """Give somebody an account and show the link that lets them in, this once."""
    account, link = visit.platform.people.add(visit.caller, form.get("name"), form.get("role"))
    return Stay({"link": visit.platform.sign_in_url(link), "link_for": account.name})


def new_link(visit: Visit, _form: Form) -> Outcome:
    """A fresh link for somebody who cannot sign in."""
    people = visit.platform.people
    link = people.link(visit.caller, visit.args["user_id"])
    name = people.get(visit.caller, visit.args["user_id"]).name
    return Stay({"link": visit.platform.sign_in_url(link), "link_for": name})


def set_role(visit: Visit, form: Form) -> Outcome:
    """Change what somebody may do."""
    visit.platform.people.set_role(visit.caller, visit.args["user_id"], form.get("role"), reason=form.get("reason"))
    return Goto("/users", "role-set")


def disable(visit: Visit, form: Form) -> Outcome:
    """Shut an account."""
    visit.platform.people.disable(visit.caller, visit.args["user_id"], reason=form.get("reason"))
    return Goto("/users", "disabled")


def erase(visit: Visit, form: Form) -> Outcome:
    """Remove a person for good."""
    visit.platform.people.erase(visit.caller, visit.args["user_id"], reason=form.get("reason"))
    return Goto("/users", "erased")


def tables(view: UsersView) -> Mapping[str, Table]:
    """The list."""
    return {
        "users": Table(
            ("id", "name", "role", "disabled", "created_ns"),
            [(u.id, u.name, u.role, u.disabled, u.created) for u in view.users],
        )
    }


PAGE = Page("/users", Permission.USERS_READ, "users.html", view, tables)
ACTIONS = (
    Action("/users", Permission.USERS_WRITE, PAGE, add),
    Action("/users/{user_id}/link", Permission.USERS_WRITE, PAGE, new_link),
    Action("/users/{user_id}/role", Permission.USERS_WRITE, PAGE, set_role),
    Action("/users/{user_id}/disable", Permission.USERS_WRITE, PAGE, disable),
    Action("/users/{user_id}/erase", Permission.USERS_WRITE, PAGE, erase),
)

"""People who sign in to the console. They belong to the installation, not to a project."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from detent.api.border import Id, InstallationCaller, ThePlatform, nouns
from detent.api.schemas.common import Page, ReasonText, Removed
from detent.api.schemas.users import LinkOut, NewUserOut, PasswordIn, UserChangeIn, UserIn, UserOut
from detent.app.http import needs
from detent.kernel.errors import InvalidInput
from detent.kernel.identity import Permission

routes = nouns("users")


@routes.get("/users")
@needs(Permission.USERS_READ)
def list_users(caller: InstallationCaller, platform: ThePlatform) -> Page[UserOut]:
    """Everybody by name."""
    return Page(items=[UserOut.of(account) for account in platform.people.all(caller)])


@routes.post("/users", status_code=201)
@needs(Permission.USERS_WRITE)
def add_user(body: UserIn, caller: InstallationCaller, platform: ThePlatform) -> NewUserOut:
    """Give somebody an account, with a one-time link to sign in and set a password."""
    account, token = platform.people.add(caller, body.name, body.role)
    return NewUserOut.of(account, link=platform.sign_in_url(token))


@routes.get("/users/{id}")
@needs(Permission.USERS_READ)
def read_user(id: Id, caller: InstallationCaller, platform: ThePlatform) -> UserOut:
    """One person."""
    return UserOut.of(platform.people.get(caller, id))


@routes.patch("/users/{id}")
@needs(Permission.USERS_WRITE)
def change_user(id: Id, body: UserChangeIn, caller: InstallationCaller, platform: ThePlatform) -> UserOut:
    """Change somebody's role, or shut the account."""
    if body.role is None and body.disabled is None:
        raise InvalidInput("There is nothing to change.", hint="Give `role` or `disabled`.")
    account = platform.people.get(caller, id)
    if body.role is not None:
        account = platform.people.set_role(caller, id, body.role, reason=body.reason)
    if body.disabled:
        account = platform.people.disable(caller, id, reason=body.reason)
    return UserOut.of(account)


@routes.post("/users/{id}/link", status_code=201)
@needs(Permission.USERS_WRITE)
def make_link(id: Id, caller: InstallationCaller, platform: ThePlatform) -> LinkOut:
    """A fresh one-time sign-in link."""
    return LinkOut(link=platform.sign_in_url(platform.people.link(caller, id)))


@routes.put("/users/{id}/password", status_code=200)
@needs(Permission.USERS_WRITE)
def set_password(id: Id, body: PasswordIn, caller: InstallationCaller, platform: ThePlatform) -> UserOut:
    """Set a password; the person's sessions are closed."""
    platform.people.set_password(caller, id, body.password, current=body.current)
    return UserOut.of(platform.people.get(caller, id))


@routes.delete("/users/{id}")
@needs(Permission.USERS_WRITE)
def erase_user(
    id: Id, caller: InstallationCaller, platform: ThePlatform, reason: Annotated[ReasonText, Query()] = ""
) -> Removed:
    """Remove a person for good; the ledger keeps an id that nobody can connect with them."""
    platform.people.erase(caller, id, reason=reason)
    return Removed(removed=id)

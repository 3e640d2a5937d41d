"""People."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field

from detent.api.schemas.common import In, Out, ReasonText, time_of
from detent.kernel.identity import ROLES
from detent.kernel.ports import Account

RoleText = Literal["admin", "engineer", "reviewer", "auditor", "viewer"]
assert set(RoleText.__args__) == set(ROLES)  # type: ignore[attr-defined]


class UserIn(In):
    """A person to give an account."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    role: RoleText = "viewer"


class UserChangeIn(In):
    """What to change of a person; what is left out stays."""

    role: RoleText | None = None
    disabled: Literal[True] | None = Field(default=None, description="True shuts the account.")
    reason: ReasonText = ""


class PasswordIn(In):
    """A new password; `current` is asked of people who change their own."""

    password: Annotated[str, Field(min_length=1, max_length=1024)]
    current: Annotated[str, Field(max_length=1024)] = ""


class UserOut(Out):
    """A person, without anything of the password."""

    id: str
    name: str
    role: str
    disabled: bool
    created: str | None

    @classmethod
    def of(cls, account: Account, /, **more: str) -> Self:
        """From the port's account."""
        return cls(
            id=account.id,
            name=account.name,
            role=account.role,
            disabled=account.disabled,
            created=time_of(account.created),
            **more,
        )


class NewUserOut(UserOut):
    """A person with the one-time link to sign in with."""

    link: str


class LinkOut(Out):
    """A one-time sign-in link; works once, within the hour."""

    link: str

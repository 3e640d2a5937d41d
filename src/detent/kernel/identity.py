"""Who acts, and what they may do.

Permissions are `noun:verb` strings from one closed list; roles are named sets of them. A credential's rights are never
wider than those of whoever issued it: they are intersected when the credential is used, not when it is made.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal

import msgspec

from detent.kernel.errors import Forbidden

DEFAULT_PROJECT: Final = "default"


class Permission(StrEnum):
    """Everything that can be allowed, as `noun:verb`."""

    GATEWAY_CALL = "gateway:call"
    TRACES_READ = "traces:read"
    TRACES_WRITE = "traces:write"
    CONTENT_READ = "content:read"
    SCORES_WRITE = "scores:write"
    KEYS_READ = "keys:read"
    KEYS_WRITE = "keys:write"
    PROVIDERS_READ = "providers:read"
    PROVIDERS_WRITE = "providers:write"
    ROUTES_WRITE = "routes:write"
    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    LEDGER_READ = "ledger:read"
    LEDGER_WRITE = "ledger:write"
    USERS_READ = "users:read"
    USERS_WRITE = "users:write"
    SETTINGS_READ = "settings:read"


_READ: Final = frozenset(
    {
        Permission.TRACES_READ,
        Permission.KEYS_READ,
        Permission.PROVIDERS_READ,
        Permission.JOBS_READ,
        Permission.SETTINGS_READ,
    }
)

ROLES: Final[dict[str, frozenset[Permission]]] = {
    "admin": frozenset(Permission),
    "engineer": _READ
    | {
        Permission.GATEWAY_CALL,
        Permission.TRACES_WRITE,
        Permission.CONTENT_READ,
        Permission.SCORES_WRITE,
        Permission.KEYS_WRITE,
        Permission.PROVIDERS_WRITE,
        Permission.ROUTES_WRITE,
        Permission.JOBS_WRITE,
        Permission.LEDGER_READ,
    },
    "reviewer": frozenset(
        {Permission.TRACES_READ, Permission.CONTENT_READ, Permission.SCORES_WRITE, Permission.PROVIDERS_READ}
    ),
    "auditor": _READ | {Permission.LEDGER_READ, Permission.USERS_READ},
    "viewer": frozenset({Permission.TRACES_READ, Permission.PROVIDERS_READ}),
}
"""Role name to permissions. `viewer` and `auditor` see no prompts or answers: content is a permission of its own."""


class Actor(msgspec.Struct, frozen=True):
    """Who did something, as it stands in a fact: a kind and an opaque id, never a name or an address.

    Attributes:
        kind: `user` (a person), `key` (a program with a key), `operator` (whoever ran the command line on the machine),
            `system` (Detent itself).
        id: the user's or key's id; the operating system's user number for an operator; the part's name for the system.
    """

    kind: Literal["user", "key", "operator", "system"]
    id: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}"


class Principal(msgspec.Struct, frozen=True):
    """An authenticated caller: who it is, where it may act, and what it may do there."""

    actor: Actor
    project: str
    permissions: frozenset[Permission]

    def may(self, permission: Permission) -> bool:
        """Whether this caller holds the permission."""
        return permission in self.permissions

    def require(self, permission: Permission) -> None:
        """Pass, or refuse.

        Raises:
            Forbidden: the caller does not hold the permission.
        """
        if permission not in self.permissions:
            raise Forbidden(
                f"This needs the permission '{permission.value}'.", hint="Ask an admin for a role that grants it."
            )

    def issue(self, wanted: frozenset[Permission]) -> frozenset[Permission]:
        """The part of `wanted` that this caller may hand on."""
        return wanted & self.permissions


def system(part: str, project: str = DEFAULT_PROJECT) -> Principal:
    """Detent acting by itself, e.g. a schedule; holds every permission."""
    return Principal(Actor("system", part), project, frozenset(Permission))

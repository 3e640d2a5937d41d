"""Calls that Detent's own parts make on somebody's behalf: a batch for a key, the playground for a person.

A delegation is sealed with the installation's root key, so only parts that hold it can make one, and lives for minutes.
"""

from __future__ import annotations

from typing import Final

import msgspec

from detent.gateway.model import Band
from detent.guard.vault import Vault
from detent.kernel.errors import StorageFailed
from detent.kernel.secret import Secret

PREFIX: Final = "dti_"
_BOUND_TO: Final = "https://gateway.detent.internal"
_MAX_LENGTH: Final = 4096


class Delegation(msgspec.Struct, frozen=True, kw_only=True):
    """On whose behalf a call is made.

    Attributes:
        project: the tenant.
        key_id: the virtual key that the call counts as; it must be live when the call is made. Empty for a person's.
        user_id: the person, as an opaque id; empty for a key's.
        routes: what may be called; empty for all of the project.
        priority: the call's band.
        expires: ns since the epoch.
    """

    project: str
    key_id: str = ""
    user_id: str = ""
    routes: tuple[str, ...] = ()
    priority: Band = "default"
    expires: int


def issue(vault: Vault, delegation: Delegation) -> Secret:
    """A token for the header `Authorization: Bearer`."""
    plain = Secret(msgspec.json.encode(delegation).decode())
    return Secret(PREFIX + vault.seal(plain, url=_BOUND_TO))


def accept(vault: Vault, token: str, now: int) -> Delegation | None:
    """Read a token; None when it was not made here or its time is over.

    Args:
        now: ns since the epoch.
    """
    if not token.startswith(PREFIX) or len(token) > _MAX_LENGTH:
        return None
    try:
        plain = vault.open(token.removeprefix(PREFIX), url=_BOUND_TO)
        found = msgspec.json.decode(plain.reveal(), type=Delegation)
    except (StorageFailed, msgspec.MsgspecError):
        return None
    return found if now < found.expires else None

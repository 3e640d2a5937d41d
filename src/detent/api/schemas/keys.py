"""Virtual keys."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field

from detent.api.schemas.common import In, NameText, Out, TimeText, time_of
from detent.gateway.model import Key
from detent.kernel.clock import iso
from detent.kernel.identity import Permission


class KeyIn(In):
    """A key to make. It gets the part of `permissions` that the caller holds itself."""

    name: Annotated[str, Field(min_length=1, max_length=100, description="What it is for.")]
    permissions: Annotated[list[Permission], Field(max_length=len(Permission))] = Field(
        default=[Permission.GATEWAY_CALL]
    )
    routes: Annotated[list[NameText], Field(max_length=200, description="Only these routes; none for all.")] = Field(
        default=[]
    )
    expires: TimeText | None = Field(default=None, description="When it ends, RFC 3339.")


class KeyOut(Out):
    """A virtual key, without its token."""

    id: str
    name: str
    hint: str
    state: Literal["live", "expired", "revoked"]
    permissions: list[str]
    routes: list[str]
    created: str
    expires: str | None
    revoked: str | None
    issuer: str

    @classmethod
    def of(cls, key: Key, now: int, /, **more: str) -> Self:
        """From the domain's key."""
        return cls(
            id=key.id,
            name=key.name,
            hint=key.hint,
            state="revoked" if key.revoked else "live" if key.live(now) else "expired",
            permissions=[permission.value for permission in key.permissions],
            routes=list(key.routes),
            created=iso(key.created),
            expires=time_of(key.expires),
            revoked=time_of(key.revoked),
            issuer=str(key.issuer),
            **more,
        )


class NewKeyOut(KeyOut):
    """A key right after it was made; `key` is the token, shown this once."""

    key: str

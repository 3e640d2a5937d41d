"""What the gateway is configured with: keys, providers, routes, prices. Frozen, no I/O."""

from __future__ import annotations

from typing import Literal

import msgspec

from detent.kernel.identity import Actor, Permission
from detent.kernel.money import Price

Dialect = Literal["openai"]
EMBEDDED = "embedded"
"""Name of the built-in provider: the engine that Detent starts itself."""

EMBEDDED_MODEL = "detent-tiny"


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A virtual key: what an application or program calls Detent with. The token itself is shown once and not kept.

    Attributes:
        id: UUIDv7.
        name: for people.
        hash: hex SHA-256 of the token.
        hint: the token's first characters, to recognise it by.
        permissions: what it may do; never more than its issuer may.
        routes: the routes it may call; empty for all of the project.
        expires: ns since the epoch, 0 for never.
        issuer: who minted it.
    """

    id: str
    name: str
    project: str
    hash: str
    hint: str
    permissions: tuple[Permission, ...]
    routes: tuple[str, ...] = ()
    created: int
    expires: int = 0
    revoked: int = 0
    issuer: Actor

    def live(self, now: int) -> bool:
        """Whether it is neither revoked nor expired."""
        return not self.revoked and (not self.expires or now < self.expires)


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who serves models over HTTP.

    Attributes:
        url: base URL, up to and without `/chat/completions`.
        secret_id: names the credential in the vault; empty when none is needed.
        allow_private: whether private and loopback addresses may be called.
    """

    name: str
    project: str
    dialect: Dialect = "openai"
    url: str
    secret_id: str = ""
    allow_private: bool = False
    changed: int = 0


class Target(msgspec.Struct, frozen=True):
    """A deployment that a route may send a call to: a provider and the model's name there."""

    provider: str
    model: str
    weight: int = 1

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}"


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A name that clients use as `model`, and where its calls go; the first target that answers wins, in order."""

    name: str
    project: str
    targets: tuple[Target, ...]
    changed: int = 0


class PriceEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A project's own price for a provider's model."""

    provider: str
    model: str
    project: str
    price: Price
    changed: int = 0

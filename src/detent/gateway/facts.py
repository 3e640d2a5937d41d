"""What the gateway room can record."""

from __future__ import annotations

from detent.gateway.model import Dialect, Target
from detent.kernel.facts import FactBody, fact
from detent.kernel.identity import Permission
from detent.kernel.money import Price


@fact("key.minted", sealed_at_once=True)
class KeyMinted(FactBody, frozen=True, kw_only=True):
    """A virtual key was made. `hash` is the SHA-256 of its token."""

    name: str
    hash: str
    hint: str
    permissions: tuple[Permission, ...]
    routes: tuple[str, ...] = ()
    expires: int = 0


@fact("key.revoked", sealed_at_once=True)
class KeyRevoked(FactBody, frozen=True, kw_only=True):
    """A virtual key stopped working."""


@fact("provider.saved")
class ProviderSaved(FactBody, frozen=True, kw_only=True):
    """A provider was added or changed. `secret_id` names its credential, which is kept elsewhere, encrypted."""

    name: str
    url: str
    dialect: Dialect = "openai"
    secret_id: str = ""
    allow_private: bool = False


@fact("provider.removed", sealed_at_once=True)
class ProviderRemoved(FactBody, frozen=True, kw_only=True):
    """A provider was removed and its credential destroyed."""

    name: str


@fact("route.saved")
class RouteSaved(FactBody, frozen=True, kw_only=True):
    """A route was added or changed."""

    name: str
    targets: tuple[Target, ...]


@fact("route.removed", sealed_at_once=True)
class RouteRemoved(FactBody, frozen=True, kw_only=True):
    """A route was removed."""

    name: str


@fact("price.set")
class PriceSet(FactBody, frozen=True, kw_only=True):
    """A project set its own price for a provider's model."""

    provider: str
    model: str
    price: Price


FACTS = (KeyMinted, KeyRevoked, ProviderSaved, ProviderRemoved, RouteSaved, RouteRemoved, PriceSet)

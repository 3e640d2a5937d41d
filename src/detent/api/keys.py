"""Virtual keys."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from detent.api.border import Caller, Id, ThePlatform, moment_of, nouns
from detent.api.schemas.common import Page, ReasonText
from detent.api.schemas.keys import KeyIn, KeyOut, NewKeyOut
from detent.app.http import needs
from detent.app.platform import Platform
from detent.gateway.model import Key
from detent.kernel.errors import InvalidInput, NotFound
from detent.kernel.identity import Permission, Principal

routes = nouns("keys")


@routes.get("/keys")
@needs(Permission.KEYS_READ)
def list_keys(caller: Caller, platform: ThePlatform, all: Annotated[bool, Query()] = False) -> Page[KeyOut]:
    """The keys of the project, newest first; with `all` also those that are revoked or expired."""
    now = platform.clock.now()
    found = platform.gateway.keys(caller)
    return Page(items=[KeyOut.of(key, now) for key in found if all or key.live(now)])


@routes.post("/keys", status_code=201)
@needs(Permission.KEYS_WRITE)
def create_key(body: KeyIn, caller: Caller, platform: ThePlatform) -> NewKeyOut:
    """Make a key. The answer holds its token, once."""
    now = platform.clock.now()
    if not body.permissions:
        raise InvalidInput("A key needs a permission.", hint='Leave it out for ["gateway:call"].', field="permissions")
    made = platform.gateway.mint_key(
        caller,
        body.name,
        permissions=frozenset(body.permissions),
        routes=tuple(body.routes),
        expires=moment_of(body.expires or "", now, field="expires"),
    )
    return NewKeyOut.of(made.key, now, key=made.token.reveal())


@routes.get("/keys/{id}")
@needs(Permission.KEYS_READ)
def read_key(id: Id, caller: Caller, platform: ThePlatform) -> KeyOut:
    """One key."""
    return KeyOut.of(_own(platform, caller, id), platform.clock.now())


@routes.delete("/keys/{id}")
@needs(Permission.KEYS_WRITE)
def revoke_key(id: Id, caller: Caller, platform: ThePlatform, reason: Annotated[ReasonText, Query()] = "") -> KeyOut:
    """Stop a key for good. Doing it twice changes nothing."""
    known = {key.id for key in platform.gateway.keys_of(caller.project)}
    if id not in known:
        raise _unknown(id)
    return KeyOut.of(platform.gateway.revoke_key(caller, id, reason=reason), platform.clock.now())


def _own(platform: Platform, caller: Principal, key_id: str) -> Key:
    found = next((key for key in platform.gateway.keys(caller) if key.id == key_id), None)
    if found is None:
        raise _unknown(key_id)
    return found


def _unknown(key_id: str) -> NotFound:
    return NotFound(f"There is no key '{key_id}'.", hint="List them at /api/v1/keys.", field="id")

"""Facts as lines that people read: what happened, to what, by whom, and where to look."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from detent.kernel.facts import Fact
from detent.kernel.identity import Actor, Permission
from detent.web.table import Table
from detent.web.visit import Visit

_VERBS: Final = {
    "key.minted": "Key minted",
    "key.revoked": "Key revoked",
    "provider.saved": "Provider saved",
    "provider.removed": "Provider removed",
    "route.saved": "Route saved",
    "route.removed": "Route removed",
    "limit.set": "Limit set",
    "limit.removed": "Limit removed",
    "budget.set": "Budget set",
    "budget.removed": "Budget removed",
    "budget.alerted": "Budget threshold crossed",
    "price.set": "Price set",
    "user.added": "User added",
    "user.role_set": "Role changed",
    "user.disabled": "User shut out",
    "user.erased": "User erased",
    "user.password_set": "Password set",
    "user.signed_in": "Signed in",
}
_PLACES: Final = {
    "provider": "/providers",
    "price": "/models",
    "user": "/users",
    "job": "/jobs",
}


class FactLine(msgspec.Struct, frozen=True, kw_only=True):
    """A fact in a list.

    Attributes:
        title: what happened, in words.
        subject: what it happened to: a name where the fact holds one, else the id.
        href: the page on which the subject stands now; empty when there is none.
        actor, actor_name, actor_href: who did it.
        body: what the fact says, as JSON.
    """

    position: int
    id: str
    kind: str
    title: str
    stream: str
    version: int
    subject: str
    href: str
    actor: str
    actor_name: str
    actor_href: str
    time: int
    reason: str
    hash: str
    body: str


def names_of(visit: Visit) -> dict[str, str]:
    """Names of the people and keys that stand behind actors, as far as the visitor may know them."""
    found = {"system": "Detent"}
    platform, caller = visit.platform, visit.caller
    if caller.may(Permission.USERS_READ):
        found |= {f"user:{account.id}": account.name for account in platform.people.all(caller)}
    elif visit.signed_in:
        found[str(caller.actor)] = visit.signed_in.account.name
    if caller.may(Permission.KEYS_READ):
        found |= {f"key:{key.id}": key.name for key in platform.gateway.keys(caller)}
    return found


def actor_name(actor: Actor, names: dict[str, str]) -> str:
    """What to call an actor."""
    if actor.kind == "system":
        return f"Detent ({actor.id})"
    if actor.kind == "operator":
        return "operator"
    return names.get(str(actor), f"{actor.kind} {actor.id[-12:]}")


def actor_href(actor: Actor) -> str:
    """The page on which an actor stands."""
    return {"user": f"/users#{actor.id}", "key": f"/keys/{actor.id}"}.get(actor.kind, "")


def fact_line(fact: Fact, names: dict[str, str]) -> FactLine:
    """A fact as a line."""
    body: dict[str, Any] = msgspec.to_builtins(fact.body)
    noun, _, rest = fact.stream.partition("/")
    subject = str(body.get("name") or names.get(f"{noun}:{rest}") or rest or fact.stream)
    if fact.kind == "price.set":
        subject = f"{body.get('provider')}/{body.get('model')}"
    place = _PLACES.get(noun, "")
    anchor = rest if noun == "user" else subject
    if noun == "job":
        place, anchor = f"/jobs/{rest}", ""
    if noun == "batch":
        place, anchor = f"/batches/{rest}", ""
    if noun == "key":
        place, anchor = f"/keys/{rest}", ""
    if noun in {"budget", "limit"}:
        place, anchor = "/budgets", f"{noun}-{subject}"
    if noun == "route":
        place, anchor = f"/routes/{subject}", ""
    return FactLine(
        position=fact.position,
        id=fact.id,
        kind=fact.kind,
        title=_VERBS.get(fact.kind) or fact.kind.replace(".", " ").replace("_", " ").capitalize(),
        stream=fact.stream,
        version=fact.version,
        subject=subject,
        href=place + (f"#{anchor}" if place and anchor else ""),
        actor=str(fact.actor),
        actor_name=actor_name(fact.actor, names),
        actor_href=actor_href(fact.actor),
        time=fact.time,
        reason=fact.reason,
        hash=fact.hash,
        body=msgspec.json.format(msgspec.json.encode(body), indent=2).decode(),
    )


def facts_table(lines: tuple[FactLine, ...]) -> Table:
    """Facts to take away."""
    return Table(
        ("position", "time_ns", "kind", "stream", "version", "actor", "reason", "hash", "id", "body"),
        [(f.position, f.time, f.kind, f.stream, f.version, f.actor, f.reason, f.hash, f.id, f.body) for f in lines],
    )

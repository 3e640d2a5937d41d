"""The command palette's look-up: what the visitor may see and the typed text names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Final
from urllib.parse import quote, urlencode

import msgspec

from detent.kernel.identity import Permission
from detent.web.visit import Visit

_MOST: Final = 12
_TRACE: Final = re.compile(r"[0-9a-f]{32}")


class Hit(msgspec.Struct, frozen=True):
    """Something to go to."""

    label: str
    kind: str
    href: str


def look_up(visit: Visit) -> tuple[Hit, ...]:
    """What `q` names, best first; places and actions are known to the page itself."""
    text = visit.get("q")[:200]
    return tuple(islice(_hits(visit, text), _MOST)) if text else ()


def _hits(visit: Visit, text: str) -> Iterator[Hit]:
    caller, platform, sought = visit.caller, visit.platform, text.casefold()
    if _TRACE.fullmatch(sought):
        yield Hit(f"Trace {sought[:12]}…", "trace", f"/traces/{sought}")
    if text.isdigit() and caller.may(Permission.LEDGER_READ):
        yield Hit(f"Fact {text}", "ledger", f"/ledger/{text}")
    if caller.may(Permission.PROVIDERS_READ):
        for route in platform.gateway.routes(caller):
            if sought in route.name.casefold():
                yield Hit(route.name, "route", f"/routes/{quote(route.name)}")
                yield Hit(f"Traces of {route.name}", "traces", "/traces?" + urlencode({"route": route.name}))
                if caller.may(Permission.ROUTES_WRITE):
                    yield Hit(f"Edit {route.name}", "route", f"/routes/{quote(route.name)}/edit")
                if caller.may(Permission.GATEWAY_CALL):
                    yield Hit(f"Try {route.name}", "playground", "/playground?" + urlencode({"route": route.name}))
        for provider in platform.gateway.providers(caller):
            if sought in provider.name.casefold():
                yield Hit(provider.name, "provider", f"/providers#{quote(provider.name)}")
        for kind, rules in (("budget", platform.gateway.budgets(caller)), ("limit", platform.gateway.limits(caller))):
            for rule in rules:
                if sought in rule.name.casefold():
                    yield Hit(rule.name, kind, f"/budgets#{kind}-{quote(rule.name)}")
    if sought.startswith("batch_") and caller.may(Permission.GATEWAY_CALL):
        yield Hit(f"Batch {text[-12:]}", "batch", f"/batches/{quote(text)}")
    if caller.may(Permission.KEYS_READ):
        for key in platform.gateway.keys(caller):
            if sought in key.name.casefold() or sought == key.id:
                yield Hit(key.name, "key", f"/keys/{key.id}")
    if caller.may(Permission.USERS_READ):
        for account in platform.people.all(caller):
            if sought in account.name.casefold() or sought == account.id:
                yield Hit(account.name, "user", f"/users#{account.id}")
    if caller.may(Permission.CONTENT_READ):
        yield Hit(f"Search traces for “{text}”", "search", "/traces?" + urlencode({"q": text}))

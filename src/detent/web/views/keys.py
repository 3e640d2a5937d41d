"""Keys: what applications call the gateway and the API with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from detent.gateway.limits.spending import Spent
from detent.gateway.model import Key
from detent.kernel.clock import DAY, HOUR
from detent.kernel.errors import InvalidInput, NotFound
from detent.kernel.identity import Permission
from detent.kernel.telemetry import MetricQuery, SpanFilter, TraceRow
from detent.web.page import Action, Goto, Outcome, Page, Stay
from detent.web.table import Table
from detent.web.views.facts import actor_name, names_of
from detent.web.views.home import Figures, figures
from detent.web.views.traces import TraceLine, trace_line, traces_table
from detent.web.views.usage import usage_of
from detent.web.visit import Form, Visit

_RECENT: Final = 8
LIFETIMES: Final[Mapping[str, int]] = {"never": 0, "7 days": 7, "30 days": 30, "90 days": 90, "1 year": 365}


class KeyLine(msgspec.Struct, frozen=True, kw_only=True):
    """A key in the list; its token is not known to anybody any more."""

    id: str
    name: str
    hint: str
    state: Literal["live", "revoked", "expired"]
    permissions: tuple[str, ...]
    routes: tuple[str, ...]
    created: int
    expires: int
    revoked: int
    issuer: str
    issuer_name: str


class KeysView(msgspec.Struct, frozen=True, kw_only=True):
    """All keys, newest first, and what a new one may be given."""

    keys: tuple[KeyLine, ...]
    hidden: int
    all: bool
    routes: tuple[str, ...]
    grantable: tuple[str, ...]
    gateway_url: str
    lifetimes: tuple[str, ...]


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """One key: what it may do, what is used of its limits and budgets, and its last calls.

    Attributes:
        spent: of the limits and budgets that count its calls by themselves.
        figures: of the last 24 hours.
    """

    key: KeyLine
    spent: tuple[Spent, ...]
    figures: Figures
    recent: tuple[TraceLine, ...]


def view(visit: Visit) -> KeysView:
    """The keys; those that no longer work only when asked for."""
    caller, gateway = visit.caller, visit.platform.gateway
    names = names_of(visit)
    lines = tuple(_line(key, names, visit.now) for key in gateway.keys(caller))
    everything = bool(visit.get("all"))
    shown = lines if everything else tuple(line for line in lines if line.state == "live")
    may = caller.may(Permission.PROVIDERS_READ)
    return KeysView(
        keys=shown,
        hidden=len(lines) - len(shown),
        all=everything,
        routes=tuple(route.name for route in gateway.routes(caller)) if may else (),
        grantable=tuple(permission.value for permission in Permission if caller.may(permission)),
        gateway_url=visit.platform.status().gateway_url,
        lifetimes=tuple(LIFETIMES),
    )


def view_one(visit: Visit) -> KeyView:
    """A key's rights, its limits and budgets with what is used of them, its last 24 hours, and its recent calls."""
    caller, key_id = visit.caller, visit.args["key_id"]
    key = next((key for key in visit.platform.gateway.keys(caller) if key.id == key_id), None)
    if key is None:
        raise NotFound("There is no such key.", hint="Choose one from the list.", field="key_id")
    figures_of: dict[str, Figures] = {}
    recent: tuple[TraceRow, ...] = ()
    if caller.may(Permission.TRACES_READ):
        traces, until = visit.platform.traces, -(-visit.now // HOUR) * HOUR
        query = MetricQuery(project=caller.project, since=until - DAY, until=until, group_by=("key",))
        figures_of = {row.group.get("key", ""): figures(row) for row in traces.metrics(caller, query)}
        recent = traces.list(caller, SpanFilter(project=caller.project, key_id=key_id), limit=_RECENT).rows
    return KeyView(
        key=_line(key, names_of(visit), visit.now),
        spent=usage_of(visit, "key", key_id) if caller.may(Permission.PROVIDERS_READ) else (),
        figures=figures_of.get(key_id, Figures()),
        recent=tuple(trace_line(row) for row in recent),
    )


def _line(key: Key, names: dict[str, str], now: int) -> KeyLine:
    return KeyLine(
        id=key.id,
        name=key.name,
        hint=key.hint,
        state="live" if key.live(now) else "revoked" if key.revoked else "expired",
        permissions=tuple(sorted(permission.value for permission in key.permissions)),
        routes=key.routes,
        created=key.created,
        expires=key.expires,
        revoked=key.revoked,
        issuer=str(key.issuer),
        issuer_name=actor_name(key.issuer, names),
    )


def mint(visit: Visit, form: Form) -> Outcome:
    """Make a key and show its token, this once."""
    lifetime = form.get("lifetime") or "never"
    if lifetime not in LIFETIMES:
        raise InvalidInput(
            "A key lives for one of a few times.", hint=f"Choose {', '.join(LIFETIMES)}.", field="expires"
        )
    wanted = form.all("permission") or (Permission.GATEWAY_CALL.value,)
    try:
        permissions = frozenset(Permission(name) for name in wanted)
    except ValueError:
        raise InvalidInput("That is no permission.", hint="Choose from the list.", field="permissions") from None
    minted = visit.platform.gateway.mint_key(
        visit.caller,
        form.get("name"),
        permissions=permissions,
        routes=form.all("route"),
        expires=visit.now + LIFETIMES[lifetime] * DAY if LIFETIMES[lifetime] else 0,
    )
    return Stay({"token": minted.token.reveal(), "minted": minted.key})


def revoke(visit: Visit, form: Form) -> Outcome:
    """Stop a key."""
    visit.platform.gateway.revoke_key(visit.caller, visit.args["key_id"], reason=form.get("reason"))
    return Goto("/keys", "revoked")


def tables(view: KeysView) -> Mapping[str, Table]:
    """The list."""
    return {
        "keys": Table(
            (
                "id",
                "name",
                "hint",
                "state",
                "permissions",
                "routes",
                "created_ns",
                "expires_ns",
                "revoked_ns",
                "issuer",
            ),
            [
                (
                    k.id,
                    k.name,
                    k.hint,
                    k.state,
                    " ".join(k.permissions),
                    " ".join(k.routes),
                    k.created,
                    k.expires,
                    k.revoked,
                    k.issuer,
                )
                for k in view.keys
            ],
        )
    }


def tables_one(view: KeyView) -> Mapping[str, Table]:
    """Its recent calls."""
    return {"traces": traces_table(view.recent)}


PAGE = Page("/keys", Permission.KEYS_READ, "keys.html", view, tables)
ONE = Page("/keys/{key_id}", Permission.KEYS_READ, "key.html", view_one, tables_one)
ACTIONS = (
    Action("/keys", Permission.KEYS_WRITE, PAGE, mint),
    Action("/keys/{key_id}/revoke", Permission.KEYS_WRITE, PAGE, revoke),
)

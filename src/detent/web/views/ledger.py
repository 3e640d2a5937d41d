"""Ledger: every change, who made it, and the proof that nobody altered the record."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import msgspec

from detent.app.catalog import catalog
from detent.app.offline import read_checkpoints
from detent.kernel.errors import NotFound
from detent.kernel.identity import Permission
from detent.kernel.ports import Verification
from detent.web.page import Action, Outcome, Page, Stay
from detent.web.table import Table
from detent.web.views.facts import FactLine, fact_line, facts_table, names_of
from detent.web.visit import Form, Visit


class LedgerView(msgspec.Struct, frozen=True, kw_only=True):
    """Facts, newest first, and where the chain stands.

    Attributes:
        after: continues below this position; 0 at the end.
        kinds: that the filter offers.
    """

    filters: dict[str, str]
    facts: tuple[FactLine, ...]
    after: int
    kinds: tuple[str, ...]
    position: int
    head: str
    checkpoint_size: int
    checkpoint_time: int
    database: str
    snapshot_position: int


class FactView(msgspec.Struct, frozen=True, kw_only=True):
    """One fact, and the facts about the same thing."""

    fact: FactLine
    stream: tuple[FactLine, ...]


def view(visit: Visit) -> LedgerView:
    """The facts that the filters ask for."""
    caller = visit.caller
    limit = min(int(visit.number("limit", 50)) or 50, 500)
    filters = {name: visit.get(name) for name in ("kind", "stream", "actor") if visit.get(name)}
    facts = visit.platform.audit.log(
        caller,
        after=int(visit.number("after")),
        limit=limit + 1,
        stream=filters.get("stream", ""),
        kind=filters.get("kind", ""),
        actor=filters.get("actor", ""),
    )
    status = visit.platform.status()
    names = names_of(visit)
    return LedgerView(
        filters=filters,
        facts=tuple(fact_line(fact, names) for fact in facts[:limit]),
        after=facts[limit - 1].position if len(facts) > limit else 0,
        kinds=_kinds(),
        position=status.ledger.position,
        head=status.ledger.head,
        checkpoint_size=status.ledger.checkpoint_size,
        checkpoint_time=status.ledger.checkpoint_time,
        database=status.ledger.kind,
        snapshot_position=status.snapshot_position,
    )


@lru_cache(maxsize=1)
def _kinds() -> tuple[str, ...]:
    return tuple(sorted(catalog().bodies))


def one(visit: Visit) -> FactView:
    """The fact at the position that the path names."""
    caller, audit = visit.caller, visit.platform.audit
    text = visit.args["position"]
    position = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0
    found = audit.log(caller, after=position + 1, limit=1) if position else ()
    if not found or found[0].position != position:
        raise NotFound(f"There is no fact {text[:20]}.", hint="See the list under /ledger.")
    names = names_of(visit)
    return FactView(
        fact=fact_line(found[0], names),
        stream=tuple(fact_line(fact, names) for fact in audit.log(caller, stream=found[0].stream, limit=50)),
    )


def verify(visit: Visit, _form: Form) -> Outcome:
    """Recompute the whole chain now, against the checkpoints outside the database."""
    signed = read_checkpoints(visit.platform.settings.checkpoints, required=False)
    found: Verification = visit.platform.audit.verify(visit.caller, checkpoints=signed)
    return Stay({"verification": found})


def tables(view: LedgerView) -> Mapping[str, Table]:
    """The list."""
    return {"facts": facts_table(view.facts)}


PAGE = Page("/ledger", Permission.LEDGER_READ, "ledger.html", view, tables)
ONE = Page(
    "/ledger/{position}", Permission.LEDGER_READ, "fact.html", one, lambda view: {"facts": facts_table(view.stream)}
)
ACTIONS = (Action("/ledger/verify", Permission.LEDGER_READ, PAGE, verify),)

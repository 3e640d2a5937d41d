"""Audit asks the ledger, for those who may."""

from __future__ import annotations

from pathlib import Path

import pytest

from detent.gateway.facts import FACTS, RouteSaved
from detent.gateway.views import VIEWS
from detent.governance.audit import Audit
from detent.kernel.clock import FixedClock
from detent.kernel.errors import Forbidden, InvalidInput
from detent.kernel.facts import Draft, FactCatalog
from detent.kernel.identity import ROLES, Actor, Principal
from detent.kernel.ids import CountedIds
from detent.store.ledger import SqlLedger, open_ledger

ANNA = Actor("user", "anna")


def caller(role: str, project: str = "default") -> Principal:
    return Principal(ANNA, project, ROLES[role])


@pytest.fixture
def ledger(tmp_path: Path, clock: FixedClock, ids: CountedIds) -> SqlLedger:
    """Three facts in two projects."""
    ledger = open_ledger(
        "sqlite://",
        FactCatalog(FACTS, VIEWS),
        checkpoints=tmp_path / "checkpoints.jsonl",
        key_file=tmp_path / "ledger.key",
        clock=clock,
        ids=ids,
    )
    for project, name in (("default", "a"), ("other", "b"), ("default", "c")):
        draft = Draft(f"route/{project}/{name}", RouteSaved(name=name, targets=()))
        ledger.append([draft], actor=ANNA, project=project)
    return ledger


def test_the_log_is_the_callers_projects(ledger: SqlLedger) -> None:
    audit = Audit(ledger)
    assert [fact.position for fact in audit.log(caller("auditor"))] == [3, 1]
    assert [fact.position for fact in audit.log(caller("auditor"), newest_first=False, after=1)] == [3]
    assert [fact.position for fact in audit.log(caller("auditor", "other"))] == [2]
    assert audit.log(caller("auditor"), actor="user:ben") == ()


def test_status_counts_what_is_not_signed(ledger: SqlLedger) -> None:
    audit = Audit(ledger)
    assert audit.status(caller("auditor")).unsigned == 3
    made = audit.checkpoint()
    status = audit.status(caller("auditor"))
    assert (status.position, status.checkpoint, status.unsigned) == (3, made, 0)
    assert audit.verify(caller("auditor"), checkpoints=[made]).ok
    assert audit.rebuild(caller("admin")) == dict.fromkeys((view.name for view in VIEWS), 0)


def test_who_may_not_is_refused(ledger: SqlLedger) -> None:
    audit = Audit(ledger)
    for role in ("viewer", "reviewer"):
        for ask in (audit.log, audit.verify, audit.status):
            with pytest.raises(Forbidden):
                ask(caller(role))
    with pytest.raises(Forbidden):
        audit.rebuild(caller("engineer"))


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"limit": 1001}, {"after": -1}, {"after": 2**63}])
def test_pages_out_of_range_are_refused(ledger: SqlLedger, wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidInput):
        Audit(ledger).log(caller("auditor"), **wrong)  # type: ignore[arg-type]

"""The ledger: facts and the proof that nobody changed them."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from detent.api.border import Caller, InstallationCaller, ThePlatform, nouns
from detent.api.schemas.audit import CheckpointOut, FactOut, LedgerOut, RebuiltOut, VerificationOut
from detent.api.schemas.common import Page
from detent.app.http import needs
from detent.app.offline import read_checkpoints
from detent.kernel.identity import Permission

routes = nouns("audit")


@routes.get("/audit/facts")
@needs(Permission.LEDGER_READ)
def list_facts(
    caller: Caller,
    platform: ThePlatform,
    after: Annotated[int, Query(ge=0, le=2**53)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    stream: Annotated[str, Query(max_length=300)] = "",
    kind: Annotated[str, Query(max_length=100)] = "",
    actor: Annotated[str, Query(max_length=100)] = "",
    oldest_first: Annotated[bool, Query()] = False,
) -> Page[FactOut]:
    """Facts of the project, newest first; `after` is the last position seen."""
    found = platform.audit.log(
        caller, after=after, limit=limit, stream=stream, kind=kind, actor=actor, newest_first=not oldest_first
    )
    more = str(found[-1].position) if len(found) == limit else None
    return Page(items=[FactOut.of(fact) for fact in found], after=more)


@routes.get("/audit/status")
@needs(Permission.LEDGER_READ)
def read_ledger_status(caller: Caller, platform: ThePlatform) -> LedgerOut:
    """Where the chain stands."""
    status = platform.audit.status(caller)
    return LedgerOut(position=status.position, head=status.head)


@routes.post("/audit/verify")
@needs(Permission.LEDGER_READ)
def verify_ledger(caller: InstallationCaller, platform: ThePlatform) -> VerificationOut:
    """Recompute the whole ledger and compare it with the signed checkpoints outside the database."""
    signed = read_checkpoints(platform.settings.checkpoints, required=False)
    return VerificationOut.of(platform.audit.verify(caller, checkpoints=signed))


@routes.post("/audit/checkpoint", status_code=201)
@needs(Permission.LEDGER_WRITE)
def sign_checkpoint(_caller: InstallationCaller, platform: ThePlatform) -> CheckpointOut:
    """Sign where the chain stands, and keep it outside the database too."""
    return CheckpointOut.of(platform.audit.checkpoint())


@routes.post("/audit/rebuild")
@needs(Permission.LEDGER_WRITE)
def rebuild_views(caller: InstallationCaller, platform: ThePlatform) -> RebuiltOut:
    """Fold all current state anew from the facts."""
    return RebuiltOut(differed=dict(platform.audit.rebuild(caller)))

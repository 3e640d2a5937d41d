"""Audit: reading the ledger, and the proof that nobody changed it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from detent.kernel.facts import Fact
from detent.kernel.identity import Permission, Principal
from detent.kernel.ports import Checkpoint, Ledger, Verification


class AuditStatus(msgspec.Struct, frozen=True):
    """Where the chain stands: how many facts, and the hash of the last."""

    position: int
    head: str


class Audit:
    """What may be asked of the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def log(
        self,
        caller: Principal,
        *,
        after: int = 0,
        limit: int = 100,
        stream: str = "",
        kind: str = "",
        actor: str = "",
        newest_first: bool = True,
    ) -> tuple[Fact, ...]:
        """Sealed facts of the caller's project."""
        caller.require(Permission.LEDGER_READ)
        return self._ledger.read(
            after=after,
            limit=limit,
            stream=stream,
            kind=kind,
            project=caller.project,
            actor=actor,
            newest_first=newest_first,
        )

    def verify(self, caller: Principal, *, checkpoints: Sequence[Checkpoint] = ()) -> Verification:
        """Recompute the whole ledger and compare."""
        caller.require(Permission.LEDGER_READ)
        return self._ledger.verify(checkpoints=checkpoints)

    def status(self, caller: Principal) -> AuditStatus:
        """Where the chain stands."""
        caller.require(Permission.LEDGER_READ)
        return AuditStatus(*self._ledger.head())

    def checkpoint(self) -> Checkpoint:
        """Sign the current head; the composition does it on a schedule."""
        return self._ledger.checkpoint()

    def rebuild(self, caller: Principal) -> Mapping[str, int]:
        """Fold all views anew; rows that differed before, by view."""
        caller.require(Permission.USERS_WRITE)
        return self._ledger.rebuild()

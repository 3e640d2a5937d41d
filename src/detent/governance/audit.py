"""Audit: reading the ledger, and the proof that nobody changed it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from detent.kernel.errors import InvalidInput
from detent.kernel.facts import Fact
from detent.kernel.identity import Permission, Principal
from detent.kernel.ports import Checkpoint, Ledger, Verification

_MOST: Final = 1_000


class AuditStatus(msgspec.Struct, frozen=True):
    """Where the chain stands.

    Attributes:
        position: how many facts are chained.
        head: hex hash of the last; empty when there is none.
        checkpoint: the last signed checkpoint, if there is one.
    """

    position: int
    head: str
    checkpoint: Checkpoint | None

    @property
    def unsigned(self) -> int:
        """How many facts came after the last checkpoint."""
        return self.position - (self.checkpoint.size if self.checkpoint else 0)


class Audit:
    """What may be asked of the ledger. The chain is one for all projects; what it says is read per project."""

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
        """Facts of the caller's project.

        Args:
            after: go on beyond this position, downwards when newest first; 0 begins at the end one reads from.
            limit: at most 1,000.
            stream, kind, actor: exact filters; an actor is `kind:id`.

        Raises:
            InvalidInput: `after` or `limit` is out of range.
        """
        caller.require(Permission.LEDGER_READ)
        if not 1 <= limit <= _MOST:
            raise InvalidInput(f"A limit of {limit} is out of range.", hint=f"Give 1 to {_MOST}.", field="limit")
        if not 0 <= after < 2**63:
            raise InvalidInput(f"There is no position {after}.", hint="Give 0 or a fact's position.", field="after")
        return self._ledger.read(
            after=after,
            limit=limit,
            stream=stream,
            kind=kind,
            project=caller.project,
            actor=actor,
            newest_first=newest_first,
        )

    def verify(self, caller: Principal, *, checkpoints: Sequence[Checkpoint] = (), views: bool = True) -> Verification:
        """Compute the whole ledger anew and compare, also with the checkpoints that were kept elsewhere."""
        caller.require(Permission.LEDGER_READ)
        return self._ledger.verify(checkpoints=checkpoints, views=views)

    def status(self, caller: Principal) -> AuditStatus:
        """Where the chain stands."""
        caller.require(Permission.LEDGER_READ)
        return AuditStatus(*self._ledger.head(), self._ledger.last_checkpoint())

    def checkpoint(self) -> Checkpoint:
        """Sign the current head; the composition does it on a schedule."""
        return self._ledger.checkpoint()

    def rebuild(self, caller: Principal) -> Mapping[str, int]:
        """Fold all views anew; rows that differed before, by view."""
        caller.require(Permission.LEDGER_WRITE)
        return self._ledger.rebuild()

"""Facts, checkpoints, verifications, blobs."""

from __future__ import annotations

from typing import Any, Self

import msgspec

from detent.api.schemas.common import Out, without
from detent.kernel.clock import iso
from detent.kernel.facts import Fact
from detent.kernel.ports import Checkpoint, Damage, Verification


class FactOut(Out):
    """A recorded fact."""

    position: int
    id: str
    kind: str
    stream: str
    version: int
    actor: str
    time: str
    reason: str | None
    body: dict[str, Any]
    hash: str

    @classmethod
    def of(cls, fact: Fact) -> Self:
        """From the ledger's fact."""
        return cls(
            position=fact.position,
            id=fact.id,
            kind=fact.kind,
            stream=fact.stream,
            version=fact.version,
            actor=str(fact.actor),
            time=iso(fact.time),
            reason=fact.reason or None,
            body=msgspec.to_builtins(fact.body),
            hash=fact.hash,
        )


class LedgerOut(Out):
    """Where the chain stands."""

    position: int
    head: str


class CheckpointOut(Out):
    """A signed statement about the first `size` facts; `time_ns` is the signed figure."""

    size: int
    head: str
    root: str
    time: str
    time_ns: int
    key_id: str
    public_key: str
    signature: str

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Self:
        """From the ledger's checkpoint."""
        return cls(time=iso(checkpoint.time), time_ns=checkpoint.time, **without(checkpoint, "time"))


class FindingOut(Out):
    """Something that verification found wrong."""

    position: int
    problem: str
    detail: str


class VerificationOut(Out):
    """What a verification saw."""

    ok: bool
    facts: int
    head: str
    root: str
    checkpoint: CheckpointOut | None
    findings: list[FindingOut]

    @classmethod
    def of(cls, found: Verification) -> Self:
        """From the ledger's verification."""
        return cls(
            ok=found.ok,
            facts=found.facts,
            head=found.head,
            root=found.root,
            checkpoint=CheckpointOut.of(found.checkpoint) if found.checkpoint else None,
            findings=[FindingOut(position=f.position, problem=f.problem, detail=f.detail) for f in found.findings],
        )


class RebuiltOut(Out):
    """Rows that differed from their facts before they were folded anew, by view."""

    differed: dict[str, int]


class DamageOut(Out):
    """A blob that is not as it should be."""

    digest: str
    problem: str
    detail: str

    @classmethod
    def of(cls, damage: Damage) -> Self:
        """From the port's damage."""
        return cls(digest=damage.digest, problem=damage.problem, detail=damage.detail)


class BlobsOut(Out):
    """What reading every blob found."""

    ok: bool
    damage: list[DamageOut]

"""Checking stored bytes against what refers to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from detent.gateway.batches.views import referenced, running
from detent.kernel.ports import Blobs, Damage, Ledger


def check_blobs(ledger: Ledger, blobs: Blobs) -> tuple[Damage, ...]:
    """Everything that is damaged, missing, stray or orphaned.

    While a batch is under way nothing is called orphaned, because what its calls have given so far is known to its job
    only. What refers to blobs is asked when all of them were read, so that one stored meanwhile is no orphan.
    """

    def wanted() -> Iterator[str]:
        yield from referenced(ledger)

    found = blobs.fsck(wanted())
    if any(damage.problem == "orphaned" for damage in found) and running(ledger):
        return tuple(damage for damage in found if damage.problem != "orphaned")
    return found


def is_sound(damage: Sequence[Damage]) -> bool:
    """Whether nothing is lost. An orphan takes room and no more: a process died between storing and recording."""
    return all(found.problem == "orphaned" for found in damage)

"""Verifying a copied ledger without the installation it came from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detent.app.catalog import catalog
from detent.kernel.errors import NotFound
from detent.kernel.ports import Checkpoint, Verification
from detent.store import ledger


def read_checkpoints(path: Path, *, required: bool = True) -> tuple[Checkpoint, ...]:
    """The signed checkpoints of a file.

    Raises:
        NotFound: there is no such file, and `required`.
    """
    if not path.is_file():
        if required:
            raise NotFound(f"There is no file {path}.", hint="Give a copy of checkpoints.jsonl.", field="checkpoints")
        return ()
    return ledger.read_checkpoints(path)


def verify_copy(copy: Path, checkpoints: Sequence[Checkpoint] = ()) -> Verification:
    """Recompute a copied `ledger.db` and compare it with checkpoints that were kept elsewhere; nothing is written."""
    return ledger.verify_copy(copy, catalog(), checkpoints)

"""Verification: everything is computed anew and compared with what is stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detent.kernel.facts import FactCatalog
from detent.kernel.ports import Checkpoint, Verification


def verify_copy(path: Path, catalog: FactCatalog, checkpoints: Sequence[Checkpoint] = ()) -> Verification:
    """Verify a copy of a SQLite ledger, without the installation it came from."""
    raise NotImplementedError(path, catalog, checkpoints)

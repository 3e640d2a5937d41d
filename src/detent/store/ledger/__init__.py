"""The ledger on SQLite and PostgreSQL: facts, their hash chain, the views, signed checkpoints, verification."""

from __future__ import annotations

from detent.store.ledger.checkpoints import read_checkpoints
from detent.store.ledger.sql import SqlLedger, open_ledger
from detent.store.ledger.verify import verify_copy

__all__ = ["SqlLedger", "open_ledger", "read_checkpoints", "verify_copy"]

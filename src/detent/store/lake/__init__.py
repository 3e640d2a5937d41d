"""The embedded lake: spans and scores in SQLite, one file per project and day, closed days sealed to Parquet."""

from __future__ import annotations

from detent.store.lake.sqlite import SqliteLake, open_lake

__all__ = ["SqliteLake", "open_lake"]

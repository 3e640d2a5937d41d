"""From the spool into the lake, exactly once in effect."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec

from detent.kernel.clock import Clock
from detent.kernel.ports import Lake


class Backlog(msgspec.Struct, frozen=True):
    """What waits in the spool, and what it could not take."""

    bytes: int
    records_lag: int
    shed: int


class Ingester:
    """Follows every writer's segments in a spool folder."""

    def __init__(self, folder: Path, lake: Lake, *, clock: Clock, batch: int = 500) -> None:
        raise NotImplementedError(folder, lake, clock, batch)

    def poll(self) -> int:
        """Ingest what is there; how many records."""
        raise NotImplementedError

    def run(self, stop: threading.Event) -> None:
        """Poll until told to stop."""
        raise NotImplementedError(stop)

    def backlog(self) -> Backlog:
        """How far behind the lake is."""
        raise NotImplementedError

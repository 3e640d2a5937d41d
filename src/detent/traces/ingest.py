"""From the spool into the lake, exactly once in effect.

The spool forgets a record only after the lake has it on the disk. A crash between the two makes the record come again,
and the lake takes a span or score once. So nothing is lost and nothing counted twice, whoever is killed when.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from detent.kernel.clock import SECOND, Clock
from detent.kernel.errors import CallerError, InvalidInput, TooMany, WorldError
from detent.kernel.ports import Lake
from detent.kernel.telemetry import Batch, Score, Span
from detent.traces.spool import SpoolReader, decode

_log = logging.getLogger("detent.traces.ingest")

_REST = 0.2
"""Seconds between two looks into an empty spool."""

_MAX_REST = 30.0


class Backlog(msgspec.Struct, frozen=True):
    """What waits in the spool, and what it could not take.

    Attributes:
        bytes, records_lag: not in the lake yet.
        shed: records that found the spool full, since the installation began.
        refused: records that this process read and the lake would never take.
        damaged: bytes of segments that this process skipped because no whole record stands there.
    """

    bytes: int
    records_lag: int
    shed: int
    refused: int = 0
    damaged: int = 0


class Ingester:
    """Follows every writer's segments in a spool folder. One process does this; others wait for it to leave.

    Args:
        folder: the spool.
        lake: where the records go.
        clock: for nothing but waiting and telling.
        batch: records per write.
    """

    def __init__(self, folder: Path, lake: Lake, *, clock: Clock, batch: int = 1000) -> None:
        self._reader = SpoolReader(folder)
        self._lake = lake
        self._clock = clock
        self._batch = batch
        self._refused = 0

    def poll(self) -> int:
        """Ingest at most one batch of what is there; how many records, 0 when there is nothing to do.

        Raises:
            TooMany, WorldError: the lake takes nothing at present; the records come again with the next call.
        """
        records = self._reader.read(self._batch)
        if not records:
            self._reader.commit()
            return 0
        items: list[Span | Score] = []
        for record in records:
            try:
                items.append(decode(record))
            except InvalidInput as error:
                self._refuse(error)
        try:
            self._write(items)
        except BaseException:
            self._reader.forget()
            raise
        self._reader.commit()
        return len(records)

    def run(self, stop: threading.Event) -> None:
        """Poll until told to stop; what the lake refuses for now is offered again, more and more slowly."""
        rest = _REST
        while not stop.is_set():
            try:
                if not self.poll():
                    stop.wait(_REST)
                rest = _REST
            except (TooMany, WorldError) as error:
                _log.warning("ingestion waits: %s", error)
                stop.wait(error.retry_after or rest)
                rest = min(rest * 2, _MAX_REST)

    def drain(self, seconds: float) -> bool:
        """Poll until the spool is empty, for a clean stop; False when the time was too short."""
        deadline = self._clock.monotonic() + int(seconds * SECOND)
        while self.poll():
            if self._clock.monotonic() > deadline:
                return False
        return True

    def backlog(self) -> Backlog:
        """How far behind the lake is; works in any process."""
        lag = self._reader.lag()
        return Backlog(lag.bytes, lag.records, lag.shed, self._refused, self._reader.damaged)

    def close(self) -> None:
        """Let another process ingest."""
        self._reader.close()

    def _write(self, items: Sequence[Span | Score]) -> None:
        """Write all; what the lake will never take is found by halving, left out and counted."""
        if not items:
            return
        spans = tuple(item for item in items if isinstance(item, Span))
        scores = tuple(item for item in items if isinstance(item, Score))
        try:
            self._lake.write(Batch(spans, scores))
        except TooMany:
            raise
        except CallerError as error:
            if len(items) == 1:
                self._refuse(error)
                return
            middle = len(items) // 2
            self._write(items[:middle])
            self._write(items[middle:])

    def _refuse(self, error: CallerError) -> None:
        self._refused += 1
        _log.error("a spooled record is left out: %s", error)

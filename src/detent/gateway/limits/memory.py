"""Counters in this process's memory: exact for one process, gone with it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

from detent.kernel.clock import Clock
from detent.kernel.quotas import Level, Move, Share, blank, exchange, idle, level

_SWEEP: Final = 4096
"""Counters after which those that say nothing any more are dropped."""


class MemoryQuotas:
    """The port `Quotas` for tests and for a process that is alone."""

    remote = False

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._cells: dict[str, list[int]] = {}
        self._projects: dict[str, str] = {}
        self._sweep_at = _SWEEP

    def exchange(
        self,
        moves: Sequence[Move],
        *,
        ticket: str = "",  # noqa: ARG002  (no reply is lost within a process)
    ) -> tuple[Share, ...]:
        with self._lock:
            places = [(self._find(move), 0) for move in moves]
            return exchange(places, moves, self._clock.monotonic())

    def levels(self, project: str) -> tuple[Level, ...]:
        with self._lock:
            now = self._clock.monotonic()
            return tuple(
                Level(key, *level(cells, 0, now))
                for key, cells in self._cells.items()
                if self._projects[key] == project
            )

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _find(self, move: Move) -> list[int]:
        key = move.counter.key
        found = self._cells.get(key)
        if found is None:
            if len(self._cells) >= self._sweep_at:
                self._sweep()
            found = self._cells[key] = blank()
            self._projects[key] = move.counter.project
        return found

    def _sweep(self) -> None:
        now, wall = self._clock.monotonic(), self._clock.now()
        for key in [key for key, cells in self._cells.items() if idle(cells, 0, now, wall)]:
            del self._cells[key], self._projects[key]
        self._sweep_at = max(_SWEEP, 2 * len(self._cells))

"""When a second deployment is asked because the first is late."""

from __future__ import annotations

from typing import Final

from detent.gateway.model import Hedge
from detent.gateway.routing.health import Health

MIN_SAMPLES: Final = 20
"""Answers in the last minute below which nothing is known about what is late."""

_KEPT_SECONDS: Final = 0.5


class HedgeClock:
    """After how long a call at this deployment is late ("The Tail at Scale", Dean and Barroso, CACM 2013).

    Make one per route and deployment; the quantile is looked up twice a second at most.
    """

    __slots__ = ("_health", "_kept", "_quantile")

    def __init__(self, health: Health, hedge: Hedge) -> None:
        self._health = health
        self._quantile = hedge.quantile
        self._kept: list[tuple[float, float | None]] = [(0.0, None), (0.0, None)]

    def delay(self, now: float, *, streamed: bool = True) -> float | None:
        """Seconds after which to hedge; None for not at all: it is off, or too little is known.

        Streams go by their time to first output, answers in one piece by their time to the end.
        """
        if self._quantile <= 0:
            return None
        until, delay = self._kept[streamed]
        if now >= until:
            seen = (self._health.first if streamed else self._health.total).at(now)
            delay = seen.quantile(min(self._quantile, 1.0)) if seen.count >= MIN_SAMPLES else None
            self._kept[streamed] = (now + _KEPT_SECONDS, delay)
        return delay

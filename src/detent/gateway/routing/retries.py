"""Retries and hedges: how long to pause, and how much more may be asked than calls came in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from detent.gateway.model import Hedge, Retry

WINDOW_SECONDS: Final = 10.0
FLOOR: Final = 3
"""Extra attempts in any window that a route may always make, so that one with few calls can retry at all."""

LONGEST_PAUSE: Final = 10.0
"""Seconds beyond which a pause does not grow by itself."""

_SLOTS: Final = 10


def pause(
    retry: Retry,
    failures: int,
    draw: Callable[[], float],
    *,
    remaining: float,
    retry_after: float | None = None,
) -> float | None:
    """Seconds to wait before the same deployment is tried again; None when it is not worth waiting.

    Exponential back-off with full jitter (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015): the
    pause is drawn evenly below a bound that doubles. After a `Retry-After` it is that, and the jitter on top.

    Args:
        failures: how often this deployment has failed in this call, 1 or more.
        draw: gives numbers evenly from [0, 1).
        remaining: seconds until the call's deadline.
        retry_after: what the provider asked for, in seconds.
    """
    if failures >= retry.attempts:
        return None
    least = retry_after if retry_after is not None and retry_after > 0 else 0.0
    if least >= remaining:
        return None
    bound = min(retry.backoff_ms / 1000 * 2 ** min(failures - 1, 20), LONGEST_PAUSE)
    drawn = least + bound * draw()
    return drawn if drawn < remaining else None


class RetryBudget:
    """Extra attempts of a route in the last ten seconds, held to a share of its calls.

    When all providers are down, each call would be tried several times; the budget keeps the load at `1 + ratio` times
    the calls (and `FLOOR` attempts), as Finagle's `RetryBudget` does. Hedges take from it too. Going on to the next
    target of a route is no retry and takes nothing.
    """

    __slots__ = ("_calls", "_hedges", "_now", "_ring", "_spent")

    def __init__(self) -> None:
        self._ring = [[0, 0, 0] for _ in range(_SLOTS)]
        self._now = 0
        self._calls = 0
        self._spent = 0
        self._hedges = 0

    def called(self, now: float) -> None:
        """A call came in."""
        self._turn(now)
        self._ring[self._now % _SLOTS][0] += 1
        self._calls += 1

    def retry(self, now: float, rules: Retry) -> bool:
        """Take one retry, if there is one."""
        self._turn(now)
        if self._spent + 1 > FLOOR + rules.budget * self._calls:
            return False
        self._ring[self._now % _SLOTS][1] += 1
        self._spent += 1
        return True

    def hedge(self, now: float, hedge: Hedge, rules: Retry) -> bool:
        """Take one hedge, if there is one: within its own cap, which has no floor, and within the budget of both."""
        self._turn(now)
        if self._hedges + 1 > hedge.max_extra * self._calls or not self.retry(now, rules):
            return False
        self._ring[self._now % _SLOTS][2] += 1
        self._hedges += 1
        return True

    def spent(self, now: float) -> tuple[int, int, int]:
        """Calls, extra attempts, and hedges among these, in the last ten seconds."""
        self._turn(now)
        return self._calls, self._spent, self._hedges

    def _turn(self, now: float) -> None:
        number = int(now * (_SLOTS / WINDOW_SECONDS))
        passed = number - self._now
        if passed <= 0:
            return
        for step in range(1, min(passed, _SLOTS) + 1):
            old = self._ring[(self._now + step) % _SLOTS]
            self._calls -= old[0]
            self._spent -= old[1]
            self._hedges -= old[2]
            old[:] = (0, 0, 0)
        self._now = number

"""The circuit breaker: a deployment that fails too often, or is too slow too often, is left alone for a while.

closed ──too many failed or slow──▶ open ──its time is over──▶ half-open ──enough good probes──▶ closed
                                      ▲                            │
                                      └───────one bad probe────────┘  (for twice as long, with jitter)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from detent.gateway.model import Breaker

State = Literal["closed", "open", "half_open"]

PROBE_SECONDS: Final = 60.0
"""A probe that has not reported for so long is taken for lost, and its place is given to another."""

_MOST_DOUBLINGS: Final = 4
_JITTER: Final = 0.2
_SLICES: Final = 10
_PLAIN: Final = 0
_REFUSED: Final = -1


class Tally:
    """Calls of the last seconds, and how many of them failed or were slow."""

    __slots__ = ("_now", "_per_second", "_ring", "calls", "failed", "slow")

    def __init__(self, seconds: float) -> None:
        self._per_second = _SLICES / max(seconds, 0.001)
        self._ring: list[list[int]] = [[0, 0, 0] for _ in range(_SLICES)]
        self._now = 0
        self.calls = 0
        self.failed = 0
        self.slow = 0

    def add(self, now: float, *, failed: bool = False, slow: bool = False) -> None:
        """Count a call that ended now."""
        if int(now * self._per_second) != self._now:
            self.turn(now)
        current = self._ring[self._now % _SLICES]
        current[0] += 1
        self.calls += 1
        if failed:
            current[1] += 1
            self.failed += 1
        if slow:
            current[2] += 1
            self.slow += 1

    def turn(self, now: float) -> None:
        """Forget what is too old."""
        number = int(now * self._per_second)
        for step in range(1, min(number - self._now, _SLICES) + 1):
            old = self._ring[(self._now + step) % _SLICES]
            if old[0]:
                self.calls -= old[0]
                self.failed -= old[1]
                self.slow -= old[2]
                old[:] = (0, 0, 0)
        self._now = max(self._now, number)

    def clear(self) -> None:
        """Forget all."""
        for current in self._ring:
            current[:] = (0, 0, 0)
        self.calls = self.failed = self.slow = 0


class Circuit:
    """One breaker. Times are monotonic seconds.

    A call enters with `enter` and leaves with exactly one of `good`, `bad`, `late` and `leave`, giving back what it was
    given.    What calls report that began before it opened changes nothing while it is open or half-open.

    Args:
        rules: when it opens; rates of 0 never do.
        draw: gives numbers evenly from [0, 1), for the jitter.

    Attributes:
        shut: whether it is anything but closed.
        retry_at: when probes are let through, while it is shut.
        since: when it became what it is (closed or shut).
        opened: how often it has opened.
    """

    __slots__ = (
        "_draw",
        "_good",
        "_probes",
        "_row",
        "_slow_seconds",
        "_streak",
        "_tally",
        "_token",
        "opened",
        "retry_at",
        "rules",
        "shut",
        "since",
    )

    def __init__(self, rules: Breaker, draw: Callable[[], float], now: float = 0.0) -> None:
        self.rules = rules
        self.shut = False
        self.retry_at = 0.0
        self.since = now
        self.opened = 0
        self._draw = draw
        self._tally = Tally(rules.window_seconds)
        self._slow_seconds = rules.slow_seconds if rules.slow_rate > 0 and rules.slow_seconds > 0 else float("inf")
        self._streak = 0
        self._good = 0
        self._row = 0
        self._token = 0
        self._probes: dict[int, float] = {}

    def state(self, now: float) -> State:
        """Closed, open or half-open."""
        if not self.shut:
            return "closed"
        return "open" if now < self.retry_at else "half_open"

    def allows(self, now: float) -> bool:
        """Whether a call may enter: it is closed, or has room for a probe."""
        return not self.shut or (now >= self.retry_at and self._room(now))

    def enter(self, now: float, *, force: bool = False) -> int | None:
        """Begin a call; None when it may not. With `force` it always may: it is all there is, and no probe then."""
        if not self.shut:
            return _PLAIN
        if now >= self.retry_at and self._room(now):
            self._token += 1
            self._probes[self._token] = now + PROBE_SECONDS
            return self._token
        return _REFUSED if force else None

    def good(self, now: float, entered: int, seconds: float) -> None:
        """A call was answered, with its first output after `seconds`."""
        slow = seconds > self._slow_seconds
        if self.shut:
            if self._probes.pop(entered, None) is None:
                return
            if slow:
                self._reopen(now)
                return
            self._good += 1
            if self._good >= max(self.rules.probes, 1):
                self._close(now)
        elif entered >= 0:
            self._row = 0
            self._tally.add(now, slow=slow)
            self._judge(now)

    def bad(self, now: float, entered: int) -> None:
        """A call failed, in a way that counts."""
        if self.shut:
            if self._probes.pop(entered, None) is not None:
                self._reopen(now)
        elif entered >= 0:
            self._row += 1
            self._tally.add(now, failed=True)
            self._judge(now)

    def leave(self, entered: int) -> None:
        """A call ended in a way that says nothing: its client went away, or made a mistake."""
        if entered > 0:
            self._probes.pop(entered, None)

    def late(self, now: float, entered: int, seconds: float) -> None:
        """A call was given up after `seconds` without an answer, though nothing had failed: slow, if it was that."""
        if seconds > self._slow_seconds:
            self.good(now, entered, seconds)
        else:
            self.leave(entered)

    def relapse(self, now: float, entered: int) -> None:
        """A call that was good at first failed later, in the middle of its answer."""
        if not self.shut:
            self._tally.add(now, failed=True)
            self._judge(now)
        elif entered > 0 and now >= self.retry_at:
            self._reopen(now)

    def rates(self, now: float) -> tuple[int, float, float]:
        """Calls in its window, the share that failed, and the share that was slow."""
        tally = self._tally
        tally.turn(now)
        calls = tally.calls
        return (calls, tally.failed / calls, tally.slow / calls) if calls else (0, 0.0, 0.0)

    def _room(self, now: float) -> bool:
        allowed = max(self.rules.probes, 1) - self._good
        if len(self._probes) < allowed:
            return True
        lost = [token for token, lease in self._probes.items() if now >= lease]
        for token in lost:
            del self._probes[token]
        return len(self._probes) < allowed

    def _judge(self, now: float) -> None:
        tally, rules = self._tally, self.rules
        calls = tally.calls
        if not (tally.failed or tally.slow) or calls < rules.min_calls:
            return
        # As many failures in a row as would do for a verdict are one, however well it went before in a long window.
        failing = tally.failed >= rules.error_rate * calls or self._row >= max(rules.min_calls, 1)
        if (rules.error_rate > 0 and failing) or (rules.slow_rate > 0 and tally.slow >= rules.slow_rate * calls):
            self._streak = 0
            self._row = 0
            self._open(now)

    def _reopen(self, now: float) -> None:
        self._streak = min(self._streak + 1, _MOST_DOUBLINGS)
        self._open(now)

    def _open(self, now: float) -> None:
        if not self.shut:
            self.since = now
        self.shut = True
        self.opened += 1
        self.retry_at = now + self.rules.open_seconds * 2**self._streak * (1 + _JITTER * self._draw())
        self._good = 0
        self._probes.clear()

    def _close(self, now: float) -> None:
        self.shut = False
        self.since = now
        self._streak = 0
        self._good = 0
        self._probes.clear()
        self._tally.clear()

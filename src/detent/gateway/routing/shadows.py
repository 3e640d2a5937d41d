"""Which calls are copied for a shadow route, and what the copies may cost in a day."""

from __future__ import annotations

from hashlib import blake2b

from detent.gateway.model import Shadow
from detent.kernel.clock import DAY


def copied(shadow: Shadow, trace_id: str) -> bool:
    """Whether a call is copied: a coin that falls the same way for all calls of a trace, on every worker."""
    if shadow.share >= 1.0:
        return True
    if shadow.share <= 0.0:
        return False
    digest = blake2b(trace_id.encode(), digest_size=8, person=b"shadow", salt=_salt(shadow.route)).digest()
    return int.from_bytes(digest, "big") < shadow.share * 2**64


class ShadowPurse:
    """What a route's copies have cost today (UTC). One per worker: give each its part of the daily budget."""

    __slots__ = ("_day", "_spent")

    def __init__(self) -> None:
        self._day = 0
        self._spent = 0

    def take(self, now: int, expected: int | None, limit: int) -> bool:
        """Reserve what a copy is expected to cost; False when it is not to be sent.

        Args:
            now: nanoseconds since the epoch.
            expected: nano-dollars; None when the model is unpriced, which no bounded budget can pay for.
            limit: nano-dollars a day; 0 for no bound.
        """
        self._turn(now)
        if limit and (expected is None or self._spent + expected > limit):
            return False
        self._spent += expected or 0
        return True

    def settle(self, now: int, taken: int, expected: int | None, cost: int | None) -> None:
        """Replace what was reserved (at the time `taken`) by what the copy has cost."""
        self._turn(now)
        if taken // DAY == self._day:
            self._spent = max(self._spent - (expected or 0), 0) + (cost or 0)
        else:
            self._spent += cost or 0

    def spent(self, now: int) -> int:
        """Nano-dollars today."""
        self._turn(now)
        return self._spent

    def _turn(self, now: int) -> None:
        day = now // DAY
        if day > self._day:
            self._day, self._spent = day, 0


def _salt(route: str) -> bytes:
    return blake2b(route.encode(), digest_size=16).digest()

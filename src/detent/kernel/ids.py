"""Identifiers: UUIDv7 for things we name, W3C trace and span ids for telemetry.

A UUIDv7 (RFC 9562, section 5.7) starts with the time, so ids sort in the order in which they were made and index well.
"""

from __future__ import annotations

import os
import re
import threading
from typing import Protocol

from detent.kernel.clock import Clock, SystemClock

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class Ids(Protocol):
    """What makes identifiers."""

    def new(self) -> str:
        """A fresh UUIDv7 in its 36-character lower-case form."""
        ...


class UuidV7:
    """Monotonic UUIDv7 source: each id is greater than the one before, also when the clock steps back.

    The 12 bits after the version continue the millisecond (method 3 of RFC 9562, section 6.2): a counter that is
    incremented when the clock has not moved on. The last 62 bits are random.
    """

    __slots__ = ("_clock", "_last", "_lock")

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._last = 0
        self._lock = threading.Lock()

    def new(self) -> str:
        nanoseconds = self._clock.now()
        # 48 bits of milliseconds followed by 12 bits of the fraction, about 244 ns each.
        ticks = (nanoseconds // 1_000_000 << 12) | ((nanoseconds % 1_000_000) * 4096 // 1_000_000)
        with self._lock:
            if ticks <= self._last:
                ticks = self._last + 1
            self._last = ticks
        random = int.from_bytes(os.urandom(8), "big") & 0x3FFF_FFFF_FFFF_FFFF
        text = f"{(ticks >> 12) & 0xFFFF_FFFF_FFFF:012x}7{ticks & 0xFFF:03x}{0x8000_0000_0000_0000 | random:016x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class CountedIds:
    """Ids for tests: the same sequence every time, still well-formed UUIDv7."""

    __slots__ = ("_next",)

    def __init__(self, start: int = 1) -> None:
        self._next = start

    def new(self) -> str:
        number, self._next = self._next, self._next + 1
        return f"00000000-0000-7000-8000-{number:012x}"


def is_uuid(text: str) -> bool:
    """Whether the text is a UUID in lower-case canonical form."""
    return _UUID.fullmatch(text) is not None


def new_trace_id() -> str:
    """A random W3C trace id: 32 lower-case hex digits, not all zero (Trace Context, section 3.2.2.3)."""
    return os.urandom(16).hex()


def new_span_id() -> str:
    """A random W3C span id: 16 lower-case hex digits."""
    return os.urandom(8).hex()

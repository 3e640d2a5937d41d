"""Numbers, times and money as people read them. Filters of the templates; everything takes and gives plain values."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any, Final

from detent.kernel.clock import DAY, HOUR, MINUTE, SECOND
from detent.kernel.money import NANO, dollars

NONE: Final = "–"
_HIT: Final = re.compile(r"\*\*(.+?)\*\*", re.DOTALL)
_UNSEEN: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def duration(nanoseconds: int | None) -> str:
    """Three significant digits and a unit: `412 µs`, `12.3 ms`, `1.42 s`, `2 min 05 s`."""
    if nanoseconds is None:
        return NONE
    if nanoseconds >= HOUR:
        return f"{nanoseconds // HOUR} h {nanoseconds % HOUR // MINUTE:02d} min"
    if nanoseconds >= MINUTE:
        return f"{nanoseconds // MINUTE} min {nanoseconds % MINUTE // SECOND:02d} s"
    for unit, name in ((SECOND, "s"), (1_000_000, "ms"), (1_000, "µs")):
        # What would round up to 1000 of a unit belongs to the next.
        if nanoseconds >= unit * 0.9995 and nanoseconds:
            return f"{_significant(nanoseconds / unit)} {name}"
    return f"{nanoseconds} ns"


def _significant(value: float) -> str:
    decimals = max(0, 2 - math.floor(math.log10(value))) if value else 0
    return f"{round(value, decimals):.{min(decimals, 2)}f}" if value < 100 else f"{value:.0f}"


def window(seconds: int) -> str:
    """A length of time as one says it behind "in any": `minute`, `5 minutes`, `90 seconds`."""
    for unit, name in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds and seconds % unit == 0:
            number = seconds // unit
            return name if number == 1 else f"{number} {name}s"
    return "second" if seconds == 1 else f"{seconds} seconds"


def money(nano: int | None) -> str:
    """Dollars to the cent from ten dollars on, three significant digits below; nothing is rounded down to zero."""
    if nano is None:
        return "unpriced"
    size = abs(nano)
    if size >= 10 * NANO or nano == 0:
        sign = "-" if nano < 0 else ""
        cents = (size + NANO // 200) // (NANO // 100)
        return f"{sign}${cents // 100:,}.{cents % 100:02d}"
    digits = max(len(str(size)) - 3, 0)
    rounded = (size + 10**digits // 2) // 10**digits * 10**digits
    return dollars(rounded if nano > 0 else -rounded)


def price(pico: int | None) -> str:
    """USD per million tokens from pico-dollars per token: `$0.15`."""
    return NONE if pico is None else dollars(pico * 1000)


def count(value: int | None) -> str:
    """With thousands separators."""
    return NONE if value is None else f"{value:,}"


def short(value: int | None) -> str:
    """Few characters for large numbers: `1,204`, `12.3k`, `4.56M`."""
    if value is None:
        return NONE
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if abs(value) >= 10 * unit or (unit > 1000 and abs(value) >= unit):
            scaled = value / unit
            return f"{scaled:.2f}{name}" if abs(scaled) < 10 else f"{scaled:.1f}{name}"
    return f"{value:,}"


def percent(part: int, whole: int) -> str:
    """A share; never `0%` for something nor `100%` for less than all."""
    if not whole:
        return NONE
    share = part / whole * 100
    if part and share < 0.1:
        return "<0.1%"
    if part != whole and share > 99.9:
        return ">99.9%"
    return f"{share:.1f}%" if share % 1 and share < 99.95 else f"{share:.0f}%"


def size(count: int) -> str:
    """Bytes in decimal units."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            scaled = count / unit
            return f"{scaled:.1f} {name}" if scaled < 100 else f"{scaled:.0f} {name}"
    return f"{count} B"


def moment(nanoseconds: int) -> str:
    """Date and time to the second, UTC."""
    return _when(nanoseconds).strftime("%Y-%m-%d %H:%M:%S") if nanoseconds else NONE


def clock_time(nanoseconds: int) -> str:
    """Time of day to the millisecond, UTC."""
    return f"{_when(nanoseconds):%H:%M:%S}.{nanoseconds % SECOND // 1_000_000:03d}"


def day(nanoseconds: int) -> str:
    """The date, UTC."""
    return _when(nanoseconds).strftime("%Y-%m-%d") if nanoseconds else NONE


def ago(nanoseconds: int, now: int) -> str:
    """How long ago or ahead, in the largest unit that fits: `12 s ago`, `in 3 days`."""
    if not nanoseconds:
        return "never"
    gap = now - nanoseconds
    size = abs(gap)
    for unit, one, many in ((DAY, "day", "days"), (HOUR, "h", "h"), (MINUTE, "min", "min"), (SECOND, "s", "s")):
        if size >= unit:
            number = size // unit
            told = f"{number} {one if number == 1 else many}"
            return f"{told} ago" if gap > 0 else f"in {told}"
    return "now"


def iso_time(nanoseconds: int) -> str:
    """For the `datetime` attribute."""
    return f"{_when(nanoseconds):%Y-%m-%dT%H:%M:%S}.{nanoseconds % SECOND // 1_000_000:03d}Z"


def cut(text: str, length: int = 12) -> str:
    """The beginning of an id."""
    return text if len(text) <= length else text[:length] + "…"


def printable(text: str) -> str:
    """Text whose control and direction characters are made visible, so that it cannot pass itself off as another."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def marked(text: str) -> list[tuple[str, bool]]:
    """A snippet in pieces, each with whether it is a word that was searched for (two asterisks around it)."""
    pieces = _HIT.split(text)
    return [(piece, number % 2 == 1) for number, piece in enumerate(pieces) if piece]


def _when(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(min(max(nanoseconds, 0) // SECOND, 253_402_300_799), UTC)


FILTERS: Final[dict[str, Any]] = {
    "duration": duration,
    "window": window,
    "money": money,
    "price": price,
    "count": count,
    "short": short,
    "size": size,
    "moment": moment,
    "clock_time": clock_time,
    "day": day,
    "iso_time": iso_time,
    "cut": cut,
    "printable": printable,
    "marked": marked,
}

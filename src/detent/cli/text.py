"""How results look as text: tables, times, amounts. No colour carries meaning, and no data can steer the terminal."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import click

from detent.kernel.clock import HOUR, MINUTE, SECOND, iso
from detent.kernel.money import dollars

_MILLI: Final = 1_000_000
_MICRO: Final = 1_000
_WIDE: Final = frozenset({"W", "F"})
_GAP: Final = "  "


class Column(NamedTuple):
    """A column's title; numbers stand at the right."""

    title: str
    number: bool = False


def number(title: str) -> Column:
    """A column of numbers."""
    return Column(title, number=True)


def table(columns: Sequence[Column | str], rows: Iterable[Sequence[str]]) -> str:
    """An aligned table; empty text when there are no rows."""
    heads = [column if isinstance(column, Column) else Column(column) for column in columns]
    body = [[clean(cell) for cell in row] for row in rows]
    if not body:
        return ""
    widths = [max(width(head.title), *(width(row[index]) for row in body)) for index, head in enumerate(heads)]
    lines = [_line([head.title for head in heads], heads, widths)]
    if is_rich():
        lines[0] = click.style(lines[0], bold=True)
    lines += [_line(row, heads, widths) for row in body]
    return "\n".join(lines)


def details(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values, one a line, aligned; empty values are left out."""
    kept = [(name, clean(value)) for name, value in pairs if value]
    longest = max((len(name) for name, _value in kept), default=0)
    return "\n".join(f"{name.ljust(longest)}{_GAP}{value}" for name, value in kept)


def _line(cells: Sequence[str], heads: Sequence[Column], widths: Sequence[int]) -> str:
    padded = []
    for cell, head, wide in zip(cells, heads, widths, strict=True):
        space = " " * (wide - width(cell))
        padded.append(space + cell if head.number else cell + space)
    return _GAP.join(padded).rstrip()


def is_rich() -> bool:
    """Whether stdout is a terminal that may be decorated (`NO_COLOR` and `TERM=dumb` say no)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in _WIDE else 1 for c in text)


def clean(text: str, *, keep_lines: bool = False) -> str:
    """Text from elsewhere with everything that could steer a terminal made visible."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or (keep_lines and c in "\n\t") else _visible(c) for c in text)


def _visible(char: str) -> str:
    if char in "\n\r\t":
        return " "
    return chr(0x2400 + ord(char)) if ord(char) < 0x20 else "\N{REPLACEMENT CHARACTER}"


def shorten(text: str, most: int) -> str:
    """At most so many characters, with an ellipsis where it was cut."""
    return text if len(text) <= most else text[: most - 1] + "…"


def moment(nanoseconds: int) -> str:
    """A time for people, UTC to the second: `2026-03-03 10:04:00Z`; `-` for none."""
    return iso(nanoseconds)[:19].replace("T", " ") + "Z" if nanoseconds else "-"


def duration(nanoseconds: int | None) -> str:
    """A duration for people with three figures: `412 ms`, `1.24 s`, `3 min 05 s`; `-` for none."""
    if nanoseconds is None:
        return "-"
    if nanoseconds < _MILLI:
        return f"{nanoseconds / _MICRO:.0f} µs"
    if nanoseconds < SECOND:
        value = nanoseconds / _MILLI
        return f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"
    if nanoseconds < MINUTE:
        return f"{nanoseconds / SECOND:.2f} s"
    if nanoseconds < HOUR:
        minutes, rest = divmod(nanoseconds, MINUTE)
        return f"{minutes} min {rest // SECOND:02d} s"
    hours, rest = divmod(nanoseconds, HOUR)
    return f"{hours} h {rest // MINUTE:02d} min"


def cost(nano: int | None) -> str:
    """An amount; `unpriced` when no price is known, which is not zero."""
    return "unpriced" if nano is None else dollars(nano)


def count(value: int) -> str:
    """A whole number with thousands apart."""
    return f"{value:,}"


def size(count_of_bytes: int) -> str:
    """Bytes for people: `512 B`, `3.2 MB` (powers of ten)."""
    value = float(count_of_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def yes(value: bool) -> str:
    """A flag as a word."""
    return "yes" if value else "no"

"""Tables as people take them away: CSV that a spreadsheet opens without running any of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

Cell = str | int | float | bool | None

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What makes a spreadsheet take a cell for a formula, full-width forms included."""


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows of plain values, in base units (ns, nano-dollars) where the column's name says so."""

    columns: Sequence[str]
    rows: Iterable[Sequence[Cell]]

    def csv(self) -> str:
        """RFC 4180 with a header line; text that would be a formula gets an apostrophe in front, as OWASP advises."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\r\n")
        writer.writerow(self.columns)
        writer.writerows([safe_cell(cell) for cell in row] for row in self.rows)
        return out.getvalue()


def safe_cell(cell: Cell) -> str:
    """A cell's text, made harmless."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, int | float):
        return str(cell)
    text = cell.replace("\x00", "")
    return "'" + text if text.lstrip(" ").startswith(_FORMULA) or text.startswith(_FORMULA) else text

"""Progress of long work, on stderr: a line that moves on a terminal, nothing where nobody watches."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Final, Self

_EVERY: Final = 0.1
_BAR: Final = 30


class Progress:
    """Counts things done; with a total it draws a bar. Use it as a context manager."""

    def __init__(self, noun: str, *, total: int = 0) -> None:
        self._noun = noun
        self._total = total
        self._watched = sys.stderr.isatty()
        self._last = 0.0
        self._drawn = False

    def at(self, done: int) -> None:
        """Tell how many are done."""
        now = time.monotonic()
        if not self._watched or (now - self._last < _EVERY and done != self._total):
            return
        self._last = now
        self._drawn = True
        sys.stderr.write("\r\x1b[2K" + self._line(done))
        sys.stderr.flush()

    def _line(self, done: int) -> str:
        if not self._total:
            return f"{done:,} {self._noun}"
        share = min(done / self._total, 1.0)
        bar = "#" * round(share * _BAR)
        return f"[{bar.ljust(_BAR, '.')}] {share:4.0%}  {done:,} of {self._total:,} {self._noun}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawn:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()

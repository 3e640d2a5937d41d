r"""Halves of surrogate pairs in JSON (`"\ud83d"`), which text cut within a character leaves behind.

The grammar of JSON allows them and msgspec does not. They are made readable for our own reading only; what is passed on
stays as it came.
"""

from __future__ import annotations

import re
from typing import Final

_LONE: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)


def mended(raw: bytes) -> bytes | None:
    """The JSON with each lone half replaced by U+FFFD; None when there is none."""
    found, count = _LONE.subn(rb"\\ufffd", raw)
    return found if count else None

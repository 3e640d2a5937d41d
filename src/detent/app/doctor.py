"""`detent doctor`: what is wrong with an installation, why it matters, and how to put it right."""

from __future__ import annotations

from typing import Literal

import msgspec

from detent.kernel.settings import Settings


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at.

    Attributes:
        name: stable, e.g. `home`.
        state: `ok`, `warning` (works, but look at it) or `failed`.
        what: a sentence on what was found.
        why: why it matters; empty when ok.
        fix: what to do, as a sentence or a command; empty when ok.
    """

    name: str
    state: Literal["ok", "warning", "failed"]
    what: str
    why: str = ""
    fix: str = ""


def examine(settings: Settings) -> tuple[Check, ...]:
    """Look at everything; changes nothing."""
    raise NotImplementedError(settings)

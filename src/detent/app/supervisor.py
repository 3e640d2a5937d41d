"""`detent up`: starts, watches, restarts and stops all processes of an installation."""

from __future__ import annotations

from detent.kernel.settings import Settings


def main(settings: Settings) -> int:
    """Run the whole platform until told to stop; the exit status."""
    raise NotImplementedError(settings)

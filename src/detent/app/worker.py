"""The worker process: runs durable workflows."""

from __future__ import annotations

from detent.kernel.settings import Settings


def main(settings: Settings) -> int:
    """Run jobs until told to stop; the exit status."""
    raise NotImplementedError(settings)

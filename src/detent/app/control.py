"""The control process: API, console and OTLP on one port, and the loops beside them."""

from __future__ import annotations

from fastapi import FastAPI

from detent.app.platform import Platform
from detent.kernel.settings import Settings


def build(platform: Platform) -> FastAPI:
    """The one application of the control plane, with all faces mounted and every route guarded."""
    raise NotImplementedError(platform)


def main(settings: Settings, *, fd: int = -1) -> int:
    """Serve until told to stop; the exit status."""
    raise NotImplementedError(settings, fd)

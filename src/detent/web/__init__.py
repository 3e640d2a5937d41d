"""The console: pages rendered on the server, each a URL with a `.json` twin. `mount` puts it into the control plane."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI

    from detent.app.platform import Platform

__all__ = ["mount"]


def mount(app: FastAPI, platform: Platform) -> None:
    """Put the console into the control plane's application. Found by the composition through its entry point."""
    from detent.web.console import mount_console

    mount_console(app, platform)

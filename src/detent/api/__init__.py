"""The REST API under `/api/v1`, OTLP under `/v1/traces`, and the OpenAPI document of both."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI

    from detent.app.platform import Platform

__all__ = ["mount"]


def mount(app: FastAPI, platform: Platform) -> None:
    """Put all routes of the API into the control plane's application."""
    from detent.api.document import mount_all

    mount_all(app, platform)

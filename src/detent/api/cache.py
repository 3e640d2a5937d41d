"""What routes keep to answer again."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from detent.api.border import Caller, ThePlatform, nouns
from detent.api.schemas.common import ReasonText, Removed
from detent.app.caching import clear_cache
from detent.app.http import needs
from detent.kernel.identity import Permission

routes = nouns("routes")


@routes.delete("/cache")
@needs(Permission.ROUTES_WRITE)
def clear(caller: Caller, platform: ThePlatform, reason: Annotated[ReasonText, Query()] = "") -> Removed:
    """Forget all kept answers of the project, on this host."""
    clear_cache(platform.settings, platform.ledger, caller, reason=reason)
    return Removed(removed="cache")

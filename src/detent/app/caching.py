"""The cache of answers as the control plane sees it: a folder that it may empty."""

from __future__ import annotations

from pathlib import Path

from detent.gateway.cache import AnswerCache
from detent.gateway.facts import CacheCleared
from detent.kernel.errors import StorageFailed
from detent.kernel.facts import Draft
from detent.kernel.identity import Permission, Principal
from detent.kernel.ports import Ledger
from detent.kernel.settings import Settings


def cache_folder(settings: Settings) -> Path:
    """Where this host's workers keep answers."""
    return settings.folder / "cache"


def clear_cache(settings: Settings, ledger: Ledger, caller: Principal, *, reason: str = "") -> None:
    """Forget all kept answers of the caller's project on this host; every worker notices at its next look.

    Raises:
        Forbidden: the caller may change no routes.
        StorageFailed: the folder cannot be changed.
    """
    caller.require(Permission.ROUTES_WRITE)
    try:
        AnswerCache(cache_folder(settings)).clear(caller.project)
    except OSError as error:
        raise StorageFailed(
            f"The cache cannot be cleared: {error.strerror}.", hint="Check the folder's owner and mode."
        ) from error
    ledger.append(
        [Draft(f"cache/{caller.project}", CacheCleared())], actor=caller.actor, project=caller.project, reason=reason
    )

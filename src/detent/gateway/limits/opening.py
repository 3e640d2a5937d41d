"""Which counters an installation uses."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from detent.gateway.limits.host import HostQuotas
from detent.kernel.clock import Clock
from detent.kernel.errors import BadSettings
from detent.kernel.ports import Quotas

GROUP: Final = "detent.quotas"
"""Entry points by scheme: each takes the URL and gives the port. Ours for PostgreSQL and Redis come in by it too."""


def open_quotas(url: str, home: Path, *, clock: Clock) -> Quotas:
    """The counters that `gateway.quotas_url` names; without one, those of this host.

    Raises:
        BadSettings: nobody serves the URL's scheme.
        MissingExtra: whoever does lacks its library.
        StorageFailed: the host's file cannot be used. Counters across a network are reached when they are first used.
    """
    if not url:
        (home / "run").mkdir(parents=True, exist_ok=True, mode=0o700)
        return HostQuotas(home / "run" / "quotas", clock=clock)
    scheme = url.partition("://")[0]
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if scheme not in found or "://" not in url:
        raise BadSettings(
            "The scheme of gateway.quotas_url is none that counters can be kept in.",
            hint="Leave it empty, or begin it with one of: " + ", ".join(f"{name}://" for name in sorted(found)) + ".",
            field="gateway.quotas_url",
        )
    opening: Callable[[str], Quotas] = found[scheme].load()
    return opening(url)

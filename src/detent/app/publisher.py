"""Compiles the gateway's configuration from the ledger and publishes it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from detent.gateway.model import Key, Provider
from detent.gateway.prices import PriceTable, shipped_prices
from detent.gateway.snapshot import Sources, compile_snapshot, publish
from detent.gateway.views import BUDGETS, KEYS, LIMITS, PRICES, PROVIDERS, ROUTES, WEIGHTS
from detent.kernel.clock import Clock
from detent.kernel.identity import Actor, Permission
from detent.kernel.ports import Ledger, Secrets


class Publisher:
    """Called after each change, and by the control process when another process moved the ledger.

    Attributes:
        rights: what an actor may do now. A key's permissions are narrowed to its issuer's, so a key whose issuer was
            shut out is refused by the gateway as well.
    """

    rights: Callable[[Actor], frozenset[Permission]]

    def __init__(
        self,
        ledger: Ledger,
        secrets: Secrets,
        folder: Path,
        *,
        engine_url: Callable[[], str],
        control_url: Callable[[], str] = lambda: "",
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._secrets = secrets
        self._folder = folder
        self._engine_url = engine_url
        self._control_url = control_url
        self._clock = clock
        self._lock = threading.Lock()
        self._table: PriceTable | None = None

    def __call__(self) -> None:
        """Compile and publish."""
        with self._lock:
            # The position is read before the views: a snapshot may hold more than it says, never less.
            position, _head = self._ledger.head()
            providers = tuple(self._ledger.rows(PROVIDERS).values())
            sources = Sources(
                position=position,
                keys=self._narrowed(self._ledger.rows(KEYS).values()),
                providers=providers,
                routes=tuple(self._ledger.rows(ROUTES).values()),
                prices=tuple(self._ledger.rows(PRICES).values()),
                secrets=self._sealed(providers),
                engine_url=self._engine_url(),
                control_url=self._control_url(),
                limits=tuple(self._ledger.rows(LIMITS).values()),
                budgets=tuple(self._ledger.rows(BUDGETS).values()),
                weights=tuple(self._ledger.rows(WEIGHTS).values()),
            )
            if self._table is None:
                self._table = shipped_prices()
            publish(compile_snapshot(sources, table=self._table, now=self._clock.now()), self._folder)

    def _narrowed(self, keys: Iterable[Key]) -> tuple[Key, ...]:
        held: dict[Actor, frozenset[Permission]] = {}
        narrowed = []
        for key in keys:
            if key.issuer not in held:
                held[key.issuer] = self.rights(key.issuer)
            allowed = tuple(p for p in key.permissions if p in held[key.issuer])
            narrowed.append(msgspec.structs.replace(key, permissions=allowed))
        return tuple(narrowed)

    def _sealed(self, providers: tuple[Provider, ...]) -> dict[str, str]:
        found = {}
        for provider in providers:
            sealed = self._secrets.get(provider.secret_id) if provider.secret_id else None
            if sealed is not None:
                found[provider.secret_id] = sealed
        return found

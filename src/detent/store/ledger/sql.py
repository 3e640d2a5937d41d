"""The Ledger port on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
from sqlalchemy import Engine

from detent.kernel.clock import Clock
from detent.kernel.facts import Draft, Fact, FactCatalog, View
from detent.kernel.identity import Actor
from detent.kernel.ids import Ids
from detent.kernel.ports import Checkpoint, Verification

S = TypeVar("S", bound=msgspec.Struct)


class SqlLedger:
    """Facts and views in one database."""

    engine: Engine

    def append(self, drafts: Sequence[Draft], *, actor: Actor, project: str, reason: str = "") -> tuple[Fact, ...]:
        raise NotImplementedError

    def read(
        self,
        *,
        after: int = 0,
        limit: int = 100,
        stream: str = "",
        kind: str = "",
        project: str = "",
        actor: str = "",
        newest_first: bool = False,
    ) -> tuple[Fact, ...]:
        raise NotImplementedError

    def get(self, view: View[S], key: str) -> S | None:
        raise NotImplementedError

    def rows(self, view: View[S], *, project: str = "") -> dict[str, S]:
        raise NotImplementedError

    def stream_version(self, stream: str) -> int:
        raise NotImplementedError

    def head(self) -> tuple[int, str]:
        raise NotImplementedError

    def seal(self) -> int:
        raise NotImplementedError

    def checkpoint(self) -> Checkpoint:
        raise NotImplementedError

    def verify(self, *, checkpoints: Sequence[Checkpoint] = (), views: bool = True) -> Verification:
        raise NotImplementedError

    def rebuild(self) -> Mapping[str, int]:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


def open_ledger(
    url: str, catalog: FactCatalog, *, checkpoints: Path, key_file: Path, clock: Clock, ids: Ids
) -> SqlLedger:
    """Open the ledger, bringing its schema up to date first."""
    raise NotImplementedError(url, catalog, checkpoints, key_file, clock, ids)

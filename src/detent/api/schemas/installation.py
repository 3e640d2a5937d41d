"""The installation as a whole."""

from __future__ import annotations

from typing import Literal

from detent.api.schemas.common import Out


class SettingOut(Out):
    """One setting; passwords in addresses are left out."""

    name: str
    value: str | int | float | bool
    default: str | int | float | bool
    env: str
    about: str


class PartOut(Out):
    """One process."""

    name: str
    kind: str
    state: str
    pid: int
    address: str
    restarts: int
    since: str | None
    detail: str


class LedgerStatusOut(Out):
    """The ledger and its newest signed checkpoint."""

    kind: str
    position: int
    head: str
    checkpoint_size: int
    checkpoint_time: str | None


class LakeStatusOut(Out):
    """The lake."""

    spans: int
    bytes: int
    partitions: int


class SpoolStatusOut(Out):
    """The spool: what waits, and what found no room."""

    bytes: int
    lag: int
    shed: int


class StatusOut(Out):
    """The whole installation at a glance."""

    version: str
    home: str
    parts: list[PartOut]
    gateway_url: str
    console_url: str
    ledger: LedgerStatusOut
    lake: LakeStatusOut
    spool: SpoolStatusOut
    snapshot_position: int
    security: list[str]


class ReadyOut(Out):
    """Whether calls would be served."""

    status: Literal["ready"]

"""What runs and how it is: the one answer behind the console's home page, `detent status`, and the API."""

from __future__ import annotations

from typing import Literal

import msgspec

PartState = Literal["running", "starting", "restarting", "stopped", "failed"]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One process that the supervisor keeps alive.

    Attributes:
        name: unique, e.g. `gateway-0`.
        kind: `gateway`, `control`, `worker` or `engine`.
        address: `http://host:port`, or empty for a process that listens on nothing.
        restarts: how often it was started again since `detent up`.
        since: ns since the epoch of the last change of state.
        detail: a sentence on why it is in this state; empty when all is well.
    """

    name: str
    kind: str
    state: PartState
    pid: int = 0
    address: str = ""
    restarts: int = 0
    since: int = 0
    detail: str = ""


class LedgerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The ledger: which database, sealed facts, hash of the last, and the newest signed checkpoint (0 when none)."""

    kind: Literal["sqlite", "postgresql"]
    position: int
    head: str
    checkpoint_size: int = 0
    checkpoint_time: int = 0


class LakeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The lake: spans, bytes on disk, and how many day partitions they are in."""

    spans: int
    bytes: int
    partitions: int


class SpoolStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The spool: bytes on disk, records not in the lake yet, and records that found no room."""

    bytes: int
    lag: int
    shed: int


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The whole installation at a glance.

    Attributes:
        parts: what the supervisor keeps alive; empty when `detent up` is not running.
        snapshot_position: the ledger position that the gateway's configuration was compiled from; 0 before the first.
        security: sentences about what stands open or is held shut: addresses, first admin, key files' modes.
    """

    version: str
    home: str
    parts: tuple[Part, ...]
    gateway_url: str
    console_url: str
    ledger: LedgerStatus
    lake: LakeStatus
    spool: SpoolStatus
    snapshot_position: int
    security: tuple[str, ...]


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """What the control process tells on its standard output, as one JSON line, once it is about to serve.

    Attributes:
        sign_in: the one-time link for the first admin; empty when one has a password already.
        storage: a few words on what is stored, for the banner.
        security: sentences for the banner.
    """

    sign_in: str = ""
    storage: str = ""
    security: tuple[str, ...] = ()


def version() -> str:
    """The installed version of Detent."""
    from importlib.metadata import version as installed

    return installed("detent")

"""How the gateway stands: what each worker writes down every second, and all workers together.

Workers keep what they know of deployments to themselves; for the console, the API and `detent status` each writes a
small file beside its figures. A file that is old belongs to a worker that is gone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from detent.gateway.admission import GateStatus
from detent.gateway.routing import DeploymentStatus
from detent.kernel.clock import SECOND

_OLD: Final = 10 * SECOND


class WorkerStanding(msgspec.Struct, frozen=True, kw_only=True):
    """One worker at a moment.

    Attributes:
        at: ns since the epoch.
        gates: by deployment (`project/provider/model`).
        shadow_spent: nano-dollars of today by route (`project/name`).
    """

    worker: str
    at: int
    inflight: int
    deployments: tuple[DeploymentStatus, ...]
    gates: dict[str, GateStatus]
    shadow_spent: dict[str, int] = {}


class GatewayStanding(msgspec.Struct, frozen=True, kw_only=True):
    """All workers together."""

    workers: int
    inflight: int
    deployments: tuple[DeploymentStatus, ...]
    gates: dict[str, GateStatus]
    shadow_spent: dict[str, int]


def write_standing(run: Path, standing: WorkerStanding) -> None:
    """Put a worker's file in place of the one before. A disk that is full costs the figures, never a call."""
    fresh = run / f"standing-{standing.worker}.{os.getpid()}.tmp"
    try:
        fresh.write_bytes(msgspec.json.encode(standing))
        fresh.replace(run / f"standing-{standing.worker}.json")
    except OSError:
        return


def read_standing(run: Path, now: int) -> GatewayStanding:
    """What all workers that live wrote last.

    Args:
        now: ns since the epoch.
    """
    found = [standing for path in sorted(run.glob("standing-*.json")) if (standing := _read(path)) is not None]
    return _together([standing for standing in found if now - standing.at < _OLD])


def _read(path: Path) -> WorkerStanding | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=WorkerStanding)
    except (OSError, msgspec.MsgspecError):
        return None


def _together(standings: Iterable[WorkerStanding]) -> GatewayStanding:
    standings = list(standings)
    deployments: dict[str, DeploymentStatus] = {}
    gates: dict[str, GateStatus] = {}
    spent: dict[str, int] = {}
    for standing in standings:
        for deployment in standing.deployments:
            known = deployments.get(deployment.name)
            deployments[deployment.name] = deployment if known is None else known.merged(deployment)
        for name, gate in standing.gates.items():
            gates[name] = gate if name not in gates else _summed(gates[name], gate)
        for route, cost in standing.shadow_spent.items():
            spent[route] = spent.get(route, 0) + cost
    return GatewayStanding(
        workers=len(standings),
        inflight=sum(standing.inflight for standing in standings),
        deployments=tuple(deployments[name] for name in sorted(deployments)),
        gates=gates,
        shadow_spent=spent,
    )


def _summed(one: GateStatus, other: GateStatus) -> GateStatus:
    bands = one.waiting.keys() | other.waiting.keys()
    return GateStatus(
        limit=one.limit + other.limit,
        in_flight=one.in_flight + other.in_flight,
        waiting={band: one.waiting.get(band, 0) + other.waiting.get(band, 0) for band in bands},
        oldest_wait=max(one.oldest_wait, other.oldest_wait),
        admitted=one.admitted + other.admitted,
        queued=one.queued + other.queued,
        refused=one.refused + other.refused,
        shed=one.shed + other.shed,
        overloads=one.overloads + other.overloads,
        first_output=max(one.first_output, other.first_output),
        per_token=max(one.per_token, other.per_token),
    )

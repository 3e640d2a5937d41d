"""How all workers stand together: summed, and without those that are gone."""

from __future__ import annotations

import random
from pathlib import Path

from detent.gateway.admission import GateStatus
from detent.gateway.model import Breaker
from detent.gateway.routing import Fleet
from detent.gateway.standing import WorkerStanding, read_standing, write_standing
from detent.kernel.clock import SECOND

NOW = 1_767_225_600 * SECOND


def standing(worker: str, at: int, calls: int) -> WorkerStanding:
    fleet = Fleet(random.Random(1).random)
    candidate = fleet.candidate("default/p/m", Breaker(), 0.0)
    for number in range(calls):
        trial = candidate.begin(float(number))
        assert trial is not None
        trial.succeeded(number + 0.5)
    gate = GateStatus(
        limit=64,
        in_flight=calls,
        waiting={"default": 1},
        oldest_wait=float(calls),
        admitted=calls,
        queued=0,
        refused=0,
        shed=0,
        overloads=0,
        first_output=0.5,
        per_token=0.0,
    )
    return WorkerStanding(
        worker=worker,
        at=at,
        inflight=calls,
        deployments=fleet.status(10.0),
        gates={"default/p/m": gate},
        shadow_spent={"default/r": calls},
    )


def test_workers_add_up(tmp_path: Path) -> None:
    write_standing(tmp_path, standing("0", NOW, 2))
    write_standing(tmp_path, standing("1", NOW - SECOND, 3))
    write_standing(tmp_path, standing("2", NOW - 60 * SECOND, 9))
    (tmp_path / "standing-3.json").write_bytes(b"{")
    found = read_standing(tmp_path, NOW)
    assert (found.workers, found.inflight, found.shadow_spent) == (2, 5, {"default/r": 5})
    assert [(d.name, d.calls) for d in found.deployments] == [("default/p/m", 5)]
    gate = found.gates["default/p/m"]
    assert (gate.limit, gate.in_flight, gate.waiting, gate.oldest_wait) == (128, 5, {"default": 2}, 3.0)
    assert not list(tmp_path.glob("*.tmp"))


def test_nobody(tmp_path: Path) -> None:
    found = read_standing(tmp_path / "none", NOW)
    assert (found.workers, found.deployments) == (0, ())

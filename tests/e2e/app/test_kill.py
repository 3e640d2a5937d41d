"""kill -9 of each process under load: nothing that was promised is lost, and nothing is there twice."""

from __future__ import annotations

import os
import threading
from collections import Counter
from pathlib import Path
from typing import Self

import pytest
from tests.e2e.app.conftest import START_SECONDS, Installation, Load, until

from detent.app.state import holder
from detent.kernel.telemetry import SpanFilter
from detent.store.ledger import read_checkpoints

ROUNDS = 60 if "DETENT_SOAK" in os.environ else 10
PARTS = ("gateway-0", "control", "worker", "engine-detent-tiny")

pytestmark = pytest.mark.e2e


class Writer:
    """Facts and jobs, one after the other; what was acknowledged is promised to be there."""

    def __init__(self, installation: Installation) -> None:
        self.keys: list[str] = []
        self.jobs: list[str] = []
        self._installation = installation
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with self._installation.platform() as platform:
            caller = platform.access.operator()
            number = 0
            while not self._stop.wait(0.2):
                number += 1
                self.keys.append(platform.gateway.mint_key(caller, f"key {number}").key.id)
                if number % 10 == 1:
                    job = platform.jobs.start("ledger.verify", {}, project="default", id=f"verify-{number}")
                    self.jobs.append(job.id)


@pytest.mark.timeout(60 + 20 * ROUNDS)
def test_nothing_promised_is_lost_or_doubled(installation: Installation) -> None:
    installation.start()
    key = installation.key()
    with Load(installation, key) as load, Writer(installation) as writer:
        until(lambda: len(load.promised) > 10, START_SECONDS, "the first calls answered")
        for _ in range(ROUNDS):
            for part in PARTS:
                before = len(load.promised)
                installation.kill(part)
                until(lambda count=before: len(load.promised) > count, START_SECONDS, f"answers after {part} died")
        until(lambda: len(writer.jobs) > 1, START_SECONDS, "jobs started")
    restarts = {part.name: part.restarts for part in installation.state().parts}
    assert restarts == dict.fromkeys(PARTS, ROUNDS)
    with installation.platform() as platform:
        for job_id in writer.jobs:
            until(lambda i=job_id: platform.jobs.get(i).state == "done", 60, f"job {job_id} done")
            assert platform.jobs.get(job_id).result is not None
            assert platform.jobs.get(job_id).result["ok"]
    assert installation.stop() == 0

    with installation.platform() as platform:
        found = Counter(spans_by_trace(platform))
        missing = [trace_id for trace_id in load.promised if trace_id not in found]
        assert not missing, f"{len(missing)} of {len(load.promised)} are lost"
        assert {trace_id: count for trace_id, count in found.items() if count != 1} == {}
        assert platform.spool_status().lag == 0
        assert platform.spool_status().shed == 0
        known = {key.id for key in platform.gateway.keys(platform.access.operator())}
        assert set(writer.keys) <= known
        verified = platform.ledger.verify(checkpoints=read_checkpoints(platform.settings.checkpoints))
        assert verified.ok, verified.findings
    # What was cut off by a kill is no more than what was in flight then.
    assert load.cut <= 3 * 2 * ROUNDS * len(PARTS)


def spans_by_trace(platform: object) -> list[str]:
    """The trace of every span in the lake."""
    from detent.app.platform import Platform

    assert isinstance(platform, Platform)
    found, after = [], ""
    while True:
        page = platform.lake.traces(SpanFilter(project="default"), limit=500, after=after)
        for row in page.rows:
            found += [row.trace_id] * len(platform.lake.trace("default", row.trace_id))
        after = page.after
        if not after:
            return found


def test_when_the_supervisor_is_killed_its_processes_leave_and_it_can_come_back(installation: Installation) -> None:
    installation.start()
    key = installation.key()
    promised = [installation.call(key).trace_id for _ in range(5)]
    pids = [part.pid for part in installation.state().parts]
    assert installation.process is not None
    installation.process.kill()
    installation.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() and _runs(pid) for pid in pids), 20, "all processes gone")
    assert holder(installation.home / "run") == 0

    installation.start()
    promised.append(installation.call(key).trace_id)
    assert installation.stop() == 0
    with installation.platform() as platform:
        assert sorted(spans_by_trace(platform)) == sorted(promised)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

"""kill -9 of each process under load: nothing that was promised is lost, and nothing is there twice."""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Self

import pytest
from tests.e2e.app.conftest import START_SECONDS, Installation, Load, until

from detent.app.state import holder
from detent.kernel.identity import Permission
from detent.kernel.telemetry import SpanFilter
from detent.store.ledger import read_checkpoints

ROUNDS = 60 if "DETENT_SOAK" in os.environ else 10
GATEWAY, CONTROL, WORKER, ENGINE = PARTS = ("gateway-0", "control", "worker", "engine-detent-tiny")
PAIRS = (
    ((GATEWAY, WORKER), (CONTROL, ENGINE)),
    ((GATEWAY, CONTROL), (WORKER, ENGINE)),
    ((GATEWAY, ENGINE), (CONTROL, WORKER)),
)
"""Who dies at the same moment: in turn each with each."""

pytestmark = pytest.mark.e2e


class Writer:
    """Facts and jobs, one after the other; what was acknowledged is promised to be there.

    Every other fact goes through the API, whose process is killed now and then; the rest through a process of its own,
    as the command line's do.
    """

    def __init__(self, installation: Installation) -> None:
        self.keys: list[str] = []
        self.jobs: list[str] = []
        self.by_api = 0
        self.cut = 0
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
            rights = frozenset({Permission.KEYS_WRITE, Permission.GATEWAY_CALL})
            token = platform.gateway.mint_key(caller, "writer", permissions=rights).token.reveal()
            number = 0
            while not self._stop.wait(0.1):
                number += 1
                if number % 2:
                    self.keys.append(platform.gateway.mint_key(caller, f"key {number}").key.id)
                else:
                    self._by_api(token, f"key {number}")
                if number % 10 == 1:
                    job = platform.jobs.start("ledger.verify", {}, project="default", id=f"verify-{number}")
                    self.jobs.append(job.id)

    def _by_api(self, token: str, name: str) -> None:
        host = self._installation.told["console_url"].removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=20)
        try:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            connection.request("POST", "/api/v1/keys", json.dumps({"name": name}), headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
            assert response.status == 201, answer
            self.keys.append(answer["id"])
            self.by_api += 1
        except (OSError, http.client.HTTPException):
            self.cut += 1
        finally:
            connection.close()


@pytest.mark.timeout(60 + 20 * ROUNDS)
def test_nothing_promised_is_lost_or_doubled(installation: Installation) -> None:
    installation.start()
    key = installation.key()
    with Load(installation, key) as load, Writer(installation) as writer:
        until(lambda: len(load.promised) > 10, START_SECONDS, "the first calls answered")
        for turn in range(ROUNDS):
            for parts in PAIRS[turn % len(PAIRS)]:
                before = len(load.promised)
                installation.kill(*parts)
                until(lambda count=before: len(load.promised) > count, START_SECONDS, f"answers after {parts} died")
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
        assert len(writer.keys) == len(set(writer.keys))
        assert writer.by_api > ROUNDS
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

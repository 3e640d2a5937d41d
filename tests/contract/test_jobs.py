"""Contract of the Jobs port, on SQLite and PostgreSQL: once done is done, what was cut off goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from detent.kernel.clock import SystemClock
from detent.kernel.errors import Conflict, InvalidInput, NotFound
from detent.kernel.ids import UuidV7
from detent.kernel.ports import Job, JobContext
from detent.store.jobs import DbosJobs, open_jobs

PATIENCE = 20.0


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    found: str = request.getfixturevalue("postgres_url")
    return found.replace("postgresql://", "postgresql+psycopg://")


class Log:
    """Lines in a file: what really ran, also in another process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, line: str) -> str:
        with self.path.open("a") as file:
            file.write(line + "\n")
        return line

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "log")


def workflows(log: Log) -> dict[str, Callable[[JobContext, dict[str, Any]], dict[str, Any]]]:
    def add(context: JobContext, arguments: dict[str, Any]) -> dict[str, Any]:
        total = context.step("add", lambda: {"total": sum(arguments["numbers"]), "pair": (1, 2)})
        context.progress(1.0, "added")
        return {"total": total["total"], "pair": total["pair"]}

    def breaks(context: JobContext, arguments: dict[str, Any]) -> dict[str, Any]:
        context.step("first", lambda: log.add("first"))

        def second() -> str:
            log.add("second")
            if not Path(arguments["mended"]).exists():
                raise ValueError("not yet")
            return "second"

        context.step("second", second)
        return {"done": True}

    def waits(context: JobContext, arguments: dict[str, Any]) -> dict[str, Any]:
        context.step("first", lambda: log.add("first"))
        for tick in range(1000):
            if Path(arguments["go"]).exists():
                break
            context.progress(0.25, f"waiting {tick}")
            time.sleep(0.05)
        context.step("last", lambda: log.add("last"))
        return {"done": True}

    return {"add": add, "breaks": breaks, "waits": waits}


@pytest.fixture
def jobs(url: str, log: Log) -> Iterator[DbosJobs]:
    worker = open_jobs(url, workflows(log), clock=SystemClock(), ids=UuidV7(), worker=True)
    yield worker
    worker.close()


@pytest.fixture
def client(url: str, log: Log) -> Iterator[DbosJobs]:
    """Another process's view: starts and looks, and runs nothing."""
    opened = open_jobs(url, workflows(log), clock=SystemClock(), ids=UuidV7(), worker=False)
    yield opened
    opened.close()


def wait(jobs: DbosJobs, job_id: str, *states: str) -> Job:
    deadline = time.monotonic() + PATIENCE
    while (job := jobs.get(job_id)).state not in states:
        assert time.monotonic() < deadline, job
        time.sleep(0.05)
    return job


def test_a_job_runs_and_tells_its_result(jobs: DbosJobs, client: DbosJobs) -> None:
    started = client.start("add", {"numbers": [1, 2, 3]}, project="default", id="sum-1")
    assert (started.id, started.name, started.project, started.arguments) == (
        "sum-1",
        "add",
        "default",
        {"numbers": [1, 2, 3]},
    )
    done = wait(client, "sum-1", "done")
    assert (done.result, done.progress, done.attempts, done.error) == ({"total": 6, "pair": [1, 2]}, 1.0, 1, "")
    assert done.updated >= done.created > 0

    again = client.start("add", {"numbers": [9]}, project="default", id="sum-1")
    assert again.result == {"total": 6, "pair": [1, 2]}
    with pytest.raises(Conflict):
        client.start("waits", {}, project="default", id="sum-1")


def test_bad_starts_are_refused_and_leave_nothing(client: DbosJobs) -> None:
    with pytest.raises(NotFound, match="no workflow"):
        client.start("nothing", {}, project="default")
    with pytest.raises(InvalidInput, match="job id"):
        client.start("add", {}, project="default", id="a b")
    with pytest.raises(InvalidInput, match="not JSON"):
        client.start("add", {"numbers": object()}, project="default")
    with pytest.raises(NotFound, match="no job"):
        client.get("sum-1")
    with pytest.raises(InvalidInput, match="no state"):
        client.list(state="sleeping")
    assert client.list() == ()


def test_a_failed_job_goes_on_from_its_failed_step(jobs: DbosJobs, log: Log, tmp_path: Path) -> None:
    mended = tmp_path / "mended"
    job = jobs.start("breaks", {"mended": str(mended)}, project="default")
    failed = wait(jobs, job.id, "failed")
    assert "not yet" in failed.error
    assert log.lines() == ["first", "second"]

    mended.touch()
    jobs.resume(job.id)
    done = wait(jobs, job.id, "done")
    assert (done.result, done.attempts) == ({"done": True}, 2)
    assert log.lines() == ["first", "second", "second"]
    with pytest.raises(Conflict):
        jobs.resume(job.id)


def test_a_cancelled_job_stops_and_can_go_on(jobs: DbosJobs, client: DbosJobs, log: Log, tmp_path: Path) -> None:
    go = tmp_path / "go"
    job = client.start("waits", {"go": str(go)}, project="default")
    deadline = time.monotonic() + PATIENCE
    while client.get(job.id).progress != 0.25:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert client.cancel(job.id).state == "cancelled"
    time.sleep(0.5)
    go.touch()
    time.sleep(0.5)
    assert log.lines() == ["first"]
    assert client.get(job.id).state == "cancelled"

    client.resume(job.id)
    wait(client, job.id, "done")
    assert log.lines() == ["first", "last"]


def test_lists_by_project_state_and_name(jobs: DbosJobs) -> None:
    for number in range(3):
        jobs.start("add", {"numbers": [number]}, project="default", id=f"a-{number}")
    jobs.start("add", {"numbers": []}, project="other", id="b")
    for job_id in ("a-0", "a-1", "a-2", "b"):
        wait(jobs, job_id, "done")
    assert [job.id for job in jobs.list(project="default")] == ["a-2", "a-1", "a-0"]
    assert [job.id for job in jobs.list(project="default", limit=1)] == ["a-2"]
    assert [job.id for job in jobs.list(project="other", state="done", name="add")] == ["b"]
    assert jobs.list(state="failed") == jobs.list(name="waits") == ()


WORKER = """
import os, signal, sys
from pathlib import Path
from detent.kernel.clock import SystemClock
from detent.kernel.ids import UuidV7
from detent.store.jobs import open_jobs

url, log = sys.argv[1], Path(sys.argv[2])

def add(line):
    with log.open("a") as file:
        file.write(line + "\\n")

def counts(context, arguments):
    for number in range(arguments["steps"]):
        context.step(f"step {number}", lambda n=number: add(f"step {n}"))
        if number == arguments["steps"] // 2 and not Path(arguments["second"]).exists():
            Path(arguments["second"]).touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return {"steps": arguments["steps"]}

jobs = open_jobs(url, {"counts": counts}, clock=SystemClock(), ids=UuidV7(), worker=True)
print("ready", flush=True)
signal.pause()
"""


def test_a_killed_worker_goes_on_and_repeats_no_finished_step(url: str, log: Log, tmp_path: Path) -> None:
    client = open_jobs(url, {"counts": lambda _c, _a: {}}, clock=SystemClock(), ids=UuidV7(), worker=False)
    client.start("counts", {"steps": 6, "second": str(tmp_path / "second")}, project="default", id="count")
    command = [sys.executable, "-c", textwrap.dedent(WORKER), url, str(log.path)]
    with subprocess.Popen(command, env=os.environ | {"PYTHONWARNINGS": "default"}) as first:
        assert first.wait(timeout=PATIENCE) == -signal.SIGKILL
    assert client.get("count").state == "running"
    with subprocess.Popen(command) as second:
        try:
            done = wait(client, "count", "done")
        finally:
            second.kill()
    client.close()
    assert (done.result, done.attempts) == ({"steps": 6}, 2)
    assert log.lines() == [f"step {number}" for number in range(6)]


def test_a_schedule_fires(url: str, log: Log) -> None:
    jobs = open_jobs(
        url,
        {"tick": lambda context, _arguments: {"tick": context.step("tick", lambda: log.add("tick"))}},
        clock=SystemClock(),
        ids=UuidV7(),
        worker=True,
        schedules={"tick": "* * * * * *"},
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while not (found := jobs.list(name="tick", state="done")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        jobs.close()
    assert (found[-1].schedule, found[-1].result) == ("tick", {"tick": "tick"})

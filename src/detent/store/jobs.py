"""The Jobs port on DBOS: durable workflows in the ledger's own database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detent.kernel.clock import Clock
from detent.kernel.ids import Ids
from detent.kernel.ports import Job, Workflow


class DbosJobs:
    """Durable work."""

    def start(self, name: str, arguments: dict[str, Any], *, project: str, id: str = "") -> Job:
        raise NotImplementedError

    def get(self, job_id: str) -> Job:
        raise NotImplementedError

    def list(self, *, project: str = "", state: str = "", name: str = "", limit: int = 50) -> tuple[Job, ...]:
        raise NotImplementedError

    def cancel(self, job_id: str) -> Job:
        raise NotImplementedError

    def resume(self, job_id: str) -> Job:
        raise NotImplementedError

    def close(self) -> None:
        pass


def open_jobs(url: str, workflows: Mapping[str, Workflow], *, clock: Clock, ids: Ids, worker: bool) -> DbosJobs:
    """Open the jobs; with `worker` they are also run here."""
    return DbosJobs()

"""The Jobs port on DBOS: durable workflows in the ledger's own database, SQLite or PostgreSQL.

A process is either a worker, which runs jobs, or a client, which starts and looks at them; DBOS is imported when the
first job is asked for, so a command that has to do with no job does not pay for it. Everything is stored as JSON:
DBOS's default would be pickle, which runs code when it is read.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from detent.kernel.clock import SECOND, Clock
from detent.kernel.errors import Conflict, InvalidInput, NotFound, StorageFailed
from detent.kernel.ids import Ids
from detent.kernel.ports import Job, JobState, Workflow

if TYPE_CHECKING:
    from dbos import DBOSClient, Serializer, WorkflowStatus

_APP: Final = "detent"
_QUEUE: Final = "detent"
_VERSION: Final = "1"
"""Of the workflows' code as DBOS sees it: a worker goes on with jobs of the same version. Raise it only when a workflow
changed so much that jobs begun before cannot go on."""

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+-]{0,199}")
_RUNNING_AT_ONCE: Final = 2
_POLL_SECONDS: Final = 0.5
_PAGE: Final = 200
_MILLISECOND: Final = SECOND // 1000
_PROGRESS_SECONDS: Final = 0.25

_STATES: Final[dict[str, JobState]] = {
    "DELAYED": "queued",
    "ENQUEUED": "queued",
    "PENDING": "running",
    "SUCCESS": "done",
    "ERROR": "failed",
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": "failed",
    "CANCELLED": "cancelled",
}
_ENDED: Final = frozenset({"done", "failed", "cancelled"})


class DbosJobs:
    """Durable work. As a worker it also runs what is queued, and goes on with what a dead worker left."""

    def __init__(self, url: str, workflows: Mapping[str, Workflow], *, clock: Clock, ids: Ids) -> None:
        self._url = url
        self._workflows = dict(workflows)
        self._clock = clock
        self._ids = ids
        self._lock = threading.Lock()
        self._client: DBOSClient | None = None
        self._close_worker: Callable[[], None] = lambda: None

    # The port

    def start(self, name: str, arguments: dict[str, Any], *, project: str, id: str = "") -> Job:
        if name not in self._workflows:
            raise NotFound(
                f"There is no workflow '{name}'.",
                hint="Choose one of: " + ", ".join(sorted(self._workflows)) + ".",
                field="name",
            )
        if id and not _ID.fullmatch(id):
            raise InvalidInput(
                "This is no job id.", hint="Use up to 200 letters, digits and . _ : + -, or leave it out.", field="id"
            )
        job_id = id or self._ids.new()
        client = self.client()
        from dbos import error

        try:
            client.enqueue(
                {
                    "workflow_name": name,
                    "queue_name": _QUEUE,
                    "workflow_id": job_id,
                    "attributes": {"project": project},
                },
                arguments,
            )
        except TypeError:
            raise InvalidInput(
                "The arguments are not JSON.", hint="Use objects, arrays, strings, numbers.", field="arguments"
            ) from None
        except error.DBOSConflictingWorkflowError:
            raise Conflict(
                f"The job '{job_id}' is of another workflow.", hint="Choose another id.", field="id"
            ) from None
        return self.get(job_id)

    def get(self, job_id: str) -> Job:
        found = self.client().list_workflows(workflow_ids=[job_id])
        if not found:
            raise NotFound(f"There is no job '{job_id}'.", hint="List them with `detent jobs list`.", field="id")
        return _job(found[0])

    def list(self, *, project: str = "", state: str = "", name: str = "", limit: int = 50) -> tuple[Job, ...]:
        """Newest first; those of schedules belong to every project."""
        raw = [word for word, meaning in _STATES.items() if meaning == state] if state else None
        if state and not raw:
            raise InvalidInput(
                f"There is no state '{state}'.",
                hint="Choose one of: " + ", ".join(dict.fromkeys(_STATES.values())) + ".",
                field="state",
            )
        jobs: list[Job] = []
        for job in self._pages(status=raw, name=name or None):
            if len(jobs) >= limit:
                break
            if not project or not job.project or job.project == project:
                jobs.append(job)
        return tuple(jobs)

    def cancel(self, job_id: str) -> Job:
        """Stop a job at its next step or progress; one that has ended stays as it is."""
        if self.get(job_id).state not in _ENDED:
            self.client().cancel_workflow(job_id)
        return self.get(job_id)

    def resume(self, job_id: str) -> Job:
        job = self.get(job_id)
        client = self.client()
        if job.state == "cancelled":
            client.resume_workflow(job_id, queue_name=_QUEUE)
        elif job.state == "failed":
            steps = client.list_workflow_steps(job_id)
            failed = next((step["function_id"] for step in steps if step["error"] is not None), None)
            # Without a failed step the workflow itself raised between two of them: all of its steps are kept.
            last = max((step["function_id"] for step in steps), default=0)
            client.rewind_workflow(job_id, start_step=failed or last + 1, queue_name=_QUEUE)
        else:
            raise Conflict(f"The job is {job.state}.", hint="Only a cancelled or failed job can go on.", field="id")
        return self.get(job_id)

    def close(self) -> None:
        """Give the database back; jobs that run are cut off and go on when a worker starts again."""
        self._close_worker()
        with self._lock:
            if self._client is not None:
                self._client.destroy()
                self._client = None

    # Inside

    def run_here(self, schedules: Mapping[str, str]) -> None:
        """Become a worker: go on with what was cut off, take what is queued, and fire schedules (name to cron)."""
        from dbos import DBOS

        _quiet()
        DBOS(
            config={
                "name": _APP,
                "system_database_url": self._url,
                "application_version": _VERSION,
                # Jobs that were running belong to this name; one worker per host takes its own up again.
                "executor_id": f"worker@{socket.gethostname()}",
                "serializer": _serializer(),
                "enable_otlp": False,
                "use_listen_notify": False,
                "log_level": "WARNING",
                "sys_db_pool_size": 6,
                "max_executor_threads": 8,
            }
        )
        functions = {
            name: DBOS.workflow(name=name, max_recovery_attempts=100)(_runner(self, workflow))
            for name, workflow in self._workflows.items()
        }
        DBOS.launch()
        DBOS.register_queue(_QUEUE, worker_concurrency=_RUNNING_AT_ONCE, polling_interval_sec=_POLL_SECONDS)
        DBOS.apply_schedules(
            [
                {"schedule_name": name, "workflow_fn": functions[name], "schedule": cron, "context": {}}
                for name, cron in schedules.items()
            ]
        )
        self._close_worker = lambda: DBOS.destroy(destroy_registry=True)

    def client(self) -> DBOSClient:
        """The connection to DBOS's tables, opened at the first call."""
        with self._lock:
            if self._client is None:
                self._client = self._open()
            return self._client

    def _open(self) -> DBOSClient:
        from dbos import DBOS, DBOSClient
        from sqlalchemy.exc import SQLAlchemyError

        _quiet()
        try:
            DBOS.migrate(self._url)
            return DBOSClient(
                system_database_url=self._url,
                serializer=_serializer(),
                application_name=_APP,
                system_database_pool_size=3,
                retry_connection_errors=False,
            )
        except SQLAlchemyError as error:
            raise StorageFailed(
                f"The jobs' database cannot be opened: {type(error).__name__}.", hint="Run `detent doctor`."
            ) from None

    def _pages(self, **where: Any) -> Iterator[Job]:
        offset = 0
        while True:
            page = self.client().list_workflows(limit=_PAGE, offset=offset, sort_desc=True, **where)
            yield from map(_job, page)
            if len(page) < _PAGE:
                return
            offset += _PAGE


class _Context:
    """What a workflow is given while it runs here."""

    def __init__(self, job: Job, client: DBOSClient) -> None:
        self.id = job.id
        self.project = job.project
        self._client = client
        self._told = (0.0, "")

    def step(self, name: str, work: Callable[[], Any]) -> Any:
        from dbos import DBOS

        # What the first run sees is what a later one is given: the value after its way through JSON.
        return DBOS.run_step({"name": name}, lambda: json.loads(json.dumps(work(), allow_nan=False)))

    def progress(self, fraction: float, note: str = "") -> None:
        from dbos import error

        now = time.monotonic()
        told, last_note = self._told
        if note == last_note and fraction < 1.0 and now - told < _PROGRESS_SECONDS:
            return
        self._told = (now, note)
        # Not through DBOS's own context, where it would count as a step and be replayed.
        if self._client.list_workflows(workflow_ids=[self.id], status="CANCELLED", load_input=False):
            raise error.DBOSWorkflowCancelledError(f"The job {self.id} was cancelled.")
        told_now = {"progress": round(min(max(fraction, 0.0), 1.0), 4), "step": note[:200]}
        self._client.update_workflow_attributes(self.id, told_now, merge=True)


def _runner(jobs: DbosJobs, workflow: Workflow) -> Callable[..., Any]:
    """The workflow as DBOS calls it: with its arguments, or by a schedule with a time and a context."""

    def run(*given: Any) -> dict[str, Any]:
        from dbos import DBOS

        arguments = next((value for value in given if isinstance(value, dict)), {})
        job_id, client = str(DBOS.workflow_id), jobs.client()
        job = jobs.get(job_id)
        client.update_workflow_attributes(job_id, {"attempts": job.attempts + 1}, merge=True)
        return workflow(_Context(job, client), arguments)

    return run


def _job(status: WorkflowStatus) -> Job:
    attributes = status.attributes or {}
    state = _STATES.get(status.status, "failed")
    given = status.input["args"] if isinstance(status.input, dict) else ()
    arguments = next((value for value in given if isinstance(value, dict)), {})
    return Job(
        id=status.workflow_id,
        name=status.name,
        state=state,
        project=str(attributes.get("project", "")),
        created=(status.created_at or 0) * _MILLISECOND,
        updated=(status.updated_at or status.created_at or 0) * _MILLISECOND,
        progress=1.0 if state == "done" else float(attributes.get("progress", 0.0)),
        step=str(attributes.get("step", "")),
        arguments=arguments,
        result=status.output if isinstance(status.output, dict) else None,
        error=str(status.error) if status.error is not None else "",
        schedule=status.schedule_name or "",
        attempts=int(attributes.get("attempts", 0)),
    )


def _serializer() -> Serializer:
    from dbos import DBOSPortableJSONSerializer

    return DBOSPortableJSONSerializer()


def _quiet() -> None:
    """Let DBOS speak through the process's own log, and only when something is wrong; its own handler stays away."""
    logger = logging.getLogger("dbos")
    logger.setLevel(logging.WARNING)
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


def open_jobs(
    url: str,
    workflows: Mapping[str, Workflow],
    *,
    clock: Clock,
    ids: Ids,
    worker: bool,
    schedules: Mapping[str, str] | None = None,
) -> DbosJobs:
    """Open the jobs; with `worker` they are also run here, and `schedules` (workflow name to cron) fire.

    Raises:
        StorageFailed: the database cannot be opened.
    """
    jobs = DbosJobs(url, workflows, clock=clock, ids=ids)
    if worker:
        jobs.run_here(schedules or {})
    return jobs

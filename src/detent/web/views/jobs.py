"""Jobs: long work that survives a crash; the list, one job, and starting, cancelling and resuming it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from detent.kernel.errors import InvalidInput, NotFound
from detent.kernel.identity import Permission
from detent.kernel.ports import Job
from detent.web.page import Action, Goto, Outcome, Page
from detent.web.table import Table
from detent.web.visit import Form, Visit

STATES: Final = ("queued", "running", "done", "failed", "cancelled")
OFFERED: Final[Mapping[str, str]] = {
    "maintenance": "Sign a checkpoint, seal closed days, drop what is past its retention.",
    "ledger.verify": "Recompute the whole ledger and compare it with the signed checkpoints.",
    "lake.seal": "Turn closed days into Parquet.",
    "blobs.fsck": "Read every blob and name what is damaged, missing, stray or orphaned.",
}
"""What the page offers to start, in words."""


class JobsView(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs, newest first."""

    jobs: tuple[Job, ...]
    state: str
    name: str
    names: tuple[str, ...]
    offered: dict[str, str]
    active: bool
    limit: int


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """One job."""

    job: Job
    arguments: str
    result: str
    active: bool
    can_cancel: bool
    can_resume: bool


def view(visit: Visit) -> JobsView:
    """The jobs that the filters ask for."""
    state, name = visit.choice("state", STATES), visit.get("name")
    limit = min(int(visit.number("limit", 50)) or 50, 500)
    jobs = visit.platform.jobs.list(project=visit.caller.project, state=state, name=name, limit=limit)
    return JobsView(
        jobs=jobs,
        state=state,
        name=name,
        names=tuple(sorted({*OFFERED, *(job.name for job in jobs), *([name] if name else [])})),
        offered=dict(OFFERED),
        active=any(job.state in {"queued", "running"} for job in jobs),
        limit=limit,
    )


def one(visit: Visit) -> JobView:
    """The job that the path names."""
    job = _job(visit)
    return JobView(
        job=job,
        arguments=_pretty(job.arguments),
        result=_pretty(job.result) if job.result is not None else "",
        active=job.state in {"queued", "running"},
        can_cancel=job.state in {"queued", "running"},
        can_resume=job.state in {"failed", "cancelled"},
    )


def _job(visit: Visit) -> Job:
    job = visit.platform.jobs.get(visit.args["job_id"])
    if job.project != visit.caller.project:
        raise NotFound("There is no such job.", hint="List them with `detent jobs list`.")
    return job


def _pretty(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def start(visit: Visit, form: Form) -> Outcome:
    """Queue a job."""
    try:
        arguments = msgspec.json.decode(form.get("arguments") or "{}")
    except msgspec.MsgspecError:
        arguments = None
    if not isinstance(arguments, dict):
        raise InvalidInput("The arguments are no JSON object.", hint='Give e.g. {"days": []}.', field="arguments")
    job = visit.platform.jobs.start(form.get("name"), arguments, project=visit.caller.project)
    return Goto(f"/jobs/{job.id}", "job-started")


def cancel(visit: Visit, _form: Form) -> Outcome:
    """Stop a job at its next step."""
    job = visit.platform.jobs.cancel(_job(visit).id)
    return Goto(f"/jobs/{job.id}", "job-cancelled")


def resume(visit: Visit, _form: Form) -> Outcome:
    """Go on with a job."""
    job = visit.platform.jobs.resume(_job(visit).id)
    return Goto(f"/jobs/{job.id}", "job-resumed")


def tables(view: JobsView) -> Mapping[str, Table]:
    """The list."""
    return {
        "jobs": Table(
            ("id", "name", "state", "progress", "step", "created_ns", "updated_ns", "attempts", "schedule", "error"),
            [
                (j.id, j.name, j.state, j.progress, j.step, j.created, j.updated, j.attempts, j.schedule, j.error)
                for j in view.jobs
            ],
        )
    }


PAGE = Page("/jobs", Permission.JOBS_READ, "jobs.html", view, tables)
ONE = Page("/jobs/{job_id}", Permission.JOBS_READ, "job.html", one)
ACTIONS = (
    Action("/jobs", Permission.JOBS_WRITE, PAGE, start),
    Action("/jobs/{job_id}/cancel", Permission.JOBS_WRITE, ONE, cancel),
    Action("/jobs/{job_id}/resume", Permission.JOBS_WRITE, ONE, resume),
)

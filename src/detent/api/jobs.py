"""Durable work."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from fastapi import Query

from detent.api.border import Caller, Id, ThePlatform, nouns
from detent.api.schemas.common import Page
from detent.api.schemas.jobs import JobIn, JobOut
from detent.app.http import needs
from detent.app.platform import Platform
from detent.kernel.canonical import canonical_json
from detent.kernel.errors import NotFound, TooLarge
from detent.kernel.identity import Permission, Principal
from detent.kernel.ports import Job

routes = nouns("jobs")
_MAX_ARGUMENTS: Final = 100_000
State = Literal["", "queued", "running", "done", "failed", "cancelled"]


@routes.get("/jobs")
@needs(Permission.JOBS_READ)
def list_jobs(
    caller: Caller,
    platform: ThePlatform,
    state: Annotated[State, Query()] = "",
    name: Annotated[str, Query(max_length=100)] = "",
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Page[JobOut]:
    """Jobs, newest first."""
    found = platform.jobs.list(project=caller.project, state=state, name=name, limit=limit)
    return Page(items=[JobOut.of(job) for job in found])


@routes.post("/jobs", status_code=201)
@needs(Permission.JOBS_WRITE)
def start_job(body: JobIn, caller: Caller, platform: ThePlatform) -> JobOut:
    """Queue a workflow by name."""
    if len(canonical_json(body.arguments)) > _MAX_ARGUMENTS:
        raise TooLarge(
            f"The arguments are over {_MAX_ARGUMENTS} bytes.", hint="Store them as a blob.", field="arguments"
        )
    if body.id:
        _refuse_foreign(platform, caller, body.id)
    return JobOut.of(platform.jobs.start(body.name, body.arguments, project=caller.project, id=body.id))


@routes.get("/jobs/{id}")
@needs(Permission.JOBS_READ)
def read_job(id: Id, caller: Caller, platform: ThePlatform) -> JobOut:
    """One job."""
    return JobOut.of(_own(platform, caller, id))


@routes.post("/jobs/{id}/cancel")
@needs(Permission.JOBS_WRITE)
def cancel_job(id: Id, caller: Caller, platform: ThePlatform) -> JobOut:
    """Stop a job at its next step."""
    return JobOut.of(platform.jobs.cancel(_own(platform, caller, id).id))


@routes.post("/jobs/{id}/resume")
@needs(Permission.JOBS_WRITE)
def resume_job(id: Id, caller: Caller, platform: ThePlatform) -> JobOut:
    """Go on with a cancelled or failed job from its last finished step."""
    return JobOut.of(platform.jobs.resume(_own(platform, caller, id).id))


def _own(platform: Platform, caller: Principal, job_id: str) -> Job:
    """A job of the caller's project. Another project's is answered like one that does not exist, to the letter."""
    try:
        job = platform.jobs.get(job_id)
    except NotFound:
        raise _unknown(job_id) from None
    if job.project != caller.project:
        raise _unknown(job_id)
    return job


def _refuse_foreign(platform: Platform, caller: Principal, job_id: str) -> None:
    """An id that another project uses must not give its job."""
    try:
        job = platform.jobs.get(job_id)
    except NotFound:
        return
    if job.project != caller.project:
        raise _unknown(job_id)


def _unknown(job_id: str) -> NotFound:
    return NotFound(f"There is no job '{job_id}'.", hint="List them at /api/v1/jobs.", field="id")

"""Durable work."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field

from detent.api.schemas.common import In, Out
from detent.kernel.clock import iso
from detent.kernel.ports import Job


class JobIn(In):
    """A workflow to queue. The same `id` again gives the same job."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    arguments: dict[str, Any] = Field(default={})
    id: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9._:-]*$")] = ""


class JobOut(Out):
    """A durable workflow."""

    id: str
    name: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    progress: float
    step: str | None
    created: str
    updated: str
    arguments: dict[str, Any]
    result: dict[str, Any] | None
    error: str | None
    schedule: str | None
    attempts: int

    @classmethod
    def of(cls, job: Job) -> Self:
        """From the port's job."""
        return cls(
            id=job.id,
            name=job.name,
            state=job.state,
            progress=job.progress,
            step=job.step or None,
            created=iso(job.created),
            updated=iso(job.updated),
            arguments=job.arguments,
            result=job.result,
            error=job.error or None,
            schedule=job.schedule or None,
            attempts=job.attempts,
        )

"""`detent jobs`: durable work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from detent.cli.options import PAIR
from detent.cli.progress import Progress
from detent.cli.shell import Noun, Shell, pass_shell
from detent.cli.shown import job_json, page_json
from detent.cli.text import details, moment, number, shorten, table
from detent.kernel.errors import InvalidInput, NotFound
from detent.kernel.identity import Permission, Principal
from detent.kernel.ports import Job

if TYPE_CHECKING:
    from detent.app.platform import Platform

_STATES = ("queued", "running", "done", "failed", "cancelled")


@click.group("jobs", cls=Noun)
def jobs() -> None:
    """Durable work: what finished is not done twice, what was killed goes on."""


@jobs.command("list")
@click.option("--state", type=click.Choice(_STATES), help="Only these.")
@click.option("--name", default="", help="Only this workflow.")
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True, help="At most so many.")
@pass_shell
def list_jobs(shell: Shell, state: str | None, name: str, limit: int) -> None:
    """Show jobs, newest first."""
    with shell.platform() as (platform, caller):
        caller.require(Permission.JOBS_READ)
        found = platform.jobs.list(project=caller.project, state=state or "", name=name, limit=limit)
    rows = [
        (
            job.name,
            job.state,
            f"{job.progress:.0%}",
            shorten(job.step or job.error or "-", 40),
            moment(job.created),
            moment(job.updated),
            job.id,
        )
        for job in found
    ]
    shell.show(
        page_json([job_json(job) for job in found]),
        lambda: table(("JOB", "STATE", number("DONE"), "AT", "CREATED", "UPDATED", "ID"), rows),
    )
    if not found:
        shell.say("No jobs.")


@jobs.command("show")
@click.argument("job_id", metavar="ID")
@click.option("--wait", is_flag=True, help="Wait until it has ended, with a progress bar.")
@pass_shell
def show(shell: Shell, job_id: str, wait: bool) -> None:
    """Show one job."""
    with shell.platform() as (platform, caller):
        caller.require(Permission.JOBS_READ)
        job = _own(platform, caller, job_id)
        if wait:
            job = waited(platform, job)
    shell.show(job_json(job), lambda: _details(job))


@jobs.command("start")
@click.argument("name")
@click.option("--argument", "pairs", type=PAIR, multiple=True, metavar="NAME=VALUE", help="JSON value or text.")
@click.option("--id", "job_id", default="", help="Your own id: the same again gives the same job.")
@pass_shell
def start(shell: Shell, name: str, pairs: tuple[tuple[str, str], ...], job_id: str) -> None:
    """Queue a workflow by name."""
    arguments = {key: _json_or_text(value) for key, value in pairs}
    with shell.platform() as (platform, caller):
        caller.require(Permission.JOBS_WRITE)
        job = platform.jobs.start(name, arguments, project=caller.project, id=job_id)
    shell.show(job_json(job), lambda: job.id)
    shell.say(f"Queued. Follow it: detent jobs show {job.id} --wait")


@jobs.command("cancel")
@click.argument("job_id", metavar="ID")
@pass_shell
def cancel(shell: Shell, job_id: str) -> None:
    """Stop a job at its next step."""
    with shell.platform() as (platform, caller):
        caller.require(Permission.JOBS_WRITE)
        job = platform.jobs.cancel(_own(platform, caller, job_id).id)
    shell.show(job_json(job), lambda: job.id)
    shell.say(f"Job {job.id} is {job.state}. Go on with it: detent jobs resume {job.id}")


@jobs.command("resume")
@click.argument("job_id", metavar="ID")
@pass_shell
def resume(shell: Shell, job_id: str) -> None:
    """Go on with a cancelled or failed job from its last finished step."""
    with shell.platform() as (platform, caller):
        caller.require(Permission.JOBS_WRITE)
        job = platform.jobs.resume(_own(platform, caller, job_id).id)
    shell.show(job_json(job), lambda: job.id)
    shell.say(f"Job {job.id} is {job.state}.")


def _own(platform: Platform, caller: Principal, job_id: str) -> Job:
    job = platform.jobs.get(job_id)
    if job.project != caller.project:
        raise NotFound(f"There is no job '{job_id}'.", hint="List them with `detent jobs list`.", field="id")
    return job


def waited(platform: Platform, job: Job) -> Job:
    """A job when it has ended, with a progress bar until then."""
    import time

    with Progress("percent", total=100) as progress:
        while job.state in {"queued", "running"}:
            progress.at(round(job.progress * 100))
            time.sleep(0.25)
            job = platform.jobs.get(job.id)
    return job


def _json_or_text(text: str) -> Any:
    try:
        value = msgspec.json.decode(text)
    except msgspec.MsgspecError:
        return text
    if isinstance(value, dict | list) and len(text) > 100_000:
        raise InvalidInput("An argument is too large.", hint="Give at most 100000 characters.", field="argument")
    return value


def _details(job: Job) -> str:
    return details(
        [
            ("job", job.id),
            ("workflow", job.name),
            ("state", job.state),
            ("progress", f"{job.progress:.0%}"),
            ("at", job.step),
            ("created", moment(job.created)),
            ("updated", moment(job.updated)),
            ("attempts", str(job.attempts)),
            ("schedule", job.schedule),
            ("arguments", msgspec.json.encode(job.arguments).decode() if job.arguments else ""),
            ("result", msgspec.json.encode(job.result).decode() if job.result is not None else ""),
            ("error", job.error),
        ]
    )

"""`detent batches`: many calls in one file, made when there is room."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

import click

from detent.cli.files import opened
from detent.cli.options import PAIR
from detent.cli.progress import Progress
from detent.cli.shell import Noun, Shell, pass_shell
from detent.cli.shown import batch_json, page_json
from detent.cli.text import count, details, duration, moment, number, table
from detent.gateway.batches.model import ENDED, Batch, Endpoint, Status
from detent.kernel.clock import SECOND
from detent.kernel.identity import Principal

if TYPE_CHECKING:
    from detent.app.platform import Platform

FAILED: Final = 1
"""Exit code of a wait that did not end in a completed batch."""
_LOOK_SECONDS: Final = 0.25


@click.group("batches", cls=Noun)
def batches() -> None:
    """Many calls in one file, made in the lowest priority band, as under /v1/batches."""


@batches.command("submit")
@click.argument("source", metavar="FILE")
@click.option(
    "--endpoint",
    type=click.Choice(get_args(Endpoint)),
    default="/v1/chat/completions",
    show_default=True,
    help="What each line calls.",
)
@click.option("--window", default="24h", show_default=True, help="What is not done by then expires: 24h, 7d.")
@click.option("--metadata", "pairs", type=PAIR, multiple=True, metavar="NAME=VALUE", help="A note of your own.")
@click.option("--wait", is_flag=True, help="Wait until it is over, with a progress bar; exits 1 unless completed.")
@pass_shell
def submit(
    shell: Shell, source: str, endpoint: str, window: str, pairs: tuple[tuple[str, str], ...], wait: bool
) -> int:
    """Begin a batch of the calls in FILE: a file here, or the id of one that is stored."""
    with shell.platform() as (platform, caller):
        here = Path(source).exists() or not source.startswith("file-")
        file_id = _stored(platform, caller, Path(source)) if here else source
        made = platform.batches.submit(
            caller, input_file=file_id, endpoint=endpoint, window=window, metadata=dict(pairs) or None
        )
        if not _is_up(platform):
            shell.say("Nothing is running here that could do it: start `detent up`.")
        if wait:
            return _ended(shell, platform, caller, made)
        shell.show(batch_json(made, platform.batches.metadata(made)), lambda: made.id)
    shell.say(f"Submitted. Follow it: detent batches show {made.id} --wait")
    return 0


@batches.command("list")
@click.option("--status", type=click.Choice(get_args(Status)), help="Only these.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="At most so many.")
@pass_shell
def list_batches(shell: Shell, status: str | None, limit: int) -> None:
    """Show the project's batches, newest first."""
    with shell.platform() as (platform, caller):
        found = [batch for batch in platform.batches.batches(caller) if status in {None, batch.status}]
        shown = found[:limit]
        data = page_json([batch_json(batch, platform.batches.metadata(batch)) for batch in shown])
    rows = [
        (b.status, count(b.completed), count(b.failed), count(b.total), b.endpoint, moment(b.created), b.id)
        for b in shown
    ]
    heads = ("STATUS", number("DONE"), number("FAILED"), number("OF"), "ENDPOINT", "CREATED", "ID")
    shell.show(data, lambda: table(heads, rows))
    if not found:
        shell.say("No batches. Submit one: detent batches submit FILE")
    elif len(found) > limit:
        shell.say(f"{len(found) - limit} more: --limit {len(found)}")


@batches.command("show")
@click.argument("batch_id", metavar="ID")
@click.option("--wait", is_flag=True, help="Wait until it is over, with a progress bar; exits 1 unless completed.")
@pass_shell
def show(shell: Shell, batch_id: str, wait: bool) -> int:
    """Show one batch."""
    with shell.platform() as (platform, caller):
        batch = platform.batches.batch(caller, batch_id)
        if wait:
            return _ended(shell, platform, caller, batch)
        metadata = platform.batches.metadata(batch)
    shell.show(batch_json(batch, metadata), lambda: _details(batch, metadata))
    return 0


@batches.command("cancel")
@click.argument("batch_id", metavar="ID")
@pass_shell
def cancel(shell: Shell, batch_id: str) -> None:
    """Stop a batch; calls in flight finish, and what is done is kept."""
    with shell.platform() as (platform, caller):
        batch = platform.batches.cancel(caller, batch_id)
        metadata = platform.batches.metadata(batch)
    shell.show(batch_json(batch, metadata), lambda: batch.id)
    shell.say(f"Batch {batch.id} is {batch.status}.")


def _stored(platform: Platform, caller: Principal, path: Path) -> str:
    with opened(path) as data:
        return platform.files.store(caller, path.name, "batch", data, path.stat().st_size).id


def _is_up(platform: Platform) -> bool:
    return any(part.name == "worker" for part in platform.status().parts)


def _ended(shell: Shell, platform: Platform, caller: Principal, batch: Batch) -> int:
    """Wait for its end, show it, and give the exit code."""
    while not batch.total and batch.status not in ENDED:
        time.sleep(_LOOK_SECONDS)
        batch = platform.batches.batch(caller, batch.id)
    with Progress("calls", total=batch.total) as progress:
        while batch.status not in ENDED:
            progress.at(batch.completed + batch.failed)
            time.sleep(_LOOK_SECONDS)
            batch = platform.batches.batch(caller, batch.id)
    metadata = platform.batches.metadata(batch)
    shell.show(batch_json(batch, metadata), lambda: _details(batch, metadata))
    if batch.output_file:
        shell.say(f"Answers: detent files download {batch.output_file}")
    if batch.error_file:
        shell.say(f"Failures: detent files download {batch.error_file}")
    return 0 if batch.status == "completed" else FAILED


def _details(batch: Batch, metadata: dict[str, str] | None) -> str:
    took = batch.ended - batch.started if batch.ended and batch.started else 0
    return details(
        [
            ("batch", batch.id),
            ("status", batch.status),
            ("problem", batch.problem),
            ("endpoint", batch.endpoint),
            ("calls", count(batch.total)),
            ("done", count(batch.completed)),
            ("failed", count(batch.failed)),
            ("input", batch.input_file),
            ("output", batch.output_file),
            ("errors", batch.error_file),
            ("created", moment(batch.created)),
            ("expires", moment(batch.expires) if batch.status not in ENDED else ""),
            ("ended", moment(batch.ended) if batch.ended else ""),
            ("took", duration(took) if took else ""),
            ("per second", f"{batch.completed / (took / SECOND):.1f}" if took and batch.completed else ""),
            ("metadata", ", ".join(f"{name}={value}" for name, value in (metadata or {}).items())),
        ]
    )

"""`detent files`: what applications and batches store."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import BinaryIO, get_args

import click

from detent.cli.shell import Noun, Shell, pass_shell
from detent.cli.shown import file_json, page_json
from detent.cli.text import moment, number, shorten, size, table
from detent.gateway.batches.model import Purpose
from detent.kernel.errors import InvalidInput

_SENT = [word for word in get_args(Purpose) if word != "batch_output"]


@click.group("files", cls=Noun)
def files() -> None:
    """Files that applications and batches store, as under /v1/files."""


@files.command("list")
@click.option("--purpose", type=click.Choice(get_args(Purpose)), help="Only these.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="At most so many.")
@pass_shell
def list_files(shell: Shell, purpose: str | None, limit: int) -> None:
    """Show the project's files, newest first."""
    with shell.platform() as (platform, caller):
        found = platform.files.files(caller, purpose=purpose or "")
    shown = found[:limit]
    rows = [(shorten(f.filename, 40), f.purpose, size(f.bytes), moment(f.created), f.id) for f in shown]
    shell.show(
        page_json([file_json(file) for file in shown]),
        lambda: table(("NAME", "PURPOSE", number("SIZE"), "CREATED", "ID"), rows),
    )
    if not found:
        shell.say("No files yet. Store one: detent files upload FILE")
    elif len(found) > limit:
        shell.say(f"{len(found) - limit} more: --limit {len(found)}")


@files.command("upload")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--purpose", type=click.Choice(_SENT), default="batch", show_default=True, help="What it is for.")
@click.option("--name", default="", help="What it is called; else as it is called here.")
@pass_shell
def upload(shell: Shell, path: Path, purpose: str, name: str) -> None:
    """Store a file, and give its id."""
    with shell.platform() as (platform, caller), opened(path) as data:
        stored = platform.files.store(caller, name or path.name, purpose, data, path.stat().st_size)
    shell.show(file_json(stored), lambda: stored.id)
    if purpose == "batch":
        shell.say(f"Stored. Next: detent batches submit {stored.id}")


@files.command("download")
@click.argument("file_id", metavar="ID")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write; else stdout.")
@pass_shell
def download(shell: Shell, file_id: str, out: Path | None) -> None:
    """Write a file's bytes."""
    with shell.platform() as (platform, caller):
        found = platform.files.file(caller, file_id)
        with (
            platform.files.content(caller, file_id) as data,
            click.open_file(str(out or "-"), "wb", atomic=out is not None) as sink,
        ):
            shutil.copyfileobj(data, sink)
    if out is not None:
        shell.show(file_json(found), lambda: str(out))


@files.command("remove")
@click.argument("file_id", metavar="ID")
@pass_shell
def remove(shell: Shell, file_id: str) -> None:
    """Remove a file; refused while a batch reads it."""
    with shell.platform() as (platform, caller):
        removed = platform.files.remove(caller, file_id)
    shell.show({"removed": removed.id}, lambda: removed.id)
    shell.say(f"'{removed.filename}' is removed.")


def opened(path: Path) -> BinaryIO:
    """A file of this machine, open for reading.

    Raises:
        InvalidInput: there is none, or it cannot be read.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise InvalidInput(
            f"The file {path} cannot be read: {error.strerror}.", hint="Give the path of a file.", field="file"
        ) from None

"""`detent blobs`: stored bytes and their integrity."""

from __future__ import annotations

import click
import msgspec

from detent.cli.shell import Noun, Shell, pass_shell
from detent.cli.text import table

FOUND = 6
"""Exit code of a check that found something wrong."""


@click.group("blobs", cls=Noun)
def blobs() -> None:
    """Stored bytes and their integrity."""


@blobs.command("fsck")
@pass_shell
def fsck(shell: Shell) -> int:
    """Read every blob and compare it with its name. Exits 6 when something is wrong."""
    with shell.platform() as (platform, _caller):
        damage = platform.blobs.fsck()
        stored = sum(1 for _digest in platform.blobs.digests())
    rows = [(d.problem, d.digest, d.detail) for d in damage]
    data = {"ok": not damage, "blobs": stored, "damage": [msgspec.to_builtins(d) for d in damage]}
    shell.show(data, lambda: table(("PROBLEM", "BLOB", "DETAIL"), rows) or f"ok  {stored} blobs")
    if damage:
        shell.say("Error: some blobs are not as they should be. Restore the damaged ones from a backup.")
    return FOUND if damage else 0

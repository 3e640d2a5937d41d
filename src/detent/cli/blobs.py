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
    """Read every blob, and compare it with its name and with what refers to it.

    Exits 6 when something is damaged, missing or stray; a blob that nothing refers to only takes room.
    """
    from detent.app.checking import check_blobs, is_sound

    with shell.platform() as (platform, _caller):
        damage = check_blobs(platform.ledger, platform.blobs)
        stored = sum(1 for _digest in platform.blobs.digests())
    sound = is_sound(damage)
    rows = [(d.problem, d.digest, d.detail) for d in damage]
    data = {"ok": sound, "blobs": stored, "damage": [msgspec.to_builtins(d) for d in damage]}
    shell.show(data, lambda: table(("PROBLEM", "BLOB", "DETAIL"), rows) or f"ok  {stored} blobs")
    if not sound:
        shell.say("Error: some blobs are not as they should be. Restore the damaged and missing ones from a backup.")
    elif damage:
        shell.say("Nothing is lost. Orphans were stored by a process that died before it recorded them.")
    return 0 if sound else FOUND

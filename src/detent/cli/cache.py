"""`detent cache`: answers that are kept to be given again."""

from __future__ import annotations

import click

from detent.cli.shell import Noun, Shell, pass_shell


@click.group("cache", cls=Noun)
def cache() -> None:
    """Answers that routes keep to give them again."""


@cache.command("clear")
@click.option("--reason", default="", help="Why, for the ledger.")
@pass_shell
def clear(shell: Shell, reason: str) -> None:
    """Forget all kept answers of the project, on this host."""
    from detent.app.caching import clear_cache

    with shell.platform() as (platform, caller):
        clear_cache(platform.settings, platform.ledger, caller, reason=reason)
    shell.show({"removed": "cache"}, lambda: "cache")
    shell.say("All workers of this host have forgotten them.")

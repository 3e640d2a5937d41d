"""The root of all commands: which nouns there are, and how every run ends.

Exit codes:

    0    done
    1    failed: something around Detent (a disk, a port, a provider), or a bug
    2    wrong usage, or a value that cannot be used
    3    not found
    4    not allowed
    5    conflict: it exists already, or changed meanwhile
    6    a check found something wrong (`audit verify`, `blobs fsck`, `doctor`)
    130  interrupted
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

import click

from detent import __version__
from detent.cli.shell import Shell
from detent.kernel.errors import Conflict, DetentError, Forbidden, InvalidInput, NotFound, TooLarge, Unauthenticated

NOUNS: Final[dict[str, tuple[str, str]]] = {
    "up": ("detent.cli.up:up", "Start everything and keep it running."),
    "status": ("detent.cli.up:status", "What runs, where, and how it is."),
    "doctor": ("detent.cli.up:doctor", "Explain what is wrong and how to repair it."),
    "keys": ("detent.cli.keys:keys", "Virtual keys that applications call with."),
    "providers": ("detent.cli.providers:providers", "Those who serve models."),
    "routes": ("detent.cli.routes:routes", "Names that applications call, and where their calls go."),
    "limits": ("detent.cli.limits:limits", "How many requests, tokens or calls at once are allowed."),
    "budgets": ("detent.cli.limits:budgets", "How much money may be spent in a day or month."),
    "weights": ("detent.cli.limits:weights", "Projects' shares of what several want at once."),
    "models": ("detent.cli.models:models", "Models that can be reached, and their prices."),
    "prices": ("detent.cli.prices:prices", "What calls cost, since when, and past calls worked out anew."),
    "cache": ("detent.cli.cache:cache", "Answers that routes keep to give them again."),
    "files": ("detent.cli.files:files", "Files that applications and batches store."),
    "batches": ("detent.cli.batches:batches", "Many calls in one file, made when there is room."),
    "traces": ("detent.cli.traces:traces", "Calls as they happened: list, read, search, rate, export."),
    "jobs": ("detent.cli.jobs:jobs", "Durable work: start, watch, cancel, resume."),
    "audit": ("detent.cli.audit:audit", "The ledger: who changed what, and the proof of it."),
    "blobs": ("detent.cli.blobs:blobs", "Stored bytes and their integrity."),
    "users": ("detent.cli.users:users", "People who sign in to the console."),
    "settings": ("detent.cli.settings:settings", "All settings, their values and where those come from."),
    "import": ("detent.cli.importing:importing", "Take over the configuration of another gateway."),
    "completion": ("detent.cli.completion:completion", "Shell completion for bash, zsh and fish."),
    "control": ("detent.cli.processes:control", ""),
    "worker": ("detent.cli.processes:worker", ""),
    "gateway": ("detent.cli.processes:gateway", ""),
}
"""Noun to where it is defined and one line about it; without a line it is for the supervisor and not shown."""

_CODES: Final[tuple[tuple[type[DetentError], int], ...]] = (
    (InvalidInput, 2),
    (TooLarge, 2),
    (NotFound, 3),
    (Unauthenticated, 4),
    (Forbidden, 4),
    (Conflict, 5),
)
INTERRUPTED: Final = 130


class Root(click.Group):
    """Finds nouns by name, so that asking for help loads none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, (_where, about) in NOUNS.items() if about]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in NOUNS:
            return None
        module, _, name = NOUNS[cmd_name][0].partition(":")
        found = getattr(importlib.import_module(module), name)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_where, about) in NOUNS.items() if about])


@click.group(
    "detent",
    cls=Root,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with `detent up`. Every command takes --json; results go to stdout, talk to stderr.",
)
@click.version_option(__version__, "--version", message="detent %(version)s")
@click.option("--home", metavar="DIR", help="Data folder (else DETENT_HOME, else ~/.detent).")
@click.pass_context
def root(ctx: click.Context, home: str | None) -> None:
    """Detent runs the life of language models in production: gateway, traces, releases, one history."""
    ctx.obj = Shell(home)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave the process with its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(run(given))


def run(arguments: list[str]) -> int:
    """Run one command; its exit code. Errors of the tree are told, never traced."""
    as_json = "--json" in arguments
    try:
        ended = root.main(arguments, prog_name="detent", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        _tell_usage(error, as_json=as_json)
        return 2
    except click.ClickException as error:
        _tell(InvalidInput(error.format_message()), as_json=as_json)
        return 1
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return INTERRUPTED
    except DetentError as error:
        _tell(error, as_json=as_json)
        return exit_code(error)
    except BrokenPipeError:
        # Whoever read us has enough (`detent traces list | head`); the rest of stdout goes nowhere.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return ended if isinstance(ended, int) else 0


def exit_code(error: DetentError) -> int:
    """The exit code of an error."""
    return next((code for family, code in _CODES if isinstance(error, family)), 1)


def _tell(error: DetentError, *, as_json: bool) -> None:
    if as_json:
        import json

        click.echo(json.dumps(error.as_dict(), ensure_ascii=False), err=True)
        return
    from detent.cli.text import clean

    # A message may repeat a name from a file that somebody else wrote.
    click.echo(f"Error: {clean(error.message)} [{error.code}]", err=True)
    if error.hint:
        click.echo(f"  Next: {clean(error.hint)}", err=True)


def _tell_usage(error: click.UsageError, *, as_json: bool) -> None:
    where = error.ctx.command_path if error.ctx else "detent"
    hint = f"See `{where} --help`."
    field = error.param.name if isinstance(error, click.BadParameter) and error.param else None
    if not as_json and error.ctx is not None and not isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.ctx.get_usage(), err=True)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return
    _tell(InvalidInput(error.format_message(), hint=hint, field=field), as_json=as_json)

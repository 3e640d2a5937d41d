"""The commands by which the supervisor starts its processes; each can also be run alone."""

from __future__ import annotations

import click

from detent.cli.shell import Shell, Verb, pass_shell


@click.command("control", cls=Verb, hidden=True)
@click.option("--fd", type=int, default=-1, help="Descriptor of a bound listening socket.")
@pass_shell
def control(shell: Shell, fd: int) -> int:
    """Run the control process: console, API, OTLP, and the loops beside them."""
    from detent.app.control import main

    return main(shell.settings, fd=fd)


@click.command("worker", cls=Verb, hidden=True)
@pass_shell
def worker(shell: Shell) -> int:
    """Run the worker process: durable jobs."""
    from detent.app.worker import main

    return main(shell.settings)


@click.command(
    "gateway", cls=Verb, hidden=True, context_settings={"ignore_unknown_options": True, "allow_extra_args": True}
)
@pass_shell
@click.pass_context
def gateway(ctx: click.Context, shell: Shell) -> int:
    """Run a gateway worker; see `python -m detent.gateway --help`."""
    from detent.gateway.worker import main

    return main(["--home", shell.settings.home, *ctx.args])

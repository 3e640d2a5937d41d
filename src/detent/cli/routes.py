"""`detent routes`: names that applications call, and where their calls go."""

from __future__ import annotations

import click

from detent.cli.shell import Noun, Shell, pass_shell
from detent.cli.shown import page_json, route_json
from detent.cli.text import moment, table
from detent.gateway.model import Route
from detent.gateway.service import parse_target


@click.group("routes", cls=Noun)
def routes() -> None:
    """Names that applications call as `model`, and where their calls go."""


@routes.command("add")
@click.argument("name")
@click.option(
    "--to",
    "targets",
    multiple=True,
    required=True,
    metavar="PROVIDER/MODEL",
    help="A target; repeat it for fall-backs, in order. PROVIDER/MODEL=WEIGHT gives a weight.",
)
@click.option("--replace", is_flag=True, help="Change a route that exists.")
@pass_shell
def add(shell: Shell, name: str, targets: tuple[str, ...], replace: bool) -> None:
    """Add a route, or change one with --replace."""
    parsed = tuple(parse_target(text) for text in targets)
    with shell.platform() as (platform, caller):
        saved = platform.gateway.save_route(caller, name, parsed, replace=replace)
    shell.show(route_json(saved), lambda: saved.name)
    shell.say(f'Route \'{saved.name}\' saved. Call it with "model": "{saved.name}".')


@routes.command("list")
@pass_shell
def list_routes(shell: Shell) -> None:
    """Show the routes."""
    with shell.platform() as (platform, caller):
        found = platform.gateway.routes(caller)
    rows = [
        (route.name, ", ".join(_target(route)), moment(route.changed) if route.changed else "built in")
        for route in found
    ]
    shell.show(page_json([route_json(route) for route in found]), lambda: table(("NAME", "TO", "CHANGED"), rows))


@routes.command("remove")
@click.argument("name")
@click.option("--reason", default="", help="Why, for the ledger.")
@pass_shell
def remove(shell: Shell, name: str, reason: str) -> None:
    """Remove a route; calls to it are refused from then on."""
    with shell.platform() as (platform, caller):
        platform.gateway.remove_route(caller, name, reason=reason)
    shell.show({"removed": name}, lambda: name)
    shell.say(f"Route '{name}' is removed.")


def _target(route: Route) -> list[str]:
    return [f"{target}={target.weight}" if target.weight != 1 else str(target) for target in route.targets]

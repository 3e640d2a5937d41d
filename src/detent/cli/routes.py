"""`detent routes`: names that applications call, and where their calls go."""

from __future__ import annotations

from typing import Any

import click

from detent.cli.configuration import add_verbs
from detent.cli.route_options import rule_options, rules_in_words, rules_of
from detent.cli.shell import Noun, Shell, pass_shell
from detent.cli.shown import page_json, route_json
from detent.cli.text import details, moment, table
from detent.cli.unpriced import say_unpriced, unpriced
from detent.gateway.checks import parse_target, write_target
from detent.gateway.model import Route


@click.group("routes", cls=Noun)
def routes() -> None:
    """Names that applications call as `model`, and where their calls go."""


add_verbs(routes)


@routes.command("add")
@click.argument("name")
@click.option(
    "--to",
    "targets",
    multiple=True,
    required=True,
    metavar="PROVIDER/MODEL",
    help="A target; repeat it for more, in order. PROVIDER/MODEL=WEIGHT gives a weight.",
)
@rule_options
@click.option("--replace", is_flag=True, help="Change a route that exists; what you leave out takes its default.")
@pass_shell
def add(shell: Shell, /, name: str, targets: tuple[str, ...], replace: bool, **flags: Any) -> None:
    """Add a route, or change one with --replace."""
    parsed, rules = tuple(parse_target(text) for text in targets), rules_of(flags)
    with shell.platform() as (platform, caller):
        saved = platform.gateway.save_route(caller, name, parsed, rules=rules, replace=replace)
        unknown = unpriced(platform, caller, (saved,))
        hard = any(budget.hard for budget in platform.gateway.budgets(caller))
    shell.show(route_json(saved), lambda: saved.name)
    shell.say(f'Route \'{saved.name}\' saved. Call it with "model": "{saved.name}".')
    say_unpriced(shell, unknown, hard=hard)


@routes.command("show")
@click.argument("name")
@pass_shell
def show(shell: Shell, name: str) -> None:
    """Show one route with its rules; those that have their default are left out."""
    with shell.platform() as (platform, caller):
        route = platform.gateway.route(caller, name)
    shell.show(
        route_json(route),
        lambda: details(
            [
                ("name", route.name),
                *[("to", text) for text in _target(route)],
                *rules_in_words(route),
                ("changed", moment(route.changed) if route.changed else "built in"),
            ]
        ),
    )


@routes.command("list")
@pass_shell
def list_routes(shell: Shell) -> None:
    """Show the routes."""
    with shell.platform() as (platform, caller):
        found = platform.gateway.routes(caller)
    rows = [
        (route.name, ", ".join(_target(route)), route.policy, moment(route.changed) if route.changed else "built in")
        for route in found
    ]
    shell.show(
        page_json([route_json(route) for route in found]), lambda: table(("NAME", "TO", "POLICY", "CHANGED"), rows)
    )


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
    return [write_target(target) for target in route.targets]

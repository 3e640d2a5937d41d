"""`detent limits`, `detent budgets`, `detent weights`: how much is allowed, and whose turn it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar, get_args

import click

from detent.cli.options import DURATION, USD
from detent.cli.shell import Noun, Shell, pass_shell
from detent.cli.shown import budget_json, limit_json, page_json, weight_json
from detent.cli.text import count, moment, number, table, yes
from detent.cli.unpriced import say_unpriced, unpriced
from detent.gateway.model import Budget, Limit, Period, Scope, Unit
from detent.kernel.clock import SECOND
from detent.kernel.errors import InvalidInput
from detent.kernel.money import dollars

F = TypeVar("F", bound=Callable[..., Any])
_OPTIONS: Final = (
    click.option(
        "--scope",
        type=click.Choice(get_args(Scope)),
        default="project",
        show_default=True,
        help="Whose calls count together: all of the project's, or those of each key, user, route or model.",
    ),
    click.option(
        "--subject", default="", help="Only this key (id or name), user, route or model (PROVIDER/MODEL); else each."
    ),
)


def _whose(command: F) -> F:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


# Limits


@click.group("limits", cls=Noun)
def limits() -> None:
    """How many requests, tokens or calls at once are allowed."""


@limits.command("add")
@click.argument("name")
@_whose
@click.option("--requests", type=click.IntRange(min=1), metavar="N", help="So many requests in any window.")
@click.option("--tokens", type=click.IntRange(min=1), metavar="N", help="So many tokens, in and out, in any window.")
@click.option("--concurrency", type=click.IntRange(min=1), metavar="N", help="So many calls at once; has no window.")
@click.option("--per", type=DURATION, default="1m", show_default=True, metavar="TIME", help="The sliding window.")
@click.option("--replace", is_flag=True, help="Change a limit that exists; what you leave out takes its default.")
@pass_shell
def add_limit(
    shell: Shell,
    name: str,
    scope: Scope,
    subject: str,
    requests: int | None,
    tokens: int | None,
    concurrency: int | None,
    per: int,
    replace: bool,
) -> None:
    """Add a limit, or change one with --replace."""
    figures: list[tuple[Unit, int | None]] = [
        ("requests", requests),
        ("tokens", tokens),
        ("concurrency", concurrency),
    ]
    given = [(unit, amount) for unit, amount in figures if amount is not None]
    if len(given) != 1:
        raise InvalidInput(
            "A limit counts one thing.", hint="Give one of --requests, --tokens and --concurrency.", field="unit"
        )
    if per % SECOND:
        raise InvalidInput("The window is no whole number of seconds.", hint="Give e.g. --per 1m.", field="per")
    unit, amount = given[0]
    with shell.platform() as (platform, caller):
        saved = platform.gateway.set_limit(
            caller,
            name,
            scope=scope,
            subject=subject,
            unit=unit,
            amount=amount,
            window_seconds=per // SECOND,
            replace=replace,
        )
    shell.show(limit_json(saved), lambda: saved.name)
    shell.say(f"Limit '{saved.name}' holds: {_limit_in_words(saved)}.")


@limits.command("list")
@pass_shell
def list_limits(shell: Shell) -> None:
    """Show the limits."""
    with shell.platform() as (platform, caller):
        found = platform.gateway.limits(caller)
    rows = [
        (limit.name, limit.scope, _subject(limit), count(limit.amount), limit.unit, _window(limit)) for limit in found
    ]
    shell.show(
        page_json([limit_json(limit) for limit in found]),
        lambda: table(("NAME", "SCOPE", "SUBJECT", number("AMOUNT"), "OF", "PER"), rows),
    )
    if not found:
        shell.say("No limits yet. Add one: detent limits add NAME --scope key --requests 60 --per 1m")


@limits.command("remove")
@click.argument("name")
@click.option("--reason", default="", help="Why, for the ledger.")
@pass_shell
def remove_limit(shell: Shell, name: str, reason: str) -> None:
    """Remove a limit."""
    with shell.platform() as (platform, caller):
        platform.gateway.remove_limit(caller, name, reason=reason)
    shell.show({"removed": name}, lambda: name)
    shell.say(f"Limit '{name}' is removed.")


_LENGTHS: Final = {1: "second", 60: "minute", 3_600: "hour", 86_400: "day", 7 * 86_400: "week"}


def _window(limit: Limit) -> str:
    return "at once" if limit.unit == "concurrency" else _LENGTHS.get(limit.window_seconds, f"{limit.window_seconds} s")


def _limit_in_words(limit: Limit) -> str:
    if limit.unit == "concurrency":
        return f"{count(limit.amount)} calls at once {_for(limit)}"
    return f"{count(limit.amount)} {limit.unit} in any {_window(limit)} {_for(limit)}"


def _subject(rule: Limit | Budget) -> str:
    return rule.subject or ("-" if rule.scope == "project" else "each")


def _for(rule: Limit | Budget) -> str:
    if rule.scope == "project":
        return "for the whole project"
    return f"for the {rule.scope} {rule.subject}" if rule.subject else f"for each {rule.scope}"


# Budgets


@click.group("budgets", cls=Noun)
def budgets() -> None:
    """How much money may be spent in a day or month (UTC)."""


@budgets.command("add")
@click.argument("name")
@click.option("--usd", type=USD, required=True, metavar="USD", help="The amount.")
@click.option(
    "--per", type=click.Choice(get_args(Period)), default="month", show_default=True, help="After which it starts anew."
)
@_whose
@click.option(
    "--alert",
    "alerts",
    type=click.IntRange(1, 1000),
    multiple=True,
    metavar="PERCENT",
    help="Raise an alert when so much of it is spent; repeat it. Without: 50, 80 and 100.",
)
@click.option("--soft", is_flag=True, help="Only raise alerts; refuse no calls when it is spent.")
@click.option("--replace", is_flag=True, help="Change a budget that exists; what you leave out takes its default.")
@pass_shell
def add_budget(
    shell: Shell,
    name: str,
    usd: int,
    per: Period,
    scope: Scope,
    subject: str,
    alerts: tuple[int, ...],
    soft: bool,
    replace: bool,
) -> None:
    """Add a budget, or change one with --replace."""
    with shell.platform() as (platform, caller):
        saved = platform.gateway.set_budget(
            caller,
            name,
            scope=scope,
            subject=subject,
            amount=usd,
            period=per,
            alerts=alerts or (50, 80, 100),
            hard=not soft,
            replace=replace,
        )
        unknown = unpriced(platform, caller, platform.gateway.routes(caller)) if saved.hard else ()
    shell.show(budget_json(saved), lambda: saved.name)
    end = "calls are refused when it is spent" if saved.hard else "it only raises alerts"
    shell.say(f"Budget '{saved.name}' holds: {dollars(saved.amount)} a {saved.period} {_for(saved)}; {end}.")
    say_unpriced(shell, unknown, hard=True)


@budgets.command("list")
@pass_shell
def list_budgets(shell: Shell) -> None:
    """Show the budgets."""
    with shell.platform() as (platform, caller):
        found = platform.gateway.budgets(caller)
    rows = [
        (
            budget.name,
            budget.scope,
            _subject(budget),
            dollars(budget.amount),
            budget.period,
            " ".join(f"{percent}%" for percent in budget.alerts) or "-",
            yes(budget.hard),
        )
        for budget in found
    ]
    shell.show(
        page_json([budget_json(budget) for budget in found]),
        lambda: table(("NAME", "SCOPE", "SUBJECT", number("AMOUNT"), "PER", "ALERTS", "HARD"), rows),
    )
    if not found:
        shell.say("No budgets yet. Add one: detent budgets add NAME --usd 100 --per month")


@budgets.command("remove")
@click.argument("name")
@click.option("--reason", default="", help="Why, for the ledger.")
@pass_shell
def remove_budget(shell: Shell, name: str, reason: str) -> None:
    """Remove a budget."""
    with shell.platform() as (platform, caller):
        platform.gateway.remove_budget(caller, name, reason=reason)
    shell.show({"removed": name}, lambda: name)
    shell.say(f"Budget '{name}' is removed.")


# Weights


@click.group("weights", cls=Noun)
def weights() -> None:
    """Projects' shares of deployments that several want at once."""


@weights.command("set")
@click.argument("project")
@click.argument("weight", type=click.IntRange(1, 1000))
@click.option("--reason", default="", help="Why, for the ledger.")
@pass_shell
def set_weight(shell: Shell, project: str, weight: int, reason: str) -> None:
    """Give a project a share; 1 where none is set."""
    with shell.platform() as (platform, caller):
        saved = platform.gateway.set_weight(caller, project, weight, reason=reason)
    shell.show(weight_json(saved), lambda: f"{saved.project} {saved.weight}")


@weights.command("list")
@pass_shell
def list_weights(shell: Shell) -> None:
    """Show the shares that were set."""
    with shell.platform() as (platform, caller):
        found = platform.gateway.weights(caller)
    rows = [(weight.project, count(weight.weight), moment(weight.changed)) for weight in found]
    shell.show(
        page_json([weight_json(weight) for weight in found]),
        lambda: table(("PROJECT", number("WEIGHT"), "CHANGED"), rows),
    )
    if not found:
        shell.say("No shares are set; all projects are equal.")

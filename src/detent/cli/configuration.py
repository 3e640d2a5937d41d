"""`detent routes export|plan|apply`: the whole configuration as one file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from detent.cli.options import WHEN
from detent.cli.shell import Noun, Shell, Verb, pass_shell
from detent.cli.text import clean, cost, count, is_rich, number, shorten, table
from detent.gateway.planning.document import MAX_BYTES, parse_toml, write_toml
from detent.gateway.planning.report import change_lines, plan_json, summary
from detent.kernel.errors import InvalidInput
from detent.kernel.secret import Secret

if TYPE_CHECKING:
    from detent.gateway.planning.model import Configuration, DryRun, Plan, Replayed

_COLOURS = {"+": "green", "~": "yellow", "-": "red"}


def add_verbs(noun: Noun) -> None:
    """Give a noun the verbs over the whole configuration."""
    for verb in (export, plan, apply):
        noun.add_command(verb)


@click.command("export", cls=Verb)
@pass_shell
def export(shell: Shell) -> None:
    """Write providers, routes, limits, budgets and prices as one document."""
    with shell.platform() as (platform, caller):
        found = platform.planning.export(caller)
    text = write_toml(found)
    shell.show({"toml": text}, lambda: text.rstrip("\n"))


@click.command("plan", cls=Verb)
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--since", type=WHEN, metavar="TIME", help="Try it on the calls recorded since then: 24h.")
@click.option("--keep", is_flag=True, help="Leave alone what the file does not name; else that is removed.")
@pass_shell
def plan(shell: Shell, file: str, since: int | None, keep: bool) -> None:
    """Show what applying FILE would change, and what it would have done with recorded calls."""
    wanted = read_file(file)
    with shell.platform() as (platform, caller):
        made = platform.planning.plan(
            caller, wanted, keep=keep, since=since or 0, credentials=credentials_of(wanted, os.environ)
        )
    shell.show(plan_json(made), lambda: plan_text(made))
    for warning in made.warnings:
        shell.say(f"Warning: {warning}")
    if made.changes:
        more = " --keep" if keep else ""
        shell.say(f"Next: detent routes apply {file}{more} --expect {made.digest}")


@click.command("apply", cls=Verb)
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--expect", metavar="DIGEST", default="", help="Apply only if the plan still has this digest.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--keep", is_flag=True, help="Leave alone what the file does not name; else that is removed.")
@click.option("--reason", default="", help="Why, for the ledger.")
@pass_shell
def apply(shell: Shell, file: str, expect: str, yes: bool, keep: bool, reason: str) -> None:
    """Make all the changes that FILE asks for, or none."""
    wanted = read_file(file)
    with shell.platform() as (platform, caller):
        given = credentials_of(wanted, os.environ)
        if not expect and not yes:
            made = platform.planning.plan(caller, wanted, keep=keep, credentials=given)
            if made.changes:
                click.echo(plan_text(made), err=True)
                confirm(shell)
            expect = made.digest
        applied = platform.planning.apply(caller, wanted, expect=expect, keep=keep, credentials=given, reason=reason)
    shell.show(plan_json(applied), lambda: summary(applied.changes))


def confirm(shell: Shell) -> None:
    """Ask whether to go on.

    Raises:
        InvalidInput: nobody is there to be asked.
        Abort: they said no.
    """
    if shell.json or not sys.stdin.isatty():
        raise InvalidInput(
            "Nobody is there to confirm the changes.", hint="Give --yes, or --expect DIGEST.", field="yes"
        )
    click.confirm("Apply these changes?", abort=True, err=True)


def read_file(file: str) -> Configuration:
    """The configuration in a file; `-` is standard input.

    Raises:
        InvalidInput: it cannot be read, or is no configuration.
    """
    return parse_toml(read_text(file))


def read_text(file: str) -> str:
    """A file's text; `-` is standard input.

    Raises:
        InvalidInput: it cannot be read.
    """
    try:
        raw = sys.stdin.buffer.read(MAX_BYTES + 1) if file == "-" else _read(Path(file))
        if len(raw) > MAX_BYTES:
            raise InvalidInput(f"{file} is too long.", hint=f"{MAX_BYTES} bytes are the most.", field="file")
        return raw.decode()
    except OSError as error:
        raise InvalidInput(
            f"{file} cannot be read: {error.strerror}.", hint="Give the path of a file.", field="file"
        ) from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{file} is no text in UTF-8.", hint="Save it as UTF-8.", field="file") from None


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def credentials_of(wanted: Configuration, environment: Mapping[str, str]) -> dict[str, Secret]:
    """The credentials that the document names and the environment holds, by provider."""
    return {
        name: Secret(environment[variable].strip())
        for name, variable in wanted.credentials.items()
        if environment.get(variable, "").strip()
    }


# Text


def plan_text(plan: Plan) -> str:
    """A plan as people read it."""
    lines = [line for change in plan.changes for line in map(_coloured, change_lines(change))]
    lines.append(summary(plan.changes))
    if plan.dry_run is not None:
        lines += ["", *_tried(plan.dry_run)]
    if plan.changes:
        lines.append(f"Plan {plan.digest}")
    return "\n".join(lines)


def _coloured(line: str) -> str:
    line = clean(line)
    colour = _COLOURS.get(line[0])
    return click.style(line, fg=colour) if colour and is_rich() else line


def _tried(run: DryRun) -> Iterator[str]:
    if not run.calls:
        yield "No recorded calls to try it on."
        return
    part = "" if run.complete else ", the newest; there are more"
    yield f"Tried on {count(run.calls)} recorded calls{part}:"
    yield ""
    yield table(("", number("BEFORE"), number("AFTER")), _summary_rows(run.before, run.after))
    shares = list(_share_rows(run.before, run.after))
    if shares:
        yield ""
        yield table(("ROUTE", "TARGET", number("BEFORE"), number("AFTER")), shares)
    rules = list(_rule_rows(run.before, run.after))
    if rules:
        yield ""
        yield table(("RULE", "NAME", number("REFUSED BEFORE"), number("AFTER"), number("MOST SPENT"), "ALERTS"), rules)
    if run.lost:
        yield ""
        rows = [(lost.name, lost.key_id, ", ".join(lost.routes), count(lost.calls)) for lost in run.lost]
        yield table(("KEY LOSES ACCESS", "ID", "ROUTES", number("CALLS")), rows)
    if run.examples:
        yield ""
        examples = [
            (e.trace_id, shorten(e.asked, 40), e.before, e.after, _money(e.cost_before), _money(e.cost_after))
            for e in run.examples
        ]
        yield table(("EXAMPLE", "ASKED FOR", "BEFORE", "AFTER", number("COST BEFORE"), number("AFTER")), examples)
    yield ""
    yield from (f"Assumed: {sentence}" for sentence in run.assumptions)


def _summary_rows(before: Replayed, after: Replayed) -> Iterator[tuple[str, str, str]]:
    def answered(replayed: Replayed) -> str:
        return count(sum(fate.outcome == "answered" for fate in replayed.fates))

    yield "answered", answered(before), answered(after)
    yield "refused by a rule", count(before.refused), count(after.refused)
    yield "model_not_found", count(sum(before.not_found.values())), count(sum(after.not_found.values()))
    yield "cost", cost(before.cost), cost(after.cost)
    yield "unpriced calls", count(before.unpriced), count(after.unpriced)


def _share_rows(before: Replayed, after: Replayed) -> Iterator[tuple[str, str, str, str]]:
    was = {(share.route, share.target): share.calls for share in before.shares}
    now = {(share.route, share.target): share.calls for share in after.shares}
    for route, target in sorted(was.keys() | now.keys()):
        yield route, target, f"{was.get((route, target), 0):,.0f}", f"{now.get((route, target), 0):,.0f}"


def _rule_rows(before: Replayed, after: Replayed) -> Iterator[tuple[str, ...]]:
    limits = {rule.name: rule.refused for rule in before.limits}
    for rule in after.limits:
        yield "limit", rule.name, count(limits.get(rule.name, 0)), count(rule.refused), "-", "-"
    budgets = {rule.name: rule.refused for rule in before.budgets}
    for rule in after.budgets:
        alerts = " ".join(f"{percent}%" for percent in rule.alerts) or "-"
        yield "budget", rule.name, count(budgets.get(rule.name, 0)), count(rule.refused), cost(rule.spent), alerts


def _money(nano: int | None) -> str:
    return "-" if nano is None else cost(nano)

"""`detent import`: configurations of other gateways."""

from __future__ import annotations

import os
from typing import Any

import click

from detent.cli.configuration import confirm, credentials_of, plan_text, read_text
from detent.cli.shell import Noun, Shell, pass_shell
from detent.cli.text import clean
from detent.gateway.planning.document import write_toml
from detent.gateway.planning.litellm import Finding, parse_yaml, read_litellm
from detent.gateway.planning.report import plan_json, summary
from detent.kernel.errors import InvalidInput

_SHOWN_PLACES = 4


@click.group("import", cls=Noun)
def importing() -> None:
    """Take over the configuration of another gateway."""


@importing.command("litellm")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--dry-run", is_flag=True, help="Show what it would change here, and change nothing.")
@click.option("--apply", "applies", is_flag=True, help="Add it to the configuration. Nothing that is there is removed.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_shell
def litellm(shell: Shell, file: str, dry_run: bool, applies: bool, yes: bool) -> None:
    """Read a LiteLLM proxy's config.yaml; without an option it is written as a gateway.toml.

    What is changed or cannot be carried over is listed with the reason. Credentials are taken by the name of their
    environment variable and are never shown.
    """
    if dry_run and applies:
        raise InvalidInput("--dry-run changes nothing and --apply does.", hint="Give one of them.", field="apply")
    found = read_litellm(parse_yaml(read_text(file)), os.environ)
    result: dict[str, Any] = {
        "toml": write_toml(found.configuration),
        "findings": [{"what": f.what, "places": list(f.places), "said": f.said} for f in found.findings],
    }
    if not dry_run and not applies:
        shell.show(result, lambda: result["toml"].rstrip("\n"))
        _say(shell, found.findings)
        return
    _say(shell, found.findings)
    with shell.platform() as (platform, caller):
        given = {**credentials_of(found.configuration, os.environ), **found.credentials}
        plan = platform.planning.plan(caller, found.configuration, keep=True, credentials=given)
        if applies:
            if plan.changes and not yes:
                click.echo(plan_text(plan), err=True)
                confirm(shell)
            plan = platform.planning.apply(
                caller,
                found.configuration,
                expect=plan.digest,
                keep=True,
                credentials=given,
                reason="imported from LiteLLM",
            )
    shell.show({**result, "plan": plan_json(plan)}, lambda: summary(plan.changes) if applies else plan_text(plan))
    for warning in plan.warnings:
        shell.say(f"Warning: {warning}")


def _say(shell: Shell, findings: tuple[Finding, ...]) -> None:
    """Tell what is not the same; programs find it in the JSON."""
    for what, head in (("changed", "Carried over in another way:"), ("left_out", "Not carried over:")):
        said = [finding for finding in findings if finding.what == what]
        if said:
            shell.say(head)
        for finding in said:
            more = len(finding.places) - _SHOWN_PLACES
            places = ", ".join(finding.places[:_SHOWN_PLACES]) + (f" and {more} more" if more > 0 else "")
            shell.say(f"  {clean(places)}: {clean(finding.said)}")

"""`detent providers`: who serves models, and the credential each is called with."""

from __future__ import annotations

import os

import click

from detent.cli.shell import Noun, Shell, pass_shell
from detent.cli.shown import page_json, provider_json
from detent.cli.text import table, yes
from detent.kernel.errors import InvalidInput
from detent.kernel.secret import Secret


@click.group("providers", cls=Noun)
def providers() -> None:
    """Those who serve models over HTTP."""


@providers.command("add")
@click.argument("name")
@click.option("--url", required=True, help="Base URL in the OpenAI dialect, e.g. https://api.openai.com/v1.")
@click.option(
    "--key-env", metavar="VAR", help="Environment variable that holds the credential; it is stored encrypted."
)
@click.option("--allow-private", is_flag=True, help="Allow loopback and private addresses.")
@click.option("--replace", is_flag=True, help="Change a provider that exists.")
@pass_shell
def add(shell: Shell, name: str, url: str, key_env: str | None, allow_private: bool, replace: bool) -> None:
    """Add a provider, or change one with --replace."""
    credential = _credential(key_env) if key_env else None
    with shell.platform() as (platform, caller):
        saved = platform.gateway.save_provider(
            caller, name, url=url, credential=credential, allow_private=allow_private, replace=replace
        )
    shell.show(provider_json(saved), lambda: saved.name)
    shell.say(f"Provider '{saved.name}' saved. Next: detent routes add ROUTE --to {saved.name}/MODEL")


@providers.command("list")
@pass_shell
def list_providers(shell: Shell) -> None:
    """Show the providers."""
    with shell.platform() as (platform, caller):
        found = platform.gateway.providers(caller)
    rows = [(p.name, p.url, p.dialect, yes(bool(p.secret_id)), yes(p.allow_private)) for p in found]
    shell.show(
        page_json([provider_json(provider) for provider in found]),
        lambda: table(("NAME", "URL", "DIALECT", "CREDENTIAL", "PRIVATE"), rows),
    )
    if not found:
        shell.say("No providers yet; the embedded model works without one.")
        shell.say("Add one: detent providers add NAME --url URL --key-env VAR")


@providers.command("remove")
@click.argument("name")
@click.option("--reason", default="", help="Why, for the ledger.")
@pass_shell
def remove(shell: Shell, name: str, reason: str) -> None:
    """Remove a provider and destroy its credential."""
    with shell.platform() as (platform, caller):
        platform.gateway.remove_provider(caller, name, reason=reason)
    shell.show({"removed": name}, lambda: name)
    shell.say(f"Provider '{name}' is removed, and its credential destroyed.")


def _credential(variable: str) -> Secret:
    value = os.environ.get(variable, "").strip()
    if not value:
        raise InvalidInput(
            f"The environment variable {variable} is empty or not set.",
            hint=f"Set it for this call: {variable}=... detent providers add ...",
            field="key_env",
        )
    return Secret(value)

"""`detent providers`: who serves models, and the credential each is called with."""

from __future__ import annotations

import os
from typing import get_args

import click

from detent.cli.shell import Noun, Shell, pass_shell
from detent.cli.shown import page_json, provider_json
from detent.cli.text import table, yes
from detent.gateway.model import Dialect, Provider
from detent.kernel.errors import InvalidInput
from detent.kernel.secret import Secret


@click.group("providers", cls=Noun)
def providers() -> None:
    """Those who serve models over HTTP."""


@providers.command("add")
@click.argument("name")
@click.option("--url", help="Base URL, e.g. https://api.openai.com/v1; else the dialect's and flavour's own.")
@click.option(
    "--key-env", metavar="VAR", help="Environment variable that holds the credential; it is stored encrypted."
)
@click.option(
    "--dialect", type=click.Choice(get_args(Dialect)), default="openai", show_default=True, help="What it speaks."
)
@click.option("--flavour", default="", help="Whose variety of the dialect: azure, groq, vllm...")
@click.option("--region", default="", help="Of the cloud, where signing needs one: eu-central-1.")
@click.option("--api-version", default="", help="Of the provider's API, where it wants one: 2024-10-21.")
@click.option(
    "--max-concurrency",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Calls in flight to each of its models at most, per gateway worker; 0 for no bound.",
)
@click.option("--allow-private", is_flag=True, help="Allow loopback and private addresses.")
@click.option(
    "--replace", is_flag=True, help="Change a provider that exists; what you leave out but the credential is reset."
)
@pass_shell
def add(
    shell: Shell,
    name: str,
    url: str | None,
    key_env: str | None,
    dialect: Dialect,
    flavour: str,
    region: str,
    api_version: str,
    max_concurrency: int,
    allow_private: bool,
    replace: bool,
) -> None:
    """Add a provider, or change one with --replace."""
    credential = _credential(key_env) if key_env else None
    with shell.platform() as (platform, caller):
        saved = platform.gateway.save_provider(
            caller,
            name,
            url=url,
            credential=credential,
            allow_private=allow_private,
            dialect=dialect,
            flavour=flavour,
            region=region,
            api_version=api_version,
            max_concurrency=max_concurrency,
            replace=replace,
        )
    shell.show(provider_json(saved), lambda: saved.name)
    shell.say(f"Provider '{saved.name}' saved. Next: detent routes add ROUTE --to {saved.name}/MODEL")
    if not saved.secret_id and not saved.allow_private:
        shell.say(f"It has no credential. Give one: detent providers add {saved.name} ... --key-env VAR --replace")


@providers.command("list")
@pass_shell
def list_providers(shell: Shell) -> None:
    """Show the providers."""
    with shell.platform() as (platform, caller):
        found = platform.gateway.providers(caller)
    rows = [(p.name, p.url, _speaks(p), yes(bool(p.secret_id)), yes(p.allow_private)) for p in found]
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


def _speaks(provider: Provider) -> str:
    return f"{provider.dialect} ({provider.flavour})" if provider.flavour else provider.dialect


def _credential(variable: str) -> Secret:
    value = os.environ.get(variable, "").strip()
    if not value:
        raise InvalidInput(
            f"The environment variable {variable} is empty or not set.",
            hint=f"Set it for this call: {variable}=... detent providers add ...",
            field="key_env",
        )
    return Secret(value)

"""`detent keys`: make, list and revoke virtual keys."""

from __future__ import annotations

import click

from detent.cli.options import LATER
from detent.cli.shell import Noun, Shell, pass_shell
from detent.cli.shown import key_json, page_json
from detent.cli.text import moment, table
from detent.gateway.model import Key
from detent.kernel.identity import Permission


@click.group("keys", cls=Noun)
def keys() -> None:
    """Virtual keys that applications call with."""


@keys.command("create")
@click.option("--name", required=True, help="What it is for; people recognise it by this.")
@click.option(
    "--allow",
    "permissions",
    multiple=True,
    type=click.Choice([p.value for p in Permission]),
    metavar="PERMISSION",
    help="A permission, e.g. gateway:call (the default) or traces:write. May be repeated.",
)
@click.option("--admin", is_flag=True, help="All permissions that you hold.")
@click.option("--route", "routes", multiple=True, metavar="ROUTE", help="Only this route. May be repeated.")
@click.option("--expires", type=LATER, help="When it ends: a date, or 30d from now.")
@pass_shell
def create(
    shell: Shell, name: str, permissions: tuple[str, ...], admin: bool, routes: tuple[str, ...], expires: int | None
) -> None:
    """Make a key. It is shown once, here, and can't be read again."""
    if admin and permissions:
        raise click.UsageError("--admin and --allow exclude each other.")
    wanted = frozenset(Permission(p) for p in permissions) or frozenset({Permission.GATEWAY_CALL})
    with shell.platform() as (platform, caller):
        if admin:
            wanted = caller.permissions
        made = platform.gateway.mint_key(caller, name, permissions=wanted, routes=routes, expires=expires or 0)
    shell.say(f"Key '{made.key.name}' made. Keep it now; it is not shown again:")
    token = made.token.reveal()
    shell.show({"key": token, **key_json(made.key)}, lambda: token)


@keys.command("list")
@click.option("--all", "everything", is_flag=True, help="Also those that are revoked or expired.")
@pass_shell
def list_keys(shell: Shell, everything: bool) -> None:
    """Show the keys, newest first."""
    with shell.platform() as (platform, caller):
        now = platform.clock.now()
        found = [key for key in platform.gateway.keys(caller) if everything or key.live(now)]

    def state(key: Key) -> str:
        return "revoked" if key.revoked else "live" if key.live(now) else "expired"

    rows = [
        (
            key.name,
            key.hint,
            state(key),
            ", ".join(key.permissions),
            ", ".join(key.routes) or "all",
            moment(key.created),
            moment(key.expires) if key.expires else "never",
            key.id,
        )
        for key in found
    ]
    shell.show(
        page_json([{**key_json(key), "state": state(key)} for key in found]),
        lambda: table(("NAME", "KEY", "STATE", "MAY", "ROUTES", "CREATED", "EXPIRES", "ID"), rows),
    )
    if not found:
        shell.say("No keys. Make one: detent keys create --name NAME")


@keys.command("revoke")
@click.argument("key", metavar="ID|NAME")
@click.option("--reason", default="", help="Why, for the ledger.")
@pass_shell
def revoke(shell: Shell, key: str, reason: str) -> None:
    """Stop a key for good. Doing it twice changes nothing."""
    with shell.platform() as (platform, caller):
        revoked = platform.gateway.revoke_key(caller, key, reason=reason)
    shell.show(key_json(revoked), lambda: revoked.id)
    shell.say(f"Key '{revoked.name}' is revoked.")

"""`detent users`: people who sign in to the console."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from detent.cli.shell import Noun, Shell, pass_shell
from detent.cli.shown import account_json, page_json
from detent.cli.text import moment, table
from detent.kernel.errors import NotFound
from detent.kernel.identity import ROLES, Principal
from detent.kernel.ports import Account

if TYPE_CHECKING:
    from detent.app.platform import Platform

_ROLE = click.Choice(tuple(ROLES))


@click.group("users", cls=Noun)
def users() -> None:
    """People who sign in to the console."""


@users.command("list")
@pass_shell
def list_users(shell: Shell) -> None:
    """Show everybody who has an account."""
    with shell.platform() as (platform, caller):
        found = platform.people.all(caller)
    rows = [(a.name, a.role, "disabled" if a.disabled else "active", moment(a.created), a.id) for a in found]
    shell.show(
        page_json([account_json(account) for account in found]),
        lambda: table(("NAME", "ROLE", "STATE", "CREATED", "ID"), rows),
    )
    if not found:
        shell.say("Nobody yet. `detent up` prints a link for the first admin.")


@users.command("add")
@click.argument("name")
@click.option("--role", type=_ROLE, default="viewer", show_default=True, help="What they may do.")
@pass_shell
def add(shell: Shell, name: str, role: str) -> None:
    """Give somebody an account, and a one-time link to sign in with."""
    with shell.platform() as (platform, caller):
        account, token = platform.people.add(caller, name, role)
        url = platform.sign_in_url(token)
    shell.say(f"'{account.name}' may sign in once within the hour, and sets a password then:")
    shell.show({**account_json(account), "link": url}, lambda: url)


@users.command("link")
@click.argument("user", metavar="ID|NAME", default="")
@pass_shell
def link(shell: Shell, user: str) -> None:
    """Make a one-time sign-in link: for USER, else for the admin."""
    with shell.platform() as (platform, caller):
        people = platform.people
        token = people.link(caller, _find(platform, caller, user).id) if user else people.first_link()
        url = platform.sign_in_url(token)
    shell.say("It works once, within the hour:")
    shell.show({"link": url}, lambda: url)


@users.command("role")
@click.argument("user", metavar="ID|NAME")
@click.argument("role", type=_ROLE)
@click.option("--reason", default="", help="Why, for the ledger.")
@pass_shell
def set_role(shell: Shell, user: str, role: str, reason: str) -> None:
    """Change what somebody may do, at once also for the keys they made."""
    with shell.platform() as (platform, caller):
        account = platform.people.set_role(caller, _find(platform, caller, user).id, role, reason=reason)
    shell.show(account_json(account), lambda: account.id)
    shell.say(f"'{account.name}' is {account.role} now.")


@users.command("password")
@click.argument("user", metavar="ID|NAME")
@click.option("--stdin", "from_stdin", is_flag=True, help="Read the password from standard input.")
@pass_shell
def password(shell: Shell, user: str, from_stdin: bool) -> None:
    """Set somebody's password; it is asked for, and never an argument."""
    with shell.platform() as (platform, caller):
        account = _find(platform, caller, user)
        if from_stdin:
            given = sys.stdin.readline().rstrip("\n")
        else:
            given = str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
        platform.people.set_password(caller, account.id, given)
    shell.show(account_json(account), lambda: account.id)
    shell.say(f"The password of '{account.name}' is set, and their sessions are closed.")


@users.command("disable")
@click.argument("user", metavar="ID|NAME")
@click.option("--reason", default="", help="Why, for the ledger.")
@pass_shell
def disable(shell: Shell, user: str, reason: str) -> None:
    """Shut an account: sessions end, and the keys it made stop working."""
    with shell.platform() as (platform, caller):
        account = platform.people.disable(caller, _find(platform, caller, user).id, reason=reason)
    shell.show(account_json(account), lambda: account.id)
    shell.say(f"'{account.name}' is shut out.")


@users.command("erase")
@click.argument("user", metavar="ID|NAME")
@click.option("--reason", default="", help="Why, for the ledger; no names here, it stays.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@pass_shell
def erase(shell: Shell, user: str, reason: str, yes: bool) -> None:
    """Remove a person for good. The ledger keeps an id that nobody can connect with them."""
    with shell.platform() as (platform, caller):
        account = _find(platform, caller, user)
        if not yes:
            click.confirm(f"Erase '{account.name}' for good?", abort=True, err=True)
        platform.people.erase(caller, account.id, reason=reason)
    shell.show({"erased": account.id}, lambda: account.id)
    shell.say("Erased.")


def _find(platform: Platform, caller: Principal, user: str) -> Account:
    found = [account for account in platform.people.all(caller) if user in (account.id, account.name)]
    if not found:
        raise NotFound(f"There is no user '{user}'.", hint="List them with `detent users list`.", field="user")
    return found[0]

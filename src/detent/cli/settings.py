"""`detent settings`: all settings, their values, and where those come from."""

from __future__ import annotations

import os
import re
from typing import Any

import click

from detent.cli.shell import Noun, Shell, pass_shell
from detent.cli.shown import page_json
from detent.cli.text import table
from detent.kernel.settings import Field, Settings, every_field

_PASSWORD = re.compile(r"(?<=://)([^/@:]*):[^/@]*(?=@)")


@click.group("settings", cls=Noun)
def settings() -> None:
    """All settings, their values and where those come from."""


@settings.command("show")
@click.argument("words", nargs=-1, metavar="[NAME]...")
@pass_shell
def show(shell: Shell, words: tuple[str, ...]) -> None:
    """Show settings; with NAMEs only those whose name holds one of them."""
    now = shell.settings
    items = []
    for field in every_field():
        path = f"{field.section}.{field.name}" if field.section else field.name
        if words and not any(word.lower() in path for word in words):
            continue
        value = value_of(now, field)
        items.append(
            {
                "name": path,
                "value": value,
                "default": field.default,
                "from": _source(field, value),
                "env": field.env,
                "about": field.description,
            }
        )
    rows = [(i["name"], str(i["value"]) if i["value"] != "" else "-", i["from"], i["env"], i["about"]) for i in items]
    shell.show(page_json(items), lambda: table(("SETTING", "VALUE", "FROM", "ENVIRONMENT", "ABOUT"), rows))


def value_of(settings_: Settings, field: Field) -> Any:
    """A setting's value, with a password in a database's URL left out."""
    holder = getattr(settings_, field.section) if field.section else settings_
    value = getattr(holder, field.name)
    return _PASSWORD.sub(r"\1:***", value) if isinstance(value, str) else value


def _source(field: Field, value: Any) -> str:
    if os.environ.get(field.env):
        return "environment"
    if field.section and value != field.default:
        return "file"
    return "default"

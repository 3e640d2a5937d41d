"""Settings: what holds in this installation, where it is set, what each one means. Changed in the file, not here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from detent.kernel.identity import Permission
from detent.kernel.settings import every_field
from detent.web.page import Page
from detent.web.table import Table
from detent.web.visit import Visit

_USERINFO: Final = re.compile(r"(?<=://)[^/@]*@")


class SettingLine(msgspec.Struct, frozen=True, kw_only=True):
    """One setting."""

    name: str
    env: str
    type: str
    value: str
    default: str
    changed: bool
    description: str


class Concern(msgspec.Struct, frozen=True):
    """Settings that belong together."""

    name: str
    settings: tuple[SettingLine, ...]


class SettingsView(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting by concern."""

    concerns: tuple[Concern, ...]
    file: str
    version: str
    security: tuple[str, ...]


def view(visit: Visit) -> SettingsView:
    """All settings; credentials in addresses are left out."""
    settings = visit.platform.settings
    concerns: dict[str, list[SettingLine]] = {}
    for field in every_field():
        section = getattr(settings, field.section) if field.section else settings
        value = getattr(section, field.name)
        line = SettingLine(
            name=f"{field.section}.{field.name}" if field.section else field.name,
            env=field.env,
            type=field.type,
            value=_shown(value),
            default=_shown(field.default),
            changed=bool(field.section) and value != field.default,
            description=field.description,
        )
        concerns.setdefault(field.section or "installation", []).append(line)
    status = visit.platform.status()
    return SettingsView(
        concerns=tuple(Concern(name, tuple(lines)) for name, lines in concerns.items()),
        file=str(settings.folder / "detent.toml"),
        version=status.version,
        security=status.security,
    )


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return _USERINFO.sub("***@", str(value))


def tables(view: SettingsView) -> Mapping[str, Table]:
    """All settings."""
    return {
        "settings": Table(
            ("name", "env", "type", "value", "default", "changed", "description"),
            [
                (s.name, s.env, s.type, s.value, s.default, s.changed, s.description)
                for concern in view.concerns
                for s in concern.settings
            ],
        )
    }


PAGE = Page("/settings", Permission.SETTINGS_READ, "settings.html", view, tables)

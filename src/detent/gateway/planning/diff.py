"""What differs between two configurations, field by field in the document's words. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from detent.gateway.planning.document import ENTRIES, short_entry
from detent.gateway.planning.model import Change, Configuration, FieldChange
from detent.kernel.canonical import digest


def diff(
    before: Configuration, after: Configuration, *, credentials: frozenset[str] = frozenset()
) -> tuple[Change, ...]:
    """The changes that lead from one to the other, by noun and name.

    Args:
        credentials: providers that get a new credential.
    """
    changes = []
    for noun, (section, entry_of, _default) in ENTRIES.items():
        old, new = getattr(before, section), getattr(after, section)
        for name in sorted(old.keys() | new.keys()):
            was, now = old.get(name), new.get(name)
            if was is not None and now is not None:
                fields = tuple(_fields(entry_of(was), entry_of(now)))
            else:  # what is added or removed is shown by what it says
                fields = tuple(
                    _fields(
                        {} if was is None else short_entry(noun, was), {} if now is None else short_entry(noun, now)
                    )
                )
            if noun == "provider" and name in credentials and now is not None:
                stored = "stored" if was is not None and was.secret_id else None
                fields = (*fields, FieldChange("credential", stored, "new"))
            if fields or was is None or now is None:
                changes.append(
                    Change(noun, name, "added" if was is None else "removed" if now is None else "changed", fields)
                )
    return tuple(changes)


def merged(before: Configuration, after: Configuration) -> Configuration:
    """A configuration that adds to and changes another, and takes nothing away."""
    sections = {section: {**getattr(before, section), **getattr(after, section)} for section, *_ in ENTRIES.values()}
    return Configuration(**sections, credentials=after.credentials)


def base_of(configuration: Configuration) -> str:
    """Digest of a configuration, its credentials' ids included."""
    entries: dict[str, Any] = {
        section: {name: entry_of(value) for name, value in getattr(configuration, section).items()}
        for section, entry_of, _default in ENTRIES.values()
    }
    entries["secrets"] = {name: provider.secret_id for name, provider in configuration.providers.items()}
    return digest(entries)


def plan_digest(base: str, changes: tuple[Change, ...]) -> str:
    """Digest of a plan: of where it starts and of what it changes."""
    return digest({"base": base, "changes": [msgspec.to_builtins(change) for change in changes]})


def _fields(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[FieldChange]:
    old, new = _flat(was), _flat(now)
    for field in [*old, *(name for name in new if name not in old)]:
        if old.get(field) != new.get(field):
            yield FieldChange(field, old.get(field), new.get(field))


def _flat(entry: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in entry.items():
        if isinstance(value, Mapping):
            found.update(_flat(value, f"{prefix}{name}."))
        else:
            found[prefix + name] = value
    return found

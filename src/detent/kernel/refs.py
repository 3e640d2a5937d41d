"""References: how every face names a versioned thing.

prompt/greeting                       whatever the default label points at
prompt/greeting@production            what the label points at now
prompt/greeting@sha256:2c26b46b...    exactly this content, for ever (at least 8 hex digits)
"""

from __future__ import annotations

import re

import msgspec

from detent.kernel.errors import InvalidInput

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_KIND = re.compile(r"[a-z][a-z_]{0,31}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{8,64}")


class Ref(msgspec.Struct, frozen=True, order=True):
    """A parsed reference.

    Attributes:
        kind: what sort of thing (`prompt`, `model`, `dataset`, `release`, ...).
        name: its name, unique within kind and project.
        label: the pointer to follow; empty when a digest is given or the default label is meant.
        digest: `sha256:` and 8 to 64 hex digits; empty when a label is meant.
    """

    kind: str
    name: str
    label: str = ""
    digest: str = ""

    def __str__(self) -> str:
        at = self.digest or self.label
        return f"{self.kind}/{self.name}" + (f"@{at}" if at else "")

    @property
    def exact(self) -> bool:
        """Whether it names content rather than a pointer."""
        return len(self.digest) == len("sha256:") + 64


def parse_ref(text: str, *, kind: str | None = None) -> Ref:
    """Read `kind/name@label` or `kind/name@sha256:...`; with `kind` given, the `kind/` part may be left out.

    Raises:
        InvalidInput: the text has another form, or another kind than the one asked for.
    """
    head, at, tail = text.partition("@")
    found, slash, name = head.rpartition("/")
    if not slash and kind is not None:
        found = kind
    if kind is not None and found != kind:
        raise InvalidInput(f"'{text}' names a {found}, not a {kind}.", hint=f"Use {kind}/NAME@LABEL.", field="ref")
    if not _KIND.fullmatch(found):
        raise InvalidInput(
            f"'{text}' names no kind.", hint="Use KIND/NAME@LABEL, e.g. prompt/greeting@production.", field="ref"
        )
    check_name(name, field="ref")
    if at and _DIGEST.fullmatch(tail):
        return Ref(found, name, digest=tail)
    if at:
        check_name(tail, field="ref")
    return Ref(found, name, label=tail)


def check_name(name: str, *, field: str = "name") -> str:
    """Give the name back if it may name a thing.

    Raises:
        InvalidInput: it is empty, longer than 64, or has characters other than a-z, 0-9, dot, dash and underscore.
    """
    if not _NAME.fullmatch(name):
        shown = name if len(name) <= 64 else name[:61] + "..."
        raise InvalidInput(
            f"'{shown}' cannot be a name.",
            hint="Use 1 to 64 of a-z, 0-9, dot, dash and underscore; begin and end with a letter or digit.",
            field=field,
        )
    return name

"""Tokens of virtual keys: their form, their hash, how one is made."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Final

from detent.kernel.secret import Secret

PREFIX: Final = "dtk_"
_TOKEN = re.compile(r"dtk_[A-Za-z0-9_-]{43}")
_HINT_CHARS = 8


def new_token() -> Secret:
    """A fresh token: `dtk_` and 256 random bits, URL-safe."""
    return Secret(PREFIX + secrets.token_urlsafe(32))


def hash_token(token: str) -> str | None:
    """Hex SHA-256 of a well-formed token; None for anything else, which is refused before any look-up.

    A fast hash is right here: the token has 256 bits of entropy, so there is nothing to guess.
    """
    if len(token) != len(PREFIX) + 43 or _TOKEN.fullmatch(token) is None:
        return None
    return hashlib.sha256(token.encode()).hexdigest()


def hint_of(token: Secret) -> str:
    """The first characters, to recognise a key by in a list."""
    return token.reveal()[:_HINT_CHARS] + "…"

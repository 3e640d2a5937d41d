"""The tables as queries see them. What creates them are the steps in `migrations`; a test compares the two."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Integer, MetaData, Table, Text
from sqlalchemy.types import UserDefinedType


class Raw(UserDefinedType[bytes]):
    """Bytes that both drivers take and give as they are; the stock type would wrap each value once more."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """The name in SQLite; tables are made by the steps, not from here."""
        return "BLOB"


METADATA = MetaData()

FACTS = Table(
    "facts",
    METADATA,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("prev", Raw, nullable=False),
    Column("hash", Raw, nullable=False),
    Column("content", Text, nullable=False),
    # The rest is computed from the content by the database.
    Column("stream", Text),
    Column("version", Integer),
    Column("kind", Text),
    Column("project", Text),
    Column("actor", Text),
    Column("time", BigInteger),
)

WAITING = Table(
    "waiting",
    METADATA,
    Column("seq", BigInteger, primary_key=True),
    Column("content", Text, nullable=False),
    Column("stream", Text),
    Column("version", Integer),
)
"""Facts committed and not chained yet; on PostgreSQL only."""

VIEWS = Table(
    "views",
    METADATA,
    Column("view", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("state", Text, nullable=False),
)

VIEW_SHAPES = Table(
    "view_shapes",
    METADATA,
    Column("view", Text, primary_key=True),
    Column("shape", Text, nullable=False),
)
"""What each view's rows were folded for; a view whose shape has changed is folded anew at the next start."""

CHECKPOINTS = Table(
    "checkpoints",
    METADATA,
    Column("size", BigInteger, primary_key=True, autoincrement=False),
    Column("head", Text, nullable=False),
    Column("root", Text, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("public_key", Text, nullable=False),
    Column("signature", Text, nullable=False),
    Column("frontier", Raw, nullable=False),
)

ACCOUNTS = Table(
    "accounts",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("role", Text, nullable=False),
    Column("password_hash", Text, nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("created", BigInteger, nullable=False),
)

SESSIONS = Table(
    "sessions",
    METADATA,
    Column("token_hash", Text, primary_key=True),
    Column("account_id", Text, nullable=False),
    Column("csrf", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False),
)

LINKS = Table(
    "links",
    METADATA,
    Column("token_hash", Text, primary_key=True),
    Column("purpose", Text, nullable=False),
    Column("expires", BigInteger, nullable=False),
)

SECRETS = Table(
    "secrets",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("sealed", Text, nullable=False),
)

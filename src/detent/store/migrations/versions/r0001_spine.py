"""The ledger, its views and checkpoints; accounts, sessions, links; secrets."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create everything."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    _facts(sqlite)
    if not sqlite:
        _waiting()
    _views()
    _checkpoints()
    _people()
    op.create_table(
        "secrets", sa.Column("id", sa.Text(), primary_key=True), sa.Column("sealed", sa.Text(), nullable=False)
    )


def _facts(sqlite: bool) -> None:  # noqa: FBT001
    """The chain. What a fact is found by is computed by the database from the bytes that are hashed, so that the two
    cannot be made to differ."""
    op.create_table(
        "facts",
        sa.Column("position", sa.Integer() if sqlite else sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("prev", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        _found_by("stream", sa.Text(), sqlite=sqlite),
        _found_by("version", sa.Integer(), sqlite=sqlite),
        _found_by("kind", sa.Text(), sqlite=sqlite),
        _found_by("project", sa.Text(), sqlite=sqlite),
        _found_by("actor", sa.Text(), sqlite=sqlite),
        _found_by("time", sa.BigInteger(), sqlite=sqlite),
    )
    op.create_index("facts_stream", "facts", ["stream", "version"], unique=True)
    # SQLite ends every index entry with the row's position anyway.
    tail = [] if sqlite else ["position"]
    for column in ("kind", "project", "actor"):
        op.create_index(f"facts_{column}", "facts", [column, *tail])


def _waiting() -> None:
    """Facts that are committed and not chained yet."""
    op.create_table(
        "waiting",
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=True, cache=1), primary_key=True),
        sa.Column("content", sa.Text(), nullable=False),
        _found_by("stream", sa.Text(), sqlite=False),
        _found_by("version", sa.Integer(), sqlite=False),
    )
    op.create_index("waiting_stream", "waiting", ["stream", "version"], unique=True)


def _views() -> None:
    op.create_table(
        "views",
        sa.Column("view", sa.Text(), primary_key=True),
        sa.Column("key", sa.Text(), primary_key=True),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
    )
    op.create_index("views_project", "views", ["view", "project"])
    op.create_table(
        "view_shapes", sa.Column("view", sa.Text(), primary_key=True), sa.Column("shape", sa.Text(), nullable=False)
    )


def _checkpoints() -> None:
    op.create_table(
        "checkpoints",
        sa.Column("size", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("head", sa.Text(), nullable=False),
        sa.Column("root", sa.Text(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("public_key", sa.Text(), nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
        sa.Column("frontier", sa.LargeBinary(), nullable=False),
    )


def _people() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False, unique=True),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "sessions",
        sa.Column("token_hash", sa.Text(), primary_key=True),
        sa.Column("account_id", sa.Text(), sa.ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
        sa.Column("csrf", sa.Text(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
    )
    op.create_index("sessions_account", "sessions", ["account_id"])
    op.create_table(
        "links",
        sa.Column("token_hash", sa.Text(), primary_key=True),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
    )


def _found_by(name: str, kind: sa.types.TypeEngine[Any], *, sqlite: bool) -> sa.Column[Any]:
    """A column computed from the content: not stored twice in SQLite, stored in PostgreSQL, which knows no other."""
    if sqlite:
        return sa.Column(name, kind, sa.Computed(f"json_extract(content, '$.{name}')", persisted=False))
    cast = {"version": "::integer", "time": "::bigint"}.get(name, "")
    return sa.Column(name, kind, sa.Computed(f"((content::json)->>'{name}'){cast}", persisted=True))

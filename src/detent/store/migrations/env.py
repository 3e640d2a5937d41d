"""Runs inside Alembic: uses the connection that `upgrade` was given, within its transaction."""

from __future__ import annotations

from alembic import context

from detent.store.migrations import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    version_table=VERSION_TABLE,
    transactional_ddl=True,
)
context.run_migrations()

"""The schema of Detent's database, step by step; `upgrade` runs the steps that are missing.

Alembic is imported only when a step has to run, so that an ordinary start does not pay for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sqlalchemy import Connection, inspect, text

from detent.kernel.errors import StorageFailed

VERSION_TABLE: Final = "detent_schema"
STEPS: Final = ("0001",)
"""Every revision, oldest first; a test holds the list against the files."""


def upgrade(connection: Connection) -> bool:
    """Bring the schema up to date within the connection's transaction; whether anything had to be done.

    The caller holds the lock that keeps a second process out.

    Raises:
        StorageFailed: a newer Detent has changed the schema.
    """
    if check(connection) == STEPS[-1]:
        return False
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    command.upgrade(config, "head")
    return True


def check(connection: Connection) -> str:
    """The schema's revision; empty for a fresh database.

    Raises:
        StorageFailed: this Detent does not know the revision.
    """
    if not inspect(connection).has_table(VERSION_TABLE):
        return ""
    found: str = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar() or ""  # noqa: S608
    if found and found not in STEPS:
        raise StorageFailed(
            f"The database has the schema '{found}', which is newer than this Detent knows ('{STEPS[-1]}').",
            hint="Run the version of Detent that wrote it, or a newer one. Nothing was changed.",
        )
    return found

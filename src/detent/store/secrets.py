"""The Secrets port: sealed credentials, outside the facts, so that a removed one is really gone."""

from __future__ import annotations

from sqlalchemy import Engine, delete, insert, select

from detent.store.database import forget, reading, writing
from detent.store.tables import SECRETS


class SqlSecrets:
    """Ciphertext by id in the ledger's database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def put(self, secret_id: str, sealed: str) -> None:
        """Keep ciphertext under an id; replaces what was there."""
        with writing(self._engine) as connection:
            connection.execute(delete(SECRETS).where(SECRETS.c.id == secret_id))
            connection.execute(insert(SECRETS), {"id": secret_id, "sealed": sealed})

    def get(self, secret_id: str) -> str | None:
        """The ciphertext, or None."""
        with reading(self._engine) as connection:
            return connection.execute(select(SECRETS.c.sealed).where(SECRETS.c.id == secret_id)).scalar_one_or_none()

    def delete(self, secret_id: str) -> None:
        """Destroy it: in the database's files too, not only in the table."""
        with writing(self._engine) as connection:
            connection.execute(delete(SECRETS).where(SECRETS.c.id == secret_id))
        forget(self._engine, "secrets")

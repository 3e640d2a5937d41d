"""The Secrets port: sealed credentials, outside the facts, so that a removed one is really gone."""

from __future__ import annotations

from sqlalchemy import Engine


class SqlSecrets:
    """Ciphertext by id in the ledger's database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def put(self, secret_id: str, sealed: str) -> None:
        raise NotImplementedError

    def get(self, secret_id: str) -> str | None:
        raise NotImplementedError

    def delete(self, secret_id: str) -> None:
        raise NotImplementedError

"""The Accounts port: people, their sessions and one-time links. The one place that holds personal data."""

from __future__ import annotations

from sqlalchemy import Engine

from detent.kernel.ports import Account, Session


class SqlAccounts:
    """People in the ledger's database, in tables whose rows can be erased."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def save(self, account: Account) -> None:
        raise NotImplementedError

    def get(self, account_id: str) -> Account | None:
        raise NotImplementedError

    def by_name(self, name: str) -> Account | None:
        raise NotImplementedError

    def all(self) -> tuple[Account, ...]:
        raise NotImplementedError

    def erase(self, account_id: str) -> None:
        raise NotImplementedError

    def open_session(self, session: Session) -> None:
        raise NotImplementedError

    def session(self, token_hash: str) -> Session | None:
        raise NotImplementedError

    def close_session(self, token_hash: str) -> None:
        raise NotImplementedError

    def close_sessions(self, account_id: str) -> None:
        raise NotImplementedError

    def put_link(self, token_hash: str, purpose: str, expires: int) -> None:
        raise NotImplementedError

    def take_link(self, token_hash: str, now: int) -> str | None:
        raise NotImplementedError

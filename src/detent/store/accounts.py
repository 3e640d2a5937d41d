"""The Accounts port: people, their sessions and one-time links. The one place that holds personal data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from detent.kernel.errors import Conflict, NotFound
from detent.kernel.ports import Account, Session
from detent.store.database import forget, reading, writing
from detent.store.tables import ACCOUNTS, LINKS, SESSIONS

_ACCOUNT: Final = select(*(ACCOUNTS.c[name] for name in Account.__struct_fields__))
_SESSION: Final = select(*(SESSIONS.c[name] for name in Session.__struct_fields__))


class SqlAccounts:
    """People in the ledger's database, in tables whose rows can be erased."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def save(self, account: Account) -> None:
        """Insert or replace by id.

        Raises:
            Conflict: the name is another account's.
        """
        values = msgspec.structs.asdict(account)

        def change(connection: Connection) -> None:
            done = connection.execute(update(ACCOUNTS).where(ACCOUNTS.c.id == account.id).values(values))
            if done.rowcount == 0:
                connection.execute(insert(ACCOUNTS), values)

        try:
            self._write(change)
        except IntegrityError:
            raise Conflict("This name is another account's.", hint="Choose another name.", field="name") from None

    def get(self, account_id: str) -> Account | None:
        """The account with this id."""
        return self._account(ACCOUNTS.c.id == account_id)

    def by_name(self, name: str) -> Account | None:
        """The account with this name."""
        return self._account(ACCOUNTS.c.name == name)

    def all(self) -> tuple[Account, ...]:
        """All accounts by name."""
        with reading(self._engine) as connection:
            rows = connection.execute(_ACCOUNT.order_by(ACCOUNTS.c.name)).mappings().all()
        return tuple(Account(**row) for row in rows)

    def erase(self, account_id: str) -> None:
        """Remove the person and their sessions for good: from the database's files too, not only from the tables."""
        self._write(lambda connection: connection.execute(delete(ACCOUNTS).where(ACCOUNTS.c.id == account_id)))
        forget(self._engine, "accounts")

    def open_session(self, session: Session) -> None:
        """Remember a signed-in browser.

        Raises:
            NotFound: the account does not exist (any more).
        """
        try:
            self._write(lambda connection: connection.execute(insert(SESSIONS), msgspec.structs.asdict(session)))
        except IntegrityError:
            raise NotFound("The account does not exist.", hint="Ask an admin to add it.") from None

    def session(self, token_hash: str) -> Session | None:
        """The session with this token's hash, expired or not."""
        with reading(self._engine) as connection:
            row = connection.execute(_SESSION.where(SESSIONS.c.token_hash == token_hash)).mappings().one_or_none()
        return None if row is None else Session(**row)

    def close_session(self, token_hash: str) -> None:
        """Sign one browser out."""
        self._write(lambda connection: connection.execute(delete(SESSIONS).where(SESSIONS.c.token_hash == token_hash)))

    def close_sessions(self, account_id: str) -> None:
        """Sign a person out everywhere."""
        self._write(lambda connection: connection.execute(delete(SESSIONS).where(SESSIONS.c.account_id == account_id)))

    def put_link(self, token_hash: str, purpose: str, expires: int) -> None:
        """Remember a one-time link by the hash of its token."""
        values = {"token_hash": token_hash, "purpose": purpose, "expires": expires}
        self._write(lambda connection: connection.execute(insert(LINKS), values))

    def take_link(self, token_hash: str, now: int) -> str | None:
        """Use a link up: its purpose, or None when it is unknown, used or expired. Of two at once, one gets it."""
        with writing(self._engine) as connection:
            taken = connection.execute(
                delete(LINKS).where(LINKS.c.token_hash == token_hash).returning(LINKS.c.purpose, LINKS.c.expires)
            ).one_or_none()
            connection.execute(delete(LINKS).where(LINKS.c.expires <= now))
        return None if taken is None or taken.expires <= now else str(taken.purpose)

    def _account(self, condition: Any) -> Account | None:
        with reading(self._engine) as connection:
            row = connection.execute(_ACCOUNT.where(condition)).mappings().one_or_none()
        return None if row is None else Account(**row)

    def _write(self, change: Callable[[Connection], object]) -> None:
        with writing(self._engine) as connection:
            change(connection)

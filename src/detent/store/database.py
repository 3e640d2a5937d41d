"""The one SQL database: opened, brought up to date, and spoken to in short transactions with errors people can act on.

On SQLite a writer takes the database's write lock at once (BEGIN IMMEDIATE), so that it never fails half-way because
somebody else wrote in between; within a process writers queue at a lock, which is fairer than SQLite's polling.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import StaticPool

from detent.kernel.errors import BadSettings, StorageFailed
from detent.store import migrations

_BUSY_SECONDS: Final = 30
_OLDEST_SQLITE: Final = (3, 38, 0)
_MIGRATION_LOCK: Final = 0x0D_E7_E4_70
_LOCK: Final = "detent_lock"
_BEGIN: Final = "detent_begin"


def open_database(url: str) -> Engine:
    """Open the database of an URL, making it if it is a SQLite file, with the schema this version needs.

    Raises:
        BadSettings: the URL cannot be used.
        StorageFailed: it cannot be reached, read or written, or a newer Detent has changed its schema.
    """
    target = _target(url)
    engine = _sqlite(target) if target.get_backend_name() == "sqlite" else _postgres(target)
    try:
        with writing(engine) as connection:
            if not is_sqlite(engine):
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            migrations.upgrade(connection)
    except BaseException:
        engine.dispose()
        raise
    return engine


def is_sqlite(engine: Engine) -> bool:
    """Whether this is the embedded database."""
    return engine.dialect.name == "sqlite"


@contextmanager
def reading(engine: Engine, *, snapshot: bool = False) -> Iterator[Connection]:
    """A transaction that only reads; with `snapshot` all its statements see the same state (on SQLite they always do).

    Raises:
        StorageFailed: the database failed.
    """
    options: dict[str, Any] = {_BEGIN: "BEGIN"}
    if snapshot and not is_sqlite(engine):
        options = {"isolation_level": "REPEATABLE READ"}
    with _failing_clearly(engine), _shared(engine), engine.connect().execution_options(**options) as connection:
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes: committed at the end of the block, or rolled back by an exception from it.

    Raises:
        StorageFailed: the database failed; nothing of the transaction is stored.
    """
    lock: threading.RLock | None = engine.get_execution_options().get(_LOCK)
    with _failing_clearly(engine):
        if lock is None:
            with engine.begin() as connection:
                yield connection
            return
        if not lock.acquire(timeout=_BUSY_SECONDS):
            raise StorageFailed(
                f"The database {engine.url.database} was busy for {_BUSY_SECONDS} seconds.", hint="Try again."
            )
        try:
            with (
                engine.connect().execution_options(**{_BEGIN: "BEGIN IMMEDIATE"}) as connection,
                connection.begin(),
            ):
                yield connection
        finally:
            lock.release()


def forget(engine: Engine, table: Literal["accounts", "secrets"]) -> None:
    """Remove what deleted rows leave behind in the database's files, as far as it can be done while others work."""
    with _failing_clearly(engine), _shared(engine):
        if not is_sqlite(engine):
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("VACUUM accounts" if table == "accounts" else "VACUUM secrets")
            return
        # Deleted bytes were overwritten by secure_delete; this takes their older copies out of the log. A reader that
        # still needs the log is hardly waited for: the log is written over in time anyway.
        raw = engine.raw_connection()
        try:
            cursor = raw.cursor()
            cursor.execute("PRAGMA busy_timeout = 500")
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            cursor.execute("PRAGMA busy_timeout = 30000")
            cursor.close()
        finally:
            raw.close()


def failure(error: BaseException, where: str) -> StorageFailed:
    """What a driver's error means, and what to do about it."""
    name = getattr(error, "sqlite_errorname", "") or getattr(error, "sqlstate", "") or ""
    said = str(error).strip().split("\n", 1)[0] or type(error).__name__
    for prefix, (what, hint) in _MEANINGS.items():
        if name.startswith(prefix):
            return StorageFailed(f"The database {where} {what} ({said}).", hint=hint)
    return StorageFailed(f"The database {where} failed: {said}.", hint="Run `detent doctor`.")


_FULL: Final = (
    "is full",
    "Free disk space, then try again: nothing of the last change was stored.",
)
_READ_ONLY: Final = ("cannot be written", "Give the user that runs Detent write access to the file and its folder.")
_DAMAGED: Final = (
    "is damaged",
    "Stop Detent and restore the database from a backup; keep the damaged file for `detent audit verify --copy`.",
)
_BUSY: Final = ("was busy for too long", "Try again; look for a program that keeps it locked.")
_GONE: Final = ("cannot be reached", "Start PostgreSQL, or correct `storage.ledger_url`.")
_DENIED: Final = ("refused the login", "Correct user, password or rights in `storage.ledger_url`.")

_MEANINGS: Final[dict[str, tuple[str, str]]] = {
    "SQLITE_FULL": _FULL,
    "SQLITE_READONLY": _READ_ONLY,
    "SQLITE_CANTOPEN": ("cannot be opened", _READ_ONLY[1]),
    "SQLITE_PERM": _READ_ONLY,
    "SQLITE_CORRUPT": _DAMAGED,
    "SQLITE_NOTADB": ("is no SQLite database", "Point `storage.ledger_url` or DETENT_HOME at Detent's own data."),
    "SQLITE_BUSY": _BUSY,
    "SQLITE_LOCKED": _BUSY,
    "SQLITE_IOERR": (
        "could not be read or written",
        "Check the disk and its free space; nothing of the change was stored.",
    ),
    "53100": _FULL,
    "25006": ("is read-only", "Connect to the primary server, not to a replica."),
    "28": _DENIED,
    "42501": _DENIED,
    "3D000": ("does not exist", "Create it with `createdb`, or correct `storage.ledger_url`."),
    "XX": _DAMAGED,
    "08": _GONE,
    "57P": _GONE,
    "53300": ("has no connection left", "Raise max_connections, or run fewer processes."),
}


@contextmanager
def _failing_clearly(engine: Engine) -> Iterator[None]:
    where = engine.url.database if is_sqlite(engine) else engine.url.render_as_string(hide_password=True)
    try:
        yield
    except IntegrityError:
        raise  # the caller knows which rule was broken
    except PoolTimeout:
        raise StorageFailed(f"The database {where} was busy for too long.", hint="Try again.") from None
    except DBAPIError as error:
        failed = failure(error.orig or error, str(where))
        if not is_sqlite(engine) and (error.connection_invalidated or getattr(error.orig, "sqlstate", None) is None):
            failed = StorageFailed(f"The database {where} cannot be reached.", hint=_GONE[1])
        raise failed from error
    except (sqlite3.Error, SQLAlchemyError) as error:
        raise failure(error, str(where)) from error


@contextmanager
def _shared(engine: Engine) -> Iterator[None]:
    """A database in memory has one connection, so its readers queue with the writers."""
    if isinstance(engine.pool, StaticPool):
        with engine.get_execution_options()[_LOCK]:
            yield
    else:
        yield


def _target(url: str) -> URL:
    try:
        target = make_url(url)
        backend = target.get_backend_name()
    except (ArgumentError, ValueError):
        backend = ""
    if backend == "sqlite":
        return target
    if backend == "postgresql":
        return target.set(drivername="postgresql+psycopg")
    raise BadSettings(
        "The ledger's database must be SQLite or PostgreSQL.",
        hint="Leave `storage.ledger_url` empty, or use postgresql://user:password@host/database.",
        field="storage.ledger_url",
    )


def _sqlite(url: URL) -> Engine:
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise StorageFailed(
            f"SQLite {sqlite3.sqlite_version} is too old.",
            hint=f"Use a Python built with SQLite {'.'.join(map(str, _OLDEST_SQLITE))} or newer.",
        )
    memory = url.database in (None, "", ":memory:")
    if memory:
        engine = create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": False})
    else:
        _make_private(Path(str(url.database)))
        engine = create_engine(
            url,
            pool_size=8,
            max_overflow=-1,
            connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False},
        )
    engine.update_execution_options(**{_LOCK: threading.RLock()})

    @event.listens_for(engine, "connect")
    def _prepare(raw: sqlite3.Connection, _record: object) -> None:
        raw.isolation_level = None  # transactions begin where we say, not where the driver guesses
        if not memory:
            _write_ahead(raw)
        raw.execute("PRAGMA synchronous = FULL")  # acknowledged means on disk, through a power cut too
        raw.execute("PRAGMA secure_delete = ON")
        raw.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN"))

    return engine


def _postgres(url: URL) -> Engine:
    return create_engine(
        url,
        pool_size=5,
        max_overflow=10,
        pool_pre_ping=True,
        connect_args={"connect_timeout": 10, "application_name": "detent"},
    )


def _make_private(path: Path) -> None:
    """The database file holds password hashes and sealed secrets: nobody else may read it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise StorageFailed(
            f"The database {path} cannot be written: {error.strerror}.",
            hint="Give the user that runs Detent write access to the folder, or set DETENT_HOME to another one.",
        ) from None


def _write_ahead(raw: sqlite3.Connection) -> None:
    """Switch to the write-ahead log. The switch itself does not wait for other processes, so we do."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            raw.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return

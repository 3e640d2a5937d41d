"""Shared counters in PostgreSQL: a row for each, locked for the moment of an exchange.

The arithmetic is the kernel's, on the row's array; the database brings the lock, the clock and the durability. An
exchange takes two round trips. Commits are not waited for on the database's disk: a crash of the database server itself
(not of anything else) takes at most its last moments, three times `wal_writer_delay`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import psycopg

from detent.kernel.clock import SECOND, Clock
from detent.kernel.errors import StorageFailed
from detent.kernel.quotas import LEASE, Level, Move, Share, blank, exchange, level

_MINE: Final = 0x44544E51
"""Of the advisory lock under which the tables are made."""

_TIDY_EVERY: Final = 1000
_REPLIES: Final = msgspec.json.Decoder(tuple[Share, ...])
_OPTIONS: Final = "-c statement_timeout=500 -c lock_timeout=400 -c synchronous_commit=off"


class PostgresQuotas:
    """The port `Quotas` for gateways that share a PostgreSQL. Connects at the first use, and again after a failure.

    Args:
        url: `postgresql://...`; its own tables are made there.
        clock: in place of the database's, for tests.
    """

    remote = True

    def __init__(self, url: str, *, clock: Clock | None = None) -> None:
        self._url = url
        self._clock = clock
        self._lock = threading.Lock()
        self._connection: psycopg.Connection[Any] | None = None
        self._exchanges = 0

    def exchange(self, moves: Sequence[Move], *, ticket: str = "") -> tuple[Share, ...]:
        with self._lock:
            try:
                return self._exchange(self._connected(), moves, ticket)
            except psycopg.Error as error:
                self._hang_up()
                raise _unreachable(error) from None

    def levels(self, project: str) -> tuple[Level, ...]:
        with self._lock:
            try:
                connection = self._connected()
                with connection.transaction():
                    rows = connection.execute(
                        "SELECT key, cells, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
                        " FROM detent_quotas WHERE project = %s",
                        (project,),
                    ).fetchall()
            except psycopg.Error as error:
                self._hang_up()
                raise _unreachable(error) from None
        return tuple(Level(key, *level(cells, 0, self._time(micros))) for key, cells, micros in rows)

    def sync(self) -> None:
        pass

    def close(self) -> None:
        with self._lock:
            self._hang_up()

    def _exchange(self, connection: psycopg.Connection[Any], moves: Sequence[Move], ticket: str) -> tuple[Share, ...]:
        keys = [move.counter.key for move in moves]
        with connection.transaction():
            with connection.pipeline():
                told = connection.execute(
                    "INSERT INTO detent_quota_replies (ticket) SELECT %s WHERE %s <> '' ON CONFLICT DO NOTHING",
                    (ticket, ticket),
                )
                found = connection.execute(_SELECT, (keys,))
            if ticket and not told.rowcount:  # this exchange took place, only its reply was lost
                row = connection.execute(
                    "SELECT reply FROM detent_quota_replies WHERE ticket = %s", (ticket,)
                ).fetchone()
                return _REPLIES.decode(row[0] if row else "[]")
            rows = found.fetchall()
            if len(rows) < len(keys):
                connection.execute(
                    "INSERT INTO detent_quotas (key, project, cells)"
                    " SELECT key, %s, %s::bigint[] FROM unnest(%s::text[]) AS key ORDER BY key ON CONFLICT DO NOTHING",
                    (moves[0].counter.project, blank(), keys),
                )
                rows = connection.execute(_SELECT, (keys,)).fetchall()
            cells = {key: values for key, values, _micros in rows}
            now = self._time(max(micros for _key, _values, micros in rows))
            shares = exchange([(cells[key], 0) for key in keys], moves, now)
            with connection.pipeline():
                connection.cursor().executemany(
                    "UPDATE detent_quotas SET cells = %s, stale = %s WHERE key = %s",
                    [(cells[move.counter.key], _stale(move, now), move.counter.key) for move in moves],
                )
                if ticket:
                    connection.execute(
                        "UPDATE detent_quota_replies SET reply = %s WHERE ticket = %s",
                        (msgspec.json.encode(shares).decode(), ticket),
                    )
        self._exchanges += 1
        if self._exchanges % _TIDY_EVERY == 0:
            self._tidy(connection)
        return shares

    def _tidy(self, connection: psycopg.Connection[Any]) -> None:
        with connection.transaction():
            connection.execute("DELETE FROM detent_quota_replies WHERE made < now() - interval '10 minutes'")
            connection.execute(
                "DELETE FROM detent_quotas WHERE key IN (SELECT key FROM detent_quotas"
                " WHERE stale < extract(epoch FROM now()) * 1000000000 FOR UPDATE SKIP LOCKED)"
            )

    def _time(self, micros: int) -> int:
        return self._clock.monotonic() if self._clock is not None else micros * 1000

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            fresh = psycopg.connect(
                self._url,
                autocommit=True,
                connect_timeout=2,
                options=_OPTIONS,
                application_name="detent-quotas",
                tcp_user_timeout=1000,
                keepalives_idle=5,
            )
            try:
                _make_tables(fresh)
            except BaseException:
                fresh.close()
                raise
            self._connection = fresh
        return self._connection

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


_SELECT: Final = (
    "SELECT key, cells, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    " FROM detent_quotas WHERE key = ANY(%s) ORDER BY key FOR UPDATE"
)


def _make_tables(connection: psycopg.Connection[Any]) -> None:
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MINE,))
        there = connection.execute("SELECT to_regclass('detent_quota_replies')").fetchone()
        if there and there[0]:
            return
        connection.execute(
            "CREATE TABLE detent_quotas (key text PRIMARY KEY, project text NOT NULL, cells bigint[] NOT NULL,"
            " stale bigint NOT NULL DEFAULT 9223372036854775807) WITH (fillfactor = 50)"
        )
        connection.execute("CREATE INDEX detent_quotas_project ON detent_quotas (project)")
        connection.execute(
            "CREATE TABLE detent_quota_replies (ticket text PRIMARY KEY, reply text NOT NULL DEFAULT '[]',"
            " made timestamptz NOT NULL DEFAULT now())"
        )


def _stale(move: Move, now: int) -> int:
    """When nobody will ask for the counter any more."""
    counter = move.counter
    return (counter.until or now + 2 * counter.window + LEASE) + 3600 * SECOND


def _unreachable(error: psycopg.Error) -> StorageFailed:
    return StorageFailed(
        f"The shared counters in PostgreSQL cannot be reached: {' '.join(str(error).split())[:200]}.",
        hint="Check the database and gateway.quotas_url.",
    )


def open_quotas(url: str) -> PostgresQuotas:
    """For the entry-point group `detent.quotas`."""
    return PostgresQuotas(url)

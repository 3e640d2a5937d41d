"""The shared fixtures do what they say."""

from __future__ import annotations

import socket
from pathlib import Path

import psycopg
import pytest

from detent.kernel.clock import FixedClock
from detent.kernel.ids import CountedIds


def test_clock_and_ids_are_fixed(clock: FixedClock, ids: CountedIds) -> None:
    assert (clock.now(), clock.now()) == (1_767_225_600_000_000_000,) * 2
    assert ids.new() == "00000000-0000-7000-8000-000000000001"


def test_home_is_an_empty_private_folder(home: Path) -> None:
    assert list(home.iterdir()) == []
    assert home.stat().st_mode & 0o777 == 0o700


def test_names_are_not_resolved() -> None:
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("example.com", 443)


def test_only_loopback_is_reached() -> None:
    with socket.socket() as probe, pytest.raises(pytest.fail.Exception, match="only loopback"):
        probe.connect(("203.0.113.1", 9))


@pytest.mark.postgres
def test_the_database_is_fresh(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        found = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert found == (0,)


def test_redis_is_empty(redis_url: str) -> None:
    import redis

    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0

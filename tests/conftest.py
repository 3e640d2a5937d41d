"""Fixtures shared by every test: a still clock, counted ids, a data folder, real databases, and no network.

What is real stays real: PostgreSQL and Redis are servers on loopback, found running or started from the machine's
own programs for the length of a run. Where neither can be had, the tests that need them are skipped and say why.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import psycopg
import pytest

from detent.kernel.clock import FixedClock
from detent.kernel.ids import CountedIds

PG_USER = "postgres"
_START_SECONDS = 20.0

# A fixed seed and no clock: a property test fails on every machine or on none. `deep` is for `make soak`.
hypothesis.settings.register_profile("house", deadline=None, derandomize=True, database=None, max_examples=100)
hypothesis.settings.register_profile("deep", deadline=None, database=None, max_examples=3000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "house"))


# Network


def _is_local(host: object) -> bool:
    if isinstance(host, bytes):
        host = host.decode(errors="replace")
    if not isinstance(host, str) or host in {"", "localhost"}:
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _guard_network(event: str, arguments: tuple[object, ...]) -> None:
    if event in {"socket.connect", "socket.sendto"}:
        address = arguments[1]
        if isinstance(address, tuple) and not _is_local(address[0]):
            pytest.fail(f"A test tried to reach {address[0]}; tests reach only loopback.")
    elif event == "socket.getaddrinfo":
        host = arguments[0]
        if isinstance(host, str | bytes) and not _is_local(host) and not _is_literal(host):
            raise socket.gaierror(socket.EAI_NONAME, f"tests resolve no names ({host!r})")


def _is_literal(host: str | bytes) -> bool:
    try:
        ipaddress.ip_address(host if isinstance(host, str) else host.decode())
    except ValueError:
        return False
    return True


sys.addaudithook(_guard_network)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine reaches a test."""
    for name in tuple(os.environ):
        if name.startswith("DETENT_"):
            monkeypatch.delenv(name)


# The outside that is given in


@pytest.fixture
def clock() -> FixedClock:
    """Stands at 2026-01-01T00:00:00Z until it is advanced."""
    return FixedClock()


@pytest.fixture
def ids() -> CountedIds:
    """The same ids every time."""
    return CountedIds()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder, also set as DETENT_HOME."""
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("DETENT_HOME", str(folder))
    return folder


@pytest.fixture
def free_port() -> int:
    """A TCP port of loopback that nobody listened on a moment ago."""
    return find_port()


def find_port() -> int:
    """Ask the kernel for a free loopback port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# PostgreSQL


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server without a database name: the one on loopback, else one started for this run."""
    running = f"postgresql://{PG_USER}@127.0.0.1:5432"
    if _answers(running):
        yield running
        return
    programs = _postgres_programs()
    if programs is None:
        pytest.skip("no PostgreSQL on 127.0.0.1:5432 (user postgres, trust) and none installed to start")
    with tempfile.TemporaryDirectory(prefix="detent-pg-") as folder, _started_postgres(programs, Path(folder)) as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """A fresh, empty database; gone after the test."""
    name = f"detent_test_{os.getpid()}_{secrets.token_hex(4)}"
    with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as admin:
        admin.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
    try:
        yield f"{postgres_server}/{name}"
    finally:
        with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as admin:
            drop = psycopg.sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
            admin.execute(drop.format(psycopg.sql.Identifier(name)))


def _answers(url: str) -> bool:
    try:
        psycopg.connect(f"{url}/postgres", connect_timeout=3).close()
    except psycopg.Error:
        return False
    return True


def _postgres_programs() -> Path | None:
    """The folder that holds initdb and postgres; the newest where there are several."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which("initdb")
    if found:
        folders.append(Path(found).parent)
    return next((f for f in folders if (f / "initdb").exists() and (f / "postgres").exists()), None)


@contextlib.contextmanager
def _started_postgres(programs: Path, folder: Path) -> Iterator[str]:
    data = folder / "data"
    user = _service_user()
    if user:
        shutil.chown(folder, user)
    folder.chmod(0o700)
    initdb = [str(programs / "initdb"), "-D", str(data), "-U", PG_USER, "--auth=trust", "--no-sync", "-E", "UTF8"]
    made = subprocess.run(initdb, capture_output=True, text=True, user=user, cwd=folder, check=False)
    if made.returncode:
        pytest.skip(f"PostgreSQL is installed but initdb failed: {made.stderr.strip()[-200:]}")
    port = find_port()
    options = ["-p", str(port), "-c", "listen_addresses=127.0.0.1", "-k", str(folder), "-c", "fsync=off"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [str(programs / "postgres"), "-D", str(data), *options], stdout=log, stderr=log, user=user, cwd=folder
        )
    url = f"postgresql://{PG_USER}@127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(url):
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.skip(f"PostgreSQL is installed but did not start: {(folder / 'log').read_text()[-200:]}")
            time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=30)


def _service_user() -> str | None:
    """PostgreSQL refuses to run as root, so root lends it another user."""
    if os.getuid() != 0:
        return None
    import pwd

    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), None)


# Redis


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """URL of a Redis server of this run's own; the machine's running one is left alone."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        pytest.skip("no redis-server installed to start")
    port = find_port()
    with tempfile.TemporaryDirectory(prefix="detent-redis-") as folder:
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        with Path(folder, "log").open("wb") as log:
            server = subprocess.Popen([*command, "--dir", folder], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not _listens(port):
                if server.poll() is not None or time.monotonic() > deadline:
                    pytest.skip(f"Redis is installed but did not start: {Path(folder, 'log').read_text()[-200:]}")
                time.sleep(0.05)
            yield f"redis://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(timeout=10)


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """An empty Redis database."""
    import redis

    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    return f"{redis_server}/0"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0

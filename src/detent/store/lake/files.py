"""The files of the lake and the connections to them.

    folder/<project>/2026-03-03.<random>.db             a day
    folder/<project>/2026-03-03.<random>.1/*.parquet    its content, once sealed
    folder/<project>/scores.db                          the project's scores, of all days
    folder/<project>/make.lock, keep.lock               held while a file is made; while a day is sealed or dropped

A day that is dropped and begun again gets another name. Under the same name a process that still has the old file open
would, when it closes it, delete the new file's write-ahead log.
"""

from __future__ import annotations

import fcntl
import os
import re
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, unquote

from detent.kernel.errors import InvalidInput, StorageFailed
from detent.store.lake import schema

BUSY_SECONDS = 10.0
"""How long a writer waits for another process's transaction."""

_PAGE = 8192
_MAX_IDLE = 96
_DAY_FILE = re.compile(r"(\d{4}-\d{2}-\d{2})\.[0-9a-f]{8}\.db")
_SETTLED = 1_000_000_000
"""ns after which a folder's time of change tells of every change: file systems stamp in ticks."""

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_")
_SCORES = "scores"


class Vanished(Exception):
    """The file is not there any more: its day was dropped."""


class Database:
    """One open file. Belongs to whoever borrowed it.

    Attributes:
        connection: in autocommit mode; transactions are begun explicitly.
        names, numbers: strings by number and numbers by string, as far as seen. A name never changes its number.
    """

    __slots__ = ("connection", "inode", "names", "numbers", "path")

    def __init__(self, path: Path, *, writes: bool) -> None:
        self.path = path
        uri = f"file:{quote(str(path))}?mode=rw"
        try:
            self.connection = sqlite3.connect(
                uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self.inode = path.stat().st_ino
        except (sqlite3.OperationalError, FileNotFoundError):
            if path.exists():
                raise
            raise Vanished(path) from None
        self.names: dict[int, str] = {0: ""}
        self.numbers: dict[str, int] = {"": 0}
        run = self.connection.execute
        if writes:
            # FULL: the log is on the disk before a commit returns, so what is acknowledged survives a power loss.
            run("PRAGMA synchronous = FULL")
            run("PRAGMA wal_autocheckpoint = 2000")
            run("PRAGMA journal_size_limit = 16777216")
        else:
            run("PRAGMA query_only = 1")
        run("PRAGMA cache_size = -8192")
        run("PRAGMA temp_store = MEMORY")
        (version,) = run("PRAGMA user_version").fetchone()
        if version != schema.VERSION:
            self.connection.close()
            raise StorageFailed(
                f"{path.name} is of schema {version}; this version of Detent knows {schema.VERSION}.",
                hint="Run the version of Detent that wrote it, or a newer one.",
            )

    def is_current(self) -> bool:
        """Whether the path still names this file."""
        try:
            return self.path.stat().st_ino == self.inode
        except FileNotFoundError:
            return False

    def close(self) -> None:
        self.connection.close()


class Files:
    """The folder of the lake: which files there are, and a pool of connections to read them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._idle: OrderedDict[Path, list[Database]] = OrderedDict()
        self._listed: dict[str, tuple[int, dict[str, Path]]] = {}
        self._closed = False
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageFailed(f"The lake's folder {folder} cannot be made: {error.strerror}.") from error

    # Names

    def projects(self) -> tuple[str, ...]:
        """Every project that has anything stored."""
        return tuple(sorted(unquote(path.name) for path in self.folder.iterdir() if path.is_dir()))

    def days(self, project: str) -> dict[str, Path]:
        """The project's days and their files, newest first."""
        folder = self.project_folder(project)
        try:
            changed = folder.stat().st_mtime_ns
        except FileNotFoundError:
            return {}
        known = self._listed.get(project)
        if known and known[0] == changed:
            return known[1]
        now = time.time_ns()
        days = {}
        for path in sorted(folder.iterdir(), reverse=True):
            match = _DAY_FILE.fullmatch(path.name)
            if match:
                days[match.group(1)] = path
        if now - changed > _SETTLED:
            self._listed[project] = (changed, days)
        return days

    def project_folder(self, project: str) -> Path:
        """Where a project's files are. Reversible, and safe where names are compared without case.

        Raises:
            InvalidInput: the name is empty or too long to be a folder.
        """
        return self.folder / folder_name(project)

    def scores_path(self, project: str) -> Path:
        return self.project_folder(project) / f"{_SCORES}.db"

    @contextmanager
    def exclusive(self, project: str, purpose: str) -> Iterator[None]:
        """Among all processes the only one that does this with the project's files: `make` or `keep` them."""
        folder = self.project_folder(project)
        folder.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(folder / f"{purpose}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    # Connections

    def writer(self, project: str, day: str = "") -> Database:
        """A connection that writes a day, or with no day the scores; the file is made if it is not there."""
        path = self._existing(project, day)
        if path is None:
            with self.exclusive(project, "make"):
                path = self._existing(project, day)
                if path is None:
                    name = f"{day}.{os.urandom(4).hex()}.db" if day else self.scores_path(project).name
                    path = self.project_folder(project) / name
                    _make(path, project, day)
        return Database(path, writes=True)

    def _existing(self, project: str, day: str) -> Path | None:
        if day:
            return self.days(project).get(day)
        path = self.scores_path(project)
        return path if path.exists() else None

    @contextmanager
    def reading(self, path: Path) -> Iterator[Database]:
        """A connection inside one read transaction: everything asked through it is of one moment.

        Raises:
            Vanished: the file is not there.
        """
        database = self._take(path)
        try:
            database.connection.execute("BEGIN")
            yield database
        finally:
            database.connection.rollback()
            self._give(database)

    def _take(self, path: Path) -> Database:
        with self._lock:
            idle = self._idle.get(path)
            database = idle.pop() if idle else None
            if idle is not None and not idle:
                del self._idle[path]
        if database is not None:
            if database.is_current():
                return database
            database.close()
        return Database(path, writes=False)

    def _give(self, database: Database) -> None:
        surplus: list[Database] = []
        with self._lock:
            if self._closed:
                surplus.append(database)
            else:
                self._idle.setdefault(database.path, []).append(database)
                self._idle.move_to_end(database.path)
                if len(self._idle) > _MAX_IDLE:
                    surplus += self._idle.popitem(last=False)[1]
        for old in surplus:
            old.close()

    def let_go(self, path: Path) -> None:
        """Close the idle connections to a file."""
        with self._lock:
            idle = self._idle.pop(path, [])
        for database in idle:
            database.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle = [database for databases in self._idle.values() for database in databases]
            self._idle.clear()
        for database in idle:
            database.close()


def folder_name(project: str) -> str:
    """A project's name as a folder's: everything but small letters, digits, - and _ is written as %XX of its UTF-8.

    Raises:
        InvalidInput: it is empty, too long or no Unicode.
    """
    try:
        letters = project.encode()
    except UnicodeEncodeError:
        raise InvalidInput("A project's name is Unicode.", field="project") from None
    name = "".join(chr(letter) if letter in _PLAIN else f"%{letter:02x}" for letter in letters)
    if not name or len(name) > 200:
        raise InvalidInput("A project's name has 1 to 200 letters.", field="project")
    return name


def _make(path: Path, project: str, day: str) -> None:
    """Make a file under another name first: a reader finds it whole or not at all."""
    hidden = path.with_suffix(".new")
    hidden.unlink(missing_ok=True)
    connection = sqlite3.connect(hidden, isolation_level=None)
    try:
        # Nobody knows the file yet: it goes to the disk once, as a whole, before it gets its name.
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(f"PRAGMA page_size = {_PAGE}")
        connection.execute(f"PRAGMA application_id = {schema.APPLICATION}")
        connection.executescript(schema.DAY if day else schema.SCORES)
        if day:
            connection.execute("INSERT INTO meta (project, day) VALUES (?, ?)", (project, day))
        else:
            connection.execute("INSERT INTO meta (project) VALUES (?)", (project,))
        connection.execute(f"PRAGMA user_version = {schema.VERSION}")
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()
    hidden.chmod(0o600)
    put_on_disk(hidden)
    hidden.rename(path)
    put_on_disk(path.parent)


def put_on_disk(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

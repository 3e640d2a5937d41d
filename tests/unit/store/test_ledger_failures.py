"""Disks, folders and files that refuse: each gives a clear error with a hint, and nothing is half done."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from detent.gateway.facts import FACTS, RouteSaved
from detent.gateway.views import ROUTES, VIEWS
from detent.kernel.clock import FixedClock
from detent.kernel.errors import StorageFailed
from detent.kernel.facts import Draft, FactCatalog
from detent.kernel.identity import Actor
from detent.kernel.ids import CountedIds
from detent.store.accounts import SqlAccounts
from detent.store.ledger import SqlLedger, open_ledger, read_checkpoints, verify_copy
from detent.store.ledger.checkpoints import append_checkpoint, is_signed, open_signer

ANNA = Actor("user", "anna")
CATALOG = FactCatalog(FACTS, VIEWS)


def opened(folder: Path, url: str = "") -> SqlLedger:
    return open_ledger(
        url or f"sqlite:///{folder / 'ledger.db'}",
        CATALOG,
        checkpoints=folder / "checkpoints.jsonl",
        key_file=folder / "keys" / "ledger.key",
        clock=FixedClock(),
        ids=CountedIds(),
    )


def save(ledger: SqlLedger, name: str) -> None:
    draft = Draft(f"route/default/{name}", RouteSaved(name=name, targets=()))
    ledger.append([draft], actor=ANNA, project="default")


# Opening


def test_files_are_private(tmp_path: Path) -> None:
    ledger = opened(tmp_path / "home")
    save(ledger, "a")
    ledger.checkpoint()
    for path in (tmp_path / "home").rglob("*"):
        if path.is_file():
            assert path.stat().st_mode & 0o077 == 0, path
    ledger.close()


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("These are my notes, and no database.\n" * 50)
    with pytest.raises(StorageFailed, match="is no SQLite database") as error:
        opened(tmp_path)
    assert error.value.hint
    assert (tmp_path / "ledger.db").read_text().startswith("These are my notes")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """Runs as another user when this one may write everywhere."""
    folder = tmp_path / "home"
    folder.mkdir()
    folder.chmod(0o500)
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from detent.kernel.errors import StorageFailed\n"
        "from detent.store.database import open_database\n"
        "open_database('sqlite://').dispose()\n"  # all that is imported late, while it can be read
        "if os.getuid() == 0: os.setuid(65534)\n"
        "try: open_database(f'sqlite:///{sys.argv[1]}/ledger.db')\n"
        "except StorageFailed as error: print(error.message, '|', error.hint)\n"
    )
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.getuid() and parent not in (Path("/"), Path("/tmp")):
            parent.chmod(parent.stat().st_mode | 0o055)
    folder.chmod(0o555)
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=False)
    assert "cannot be written: Permission denied" in done.stdout, done.stderr
    assert "write access" in done.stdout
    assert list(folder.iterdir()) == []


def test_no_server_there(free_port: int, tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="cannot be reached") as error:
        opened(tmp_path, f"postgresql://user:hidden-word@127.0.0.1:{free_port}/x")
    assert "hidden-word" not in str(error.value)
    assert "Start PostgreSQL" in error.value.hint


# Writing


def test_a_full_disk_stores_nothing_of_the_change(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    save(ledger, "before")
    with ledger.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    ledger.engine.dispose()

    from sqlalchemy import event

    @event.listens_for(ledger.engine, "connect")
    def _limit(raw: sqlite3.Connection, _record: object) -> None:
        raw.execute(f"PRAGMA max_page_count = {pages + 2}")

    def fill() -> None:
        for number in range(10_000):
            save(ledger, f"r{number}")

    with pytest.raises(StorageFailed, match="is full") as error:
        fill()
    assert "Free disk space" in error.value.hint
    seen = ledger.verify()
    assert seen.findings == ()
    assert seen.facts == len(ledger.rows(ROUTES))
    event.remove(ledger.engine, "connect", _limit)
    ledger.engine.dispose()
    save(ledger, "after")
    assert ledger.verify().facts == seen.facts + 1
    ledger.close()


def test_a_database_that_somebody_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detent.store.database._BUSY_SECONDS", 0.05)
    ledger = opened(tmp_path)
    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageFailed, match="busy") as error:
        save(ledger, "a")
    assert error.value.hint
    assert ledger.read() == ()
    other.execute("ROLLBACK")
    other.close()
    save(ledger, "a")
    ledger.close()


def test_damaged_pages_are_said_to_be_damaged(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    for number in range(200):
        save(ledger, f"r{number}")
    ledger.close()
    file = tmp_path / "ledger.db"
    with file.open("r+b") as raw:
        raw.seek(4096)
        raw.write(b"\xff" * (file.stat().st_size - 8192))
    with pytest.raises(StorageFailed, match="is damaged"):
        opened(tmp_path)
    with pytest.raises(StorageFailed, match="is damaged"):
        verify_copy(file, CATALOG)


# Keys and checkpoints


def test_a_key_that_others_can_read_or_that_is_damaged(tmp_path: Path) -> None:
    key = tmp_path / "ledger.key"
    public = open_signer(key).public_key
    assert open_signer(key).public_key == public
    key.chmod(0o644)
    with pytest.raises(StorageFailed, match="can be read by others") as error:
        open_signer(key)
    assert f"chmod 600 {key}" in error.value.hint
    key.chmod(0o600)
    key.write_bytes(b"short")
    with pytest.raises(StorageFailed, match="damaged"):
        open_signer(key)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed, match="cannot be read or made"):
        open_signer(tmp_path / "file" / "ledger.key")


def test_a_torn_last_line_is_left_out_and_written_past(tmp_path: Path) -> None:
    signer = open_signer(tmp_path / "k")
    one, two = (signer.sign(size=size, head="ab" * 32, root="cd" * 32, time=2**60 + size) for size in (1, 2))
    file = tmp_path / "checkpoints.jsonl"
    append_checkpoint(file, one)
    whole = file.read_bytes()
    for cut in range(1, len(whole) - 1):
        file.write_bytes(whole + whole[:cut])
        assert read_checkpoints(file) == (one,)
    append_checkpoint(file, two)
    assert read_checkpoints(file) == (one, two)
    assert all(is_signed(checkpoint) for checkpoint in (one, two))
    file.write_bytes(whole + b"somebody was here\n" + whole)
    with pytest.raises(StorageFailed, match="Line 2"):
        read_checkpoints(file)
    assert read_checkpoints(tmp_path / "none") == ()


# Copies


def test_a_copy_is_verified_with_its_log_and_left_alone(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    save(ledger, "a")
    save(ledger, "b")
    copies = tmp_path / "copies"
    copies.mkdir()
    for part in tmp_path.glob("ledger.db*"):
        shutil.copy(part, copies)
    assert (copies / "ledger.db-wal").stat().st_size > 0
    assert verify_copy(copies / "ledger.db", CATALOG).facts == 2
    ledger.close()
    shutil.rmtree(copies)
    copies.mkdir()
    shutil.copy(tmp_path / "ledger.db", copies)
    before = (copies / "ledger.db").read_bytes()
    copies.chmod(0o500)
    assert verify_copy(copies / "ledger.db", CATALOG).facts == 2
    copies.chmod(0o700)
    assert {p.name: p.read_bytes() for p in copies.iterdir()} == {"ledger.db": before}


def test_what_is_no_ledger_is_not_verified(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="no file"):
        verify_copy(tmp_path / "none.db", CATALOG)
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE t (x)")
    other.commit()
    other.close()
    with pytest.raises(StorageFailed, match="is not a ledger"):
        verify_copy(tmp_path / "other.db", CATALOG)
    (tmp_path / "text.db").write_text("no database at all " * 100)
    with pytest.raises(StorageFailed, match="no SQLite database"):
        verify_copy(tmp_path / "text.db", CATALOG)


def test_erasing_does_not_wait_for_a_long_reader(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    save(ledger, "a")
    reader = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM facts").fetchone()
    save(ledger, "b")
    SqlAccounts(ledger.engine).erase("nobody")
    reader.close()
    ledger.close()

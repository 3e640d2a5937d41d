"""The snapshot's file: whole or not at all, the newest wins, damage is named."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
import pytest

from detent.gateway.snapshot import FORMAT, Snapshot, load, mark, publish
from detent.kernel.errors import StorageFailed


def snapshot(position: int, made: int = 0) -> Snapshot:
    return Snapshot(FORMAT, position, made, {}, {}, {})


def test_what_is_published_is_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "snapshot"
    assert load(folder) is None
    before = mark(folder)
    publish(snapshot(1), folder)
    assert load(folder) == snapshot(1)
    assert mark(folder) != before
    assert (folder.stat().st_mode & 0o777, (folder / "current.json").stat().st_mode & 0o777) == (0o700, 0o600)


def test_the_mark_changes_with_each_publication(tmp_path: Path) -> None:
    marks = set()
    for position in range(1, 20):
        publish(snapshot(position), tmp_path)
        marks.add(mark(tmp_path))
    assert len(marks) == 19


def test_an_older_one_does_not_replace_a_newer_one(tmp_path: Path) -> None:
    publish(snapshot(5), tmp_path)
    publish(snapshot(4), tmp_path)
    assert load(tmp_path) == snapshot(5)
    publish(snapshot(5, made=9), tmp_path)  # prices or the engine's address may change at one position
    assert load(tmp_path) == snapshot(5, made=9)


def test_the_last_twenty_are_kept(tmp_path: Path) -> None:
    for position in range(1, 30):
        publish(snapshot(position), tmp_path)
    kept = sorted(path.name for path in tmp_path.glob("[0-9]*.json"))
    assert (len(kept), kept[-1][:12]) == (20, "000000000029")
    assert not list(tmp_path.glob("*.tmp"))


def test_several_compilers_at_once(tmp_path: Path) -> None:
    threads = [threading.Thread(target=publish, args=(snapshot(position), tmp_path)) for position in range(1, 17)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert load(tmp_path) == snapshot(16)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"format": 1}', b"\xff", b"null"])
def test_damage_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "current.json").write_bytes(data)
    with pytest.raises(StorageFailed, match="damaged"):
        load(tmp_path)
    publish(snapshot(3), tmp_path)
    assert load(tmp_path) == snapshot(3)


def test_another_format_is_named(tmp_path: Path) -> None:
    other = msgspec.structs.replace(snapshot(1), format=FORMAT + 1)
    (tmp_path / "current.json").write_bytes(msgspec.json.encode(other))
    with pytest.raises(StorageFailed, match=f"format {FORMAT + 1}"):
        load(tmp_path)


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "current.json").mkdir()
    with pytest.raises(StorageFailed, match="cannot be written"):
        publish(snapshot(1), tmp_path)

"""Days that are closed: sealing them to Parquet, dropping them."""

from __future__ import annotations

import shutil
from pathlib import Path

from detent.kernel.errors import Conflict, NotFound
from detent.kernel.telemetry import Partition
from detent.store.lake import sealed
from detent.store.lake.files import Database, Files, Vanished, put_on_disk
from detent.store.lake.reading import Day
from detent.store.lake.sealed import SealedContent


def partition(files: Files, project: str, day: str, path: Path) -> Partition:
    """What a day holds and takes.

    Raises:
        Vanished: it was dropped.
    """
    with files.reading(path) as database:
        run = database.connection.execute
        (spans,) = run("SELECT coalesce(max(id), 0) FROM span").fetchone()
        sealed_spans, folder = run("SELECT sealed_spans, sealed_folder FROM meta").fetchone()
    size = sum(_size(path.with_name(path.name + end)) for end in ("", "-wal"))
    if folder:
        size += sum(_size(part) for part in (path.parent / folder).iterdir())
    return Partition(project, day, spans, size, sealed=bool(sealed_spans))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def seal(files: Files, contents: SealedContent, project: str, day: str, *, today: str) -> Partition:
    """Move a closed day's content into Parquet. Spans that came late into a sealed day are taken in by doing it again.

    A crash at any point leaves the day as it was or sealed: the parts are complete and on the disk before the one
    transaction that points to them and removes the blocks.

    Raises:
        Conflict: the day is not over.
        NotFound: there is no such day.
    """
    if day >= today:
        raise Conflict(f"The day {day} is not over.", hint="Seal it tomorrow.", field="day")
    with files.exclusive(project, "keep"):
        path = files.days(project).get(day)
        if path is None:
            raise NotFound(f"There is nothing stored of {day}.", field="day")
        with files.reading(path) as database:
            (last,) = database.connection.execute("SELECT coalesce(max(id), 0) FROM span").fetchone()
            done, old = database.connection.execute("SELECT sealed_spans, sealed_folder FROM meta").fetchone()
            if last > done:
                folder = next_folder(path, old)
                _write_parts(Day(database, project, contents), folder, last)
        if last > done:
            _point_to(Database(path, writes=True), folder.name, last)
            remove_stale(path, folder)
        return partition(files, project, day, path)


def next_folder(path: Path, old: str) -> Path:
    """Where a day's parts go when they are written anew."""
    generation = int(old.rpartition(".")[2]) + 1 if old else 1
    return path.with_suffix(f".{generation}")


def settle_folder(folder: Path) -> None:
    """Wait until a folder and its name are on the disk."""
    put_on_disk(folder)
    put_on_disk(folder.parent)


def remove_stale(path: Path, folder: Path) -> None:
    """Remove what there is of a day's parts besides the folder that holds now."""
    for stale in path.parent.glob(f"{path.stem}.*"):
        if stale.is_dir() and stale != folder:
            shutil.rmtree(stale, ignore_errors=True)


def _write_parts(day: Day, folder: Path, last: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # what a crash left
    folder.mkdir(mode=0o700)
    for number, begin in enumerate(range(1, last + 1, sealed.PART_SPANS)):
        end = min(begin + sealed.PART_SPANS - 1, last)
        sealed.write_part(sealed.part_path(folder, number), day.all_spans(begin, end))
    settle_folder(folder)


def _point_to(database: Database, folder: str, last: int) -> None:
    run = database.connection.execute
    try:
        run("BEGIN IMMEDIATE")
        run("UPDATE meta SET sealed_spans = ?, sealed_folder = ?", (last, folder))
        run("DELETE FROM block WHERE first <= ?", (last,))
        run("COMMIT")
        run("INSERT INTO word (word) VALUES ('optimize')")
        run("VACUUM")
        run("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        database.close()


def drop(files: Files, project: str, path: Path) -> bool:
    """Remove a day for good; False when somebody else did."""
    with files.exclusive(project, "keep"):
        try:
            database = Database(path, writes=True)
        except Vanished:
            return False
        try:
            # Whoever writes there now or later sees this inside its transaction, and begins the day anew.
            database.connection.execute("UPDATE meta SET dropped = 1")
        finally:
            database.close()
        files.let_go(path)
        for end in ("", "-wal", "-shm"):
            path.with_name(path.name + end).unlink(missing_ok=True)
        for folder in path.parent.glob(f"{path.stem}.*"):
            if folder.is_dir():
                shutil.rmtree(folder, ignore_errors=True)
    return True

"""The data folder: made, checked, and explained when it cannot be used."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Final

from detent.kernel.errors import StorageFailed

LEAST_FREE: Final = 64 * 1024 * 1024
"""Bytes that must be free to start: room for the journals of a small ledger and lake."""

FOLDERS: Final = ("lake", "blobs", "spool", "snapshot", "keys", "run")


def prepare_home(home: Path) -> None:
    """Make the data folder with its parts, for its owner alone, and try a write.

    Raises:
        StorageFailed: it cannot be made or written, or the disk is full; says why and what to do.
    """
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in FOLDERS:
            (home / name).mkdir(exist_ok=True, mode=0o700)
        probe = home / "run" / f"probe.{os.getpid()}"
        probe.write_bytes(b"detent")
        probe.unlink()
    except OSError as error:
        raise cannot_write(home, error) from None
    free = shutil.disk_usage(home).free
    if free < LEAST_FREE:
        raise StorageFailed(
            f"The disk of {home} is full: {free // 2**20} MB are free, {LEAST_FREE // 2**20} MB are needed.",
            hint="Free space, lower storage.retention_days, or set DETENT_HOME to another disk.",
        )


def cannot_write(home: Path, error: OSError) -> StorageFailed:
    """The error for a data folder that cannot be written, in words."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageFailed(f"The disk of {home} is full.", hint="Free space, or set DETENT_HOME to another disk.")
    if error.errno in {errno.EEXIST, errno.ENOTDIR}:
        return StorageFailed(f"{home} cannot be the data folder: {error.filename} is a file.", hint="Set DETENT_HOME.")
    return StorageFailed(
        f"The data folder {home} cannot be written: {error.strerror}.",
        hint=f"Make it yours with `chown -R {os.getuid()} {home}`, or set DETENT_HOME to a folder that is.",
    )

"""Signed checkpoints and the file outside the database that they are appended to."""

from __future__ import annotations

from pathlib import Path

from detent.kernel.ports import Checkpoint


def read_checkpoints(path: Path) -> tuple[Checkpoint, ...]:
    """The checkpoints of a file, in the order in which they were made; none when there is no file."""
    raise NotImplementedError(path)

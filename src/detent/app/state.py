"""The supervisor's state file: how every other process learns what runs, where, and with which process ids."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

import msgspec

from detent.app.status import Part

_FILE: Final = "state.json"
_LOCK: Final = "lock"


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What `detent up` runs now.

    Attributes:
        pid: of the supervisor.
        started: ns since the epoch.
        gateway_url, console_url, engine_url: as bound; the engine's is empty when none is started.
    """

    pid: int
    started: int
    gateway_url: str
    console_url: str
    engine_url: str
    parts: tuple[Part, ...] = ()


def write_state(run: Path, state: State) -> None:
    """Replace the state file, atomically."""
    fresh = run / f"{_FILE}.{os.getpid()}.tmp"
    fresh.write_bytes(msgspec.json.encode(state))
    fresh.replace(run / _FILE)


def read_state(run: Path) -> State | None:
    """What runs now; None when no supervisor does, also when one died and left its file."""
    if holder(run) == 0:
        return None
    try:
        return msgspec.json.decode((run / _FILE).read_bytes(), type=State)
    except (OSError, msgspec.MsgspecError):
        return None


def take_lock(run: Path) -> int | None:
    """Become the one supervisor of this home: a descriptor to keep open, or None when there is another.

    The lock is the kernel's, so it ends with its holder however that dies; the pid in the file only tells people whose
    it is. Children must not inherit the descriptor (they do not: Python's are closed on exec).
    """
    run.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(run / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def holder(run: Path) -> int:
    """Process id of the supervisor of this home; 0 when none runs."""
    try:
        descriptor = os.open(run / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(descriptor, 20, 0).decode(errors="replace")
        return int(text) if text.isdecimal() else -1
    else:
        return 0
    finally:
        os.close(descriptor)

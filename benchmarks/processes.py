"""What processes use, read from /proc: CPU time, resident memory, file descriptors, threads."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGESIZE")


def tree(root: int) -> list[int]:
    """A process and everything below it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                parents.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        found.append(waiting.pop())
        waiting += parents.get(found[-1], [])
    return found


def cpu_seconds(root: int) -> float:
    """User and system time of a process tree so far, that of its ended and awaited children included."""
    total = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):
            total += sum(int(field) for field in _stat(pid)[11:15])
    return total / TICKS


def megabytes(root: int, *, children: bool = True) -> float:
    """Resident memory of a process tree; pages that its processes share count for each."""
    total = 0
    for pid in tree(root) if children else [root]:
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    return round(total / 1_000_000, 2)


def descriptors(pid: int) -> int:
    """Open file descriptors of one process."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def threads(pid: int) -> int:
    """Threads of one process."""
    return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Sampler:
    """Reads figures at intervals on a thread of its own, for as long as it is entered.

    Attributes:
        times: seconds since the beginning.
        series: by name, one figure for each of the times; None where there was none to read.
    """

    def __init__(self, sources: Mapping[str, Callable[[], float]], seconds: float = 1.0) -> None:
        self._sources = sources
        self._seconds = seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.times: list[float] = []
        self.series: dict[str, list[float | None]] = {name: [] for name in sources}

    def __enter__(self) -> Self:
        self._begun = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self.times.append(round(time.monotonic() - self._begun, 2))
            for name, read in self._sources.items():
                found: float | None = None
                with contextlib.suppress(OSError):
                    found = read()
                self.series[name].append(found)
            if self._over.wait(self._seconds):
                return


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()

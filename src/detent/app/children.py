"""Child processes of the supervisor: how each is started, watched, restarted and stopped."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from detent.app.status import Part, PartState
from detent.kernel.clock import SECOND, Clock

_PR_SET_PDEATHSIG: Final = 1
_FIRST_DELAY: Final = SECOND // 4
_LONGEST_DELAY: Final = 30 * SECOND
_LONGEST_DELAY_SERVED: Final = 1 * SECOND
"""For a process that was ready before it died: what serves between two deaths is worth more than rest."""

_HEALTHY_AFTER: Final = 5 * SECOND
"""A process that was ready and ran this long has a clean slate: after its death it is started again at once."""


class Recipe:
    """How to start one process.

    Args:
        command: its arguments after the interpreter.
        descriptors: listening sockets handed down.
        stop_seconds: how long it may take to leave after SIGTERM.
        heard: whether its standard output is read here, for one line that it tells; else it is ours.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        descriptors: Sequence[int] = (),
        address: str = "",
        stop_seconds: float = 10,
        heard: bool = False,
    ) -> None:
        self.name = name
        self.kind = kind
        self.command = [sys.executable, "-P", *command]
        self.env = dict(env)
        self.descriptors = tuple(descriptors)
        self.address = address
        self.stop_seconds = stop_seconds
        self.heard = heard


class Child:
    """One process and its history. Not thread-safe: the supervisor's loop owns it.

    Attributes:
        restarts: how often it was started again.
        ready_once: whether it was ready at any time.
    """

    def __init__(self, recipe: Recipe, *, clock: Clock, ready: Callable[[], bool]) -> None:
        self.recipe = recipe
        self.restarts = 0
        self.ready_once = False
        self._clock = clock
        self._ready = ready
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0
        self._failures = 0
        self._due = 0
        self._state: PartState = "stopped"
        self._since = clock.now()
        self._detail = ""
        self._heard = b""

    @property
    def pid(self) -> int:
        """Process id; 0 when none runs."""
        return self._process.pid if self._process is not None else 0

    @property
    def state(self) -> PartState:
        """Where it is in its life."""
        return self._state

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    def part(self) -> Part:
        """It as others see it."""
        return Part(
            name=self.recipe.name,
            kind=self.recipe.kind,
            state=self._state,
            pid=self.pid,
            address=self.recipe.address,
            restarts=self.restarts,
            since=self._since,
            detail=self._detail,
        )

    def start(self) -> None:
        """Start it now."""
        parent, libc = os.getpid(), _libc()

        def follow() -> None:
            # Be told to stop when the supervisor dies, however it dies; the check closes the gap before that.
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(1)

        self._process = subprocess.Popen(
            self.recipe.command,
            env=self.recipe.env,
            pass_fds=self.recipe.descriptors,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if self.recipe.heard else None,
            preexec_fn=follow,  # noqa: PLW1509  (the supervisor has one thread, so nothing is locked at the fork)
            start_new_session=True,
        )
        if self._process.stdout is not None:
            os.set_blocking(self._process.stdout.fileno(), False)
            self._heard = b""
        self._started = self._clock.monotonic()
        self._turn("restarting" if self.restarts else "starting", self._detail)

    def look(self) -> str:
        """Move on as time and the process demand; a sentence when something happened worth telling, else nothing."""
        now = self._clock.monotonic()
        if self._process is None:
            if self._state == "restarting" and now >= self._due:
                self.restarts += 1
                self.start()
            return ""
        self._hear()
        status = self._process.poll()
        if status is not None:
            ran = now - self._started
            served = self._state == "running"
            self._failures = 1 if served and ran > _HEALTHY_AFTER else self._failures + 1
            self.settle()
            delay = delay_after(self._failures, served=served)
            self._due = now + delay
            how = _ended(status)
            self._turn("restarting", f"It {how}.")
            return f"{self.recipe.name} {how} after {ran / SECOND:.1f} s; starting again in {delay / SECOND:.2f} s"
        if self._state in {"starting", "restarting"} and self._ready():
            self.ready_once = True
            self._turn("running")
        return ""

    def said(self) -> bytes:
        """The line that it told on its standard output; empty until it did."""
        self._hear()
        return self._heard.partition(b"\n")[0] if b"\n" in self._heard else b""

    def ask_to_stop(self) -> None:
        """Send SIGTERM; it leaves in its own time."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._detail = "It did not leave in time and was killed."

    def settle(self) -> None:
        """Give back what belongs to a process that has left."""
        process, self._process = self._process, None
        if process is not None:
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._turn("stopped", self._detail)

    def _hear(self) -> None:
        stdout = self._process.stdout if self._process is not None else None
        if stdout is not None:
            self._heard = (self._heard + (stdout.read(65536) or b""))[-65536:]

    def _turn(self, state: PartState, detail: str = "") -> None:
        self._state, self._since, self._detail = state, self._clock.now(), detail


def delay_after(failures: int, *, served: bool = False) -> int:
    """ns to wait before a start: none after the first quick death, then doubling up to half a minute.

    Args:
        served: whether the process was ready before it died; then it waits a second at most.
    """
    longest = _LONGEST_DELAY_SERVED if served else _LONGEST_DELAY
    return 0 if failures <= 1 else min(_FIRST_DELAY << min(failures - 2, 20), longest)


def _ended(status: int) -> str:
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"left with status {status}"


_LIBC: list[ctypes.CDLL] = []


def _libc() -> ctypes.CDLL:
    """The C library, opened before the first fork."""
    if not _LIBC:
        _LIBC.append(ctypes.CDLL(None, use_errno=True))
    return _LIBC[0]

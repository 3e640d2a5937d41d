"""Counters in a file that all processes of one host map into their memory. Takes microseconds, survives any of them.

An exchange takes the file's lock (flock, which the kernel releases when its holder dies), works on the mapped
integers, and lets go. There is no write to wait for: what is in the map is the kernel's, whatever happens to the
process. The disk has it after `sync`, which a worker does every second, so a power loss takes at most that.

Time is the machine's monotonic clock and a base that the file holds: all processes of a host read the same, and a wall
clock that is set changes nothing. After a reboot the base goes on from the wall time that has passed meanwhile.

The file is a hash table of fixed slots, each a key and its counter's cells. Slots whose counter says nothing any more
are used again; when room gets short, a file of twice the size takes this one's place.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import mmap
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from detent.kernel.clock import Clock
from detent.kernel.errors import StorageFailed
from detent.kernel.quotas import CELLS, LEASE, SEPARATOR, Level, Move, Share, exchange, idle, level

_MAGIC: Final = 0x44544E5451303101
"""Also the version of the layout: raise its last byte with every change."""

_WORD: Final = 8
_HEADER: Final = 4096
_KEY_BYTES: Final = 512
_KEY_WORDS: Final = _KEY_BYTES // _WORD
_CELLS_AT: Final = 1 + _KEY_WORDS
_SLOT: Final = _CELLS_AT + CELLS
"""Words of a slot: the key's digest (0 where nobody was ever), the key, the cells."""

_TAKEN: Final = -1
"""In a digest's place while a slot changes hands."""

_FIRST: Final = _HEADER // _WORD
_SLOTS: Final = 4096
_MOST_SLOTS: Final = 1 << 20
_PROBES: Final = 32
_KNOWN: Final = 100_000
"""Keys whose slots a process remembers."""

_LOCK_SECONDS: Final = 0.05
_MAGIC_AT, _SLOTS_AT, _MOVED_AT, _BOOT_AT, _BASE_AT, _SEEN_AT, _WALL_AT = range(7)

_log = logging.getLogger("detent.gateway.limits")


class _FullError(Exception):
    """No slot is left within reach of a key."""


class HostQuotas:
    """The port `Quotas` on a mapped file; for all workers of a host, and for whoever wants to look.

    Args:
        path: the file; made where there is none.
        boot: names the machine's current run; by default the kernel's boot id.
        slots: counters that a new file has room for before it grows.

    Raises:
        StorageFailed: the file cannot be made or mapped.
    """

    remote = False

    def __init__(self, path: Path, *, clock: Clock, boot: str | None = None, slots: int = _SLOTS) -> None:
        self._path = path
        self._clock = clock
        self._boot = _number(boot if boot is not None else _boot_id())
        self._least = slots
        self._lock = threading.Lock()
        self._places: dict[str, tuple[int, int]] = {}
        self._open()

    def exchange(
        self,
        moves: Sequence[Move],
        *,
        ticket: str = "",  # noqa: ARG002  (no reply is lost within a process)
    ) -> tuple[Share, ...]:
        with self._lock:
            self._acquire()
            try:
                now = self._now()
                while True:
                    try:
                        places = self._find_all(moves, now)
                        break
                    except _FullError:
                        self._grow(now)
                return exchange(places, moves, now)
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def levels(self, project: str) -> tuple[Level, ...]:
        found = []
        with self._locked():
            now = self._now()
            words = self._words
            prefix = f"{project}{SEPARATOR}"
            for index, digest in enumerate(words[_FIRST::_SLOT].tolist()):
                if digest:
                    at = _FIRST + index * _SLOT
                    key = self._key(at)
                    if key.startswith(prefix):
                        found.append(Level(key, *level(words, at + _CELLS_AT, now)))
        return tuple(found)

    def sync(self) -> None:
        with self._locked():
            self._now()
            self._words[_WALL_AT] = self._clock.now()
            try:
                current = self._path.stat().st_ino
            except FileNotFoundError:
                current = 0
            if current != os.fstat(self._fd).st_ino:  # moved away or removed: go where the others go
                self._reopen()
            map_, fd = self._map, os.dup(self._fd)
        try:
            with contextlib.suppress(ValueError):  # it grew meanwhile; the next second sees to the new one
                map_.flush()
            os.fsync(fd)
        except OSError as error:
            raise _cannot(self._path, error) from None
        finally:
            os.close(fd)

    def close(self) -> None:
        with self._lock:
            self._let_go()

    # Time and slots, under the lock

    def _now(self) -> int:
        """The time that all processes of the host share; never goes back."""
        words = self._words
        now: int = words[_BASE_AT] + self._clock.monotonic()
        seen: int = words[_SEEN_AT]
        if now < seen:  # a reboot that the boot id did not tell
            words[_BASE_AT] += seen - now
            now = seen
        words[_SEEN_AT] = now
        return now

    def _find_all(self, moves: Sequence[Move], now: int) -> list[tuple[memoryview, int]]:
        words, places = self._words, self._places
        found = []
        for move in moves:
            key = move.counter.key
            known = places.get(key)
            if known is None or words[known[0]] != known[1]:
                if len(places) >= _KNOWN:
                    places.clear()
                known = places[key] = self._find(key, now)
            found.append((words, known[0] + _CELLS_AT))
        return found

    def _find(self, key: str, now: int) -> tuple[int, int]:
        """The key's slot, taken if it has none."""
        words, digest, wall = self._words, _number(key), self._clock.now()
        slots: int = words[_SLOTS_AT]
        vacant = -1
        for probe in range(_PROBES):
            at = _FIRST + (digest + probe) % slots * _SLOT
            found = words[at]
            if found == digest and self._key(at) == key:
                return at, digest
            if not found:
                vacant = at if vacant < 0 else vacant
                break
            if vacant < 0 and idle(words, at + _CELLS_AT, now, wall):
                vacant = at
        if vacant < 0:
            raise _FullError
        words[vacant] = _TAKEN  # whoever dies here leaves a slot that says nothing
        for index in range(_CELLS_AT, _SLOT):
            words[vacant + index] = 0
        text = key.encode()[:_KEY_BYTES].ljust(_KEY_BYTES, b"\0")
        self._map[(vacant + 1) * _WORD : (vacant + _CELLS_AT) * _WORD] = text
        words[vacant] = digest
        return vacant, digest

    def _key(self, at: int) -> str:
        raw = self._map[(at + 1) * _WORD : (at + _CELLS_AT) * _WORD]
        return raw.rstrip(b"\0").decode(errors="replace")

    # The lock

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock:
            self._acquire()
            try:
                yield
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _acquire(self) -> None:
        """Take the file's lock, in the file that counts. Its holders need microseconds; one that was stopped is not
        waited for."""
        while True:
            if self._fd < 0:
                raise StorageFailed(f"The counters in {self._path} are closed.")
            _flock(self._fd, self._path)
            if not self._words[_MOVED_AT]:
                return
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            self._let_go()
            self._open()

    # The file

    def _open(self) -> None:
        """Map the file, made or set right where necessary."""
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                _flock(self._fd, self._path)
                try:
                    if not self._usable():
                        os.ftruncate(self._fd, 0)
                        self._lay_out(self._fd, self._least)
                    self._map_in()
                    self._set_time()
                finally:
                    fcntl.flock(self._fd, fcntl.LOCK_UN)
            except BaseException:
                os.close(self._fd)
                self._fd = -1
                raise
        except OSError as error:
            raise _cannot(self._path, error) from None

    def _usable(self) -> bool:
        """Whether the file is whole and of this layout; one that is not is copied aside."""
        size = os.fstat(self._fd).st_size
        if not size:
            return False
        head = os.pread(self._fd, 2 * _WORD, 0)
        magic, slots = (int.from_bytes(head[at : at + _WORD], sys.byteorder) for at in (0, _WORD))
        if magic == _MAGIC and size == _size(slots):
            return True
        aside = self._path.with_suffix(f".{self._clock.now()}.old")
        shutil.copyfile(self._path, aside)
        _log.error("%s is damaged or of another version: counting begins anew, the old file is %s", self._path, aside)
        return False

    def _lay_out(self, fd: int, slots: int) -> None:
        os.posix_fallocate(fd, 0, _size(slots))  # all of it: a full disk must not be met when a page is written
        os.pwrite(fd, b"".join(value.to_bytes(_WORD, sys.byteorder) for value in (_MAGIC, slots)), 0)

    def _map_in(self) -> None:
        self._map = mmap.mmap(self._fd, os.fstat(self._fd).st_size)
        self._words = memoryview(self._map).cast("q")
        self._places = {}

    def _set_time(self) -> None:
        words = self._words
        if words[_BOOT_AT] == self._boot:
            return
        passed = max(self._clock.now() - words[_WALL_AT], 0) if words[_WALL_AT] else LEASE
        words[_SEEN_AT] += passed
        words[_BASE_AT] = words[_SEEN_AT] - self._clock.monotonic()
        words[_WALL_AT] = self._clock.now()
        words[_BOOT_AT] = self._boot

    def _grow(self, now: int) -> None:
        """Put a file of twice the size in this one's place, with all counters that still say something."""
        old, slots = self._words, self._words[_SLOTS_AT]
        if slots >= _MOST_SLOTS:
            raise StorageFailed(
                f"{self._path} holds {slots} counters and takes no more.",
                hint="Count each user or key in fewer limits, or share counters in Redis with gateway.quotas_url.",
            )
        wall = self._clock.now()
        live = [
            (at, self._key(at))
            for at in range(_FIRST, _FIRST + slots * _SLOT, _SLOT)
            if old[at] and old[at] != _TAKEN and not idle(old, at + _CELLS_AT, now, wall)
        ]
        old_fd, old_map = self._fd, self._map
        fresh = self._path.with_suffix(f".{os.getpid()}.new")
        try:
            self._fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            self._lay_out(self._fd, slots * 2)
        except OSError as error:
            if self._fd != old_fd:
                os.close(self._fd)
                self._fd = old_fd
            fresh.unlink(missing_ok=True)
            raise _cannot(self._path, error) from None
        self._map_in()
        self._words[_MOVED_AT:_FIRST] = old[_MOVED_AT:_FIRST]
        for at, key in live:
            place, _digest = self._find(key, now)
            self._words[place + _CELLS_AT : place + _SLOT] = old[at + _CELLS_AT : at + _SLOT]
        fresh.replace(self._path)
        old[_MOVED_AT] = 1
        old.release()
        old_map.close()
        os.close(old_fd)

    def _reopen(self) -> None:
        """Leave a file that is not the path's any more; the lock is held before and after."""
        self._words[_MOVED_AT] = 1
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        self._let_go()
        self._open()
        self._acquire()

    def _let_go(self) -> None:
        if self._fd < 0:
            return
        self._words.release()
        with contextlib.suppress(BufferError):  # a sync is at it; it goes with the last who looks
            self._map.close()
        os.close(self._fd)
        self._fd = -1


def _flock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    else:
        return
    deadline = time.monotonic() + _LOCK_SECONDS
    pause = 0.0
    while time.monotonic() < deadline:
        time.sleep(pause)
        pause = min(pause + 0.00002, 0.0005)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return
    raise StorageFailed(
        f"{path} is locked by a process that does not let go.", hint="Look for a stopped process with `fuser`."
    )


def _size(slots: int) -> int:
    return _HEADER + slots * _SLOT * _WORD


def _number(text: str) -> int:
    """64 bits of a digest; neither 0 nor the mark of a slot that is being taken."""
    found = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=_WORD).digest(), "big", signed=True)
    return found if found not in (0, _TAKEN) else 1


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        return ""


def _cannot(path: Path, error: OSError) -> StorageFailed:
    return StorageFailed(
        f"The counters of limits and budgets in {path} cannot be used: {error.strerror}.",
        hint="Free space or correct the mode of the folder.",
    )

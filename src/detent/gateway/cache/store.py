"""Entries in files, shared by all workers of a host, with a part of them in this worker's memory.

    folder/<project>/<2 hex>/<62 hex>     an entry, by its key
    folder/<project>/like/<hex>           vectors of requests that can be found by likeness
    folder/<project>/cleared              touched when everything of the project was removed
    folder/sweep.lock                     held by whoever makes room, for which the others wait

A file's times say when it expires (access) and when it was used last (change), so that making room reads no file. It
begins with a checksum of the rest, and the rest says which key it is for. A file that was cut, changed, moved,
swapped for a link or a pipe, or is none of ours, is not there.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Final

import msgspec

from detent.gateway.cache.model import Entry

MAX_BYTES: Final = 256 * 1024 * 1024
MAX_MEMORY: Final = 16 * 1024 * 1024
_SHARE: Final = 64
_FULL: Final = 0.7
_BLOCK: Final = 4096
_NEVER: Final = 2**63
_MAGIC: Final = b"DtC1"
_CHECK: Final = 16
_HEAD: Final = len(_MAGIC) + _CHECK
_OPEN: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Entry)

Background = Callable[[Callable[[], None]], object]


def _at_once(work: Callable[[], None]) -> None:
    work()


class Store:
    """The kept entries.

    All files together take at most `max_bytes`: each worker makes room after it wrote a 64th of that, down to seven
    tenths, which bounds up to sixteen workers. What is used least recently goes first.

    Args:
        folder: made when the first entry is written.
        background: runs a function elsewhere, one after the other; writing and making room go there. Making room
            reads the whole folder and waits for other workers: an event loop gives an executor of one thread here.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int = MAX_BYTES,
        max_memory: int = MAX_MEMORY,
        background: Background = _at_once,
    ) -> None:
        self._folder = str(folder)
        self._max_bytes = max_bytes
        self._max_file = max_bytes // _SHARE
        self._max_memory = max_memory
        self._background = background
        self._written = self._max_file  # whoever starts knows nothing of what lies there: the first write looks
        self._memory: OrderedDict[bytes, tuple[Entry, int, int]] = OrderedDict()
        self._held = 0
        self._names: dict[str, str] = {}

    def folder_of(self, project: str) -> str:
        """Where a project's files are. Its name is hashed: any name is safe, and none collides."""
        name = self._names.get(project)
        if name is None:
            if len(self._names) > 10_000:
                self._names.clear()
            digest = sha256(project.encode(errors="surrogatepass")).hexdigest()[:40]
            name = self._names[project] = f"{self._folder}/{digest}"
        return name

    def get(self, project: str, key: bytes, now: int) -> Entry | None:
        """The entry, unless it is expired or damaged."""
        folder = self.folder_of(project)
        cleared = _cleared(folder)
        known = self._memory.get(key)
        if known is not None:
            entry, _size, mark = known
            if mark == cleared and now < entry.expires:
                self._memory.move_to_end(key)
                return entry
            self._forget(key)
        path = _path(folder, key)
        found = read_file(path, self._max_file)
        if found is None:
            return None
        try:
            entry = _DECODER.decode(found)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        if entry.key != key or not entry.stored <= now < entry.expires:
            return None
        self._remember(entry, len(found), cleared)
        with suppress(OSError):
            os.utime(path, ns=(entry.expires, now))
        return entry

    def put(self, project: str, entry: Entry) -> bool:
        """Keep an entry; False when it is too large. What the disk refuses is not kept, and no error."""
        data = _ENCODER.encode(entry)
        if len(data) + _HEAD > self._max_file:
            return False
        folder = self.folder_of(project)
        self._remember(entry, len(data), _cleared(folder))

        def write() -> None:
            with suppress(OSError):
                write_file(_path(folder, entry.key), data, (entry.expires, entry.stored))
                self.wrote(len(data) + _HEAD, entry.stored)

        self._background(write)
        return True

    def wrote(self, size: int, now: int) -> None:
        """So many bytes more lie in the folder: make room when it is time. Runs in the background."""
        self._written += -(-size // _BLOCK) * _BLOCK
        if self._written >= self._max_file:
            self._written = 0
            with suppress(OSError):
                self.sweep(now)

    def background(self, work: Callable[[], None]) -> None:
        """Do something where writing is done."""
        self._background(work)

    def clear(self, project: str) -> None:
        """Remove everything of a project, for every worker. What is being answered now may be kept after it."""
        folder = self.folder_of(project)
        for key in [key for key, (_, _, _) in self._memory.items()]:
            self._forget(key)
        try:
            aside = f"{folder}.{os.urandom(6).hex()}.gone"
            os.rename(folder, aside)  # noqa: PTH104
            shutil.rmtree(aside, ignore_errors=True)
        except FileNotFoundError:
            pass
        os.makedirs(folder, mode=0o700, exist_ok=True)  # noqa: PTH103
        fd = os.open(f"{folder}/cleared", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.write(fd, os.urandom(1))
        finally:
            os.close(fd)

    def sweep(self, now: int) -> int:
        """Remove what is expired, and make room, after whoever does it just now; the bytes that are left.

        It waits because nobody may go on writing while room is being made, or the bound would be none.
        """
        try:
            fd = os.open(f"{self._folder}/sweep.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return 0
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            return self._make_room(now)
        finally:
            os.close(fd)

    # Inside

    def _make_room(self, now: int) -> int:
        files = sorted(_files(self._folder))
        total = sum(size for _, size, _, _ in files)
        enough = int(self._max_bytes * _FULL)
        for _, size, path, expires in files:
            if total <= enough and expires > now:
                continue
            with suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108
            total -= size
        return total

    def _remember(self, entry: Entry, size: int, mark: int) -> None:
        self._forget(entry.key)
        size += 1000  # what objects cost besides their bytes
        if size > self._max_memory // 8:
            return
        self._memory[entry.key] = (entry, size, mark)
        self._held += size
        while self._held > self._max_memory:
            self._held -= self._memory.popitem(last=False)[1][1]

    def _forget(self, key: bytes) -> None:
        known = self._memory.pop(key, None)
        if known is not None:
            self._held -= known[1]


def read_file(path: str, limit: int) -> bytes | None:
    """The content of a file that `write_file` wrote; None when it is not exactly that."""
    try:
        fd = os.open(path, _OPEN)
    except OSError:
        return None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or not _HEAD < found.st_size <= limit:
            return None
        data = os.read(fd, found.st_size)
    except OSError:
        return None
    finally:
        os.close(fd)
    if data[: len(_MAGIC)] != _MAGIC:
        return None
    rest = data[_HEAD:]
    return rest if blake2b(rest, digest_size=_CHECK).digest() == data[len(_MAGIC) : _HEAD] else None


def write_file(path: str, data: bytes, times: tuple[int, int] | None = None) -> None:
    """Write under another name first. Not waited for until it is on the disk: what a power loss cuts is not there."""
    fresh = f"{path}.{os.getpid():x}{os.urandom(4).hex()}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(fresh, flags, 0o600)
    except FileNotFoundError:
        os.makedirs(path.rpartition("/")[0], mode=0o700, exist_ok=True)  # noqa: PTH103
        fd = os.open(fresh, flags, 0o600)
    try:
        if os.writev(fd, (_MAGIC, blake2b(data, digest_size=_CHECK).digest(), data)) != _HEAD + len(data):
            raise OSError("The disk took a part only.")
    except OSError:
        os.unlink(fresh)  # noqa: PTH108
        raise
    finally:
        os.close(fd)
    if times is not None:
        os.utime(fresh, ns=times)
    os.rename(fresh, path)  # noqa: PTH104


def _path(folder: str, key: bytes) -> str:
    name = key.hex()
    return f"{folder}/{name[:2]}/{name[2:]}"


def _cleared(folder: str) -> int:
    """Changes whenever the project is cleared."""
    try:
        found = os.stat(f"{folder}/cleared")  # noqa: PTH116  (every look asks)
    except OSError:
        return 0
    return found.st_mtime_ns ^ found.st_ino


def _files(folder: str) -> list[tuple[int, int, str, int]]:
    """Every file: when it was used last, the room it takes, its path, and when it expires."""
    found: list[tuple[int, int, str, int]] = []
    waiting = [folder]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif entry.name not in ("cleared", "sweep.lock"):
                    with suppress(OSError):
                        about = entry.stat(follow_symlinks=False)
                        size = max(about.st_size, about.st_blocks * 512)
                        # An index expires by its records, which say nothing but numbers.
                        expires = _NEVER if "/like/" in entry.path else about.st_atime_ns
                        found.append((about.st_mtime_ns, size, entry.path, expires))
    return found

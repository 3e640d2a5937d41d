"""The spool: a bounded, durable queue of segment files between the gateway and the lake.

A writer appends to a segment of its own and holds a lock on it (flock) for as long as it may still write there. The
reader takes complete records from every segment, remembers how far the lake has them, and deletes a segment that is
finished and read. There is no other talk between the two.

    folder/
    ├── <writer>-<number>-<random>.seg     header, then records: mark, length, CRC-32, payload
    ├── <writer>.shed                      how many records that writer could not take, in all
    ├── offsets                            how far the lake has each segment
    └── reader.lock                        held by the one process that ingests

What survives what: a record is handed to the operating system by one write(2) before `append` returns, so it survives
the death of any process, kill -9 included. A power loss may take what was appended after the last `sync`. A record cut
in the middle is recognised and lost alone.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import msgspec

from detent.kernel.errors import BadSettings, InvalidInput, StorageFailed, TooLarge
from detent.kernel.telemetry import Score, Span

MAX_RECORD = 64 * 1024 * 1024
"""Bytes of one record. A larger one is refused: it would be a segment by itself many times over."""

_MAGIC = b"DTSPOOL1"
_MARK = b"\xd7\x4e"
_FRAME = struct.Struct("<2sII")
_COUNT = struct.Struct("<Q")
_WRITER = re.compile(r"[A-Za-z0-9_.]{1,64}")
_CHUNK = 4 * 1024 * 1024
_LOOK_AGAIN = 0.05
"""Seconds between two looks at the folder while the spool is full."""

_SPAN = b"s"
_SCORE = b"c"
_encoder = msgspec.msgpack.Encoder()
_spans = msgspec.msgpack.Decoder(Span)
_scores = msgspec.msgpack.Decoder(Score)


def encode_span(span: Span) -> bytes:
    """A spool record that carries a span."""
    return _SPAN + _encode(span)


def encode_score(score: Score) -> bytes:
    """A spool record that carries a score."""
    return _SCORE + _encode(score)


def decode(record: bytes) -> Span | Score:
    """What a record carries.

    Raises:
        InvalidInput: it is no record of a kind that this version knows.
    """
    kind = record[:1]
    try:
        if kind == _SPAN:
            return _spans.decode(memoryview(record)[1:])
        if kind == _SCORE:
            return _scores.decode(memoryview(record)[1:])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"A spool record cannot be read: {error}.") from None
    raise InvalidInput(f"A spool record of kind {kind!r} is unknown.", hint="Was it written by a newer version?")


def _encode(value: Span | Score) -> bytes:
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:
        # A lone surrogate has no UTF-8 form; what people sent is kept as far as it can be.
        return _encoder.encode(_mended(msgspec.to_builtins(value)))


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_mended(key): _mended(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mended(item) for item in value]
    return value


# Writing


class Spool:
    """One process's end of the spool. Safe to call from several threads.

    Args:
        folder: shared by all writers; made if need be.
        writer: names this process in file names; letters, digits, dots and underscores.
        max_bytes: bound of the whole folder. Other writers' growth is seen when a segment ends, so the folder may
            exceed it by at most one segment for each other writer.
        segment_bytes: size at which a segment is ended and the next begun; at most a quarter of `max_bytes`.

    Attributes:
        shed: records that found the spool (or the disk) full, since this object was made.

    Raises:
        BadSettings: the writer's name or a size cannot be used.
        StorageFailed: the folder cannot be written.
    """

    def __init__(self, folder: Path, *, writer: str, max_bytes: int = 1 << 30, segment_bytes: int = 8 << 20) -> None:
        if not _WRITER.fullmatch(writer):
            raise BadSettings(f"The spool writer's name {writer!r} cannot be used.", hint="Use letters and digits.")
        if max_bytes < 4096 or segment_bytes < 1024:
            raise BadSettings("The spool is bounded too tightly.", hint="Give it 4 kB and segments of 1 kB at least.")
        self._folder = folder
        self._writer = writer
        self._max_bytes = max_bytes
        self._segment_bytes = min(segment_bytes, max_bytes // 4)
        self._lock = threading.Lock()
        self._ended: list[int] = []
        self._number = 0
        self._looked = 0.0
        self.shed = 0
        self._fd = -1
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._count = _Counter(folder / f"{writer}.shed")
            self._begin()
        except OSError as error:
            raise StorageFailed(f"The spool folder {folder} cannot be written: {error.strerror}.") from error

    def append(self, record: bytes) -> bool:
        """Hand a record to the operating system: it survives the death of any process from here on.

        Returns:
            False when the spool or the disk is full: the record is shed and counted.

        Raises:
            TooLarge: the record is beyond 64 MiB.
        """
        if len(record) > MAX_RECORD:
            raise TooLarge(f"A spool record of {len(record)} bytes is beyond {MAX_RECORD}.", hint="Record less.")
        frame = _FRAME.pack(_MARK, len(record), zlib.crc32(record)) + record
        with self._lock:
            if self._fd < 0:
                raise StorageFailed("The spool is closed.")
            if not self._has_room(len(frame)):
                self._shed()
                return False
            try:
                written = os.write(self._fd, frame)
            except OSError:
                written = 0
            if written != len(frame):
                # The disk is full. What was cut is taken back, so that later records stand right behind whole ones.
                os.ftruncate(self._fd, self._size)
                self._shed()
                return False
            self._size += written
            return True

    def sync(self) -> None:
        """Put everything appended on the disk: it survives a power loss from here on. Blocks; not for a request path.

        Raises:
            StorageFailed: the disk refuses.
        """
        with self._lock:
            try:
                # A descriptor of its own, so that appending goes on and may end the segment meanwhile.
                current = [os.dup(self._fd)] if self._fd >= 0 else []
            except OSError as error:
                raise StorageFailed(f"The spool cannot be put on the disk: {error.strerror}.") from error
            waiting, self._ended = [*self._ended, *current], []
        try:
            for fd in waiting:
                os.fdatasync(fd)
            _sync_folder(self._folder)
        except OSError as error:
            raise StorageFailed(f"The spool cannot be put on the disk: {error.strerror}.") from error
        finally:
            for fd in waiting:
                os.close(fd)

    def close(self) -> None:
        """Put everything on the disk and finish the segment. Calling it again does nothing."""
        with self._lock:
            if self._fd < 0:
                return
            self._end()
        self.sync()
        self._count.close()

    def _has_room(self, size: int) -> bool:
        if self._size > len(_MAGIC) and self._size + size > self._segment_bytes:
            try:
                self._begin()
            except OSError:
                return False
        if self._others + self._size + size <= self._max_bytes:
            return True
        # Full as far as we know; the reader may have made room since we last looked.
        if time.monotonic() - self._looked < _LOOK_AGAIN:
            return False
        self._look()
        return self._others + self._size + size <= self._max_bytes

    def _shed(self) -> None:
        self.shed += 1
        self._count.add()

    def _begin(self) -> None:
        """End the current segment and begin the next. It gets its name only when it is locked and has its header."""
        self._number += 1
        name = f"{self._writer}-{self._number:08d}-{os.urandom(6).hex()}"
        hidden = self._folder / f"{name}.new"
        fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.write(fd, _MAGIC) != len(_MAGIC):
                raise OSError(28, "No space left on device")
            hidden.rename(self._folder / f"{name}.seg")
        except OSError:
            os.close(fd)
            hidden.unlink(missing_ok=True)
            raise
        if self._fd >= 0:
            self._end()
        self._fd = fd
        self._name = f"{name}.seg"
        self._size = len(_MAGIC)
        self._look()

    def _end(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        self._ended.append(self._fd)
        self._fd = -1
        while len(self._ended) > 8:  # nobody syncs; file descriptors are finite
            os.close(self._ended.pop(0))

    def _look(self) -> None:
        """Learn how much all segments but the current one take."""
        self._looked = time.monotonic()
        self._others = 0
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith(".seg") and entry.name != self._name:
                    try:
                        self._others += entry.stat().st_size
                    except FileNotFoundError:
                        continue


class _Counter:
    """A number in a shared memory page of a file: visible to other processes at once, there after kill -9."""

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(fd).st_size < _COUNT.size:
                os.ftruncate(fd, _COUNT.size)
            self._page = mmap.mmap(fd, _COUNT.size)
        finally:
            os.close(fd)

    def add(self) -> None:
        _COUNT.pack_into(self._page, 0, _COUNT.unpack_from(self._page, 0)[0] + 1)

    def close(self) -> None:
        self._page.close()


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# Reading


class Lag(msgspec.Struct, frozen=True):
    """What waits in the spool, and what it could not take since it was made."""

    bytes: int
    records: int
    shed: int


class SpoolReader:
    """The other end: complete records of every writer, each writer's in its order. One process reads at a time.

    Attributes:
        damaged: bytes that were skipped because no whole record stands there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock_fd = -1
        self._offsets: dict[str, int] = {}
        self._read: dict[str, int] = {}
        self._done: set[str] = set()
        self.damaged = 0

    def read(self, limit: int, *, max_bytes: int = 32 << 20) -> list[bytes]:
        """Records that were not read yet, at most `limit` and about `max_bytes` of them.

        Empty when there are none, and while another process reads.
        """
        records: list[bytes] = []
        if not self._own():
            return records
        taken = 0
        for name in self._segments():
            if name in self._done:
                continue
            for record in self._follow(name):
                records.append(record)
                taken += len(record)
                if len(records) >= limit or taken >= max_bytes:
                    return records
        return records

    def commit(self) -> None:
        """Remember that everything read so far is in the lake, and delete the segments that are used up.

        A crash before this makes the records come again; the lake takes each once. Hence no fsync.
        """
        if self._lock_fd < 0 or not (self._read or self._done):
            return
        self._offsets.update(self._read)
        self._read.clear()
        for name in self._done:
            (self._folder / name).unlink(missing_ok=True)
            self._offsets.pop(name, None)
        self._done.clear()
        hidden = self._folder / "offsets.new"
        hidden.write_bytes(msgspec.json.encode(self._offsets))
        hidden.replace(self._folder / "offsets")

    def forget(self) -> None:
        """Read again what was not committed: the lake refused it."""
        self._read.clear()
        self._done.clear()

    def lag(self) -> Lag:
        """How much is not committed; works in any process."""
        offsets = self._offsets if self._lock_fd >= 0 else self._stored_offsets()
        size = records = shed = 0
        for name in self._segments():
            begin = offsets.get(name, len(_MAGIC))
            walk = _Walk(self._folder / name, begin)
            records += sum(1 for _ in walk.payloads())
            size += walk.position - begin
        for path in self._folder.glob("*.shed"):
            data = path.read_bytes()
            shed += _COUNT.unpack_from(data)[0] if len(data) >= _COUNT.size else 0
        return Lag(size, records, shed)

    def close(self) -> None:
        """Let another process read."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _own(self) -> bool:
        """Take the reader's lock, once; False while another process has it."""
        if self._lock_fd >= 0:
            return True
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self._folder / "reader.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._lock_fd = fd
        self._offsets = self._stored_offsets()
        self._sweep()
        return True

    def _stored_offsets(self) -> dict[str, int]:
        try:
            return msgspec.json.decode((self._folder / "offsets").read_bytes(), type=dict[str, int])
        except (FileNotFoundError, msgspec.DecodeError):
            return {}  # everything comes again, which changes nothing

    def _sweep(self) -> None:
        """Remove what a writer left that died between making a segment and naming it."""
        for path in self._folder.glob("*-*.new"):
            if _is_finished(path):
                path.unlink(missing_ok=True)

    def _segments(self) -> list[str]:
        try:
            return sorted(path.name for path in self._folder.iterdir() if path.suffix == ".seg")
        except FileNotFoundError:
            return []

    def _follow(self, name: str) -> Iterator[bytes]:
        """The segment's records from where we are; marks it done at its end when nobody writes there any more."""
        position = self._read.get(name, self._offsets.get(name, len(_MAGIC)))
        walk = _Walk(self._folder / name, position)
        for payload in walk.payloads():
            self._read[name] = walk.position
            yield payload
        if walk.finished:
            self.damaged += walk.damaged
            self._done.add(name)


class _Walk:
    """One pass over a segment from a position to its present end, in chunks.

    Attributes:
        position: right behind the last whole record.
        finished: whether the end was reached and nothing can be appended any more.
        damaged: bytes skipped on the way.
    """

    def __init__(self, path: Path, position: int) -> None:
        self._path = path
        self.position = position
        self.finished = False
        self.damaged = 0

    def payloads(self) -> Iterator[bytes]:
        """What each whole record carries."""
        try:
            # Whether it is finished must be known before its size: else what is appended in between would be lost.
            finished = _is_finished(self._path)
            with self._path.open("rb", buffering=0) as file:
                yield from self._payloads(file, finished=finished)
        except FileNotFoundError:
            return

    def _payloads(self, file: FileIO, *, finished: bool) -> Iterator[bytes]:
        size = _CHUNK
        while True:
            data = os.pread(file.fileno(), size, self.position)
            last = len(data) < size
            begin, done = self.position, 0
            for start, end in _records(data, resume=finished and last):
                self.position = begin + end
                self.damaged += start - done
                done = end
                yield data[start + _FRAME.size : end]
            if last:
                self.finished = finished
                self.damaged += len(data) - done
                return
            # A record that is longer than what we read at a time, or damage in the middle of a long segment.
            size = _CHUNK if done else size * 2


def _is_finished(path: Path) -> bool:
    """Whether no living process holds the segment's lock."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _records(data: bytes, *, resume: bool) -> Iterator[tuple[int, int]]:
    """Where whole records stand, as (start of the frame, end).

    With `resume` what is damaged is skipped up to the next whole record. Otherwise the walk stops there: the writer may
    be in the middle of it.
    """
    position = 0
    while position >= 0:
        end = _whole(data, position)
        if end:
            yield position, end
            position = end
        elif resume:
            position = data.find(_MARK, position + 1)
        else:
            return


def _whole(data: bytes, position: int) -> int:
    """The end of the whole record that stands here, or 0."""
    body = position + _FRAME.size
    if body > len(data):
        return 0
    mark, length, check = _FRAME.unpack_from(data, position)
    if mark != _MARK or length > MAX_RECORD or body + length > len(data):
        return 0
    return body + length if zlib.crc32(memoryview(data)[body : body + length]) == check else 0

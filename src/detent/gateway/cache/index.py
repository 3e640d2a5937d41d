"""Vectors of kept requests, one file for each context, shared by all workers of a host.

A record is a key, a time of expiry, a guard, a vector and a checksum, all of the same size; records are appended. What
is damaged is skipped. A file that has grown is written anew with its newest half.
"""

from __future__ import annotations

import os
import struct
from collections import OrderedDict
from contextlib import suppress
from hashlib import blake2b, sha256
from typing import Any, Final
from zlib import crc32

from detent.gateway.cache.embedding import Embed
from detent.gateway.cache.model import Likeness
from detent.gateway.cache.store import Store

_HEAD: Final = struct.Struct("<32sq8s")
_CHECK: Final = struct.Struct("<I")
_MOST: Final = 1000
"""Requests of one context that are compared."""

_CONTEXTS: Final = 64
_NEAREST: Final = 3


class Index:
    """Finds kept requests by likeness."""

    def __init__(self, store: Store, embed: Embed) -> None:
        self._store = store
        self._name = sha256(embed.name.encode()).digest()[:8]
        self._size = _HEAD.size + 2 * embed.dims + _CHECK.size
        self._dims = embed.dims
        self._known: OrderedDict[str, tuple[tuple[int, int, int], Any]] = OrderedDict()

    def add(self, project: str, key: bytes, likeness: Likeness, expires: int, now: int) -> None:
        """Make a kept answer findable. What the disk refuses is not findable, and no error."""
        record = _HEAD.pack(key, expires, likeness.guard) + likeness.vector
        record += _CHECK.pack(crc32(record))
        path = self._path(project, likeness.context)
        self._store.background(lambda: self._append(path, record, now))

    def nearest(self, project: str, likeness: Likeness, threshold: float, now: int) -> list[tuple[float, bytes]]:
        """Keys of the nearest few with the same guard, nearest first, with their similarity."""
        held = self._load(self._path(project, likeness.context))
        if held is None:
            return []
        import numpy as np

        keys, expires, guards, vectors = held
        candidates = np.flatnonzero((guards == np.frombuffer(likeness.guard, "<u8")[0]) & (expires > now))
        if not len(candidates):
            return []
        mine = np.frombuffer(likeness.vector, "<f2").astype(np.float32)
        similar = vectors[candidates] @ mine
        order = np.argsort(-similar)[:_NEAREST]
        return [(float(similar[at]), bytes(keys[candidates[at]])) for at in order if float(similar[at]) >= threshold]

    # Inside

    def _path(self, project: str, context: bytes) -> str:
        return f"{self._store.folder_of(project)}/like/{blake2b(self._name + context, digest_size=20).hexdigest()}"

    def _append(self, path: str, record: bytes, now: int) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            try:
                fd = os.open(path, flags, 0o600)
            except FileNotFoundError:
                os.makedirs(path.rpartition("/")[0], mode=0o700, exist_ok=True)  # noqa: PTH103
                fd = os.open(path, flags, 0o600)
            try:
                # One write: records of several workers do not mix.
                os.write(fd, record)
                size = os.fstat(fd).st_size
            finally:
                os.close(fd)
        except OSError:
            return
        if size > 2 * _MOST * self._size:
            self._shorten(path)
        self._store.wrote(len(record), now)

    def _shorten(self, path: str) -> None:
        with suppress(OSError):
            data = self._read(path)
            fresh = f"{path}.{os.getpid():x}{os.urandom(4).hex()}.tmp"
            with open(fresh, "xb") as file:
                file.write(data[-(_MOST * self._size) :])
            os.rename(fresh, path)  # noqa: PTH104

    def _read(self, path: str) -> bytes:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            return os.pread(fd, 4 * _MOST * self._size, 0)
        finally:
            os.close(fd)

    def _load(self, path: str) -> Any:
        """Keys, expiries, guards and vectors of a file; as they were the last time, if it did not change."""
        try:
            found = os.stat(path)  # noqa: PTH116
            mark = (found.st_ino, found.st_size, found.st_mtime_ns)
            known = self._known.get(path)
            if known is not None and known[0] == mark:
                self._known.move_to_end(path)
                return known[1]
            data = self._read(path)
        except OSError:
            self._known.pop(path, None)
            return None
        held = self._parse(data)
        self._known[path] = (mark, held)
        self._known.move_to_end(path)
        while len(self._known) > _CONTEXTS:
            self._known.popitem(last=False)
        return held

    def _parse(self, data: bytes) -> Any:
        import numpy as np

        size = self._size
        good = [
            data[at : at + size]
            for at in range(0, len(data) - size + 1, size)
            if crc32(data[at : at + size - _CHECK.size]) == _CHECK.unpack_from(data, at + size - _CHECK.size)[0]
        ][-_MOST:]
        if not good:
            return None
        kind = np.dtype(
            [("key", "V32"), ("expires", "<i8"), ("guard", "<u8"), ("vector", "<f2", (self._dims,)), ("check", "<u4")]
        )
        table = np.frombuffer(b"".join(good), kind)
        vectors = np.nan_to_num(table["vector"].astype(np.float32))
        return table["key"], table["expires"].copy(), table["guard"].copy(), vectors

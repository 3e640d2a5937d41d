"""The Blobs port on a folder: bytes by their SHA-256, in 256 subfolders so that none grows large.

A blob is written beside its place, put on the disk, and renamed: whoever sees the name sees all of the bytes, also
after a power loss. Leftovers of a writer that died are named `tmp.*` and reported by `fsck`.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Final

from detent.kernel.errors import InvalidInput, NotFound, StorageFailed
from detent.kernel.ports import Damage

_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_NAME: Final = re.compile(r"[0-9a-f]{62}")
_SHARD: Final = re.compile(r"[0-9a-f]{2}")
_CHUNK: Final = 1 << 20


class FolderBlobs:
    """Blobs in one folder; safe for several threads and processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, data: bytes | BinaryIO) -> str:
        """Store atomically and durably; the digest. Storing the same bytes again changes nothing."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if isinstance(data, bytes):
                digest = hashlib.sha256(data).hexdigest()
                if self._path(digest).exists():
                    return f"sha256:{digest}"
            descriptor, name = tempfile.mkstemp(prefix="tmp.", dir=self._folder)
            fresh = Path(name)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    digest = _copy(data, file)
                    file.flush()
                    os.fsync(file.fileno())
                fresh.chmod(0o400)
                place = self._path(digest)
                if not place.parent.exists():
                    place.parent.mkdir(exist_ok=True, mode=0o700)
                    _sync_folder(self._folder)
                fresh.replace(place)
                _sync_folder(place.parent)
            except BaseException:
                fresh.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise StorageFailed(
                f"A blob cannot be written to {self._folder}: {error.strerror}.",
                hint="Free space, or make the folder writable.",
            ) from None
        return f"sha256:{digest}"

    def get(self, digest: str) -> bytes:
        """The bytes, verified against the digest. Raises NotFound, or StorageFailed when damaged."""
        with self.open(digest) as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != _hex(digest):
            raise StorageFailed(f"The blob {digest} is damaged.", hint="See `detent blobs fsck`; restore a backup.")
        return data

    def open(self, digest: str) -> AbstractContextManager[BinaryIO]:
        """A reader for large blobs (not verified as a whole). Raises NotFound."""
        try:
            return self._path(_hex(digest)).open("rb")
        except FileNotFoundError:
            raise NotFound(f"There is no blob {digest}.", hint="See `detent blobs fsck`.", field="digest") from None
        except OSError as error:
            raise StorageFailed(
                f"The blob {digest} cannot be read: {error.strerror}.", hint="Run `detent doctor`."
            ) from None

    def has(self, digest: str) -> bool:
        return self._path(_hex(digest)).exists()

    def delete(self, digest: str) -> bool:
        place = self._path(_hex(digest))
        try:
            place.unlink()
            _sync_folder(place.parent)
        except FileNotFoundError:
            return False
        return True

    def digests(self) -> Iterator[str]:
        for place in self._places():
            yield f"sha256:{place.parent.name}{place.name}"

    def fsck(self, referenced: Iterable[str] | None = None) -> tuple[Damage, ...]:
        """Everything damaged or stray; with `referenced` also what is missing or orphaned."""
        found: list[Damage] = []
        present = set()
        for place in self._places():
            digest = f"sha256:{place.parent.name}{place.name}"
            present.add(digest)
            try:
                with place.open("rb") as file:
                    actual = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                found.append(Damage(digest, "damaged", f"cannot be read: {error.strerror}"))
                continue
            if f"sha256:{actual}" != digest:
                found.append(Damage(digest, "damaged", f"its bytes are those of sha256:{actual}"))
        for stray in self._strays():
            found.append(Damage(str(stray.relative_to(self._folder)), "stray", "no blob has this name"))
        if referenced is not None:
            wanted = set(referenced)
            found += [Damage(d, "missing", "something refers to it") for d in wanted - present]
            found += [Damage(d, "orphaned", "nothing refers to it") for d in present - wanted]
        return tuple(sorted(found, key=lambda damage: (damage.problem, damage.digest)))

    def _path(self, hexadecimal: str) -> Path:
        return self._folder / hexadecimal[:2] / hexadecimal[2:]

    def _places(self) -> Iterator[Path]:
        if not self._folder.is_dir():
            return
        for shard in sorted(self._folder.iterdir()):
            if _SHARD.fullmatch(shard.name) and shard.is_dir():
                yield from sorted(p for p in shard.iterdir() if _NAME.fullmatch(p.name) and p.is_file())

    def _strays(self) -> Iterator[Path]:
        places = set(self._places())
        yield from sorted(p for p in self._folder.rglob("*") if not p.is_dir() and p not in places)


def _hex(digest: str) -> str:
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise InvalidInput(
            f"'{digest[:80]}' is no digest.", hint="Use sha256: and 64 lower-case hex digits.", field="digest"
        )
    return match.group(1)


def _copy(data: bytes | BinaryIO, file: BinaryIO) -> str:
    """Write all of `data`; its SHA-256."""
    if isinstance(data, bytes):
        file.write(data)
        return hashlib.sha256(data).hexdigest()
    digest = hashlib.sha256()
    while chunk := data.read(_CHUNK):
        digest.update(chunk)
        file.write(chunk)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

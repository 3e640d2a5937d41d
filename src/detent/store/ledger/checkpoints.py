"""Signed checkpoints, the key that signs them, and the file outside the database that they are appended to.

Whoever can write the database can make a new consistent history; they cannot make it lead to what was signed before, as
long as one copy of a checkpoint is out of their reach.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from detent.kernel.canonical import canonical_json
from detent.kernel.errors import StorageFailed
from detent.kernel.ports import Checkpoint

_SEED_BYTES: Final = 32
_KEY_ID_DIGITS: Final = 16
_TAIL_BYTES: Final = 4096


class Signer:
    """An installation's Ed25519 key (RFC 8032)."""

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public_key = self._key.public_key().public_bytes_raw().hex()
        self.key_id = key_id(self.public_key)

    def sign(self, *, size: int, head: str, root: str, time: int) -> Checkpoint:
        """A checkpoint with its signature."""
        unsigned = Checkpoint(size, head, root, time, self.key_id, self.public_key, "")
        return msgspec.structs.replace(unsigned, signature=self._key.sign(_signed_bytes(unsigned)).hex())


def key_id(public_key: str) -> str:
    """The short name of a public key."""
    try:
        return sha256(bytes.fromhex(public_key)).hexdigest()[:_KEY_ID_DIGITS]
    except ValueError:
        return ""


def is_signed(checkpoint: Checkpoint) -> bool:
    """Whether the signature is that of the key the checkpoint names."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(checkpoint.public_key))
        key.verify(bytes.fromhex(checkpoint.signature), _signed_bytes(checkpoint))
    except (ValueError, InvalidSignature):
        return False
    return key_id(checkpoint.public_key) == checkpoint.key_id


def open_signer(path: Path) -> Signer:
    """The installation's signer; makes its key (mode 0600) at the first call. Of two first starts, one key wins.

    Raises:
        StorageFailed: the key cannot be read or made, is damaged, or others can read it.
    """
    try:
        if not path.exists():
            _make_seed(path)
        mode = path.stat().st_mode & 0o777
        seed = path.read_bytes()
    except OSError as error:
        raise StorageFailed(
            f"The ledger's key {path} cannot be read or made: {error.strerror}.",
            hint="Give the user that runs Detent write access to its folder.",
        ) from None
    if mode & 0o077:
        raise StorageFailed(
            f"The ledger's key {path} can be read by others (mode {mode:o}).", hint=f"Run `chmod 600 {path}`."
        )
    if len(seed) != _SEED_BYTES:
        raise StorageFailed(f"The ledger's key {path} is damaged.", hint="Restore it from a backup.")
    return Signer(seed)


def append_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Append one line, on disk when this returns.

    Raises:
        StorageFailed: the file cannot be written; it is as it was.
    """
    line = msgspec.json.encode(checkpoint) + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            if os.write(descriptor, b"\n" * torn + line) != len(line) + torn:
                os.ftruncate(descriptor, size)
                raise OSError(28, "no space left")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StorageFailed(
            f"The checkpoint could not be written to {path}: {error.strerror}.",
            hint="Free disk space or correct `storage.checkpoints`; the ledger itself is unharmed.",
        ) from None


def read_checkpoints(path: Path) -> tuple[Checkpoint, ...]:
    """The checkpoints of a file, in the order in which they were made; none when there is no file.

    A last line that a crash cut short is left out. Signatures are not judged here.

    Raises:
        StorageFailed: the file cannot be read, or a line in it is no checkpoint.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise StorageFailed(
            f"The checkpoints {path} cannot be read: {error.strerror}.", hint="Correct the path."
        ) from None
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(msgspec.json.decode(line, type=Checkpoint))
        except msgspec.DecodeError:
            if _is_torn(line):
                continue
            raise StorageFailed(
                f"Line {number} of {path} is no checkpoint.", hint="Restore the file from where it is archived."
            ) from None
    return tuple(found)


def last_checkpoint(path: Path) -> Checkpoint | None:
    """The last whole checkpoint of a file, read from its end; None when there is none or it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().split(b"\n")
        return msgspec.json.decode(next(line for line in reversed(lines) if line), type=Checkpoint)
    except (OSError, StopIteration, msgspec.DecodeError):
        return None


def _is_torn(line: bytes) -> bool:
    """Whether this is the beginning of a line that was never finished."""
    return line.startswith(b'{"size":'[: len(line)]) and not line.endswith(b"}")


def _signed_bytes(checkpoint: Checkpoint) -> bytes:
    fields = msgspec.structs.asdict(checkpoint)
    return canonical_json({name: fields[name] for name in ("size", "head", "root", "time", "key_id")}, wide=True)


def _make_seed(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, os.urandom(_SEED_BYTES))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        os.link(fresh, path)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()

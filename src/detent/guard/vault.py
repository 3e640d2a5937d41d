"""Secrets at rest: AES-256-GCM (NIST SP 800-38D) under a random key per installation.

Each secret is bound to the host it may be sent to: scheme, host and port are the associated data, so a secret whose
URL was changed no longer decrypts and must be entered again.
"""

from __future__ import annotations

import base64
import os
import secrets
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from detent.kernel.errors import InvalidInput, StorageFailed
from detent.kernel.secret import Secret

_KEY_BYTES = 32
_NONCE_BYTES = 12
_DEFAULT_PORT = {"http": 80, "https": 443}


class Vault:
    """Seals and opens secrets with one root key."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, secret: Secret, *, url: str) -> str:
        """The secret as printable ciphertext, bound to the URL's origin.

        Raises:
            InvalidInput: the secret is no valid Unicode.
        """
        nonce = os.urandom(_NONCE_BYTES)
        try:
            plain = secret.reveal().encode()
        except UnicodeEncodeError:
            raise InvalidInput(
                "The credential is not valid UTF-8.", hint="Enter it again.", field="credential"
            ) from None
        sealed = self._cipher.encrypt(nonce, plain, origin(url).encode())
        return "v1." + base64.urlsafe_b64encode(nonce + sealed).decode()

    def open(self, sealed: str, *, url: str) -> Secret:
        """The secret again.

        Raises:
            StorageFailed: the ciphertext is damaged, the root key is another, or the URL's origin is not the one that
                the secret was entered for.
        """
        try:
            version, _, body = sealed.partition(".")
            raw = base64.urlsafe_b64decode(body)
            if version != "v1":
                raise ValueError(version)
            plain = self._cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], origin(url).encode())
        except (ValueError, InvalidTag):
            raise StorageFailed(
                f"The stored secret does not open for {origin(url)}.",
                hint="Enter it again: a secret is bound to its host and to this installation's root key.",
            ) from None
        return Secret(plain.decode())


def open_vault(path: Path, *, create: bool = True) -> Vault:
    """The vault of an installation; makes the root key (32 random bytes, mode 0600) at the first call.

    Raises:
        StorageFailed: the key file is readable by others, has another length, or cannot be read or made.
    """
    try:
        if create and not path.exists():
            _make_key(path)
        mode = path.stat().st_mode & 0o777
        key = path.read_bytes()
    except OSError as error:
        raise StorageFailed(
            f"The root key {path} cannot be read: {error.strerror}.", hint="Run `detent doctor`."
        ) from None
    if mode & 0o077:
        raise StorageFailed(
            f"The root key {path} can be read by others (mode {mode:o}).", hint=f"Run `chmod 600 {path}`."
        )
    if len(key) != _KEY_BYTES:
        raise StorageFailed(
            f"The root key {path} is damaged.", hint="Restore it from a backup; secrets cannot be read without it."
        )
    return Vault(key)


def origin(url: str) -> str:
    """Scheme, host and port of a URL, in lower case and with the port always written.

    Raises:
        InvalidInput: it is no http(s) URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORT[parts.scheme]
        host = parts.hostname or ""
    except (ValueError, KeyError):
        host, port = "", 0
    if not host:
        raise InvalidInput(f"'{url}' is no http or https URL.", hint="Use e.g. https://api.openai.com/v1.", field="url")
    return f"{parts.scheme}://{host.lower()}:{port}"


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_suffix(f".{secrets.token_hex(8)}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, os.urandom(_KEY_BYTES))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        os.link(fresh, path)  # of two first starts at once, one key wins
    except FileExistsError:
        pass
    finally:
        fresh.unlink()

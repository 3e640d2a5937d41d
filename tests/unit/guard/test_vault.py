"""Secrets at rest."""

from __future__ import annotations

import base64
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detent.guard.vault import Vault, open_vault, origin
from detent.kernel.errors import InvalidInput, StorageFailed
from detent.kernel.secret import Secret

URL = "https://api.example.com/v1"
VAULT = Vault(bytes(range(32)))


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_sealed_opens_again(plain: str) -> None:
    sealed = VAULT.seal(Secret(plain), url=URL)
    assert VAULT.open(sealed, url=URL).reveal() == plain
    if len(plain) > 3:
        assert plain not in sealed
        assert plain.encode() not in base64.urlsafe_b64decode(sealed.partition(".")[2])


def test_the_same_secret_never_looks_the_same() -> None:
    assert len({VAULT.seal(Secret("a"), url=URL) for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "url", ["https://api.example.com", "HTTPS://API.EXAMPLE.COM:443/other?x=1", "https://user@api.example.com/v2"]
)
def test_it_is_bound_to_the_origin_not_to_the_path(url: str) -> None:
    assert VAULT.open(VAULT.seal(Secret("s"), url=URL), url=url) == Secret("s")


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.com/v1",
        "https://api.example.com:8443/v1",
        "https://api.example.com.evil.test/v1",
        "https://evil.test/api.example.com",
        "https://api.example.com@evil.test/",
    ],
)
def test_it_does_not_open_for_another_host(url: str) -> None:
    with pytest.raises(StorageFailed, match="does not open for"):
        VAULT.open(VAULT.seal(Secret("s"), url=URL), url=url)


@given(st.data())
def test_any_change_of_the_ciphertext_is_noticed(data: st.DataObject) -> None:
    raw = bytearray(base64.urlsafe_b64decode(VAULT.seal(Secret("token"), url=URL).partition(".")[2]))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(StorageFailed):
        VAULT.open("v1." + base64.urlsafe_b64encode(raw).decode(), url=URL)


@pytest.mark.parametrize("sealed", ["", "v1.", "v1", "v2.AAAA", "v1.€", "v1.AAAA", "v1." + "A" * 64])
def test_what_is_no_ciphertext(sealed: str) -> None:
    with pytest.raises(StorageFailed):
        VAULT.open(sealed, url=URL)


def test_another_installation_cannot_open_it(tmp_path: Path) -> None:
    first, second = open_vault(tmp_path / "a" / "root.key"), open_vault(tmp_path / "b" / "root.key")
    with pytest.raises(StorageFailed):
        second.open(first.seal(Secret("s"), url=URL), url=URL)


def test_a_credential_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="UTF-8"):
        VAULT.seal(Secret("\udc80"), url=URL)


def test_the_root_key_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "root.key"
    sealed = open_vault(path).seal(Secret("s"), url=URL)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777, path.stat().st_size) == (0o600, 0o700, 32)
    assert open_vault(path).open(sealed, url=URL) == Secret("s")
    assert [p.name for p in path.parent.iterdir()] == ["root.key"]


def test_of_many_first_starts_one_key_wins(tmp_path: Path) -> None:
    path, vaults = tmp_path / "root.key", []
    threads = [threading.Thread(target=lambda: vaults.append(open_vault(path))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sealed = vaults[0].seal(Secret("s"), url=URL)
    assert [v.open(sealed, url=URL).reveal() for v in vaults] == ["s"] * 16
    assert [p.name for p in tmp_path.iterdir()] == ["root.key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_key_that_others_can_read_is_refused(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "root.key"
    open_vault(path)
    path.chmod(mode)
    with pytest.raises(StorageFailed, match="can be read by others") as caught:
        open_vault(path)
    assert "chmod 600" in caught.value.hint


def test_a_damaged_or_missing_key(tmp_path: Path) -> None:
    path = tmp_path / "root.key"
    with pytest.raises(StorageFailed, match="cannot be read"):
        open_vault(path, create=False)
    path.write_bytes(b"short")
    path.chmod(0o600)
    with pytest.raises(StorageFailed, match="damaged"):
        open_vault(path)


@pytest.mark.parametrize(
    "url", ["", "example.com", "ftp://example.com", "file:///etc/passwd", "https://", "http://[::1"]
)
def test_what_has_no_origin(url: str) -> None:
    with pytest.raises(InvalidInput, match="no http or https URL"):
        origin(url)


def test_origins() -> None:
    assert origin("http://LOCALHOST/v1") == "http://localhost:80"
    assert origin("https://[2001:db8::1]:8443/x") == "https://2001:db8::1:8443"

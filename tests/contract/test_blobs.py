"""Contract of the Blobs port."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detent.kernel.errors import InvalidInput, NotFound, StorageFailed
from detent.kernel.ports import Damage
from detent.store.blobs import FolderBlobs


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def place_of(folder: Path, digest: str) -> Path:
    return folder / digest[7:9] / digest[9:]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
def blobs(folder: Path) -> FolderBlobs:
    return FolderBlobs(folder)


def test_what_is_put_can_be_got_under_its_digest(blobs: FolderBlobs) -> None:
    for data in (b"", b"prompt", os.urandom(3_000_000)):
        assert blobs.put(data) == blobs.put(io.BytesIO(data)) == digest_of(data)
        assert blobs.get(digest_of(data)) == data
        with blobs.open(digest_of(data)) as file:
            assert file.read() == data
        assert blobs.has(digest_of(data))
    assert len(list(blobs.digests())) == 3
    assert blobs.fsck() == ()


@given(st.lists(st.binary(max_size=50)))
def test_a_store_is_the_set_of_what_was_put(tmp_path_factory: pytest.TempPathFactory, stored: list[bytes]) -> None:
    blobs = FolderBlobs(tmp_path_factory.mktemp("blobs"))
    for data in stored:
        blobs.put(data)
    assert set(blobs.digests()) == {digest_of(data) for data in stored}
    assert [blobs.get(digest_of(data)) for data in stored] == stored


def test_what_is_deleted_is_gone(blobs: FolderBlobs) -> None:
    digest = blobs.put(b"prompt")
    assert blobs.delete(digest)
    assert not blobs.delete(digest)
    assert not blobs.has(digest)
    with pytest.raises(NotFound):
        blobs.get(digest)
    with pytest.raises(NotFound), blobs.open(digest):
        pass


@pytest.mark.parametrize(
    "digest", ["", "sha256:", "sha256:" + "A" * 64, "md5:" + "a" * 64, "../../etc/passwd", "a" * 64]
)
def test_a_digest_has_one_form(blobs: FolderBlobs, digest: str) -> None:
    for verb in (blobs.get, blobs.open, blobs.has, blobs.delete):
        with pytest.raises(InvalidInput):
            verb(digest)


def test_a_damaged_blob_is_never_given_out(blobs: FolderBlobs, folder: Path) -> None:
    digest = blobs.put(b"prompt")
    place = place_of(folder, digest)
    place.chmod(0o600)
    place.write_bytes(b"promqt")
    with pytest.raises(StorageFailed, match="damaged"):
        blobs.get(digest)


def test_fsck_names_each_kind_of_damage(blobs: FolderBlobs, folder: Path) -> None:
    good, damaged, orphan = blobs.put(b"good"), blobs.put(b"damaged"), blobs.put(b"orphan")
    missing = digest_of(b"missing")
    place_of(folder, damaged).chmod(0o600)
    place_of(folder, damaged).write_bytes(b"other")
    (folder / "tmp.left").write_bytes(b"half")
    (folder / "ab").mkdir(exist_ok=True)
    (folder / "ab" / "note").write_text("mine")

    assert blobs.fsck([good, damaged, missing]) == (
        Damage(damaged, "damaged", f"its bytes are those of {digest_of(b'other')}"),
        Damage(missing, "missing", "something refers to it"),
        Damage(orphan, "orphaned", "nothing refers to it"),
        Damage("ab/note", "stray", "no blob has this name"),
        Damage("tmp.left", "stray", "no blob has this name"),
    )
    assert {damage.problem for damage in blobs.fsck()} == {"damaged", "stray"}


def test_an_unwritable_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageFailed, match="cannot be written"):
        FolderBlobs(tmp_path / "file").put(b"prompt")


def test_many_writers_of_the_same_bytes_agree(folder: Path) -> None:
    data = os.urandom(100_000)
    threads = [threading.Thread(target=FolderBlobs(folder).put, args=(data,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(FolderBlobs(folder).digests()) == [digest_of(data)]
    assert FolderBlobs(folder).fsck() == ()


def _put_for_ever(folder: Path) -> None:
    blobs = FolderBlobs(folder)
    for number in range(1_000_000):
        blobs.put(number.to_bytes(4, "big") * 50_000)


def test_a_killed_writer_leaves_whole_blobs_and_named_leftovers(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    for _ in range(3):
        writer = context.Process(target=_put_for_ever, args=(folder,))
        writer.start()
        deadline = time.monotonic() + 20
        before = len(list(FolderBlobs(folder).digests()))
        while len(list(FolderBlobs(folder).digests())) < before + 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
    found = FolderBlobs(folder).fsck()
    assert {damage.problem for damage in found} <= {"stray"}
    assert all(damage.digest.startswith("tmp.") for damage in found)

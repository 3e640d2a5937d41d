"""Files and batches in the ledger, on every database: rows, projects, versions, and the same state folded anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from detent.app.catalog import catalog
from detent.gateway.batches.facts import (
    BatchCancelRequested,
    BatchEnded,
    BatchStarted,
    BatchSubmitted,
    FileRemoved,
    FileStored,
)
from detent.gateway.batches.files import Files
from detent.gateway.batches.model import Batch
from detent.gateway.batches.views import BATCHES, FILES, referenced, running
from detent.kernel.clock import DAY, SECOND, FixedClock
from detent.kernel.errors import Conflict, NotFound
from detent.kernel.facts import NEW_STREAM, Draft, FactBody
from detent.kernel.identity import Actor, Permission, Principal
from detent.kernel.ids import CountedIds
from detent.store.blobs import FolderBlobs
from detent.store.ledger import SqlLedger, open_ledger

ANNA = Actor("user", "anna")
SUBMITTED = BatchSubmitted(
    user_id="user:anna",
    endpoint="/v1/embeddings",
    input_file="file-1",
    window_seconds=86_400,
    metadata="sha256:" + "d" * 64,
)


@pytest.fixture
def ledger(database_url: str, tmp_path: Path, clock: FixedClock, ids: CountedIds) -> Iterator[SqlLedger]:
    keys = {"checkpoints": tmp_path / "checkpoints.jsonl", "key_file": tmp_path / "ledger.key"}
    found = open_ledger(database_url, catalog(), clock=clock, ids=ids, **keys)
    yield found
    found.close()


def tell(ledger: SqlLedger, clock: FixedClock, stream: str, *bodies: FactBody, project: str = "default") -> None:
    for body in bodies:
        ledger.append([Draft(stream, body)], actor=ANNA, project=project)
        clock.advance(SECOND)


def test_a_batch_through_its_life(ledger: SqlLedger, clock: FixedClock) -> None:
    made = clock.now()
    tell(ledger, clock, "batch/batch_1", SUBMITTED, BatchStarted(total=3))
    tell(ledger, clock, "batch/batch_2", SUBMITTED, project="other")
    found = ledger.rows(BATCHES, project="default")["batch/batch_1"]
    assert (found.status, found.total, found.started - made) == ("in_progress", 3, SECOND)
    assert found.expires == made + DAY
    assert running(ledger)
    ended = BatchEnded(status="cancelled", completed=2, failed=1, output_file="file-2", problem="")
    tell(ledger, clock, "batch/batch_1", BatchCancelRequested())
    assert ledger.rows(BATCHES)["batch/batch_1"].status == "cancelling"
    tell(ledger, clock, "batch/batch_1", ended, BatchStarted(total=9), BatchCancelRequested())
    whole = Batch(
        id="batch_1",
        project="default",
        user_id="user:anna",
        endpoint="/v1/embeddings",
        input_file="file-1",
        window_seconds=86_400,
        metadata=SUBMITTED.metadata,
        status="cancelled",
        total=3,
        completed=2,
        failed=1,
        output_file="file-2",
        created=made,
        started=made + SECOND,
        cancelling=made + 3 * SECOND,
        ended=made + 4 * SECOND,
    )
    assert ledger.get(BATCHES, "batch/batch_1") == whole
    assert set(ledger.rows(BATCHES, project="other")) == {"batch/batch_2"}
    before = ledger.rows(BATCHES)
    ledger.rebuild()
    assert ledger.rows(BATCHES) == before
    assert ledger.verify().ok


def test_files(ledger: SqlLedger, clock: FixedClock, ids: CountedIds, tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path / "blobs")
    files = Files(ledger, blobs, ids=ids)
    caller = Principal(ANNA, "default", frozenset({Permission.GATEWAY_CALL}))
    stored = files.store(caller, "in.jsonl", "batch", b"{}", 2)
    clock.advance(SECOND)
    second = files.store(caller, "ein Ümlaut \N{SNOWMAN}.jsonl", "user_data", b"[]", 2)
    assert files.files(caller) == (second, stored)
    tell(
        ledger, clock, "batch/batch_1", BatchSubmitted(endpoint="/v1/responses", input_file=stored.id, window_seconds=9)
    )
    with pytest.raises(Conflict):
        files.remove(caller, stored.id)
    assert set(referenced(ledger)) == {stored.digest, second.digest}
    tell(ledger, clock, "batch/batch_1", BatchEnded(status="failed", problem="no"))
    files.remove(caller, stored.id)
    with pytest.raises(NotFound):
        files.file(caller, stored.id)
    assert (set(ledger.rows(FILES)), set(blobs.digests())) == ({f"file/{second.id}"}, {second.digest})
    assert not running(ledger)


def test_an_id_is_given_once(ledger: SqlLedger) -> None:
    body = FileStored(filename="a", purpose="batch", bytes=1, digest="sha256:" + "a" * 64)
    ledger.append([Draft("file/file-1", body, NEW_STREAM)], actor=ANNA, project="default")
    with pytest.raises(Conflict):
        ledger.append([Draft("file/file-1", body, NEW_STREAM)], actor=ANNA, project="default")
    ledger.append([Draft("file/file-1", FileRemoved())], actor=ANNA, project="default")
    assert ledger.rows(FILES) == {}

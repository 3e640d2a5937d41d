"""Current files and batches, folded from facts."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from detent.gateway.batches.facts import (
    BatchCancelRequested,
    BatchEnded,
    BatchStarted,
    BatchSubmitted,
    FileRemoved,
    FileStored,
)
from detent.gateway.batches.model import ENDED, Batch, StoredFile
from detent.kernel.facts import Fact, View
from detent.kernel.ports import Ledger


def _fold_file(_file: StoredFile | None, fact: Fact) -> StoredFile | None:
    body = fact.body
    if not isinstance(body, FileStored):
        return None
    return StoredFile(
        **msgspec.structs.asdict(body), id=fact.stream.removeprefix("file/"), project=fact.project, created=fact.time
    )


def _fold_batch(batch: Batch | None, fact: Fact) -> Batch | None:
    body = fact.body
    if isinstance(body, BatchSubmitted):
        return Batch(
            **msgspec.structs.asdict(body),
            id=fact.stream.removeprefix("batch/"),
            project=fact.project,
            created=fact.time,
        )
    if batch is None or batch.status in ENDED:
        return batch
    if isinstance(body, BatchStarted):
        status = batch.status if batch.status == "cancelling" else "in_progress"
        return msgspec.structs.replace(batch, status=status, total=body.total, started=fact.time)
    if isinstance(body, BatchCancelRequested):
        return msgspec.structs.replace(batch, status="cancelling", cancelling=fact.time)
    if isinstance(body, BatchEnded):
        return msgspec.structs.replace(batch, **msgspec.structs.asdict(body), ended=fact.time)
    return batch


FILES = View("files", StoredFile, (FileStored, FileRemoved), _fold_file)
BATCHES = View("batches", Batch, (BatchSubmitted, BatchStarted, BatchCancelRequested, BatchEnded), _fold_batch)

VIEWS = (FILES, BATCHES)


def referenced(ledger: Ledger) -> Iterator[str]:
    """Digests of the blobs that files and batches of all projects need."""
    for file in ledger.rows(FILES).values():
        yield file.digest
    for batch in ledger.rows(BATCHES).values():
        if batch.metadata:
            yield batch.metadata


def running(ledger: Ledger) -> bool:
    """Whether a batch is under way; it may hold blobs that only its job knows."""
    return any(batch.status not in ENDED for batch in ledger.rows(BATCHES).values())

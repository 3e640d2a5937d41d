"""The verbs of files and batches: store, read and remove a file; submit, look at and cancel a batch."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, BinaryIO, Final, get_args

import msgspec

from detent.gateway.batches.facts import (
    BatchCancelRequested,
    BatchSubmitted,
    FileRemoved,
    FileStored,
)
from detent.gateway.batches.model import ENDED, Batch, Endpoint, Purpose, StoredFile
from detent.gateway.batches.views import BATCHES, FILES
from detent.kernel.canonical import canonical_json
from detent.kernel.clock import HOUR, SECOND, Clock
from detent.kernel.errors import Conflict, InvalidInput, NotFound
from detent.kernel.facts import NEW_STREAM, Draft
from detent.kernel.identity import Permission, Principal
from detent.kernel.ids import Ids
from detent.kernel.ports import Blobs, Jobs, Ledger

WORKFLOW: Final = "gateway.batch"
_MAX_NAME: Final = 255
_MAX_METADATA: Final = 16
_WINDOW_UNITS: Final = {"h": HOUR // SECOND, "d": 24 * HOUR // SECOND}
_MAX_WINDOW: Final = 14 * 24 * HOUR // SECOND


class Batches:
    """What may be done with files and batches. Every verb takes the caller, checks, and records a fact."""

    def __init__(self, ledger: Ledger, blobs: Blobs, jobs: Jobs, *, clock: Clock, ids: Ids) -> None:
        self._ledger = ledger
        self._blobs = blobs
        self._jobs = jobs
        self._clock = clock
        self._ids = ids

    # Files

    def store(self, caller: Principal, filename: str, purpose: str, data: bytes | BinaryIO, size: int) -> StoredFile:
        """Store a file of `size` bytes.

        Raises:
            InvalidInput: the name or purpose cannot be used, or the file is empty.
        """
        caller.require(Permission.GATEWAY_CALL)
        if not 0 < len(filename) <= _MAX_NAME or not filename.isprintable():
            raise InvalidInput(
                "The file's name cannot be used.", hint=f"Give 1 to {_MAX_NAME} printable characters.", field="file"
            )
        if purpose not in get_args(Purpose) or purpose == "batch_output":
            known = ", ".join(word for word in get_args(Purpose) if word != "batch_output")
            raise InvalidInput(f"'{purpose[:40]}' is no purpose.", hint=f"Choose one of: {known}.", field="purpose")
        if size < 1:
            raise InvalidInput("The file is empty.", hint="Send its bytes in the form's field 'file'.", field="file")
        return self.keep(caller, filename, purpose, data, size)  # type: ignore[arg-type]  # checked above

    def keep(self, caller: Principal, filename: str, purpose: Purpose, data: bytes | BinaryIO, size: int) -> StoredFile:
        """Store a file that Detent itself made, or one that was checked."""
        digest = self._blobs.put(data)
        file_id = f"file-{self._ids.new()}"
        body = FileStored(filename=filename, purpose=purpose, bytes=size, digest=digest)
        draft = Draft(f"file/{file_id}", body, NEW_STREAM)
        self._ledger.append([draft], actor=caller.actor, project=caller.project)
        return self.file(caller, file_id)

    def files(self, caller: Principal, *, purpose: str = "") -> tuple[StoredFile, ...]:
        """The project's files, newest first."""
        caller.require(Permission.GATEWAY_CALL)
        found = self._ledger.rows(FILES, project=caller.project).values()
        return tuple(sorted((f for f in found if not purpose or f.purpose == purpose), key=_age, reverse=True))

    def file(self, caller: Principal, file_id: str) -> StoredFile:
        """One file."""
        caller.require(Permission.GATEWAY_CALL)
        found = self._ledger.get(FILES, f"file/{file_id}")
        if found is None or found.project != caller.project:
            raise NotFound(f"There is no file '{file_id[:60]}'.", hint="List them with GET /v1/files.", field="file_id")
        return found

    def content(self, caller: Principal, file_id: str) -> AbstractContextManager[BinaryIO]:
        """A file's bytes, to be read once."""
        return self._blobs.open(self.file(caller, file_id).digest)

    def remove(self, caller: Principal, file_id: str) -> StoredFile:
        """Remove a file, and its bytes unless another file has the same.

        Raises:
            Conflict: a batch that is not over reads it.
        """
        found = self.file(caller, file_id)
        readers = [b.id for b in self.batches(caller) if b.input_file == file_id and b.status not in ENDED]
        if readers:
            raise Conflict(
                f"The file is read by the batch {readers[0]}.", hint="Cancel it first, or wait.", field="file_id"
            )
        self._ledger.append([Draft(f"file/{file_id}", FileRemoved())], actor=caller.actor, project=caller.project)
        if not any(other.digest == found.digest for other in self._ledger.rows(FILES).values()):
            self._blobs.delete(found.digest)
        return found

    # Batches

    def submit(
        self,
        caller: Principal,
        *,
        input_file: str,
        endpoint: str,
        window: str = "24h",
        metadata: dict[str, str] | None = None,
    ) -> Batch:
        """Begin a batch; its calls count as the caller's key's, or as the caller's own.

        Raises:
            InvalidInput: endpoint, window or metadata cannot be used, or the file is for something else.
            NotFound: there is no such file.
        """
        caller.require(Permission.GATEWAY_CALL)
        if endpoint not in get_args(Endpoint):
            known = ", ".join(get_args(Endpoint))
            raise InvalidInput(
                f"'{endpoint[:60]}' cannot be called in a batch.", hint=f"Choose one of: {known}.", field="endpoint"
            )
        seconds = _window(window)
        file = self.file(caller, input_file)
        if file.purpose != "batch":
            raise InvalidInput(
                f"The file is for '{file.purpose}'.", hint="Upload it with the purpose 'batch'.", field="input_file_id"
            )
        kept = self._blobs.put(canonical_json(_checked(metadata))) if metadata else ""
        batch_id = f"batch_{self._ids.new()}"
        body = BatchSubmitted(
            key_id=caller.actor.id if caller.actor.kind == "key" else "",
            user_id="" if caller.actor.kind == "key" else str(caller.actor),
            endpoint=endpoint,  # type: ignore[arg-type]  # checked above
            input_file=input_file,
            window_seconds=seconds,
            metadata=kept,
        )
        draft = Draft(f"batch/{batch_id}", body, NEW_STREAM)
        self._ledger.append([draft], actor=caller.actor, project=caller.project)
        self._jobs.start(WORKFLOW, {"batch": batch_id}, project=caller.project, id=batch_id)
        return self.batch(caller, batch_id)

    def batches(self, caller: Principal) -> tuple[Batch, ...]:
        """The project's batches, newest first."""
        caller.require(Permission.GATEWAY_CALL)
        return tuple(sorted(self._ledger.rows(BATCHES, project=caller.project).values(), key=_age, reverse=True))

    def batch(self, caller: Principal, batch_id: str) -> Batch:
        """One batch; while it runs, with the figures of the job that does it."""
        caller.require(Permission.GATEWAY_CALL)
        found = self._ledger.get(BATCHES, f"batch/{batch_id}")
        if found is None or found.project != caller.project:
            raise NotFound(
                f"There is no batch '{batch_id[:60]}'.", hint="List them with GET /v1/batches.", field="batch_id"
            )
        return self._counted(found)

    def metadata(self, batch: Batch) -> dict[str, str] | None:
        """What the submitter wrote to it."""
        if not batch.metadata:
            return None
        found: dict[str, str] = msgspec.json.decode(self._blobs.get(batch.metadata))
        return found

    def cancel(self, caller: Principal, batch_id: str) -> Batch:
        """Stop a batch; calls in flight finish, and what is done is kept.

        Raises:
            Conflict: it is over.
        """
        found = self.batch(caller, batch_id)
        if found.status in ENDED:
            raise Conflict(f"The batch is {found.status}.", hint="Only one that runs can be cancelled.")
        if found.status != "cancelling":
            draft = Draft(f"batch/{batch_id}", BatchCancelRequested())
            self._ledger.append([draft], actor=caller.actor, project=caller.project)
        return self.batch(caller, batch_id)

    def _counted(self, batch: Batch) -> Batch:
        if batch.status not in {"in_progress", "cancelling"}:
            return batch
        try:
            step = self._jobs.get(batch.id).step
        except NotFound:
            return batch
        figures = dict(part.split("=", 1) for part in step.split() if part.count("=") == 1)
        completed, failed = figures.get("completed", ""), figures.get("failed", "")
        if not completed.isdecimal() or not failed.isdecimal():
            return batch
        return msgspec.structs.replace(batch, completed=int(completed), failed=int(failed))


def _age(value: StoredFile | Batch) -> tuple[int, str]:
    return value.created, value.id


def _window(text: str) -> int:
    number, unit = text[:-1], text[-1:]
    seconds = int(number) * _WINDOW_UNITS.get(unit, 0) if number.isdecimal() and len(number) < 5 else 0
    if not 0 < seconds <= _MAX_WINDOW:
        raise InvalidInput(
            f"'{text[:20]}' is no window.", hint="Give hours or days up to 14d, e.g. 24h.", field="completion_window"
        )
    return seconds


def _checked(metadata: dict[str, Any]) -> dict[str, str]:
    good = len(metadata) <= _MAX_METADATA and all(
        isinstance(value, str) and len(name) <= 64 and len(value) <= 512 for name, value in metadata.items()
    )
    if not good:
        raise InvalidInput(
            "The metadata cannot be used.",
            hint=f"Give up to {_MAX_METADATA} pairs of text, names of 64 and values of 512 characters.",
            field="metadata",
        )
    return metadata

"""The verbs of files: store, list, read, remove."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import BinaryIO, Final, get_args

from detent.gateway.batches.facts import FileRemoved, FileStored
from detent.gateway.batches.model import ENDED, Purpose, StoredFile
from detent.gateway.batches.views import BATCHES, FILES
from detent.kernel.errors import Conflict, InvalidInput, NotFound
from detent.kernel.facts import NEW_STREAM, Draft
from detent.kernel.identity import Permission, Principal
from detent.kernel.ids import Ids
from detent.kernel.ports import Blobs, Ledger

_MAX_NAME: Final = 255


class Files:
    """What may be done with files. Every verb takes the caller, checks, and records a fact."""

    def __init__(self, ledger: Ledger, blobs: Blobs, *, ids: Ids) -> None:
        self._ledger = ledger
        self._blobs = blobs
        self._ids = ids

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
        batches = self._ledger.rows(BATCHES, project=caller.project).values()
        readers = [batch.id for batch in batches if batch.input_file == file_id and batch.status not in ENDED]
        if readers:
            raise Conflict(
                f"The file is read by the batch {readers[0]}.", hint="Cancel it first, or wait.", field="file_id"
            )
        self._ledger.append([Draft(f"file/{file_id}", FileRemoved())], actor=caller.actor, project=caller.project)
        if not any(other.digest == found.digest for other in self._ledger.rows(FILES).values()):
            self._blobs.delete(found.digest)
        return found


def _age(file: StoredFile) -> tuple[int, str]:
    return file.created, file.id

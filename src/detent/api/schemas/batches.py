"""Files and batches as the OpenAI API writes them: times in seconds since the epoch, absent values null."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field

from detent.api.schemas.common import In, Out
from detent.gateway.batches.model import Batch, Status, StoredFile
from detent.kernel.clock import SECOND


class FileOut(Out):
    """A stored file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"

    @classmethod
    def of(cls, file: StoredFile) -> Self:
        """From the domain's."""
        return cls(
            id=file.id,
            bytes=file.bytes,
            created_at=file.created // SECOND,
            filename=file.filename,
            purpose=file.purpose,
        )


class FileList(Out):
    """Files, newest first."""

    object: Literal["list"] = "list"
    data: list[FileOut]
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None


class FileRemovedOut(Out):
    """A file that is gone."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class BatchIn(In):
    """A batch to begin."""

    input_file_id: Annotated[str, Field(min_length=1, max_length=100)]
    endpoint: Annotated[str, Field(max_length=100)]
    completion_window: Annotated[str, Field(max_length=20)] = "24h"
    metadata: dict[str, str] | None = None


class Counts(Out):
    """Calls of a batch."""

    total: int
    completed: int
    failed: int


class BatchProblem(Out):
    """Why a batch failed as a whole."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class BatchErrors(Out):
    """All of what is wrong with a batch."""

    object: Literal["list"] = "list"
    data: list[BatchProblem]


class BatchOut(Out):
    """A batch."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: Status
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: Counts
    metadata: dict[str, str] | None

    @classmethod
    def of(cls, batch: Batch, metadata: dict[str, str] | None) -> Self:
        """From the domain's."""
        ended = {batch.status: batch.ended // SECOND} if batch.ended else {}
        problems = [BatchProblem(code="invalid_batch", message=batch.problem)] if batch.problem else []
        hours = batch.window_seconds // 3600
        return cls(
            id=batch.id,
            endpoint=batch.endpoint,
            errors=BatchErrors(data=problems) if problems else None,
            input_file_id=batch.input_file,
            completion_window=f"{hours}h",
            status=batch.status,
            output_file_id=batch.output_file or None,
            error_file_id=batch.error_file or None,
            created_at=batch.created // SECOND,
            in_progress_at=batch.started // SECOND or None,
            expires_at=batch.expires // SECOND,
            completed_at=ended.get("completed"),
            failed_at=ended.get("failed"),
            expired_at=ended.get("expired"),
            cancelling_at=batch.cancelling // SECOND or None,
            cancelled_at=ended.get("cancelled"),
            request_counts=Counts(total=batch.total, completed=batch.completed, failed=batch.failed),
            metadata=metadata,
        )


class BatchList(Out):
    """Batches, newest first."""

    object: Literal["list"] = "list"
    data: list[BatchOut]
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None

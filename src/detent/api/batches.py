"""Files and batches under `/v1`, as OpenAI's clients expect them; the gateway hands such calls on to here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Annotated, BinaryIO, Final, TypeVar

from fastapi import Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from detent.api.border import Caller, ThePlatform
from detent.api.schemas.batches import BatchIn, BatchList, BatchOut, FileList, FileOut, FileRemovedOut
from detent.app.http import needs, router
from detent.app.platform import Platform
from detent.gateway.batches.model import Batch, StoredFile
from detent.kernel.errors import InvalidInput
from detent.kernel.identity import Permission

routes = router(prefix="/v1", tags=["batches"])
_CHUNK: Final = 1 << 16
T = TypeVar("T", StoredFile, Batch)

FileId = Annotated[str, Path(min_length=1, max_length=64, description="The file's id, file-...")]
BatchId = Annotated[str, Path(min_length=1, max_length=64, description="The batch's id, batch_...")]
After = Annotated[str, Query(max_length=64, description="Go on behind the one with this id.")]


@routes.post("/files")
@needs(Permission.GATEWAY_CALL)
async def store_file(request: Request, caller: Caller, platform: ThePlatform) -> FileOut:
    """Store a file: a form with `file` and `purpose`."""
    async with request.form(max_files=1, max_fields=8) as form:
        sent, purpose = form.get("file"), form.get("purpose")
        if not isinstance(sent, UploadFile):
            raise InvalidInput("The form has no file.", hint="Send its bytes in the field 'file'.", field="file")
        stored = await run_in_threadpool(
            platform.files.store,
            caller,
            sent.filename or "file",
            purpose if isinstance(purpose, str) else "",
            sent.file,
            sent.size or 0,
        )
    return FileOut.of(stored)


@routes.get("/files")
@needs(Permission.GATEWAY_CALL)
def list_files(
    caller: Caller,
    platform: ThePlatform,
    purpose: Annotated[str, Query(max_length=40)] = "",
    after: After = "",
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
) -> FileList:
    """The project's files, newest first."""
    found, more = _page(platform.files.files(caller, purpose=purpose), after, limit)
    items = [FileOut.of(file) for file in found]
    return FileList(data=items, has_more=more, first_id=_first(found), last_id=_last(found))


@routes.get("/files/{file_id}")
@needs(Permission.GATEWAY_CALL)
def read_file(file_id: FileId, caller: Caller, platform: ThePlatform) -> FileOut:
    """One file."""
    return FileOut.of(platform.files.file(caller, file_id))


@routes.get("/files/{file_id}/content", response_class=Response)
@needs(Permission.GATEWAY_CALL)
def read_content(file_id: FileId, caller: Caller, platform: ThePlatform) -> StreamingResponse:
    """A file's bytes."""
    found = platform.files.file(caller, file_id)
    headers = {"content-length": str(found.bytes), "content-disposition": "attachment"}
    return StreamingResponse(
        _bytes(platform.files.content(caller, file_id)), media_type="application/octet-stream", headers=headers
    )


@routes.delete("/files/{file_id}")
@needs(Permission.GATEWAY_CALL)
def remove_file(file_id: FileId, caller: Caller, platform: ThePlatform) -> FileRemovedOut:
    """Remove a file; 409 while a batch reads it."""
    return FileRemovedOut(id=platform.files.remove(caller, file_id).id)


@routes.post("/batches")
@needs(Permission.GATEWAY_CALL)
def submit_batch(body: BatchIn, caller: Caller, platform: ThePlatform) -> BatchOut:
    """Begin a batch. Its calls count as the caller's and belong to the lowest priority band."""
    made = platform.batches.submit(
        caller,
        input_file=body.input_file_id,
        endpoint=body.endpoint,
        window=body.completion_window,
        metadata=body.metadata,
    )
    return _out(platform, made)


@routes.get("/batches")
@needs(Permission.GATEWAY_CALL)
def list_batches(
    caller: Caller,
    platform: ThePlatform,
    after: After = "",
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> BatchList:
    """The project's batches, newest first."""
    found, more = _page(platform.batches.batches(caller), after, limit)
    items = [_out(platform, batch) for batch in found]
    return BatchList(data=items, has_more=more, first_id=_first(found), last_id=_last(found))


@routes.get("/batches/{batch_id}")
@needs(Permission.GATEWAY_CALL)
def read_batch(batch_id: BatchId, caller: Caller, platform: ThePlatform) -> BatchOut:
    """One batch."""
    return _out(platform, platform.batches.batch(caller, batch_id))


@routes.post("/batches/{batch_id}/cancel")
@needs(Permission.GATEWAY_CALL)
def cancel_batch(batch_id: BatchId, caller: Caller, platform: ThePlatform) -> BatchOut:
    """Stop a batch; calls in flight finish, and what is done is kept."""
    return _out(platform, platform.batches.cancel(caller, batch_id))


def _out(platform: Platform, batch: Batch) -> BatchOut:
    return BatchOut.of(batch, platform.batches.metadata(batch))


def _page(found: Sequence[T], after: str, limit: int) -> tuple[Sequence[T], bool]:
    if after:
        places = [place for place, value in enumerate(found) if value.id == after]
        found = found[places[0] + 1 :] if places else ()
    return found[:limit], len(found) > limit


def _first(found: Sequence[StoredFile] | Sequence[Batch]) -> str | None:
    return found[0].id if found else None


def _last(found: Sequence[StoredFile] | Sequence[Batch]) -> str | None:
    return found[-1].id if found else None


def _bytes(source: AbstractContextManager[BinaryIO]) -> Iterator[bytes]:
    with source as file:
        while data := file.read(_CHUNK):
            yield data

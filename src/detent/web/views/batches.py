"""Batches: many calls in one file, made in the lowest band; and the files that they read and write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import msgspec

from detent.gateway.batches.model import ENDED, Batch, Endpoint, StoredFile
from detent.kernel.errors import InvalidInput, NotFound
from detent.kernel.identity import Permission
from detent.web.page import Action, Goto, Outcome, Page
from detent.web.table import Table
from detent.web.views.facts import names_of
from detent.web.visit import Form, Visit

LIMITS = ("50", "100", "200", "500")


class BatchLine(msgspec.Struct, frozen=True, kw_only=True):
    """A batch in the list.

    Attributes:
        whose, whose_href: on whose behalf it calls.
        expires: when what is left undone expires.
        active: whether it is not over.
    """

    id: str
    status: str
    endpoint: str
    whose: str
    whose_href: str
    total: int
    completed: int
    failed: int
    created: int
    started: int
    ended: int
    expires: int
    active: bool
    problem: str
    input_file: str
    output_file: str
    error_file: str

    @property
    def done(self) -> int:
        """Calls that are over, well or not."""
        return self.completed + self.failed


class FileLine(msgspec.Struct, frozen=True, kw_only=True):
    """A stored file; `download` is its address in the API."""

    id: str
    filename: str
    purpose: str
    bytes: int
    created: int
    download: str


class BatchesView(msgspec.Struct, frozen=True, kw_only=True):
    """Batches and files, newest first.

    Attributes:
        active: whether any batch is not over.
        inputs: files that a batch can read.
    """

    batches: tuple[BatchLine, ...]
    files: tuple[FileLine, ...]
    more_batches: int
    more_files: int
    limit: int
    active: bool
    inputs: tuple[FileLine, ...]
    endpoints: tuple[str, ...]
    gateway_url: str


class BatchView(msgspec.Struct, frozen=True, kw_only=True):
    """One batch with its files and its submitter's own notes."""

    batch: BatchLine
    files: dict[str, FileLine]
    metadata: dict[str, str]
    window_seconds: int


def view(visit: Visit) -> BatchesView:
    """Batches with how far they are, the stored files, and a form to begin a batch."""
    caller, platform = visit.caller, visit.platform
    limit = int(visit.choice("limit", LIMITS, "50"))
    batches, files = platform.batches.batches(caller), platform.files.files(caller)
    names = names_of(visit)
    # Only of those that run does the list know less than the job does.
    shown = [b if b.status in ENDED else platform.batches.batch(caller, b.id) for b in batches[:limit]]
    return BatchesView(
        batches=tuple(_line(batch, names) for batch in shown),
        files=tuple(_file(file) for file in files[:limit]),
        more_batches=max(len(batches) - limit, 0),
        more_files=max(len(files) - limit, 0),
        limit=limit,
        active=any(batch.status not in ENDED for batch in shown),
        inputs=tuple(_file(file) for file in files if file.purpose == "batch")[:limit],
        endpoints=get_args(Endpoint),
        gateway_url=platform.status().gateway_url,
    )


def view_one(visit: Visit) -> BatchView:
    """A batch: how far it is, its files to download, and its calls as traces."""
    caller, platform = visit.caller, visit.platform
    batch = platform.batches.batch(caller, visit.args["batch_id"])
    files = {}
    for role, file_id in (("input", batch.input_file), ("output", batch.output_file), ("errors", batch.error_file)):
        if file_id:
            try:
                files[role] = _file(platform.files.file(caller, file_id))
            except NotFound:  # removed since
                continue
    return BatchView(
        batch=_line(batch, names_of(visit)),
        files=files,
        metadata=platform.batches.metadata(batch) or {},
        window_seconds=batch.window_seconds,
    )


def _line(batch: Batch, names: dict[str, str]) -> BatchLine:
    actor = f"key:{batch.key_id}" if batch.key_id else batch.user_id
    return BatchLine(
        id=batch.id,
        status=batch.status.replace("_", " "),
        endpoint=batch.endpoint,
        whose=names.get(actor, actor.replace(":", " ", 1)),
        whose_href=f"/keys/{batch.key_id}" if batch.key_id else "",
        total=batch.total,
        completed=batch.completed,
        failed=batch.failed,
        created=batch.created,
        started=batch.started,
        ended=batch.ended,
        expires=batch.expires,
        active=batch.status not in ENDED,
        problem=batch.problem,
        input_file=batch.input_file,
        output_file=batch.output_file,
        error_file=batch.error_file,
    )


def _file(file: StoredFile) -> FileLine:
    return FileLine(
        id=file.id,
        filename=file.filename,
        purpose=file.purpose,
        bytes=file.bytes,
        created=file.created,
        download=f"/v1/files/{file.id}/content",
    )


def submit(visit: Visit, form: Form) -> Outcome:
    """Begin a batch of a file that is stored; its calls count as the visitor's own."""
    if not form.get("input_file_id"):
        raise InvalidInput("A batch reads a file.", hint="Choose one, or upload it first.", field="input_file_id")
    begun = visit.platform.batches.submit(
        visit.caller,
        input_file=form.get("input_file_id"),
        endpoint=form.get("endpoint"),
        window=form.get("completion_window") or "24h",
    )
    return Goto(f"/batches/{begun.id}", "batch-started")


def cancel(visit: Visit, _form: Form) -> Outcome:
    """Stop a batch; calls in flight finish, and what is done is kept."""
    batch_id = visit.args["batch_id"]
    visit.platform.batches.cancel(visit.caller, batch_id)
    return Goto(f"/batches/{batch_id}", "batch-cancelled")


def remove_file(visit: Visit, _form: Form) -> Outcome:
    """Remove a file."""
    visit.platform.files.remove(visit.caller, visit.args["file_id"])
    return Goto("/batches", "file-removed")


def tables(view: BatchesView) -> Mapping[str, Table]:
    """Both lists."""
    return {
        "batches": _batches_table(view.batches),
        "files": Table(
            ("id", "filename", "purpose", "bytes", "created_ns", "download"),
            [(f.id, f.filename, f.purpose, f.bytes, f.created, f.download) for f in view.files],
        ),
    }


def _batches_table(lines: tuple[BatchLine, ...]) -> Table:
    names = (
        "id",
        "status",
        "endpoint",
        "whose",
        "total",
        "completed",
        "failed",
        "created",
        "started",
        "ended",
        "expires",
        "input_file",
        "output_file",
        "error_file",
    )
    times = {"created", "started", "ended", "expires"}
    return Table(
        tuple(f"{name}_ns" if name in times else name for name in names),
        [tuple(getattr(line, name) for name in names) for line in lines],
    )


PAGE = Page("/batches", Permission.GATEWAY_CALL, "batches.html", view, tables)
ONE = Page("/batches/{batch_id}", Permission.GATEWAY_CALL, "batch.html", view_one)
ACTIONS = (
    Action("/batches", Permission.GATEWAY_CALL, PAGE, submit),
    Action("/batches/{batch_id}/cancel", Permission.GATEWAY_CALL, ONE, cancel),
    Action("/files/{file_id}/remove", Permission.GATEWAY_CALL, PAGE, remove_file),
)

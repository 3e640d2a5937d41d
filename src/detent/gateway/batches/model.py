"""Files and batches, named as the OpenAI API names them. Frozen, no I/O."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

Purpose = Literal["batch", "batch_output", "fine-tune", "evals", "user_data", "assistants", "vision"]
"""What a file is for."""

Status = Literal["validating", "in_progress", "finalizing", "completed", "failed", "cancelling", "cancelled", "expired"]
"""Where a batch is in its life; the last but two are ends."""

Endpoint = Literal[
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/completions",
    "/v1/moderations",
    "/v1/messages",
]
"""What a batch may call."""

ENDED: Final = frozenset({"completed", "failed", "cancelled", "expired"})
MAX_LINES: Final = 50_000
"""Calls in one batch."""


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a project.

    Attributes:
        id: `file-` and a UUIDv7.
        filename: as its sender named it.
        bytes: its size.
        digest: of its blob.
    """

    id: str
    project: str
    filename: str
    purpose: Purpose
    bytes: int
    digest: str
    created: int


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Many calls in one file.

    Attributes:
        id: `batch_` and a UUIDv7; the job that does it has the same id.
        key_id, user_id: on whose behalf it calls; one of them is set.
        input_file, output_file, error_file: ids of files; the last two are empty until it ends, or when there is
            nothing to put in.
        window_seconds: how long it may take; what is left undone then expires.
        total, completed, failed: calls; while it runs the job knows more.
        metadata: digest of a blob with the submitter's own JSON, empty for none.
        problem: why it failed as a whole.
    """

    id: str
    project: str
    key_id: str = ""
    user_id: str = ""
    endpoint: Endpoint
    input_file: str
    window_seconds: int
    status: Status = "validating"
    total: int = 0
    completed: int = 0
    failed: int = 0
    output_file: str = ""
    error_file: str = ""
    metadata: str = ""
    problem: str = ""
    created: int
    started: int = 0
    cancelling: int = 0
    ended: int = 0

    @property
    def expires(self) -> int:
        """When what is left undone expires, ns since the epoch."""
        return self.created + self.window_seconds * 1_000_000_000

"""What can be recorded of files and batches; never what stands in them."""

from __future__ import annotations

from typing import Literal

from detent.gateway.batches.model import Endpoint, Purpose
from detent.kernel.facts import FactBody, fact


@fact("file.stored")
class FileStored(FactBody, frozen=True, kw_only=True):
    """A file was stored; `digest` names its blob."""

    filename: str
    purpose: Purpose
    bytes: int
    digest: str


@fact("file.removed", sealed_at_once=True)
class FileRemoved(FactBody, frozen=True, kw_only=True):
    """A file was removed, and its blob with it if no other file has the same bytes."""


@fact("batch.submitted")
class BatchSubmitted(FactBody, frozen=True, kw_only=True):
    """A batch was submitted. `metadata` is a blob's digest."""

    key_id: str = ""
    user_id: str = ""
    endpoint: Endpoint
    input_file: str
    window_seconds: int
    metadata: str = ""


@fact("batch.started")
class BatchStarted(FactBody, frozen=True, kw_only=True):
    """A batch's input was found good, and its calls began."""

    total: int


@fact("batch.cancel_requested")
class BatchCancelRequested(FactBody, frozen=True, kw_only=True):
    """Somebody wants a batch to stop; calls in flight finish."""


@fact("batch.ended")
class BatchEnded(FactBody, frozen=True, kw_only=True):
    """A batch came to its end."""

    status: Literal["completed", "failed", "cancelled", "expired"]
    completed: int = 0
    failed: int = 0
    output_file: str = ""
    error_file: str = ""
    problem: str = ""


FACTS = (FileStored, FileRemoved, BatchSubmitted, BatchStarted, BatchCancelRequested, BatchEnded)

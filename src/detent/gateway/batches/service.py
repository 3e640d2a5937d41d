"""The verbs of batches: submit, look at, cancel."""

from __future__ import annotations

from typing import Any, Final, get_args

import msgspec

from detent.gateway.batches.facts import (
    BatchCancelRequested,
    BatchSubmitted,
)
from detent.gateway.batches.files import Files
from detent.gateway.batches.model import ENDED, Batch, Endpoint
from detent.gateway.batches.views import BATCHES
from detent.kernel.canonical import canonical_json
from detent.kernel.clock import HOUR, SECOND
from detent.kernel.errors import Conflict, InvalidInput, NotFound
from detent.kernel.facts import NEW_STREAM, Draft
from detent.kernel.identity import Permission, Principal
from detent.kernel.ids import Ids
from detent.kernel.ports import Blobs, Jobs, Ledger

WORKFLOW: Final = "gateway.batch"
_MAX_METADATA: Final = 16
_WINDOW_UNITS: Final = {"h": HOUR // SECOND, "d": 24 * HOUR // SECOND}
_MAX_WINDOW: Final = 14 * 24 * HOUR // SECOND


class Batches:
    """What may be done with batches. Every verb takes the caller, checks, and records a fact."""

    def __init__(self, ledger: Ledger, blobs: Blobs, jobs: Jobs, files: Files, *, ids: Ids) -> None:
        self._ledger = ledger
        self._files = files
        self._blobs = blobs
        self._jobs = jobs
        self._ids = ids

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
        file = self._files.file(caller, input_file)
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
        found = self._ledger.rows(BATCHES, project=caller.project).values()
        return tuple(sorted((self._counted(batch) for batch in found), key=_age, reverse=True))

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
        """With what the job knows that is not recorded: figures while it runs, and that it broke."""
        if batch.status in ENDED:
            return batch
        try:
            job = self._jobs.get(batch.id)
        except NotFound:
            return batch
        figures = dict(part.split("=", 1) for part in job.step.split() if part.count("=") == 1)
        completed, failed = figures.get("completed", ""), figures.get("failed", "")
        if completed.isdecimal() and failed.isdecimal():
            batch = msgspec.structs.replace(batch, completed=int(completed), failed=int(failed))
        if job.state == "failed" or job.state == "cancelled":
            problem = f"Its job is {job.state}{f': {job.error}' if job.error else ''}; resume it to go on."
            return msgspec.structs.replace(batch, status=job.state, problem=problem, ended=job.updated)
        return batch


def _age(batch: Batch) -> tuple[int, str]:
    return batch.created, batch.id


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

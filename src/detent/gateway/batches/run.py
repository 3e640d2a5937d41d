"""The workflow that does a batch: check its input, call line by line, put the answers together.

A step is a piece of the input, so a killed worker goes on with the piece that it was at; the calls of that one piece
are made again. Calls that are refused because there is no room wait and try again; they belong to the lowest band, so
whoever waits for an answer goes first.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import msgspec

from detent.gateway.batches.facts import BatchEnded, BatchStarted
from detent.gateway.batches.files import Files
from detent.gateway.batches.model import ENDED, MAX_LINES, Batch
from detent.gateway.batches.views import BATCHES, FILES
from detent.gateway.delegation import Delegation, issue
from detent.gateway.upstream import Client, Lane, Timeouts
from detent.guard.addresses import read_endpoint
from detent.guard.vault import Vault
from detent.kernel.clock import MINUTE, Clock
from detent.kernel.errors import InvalidInput, NotFound, WorldError
from detent.kernel.facts import Draft
from detent.kernel.identity import Principal, system
from detent.kernel.ports import Blobs, JobContext, Ledger

_MAX_LINE: Final = 16 * 1024 * 1024
_AGAIN: Final = frozenset({408, 429, 503})
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
_TIMEOUTS: Final = Timeouts(connect=5.0, first_token=900.0, idle=900.0, total=900.0)


class _Line(msgspec.Struct):
    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


_LINES: Final = msgspec.json.Decoder(_Line)


class BatchRun:
    """What doing batches takes.

    Args:
        gateway_url: where the gateway is now.
        vault: seals the delegations that its calls are made with.
        at_once: calls of one batch in flight; a piece is twice as many, and so is what is called again after a crash.
    """

    def __init__(
        self,
        ledger: Ledger,
        blobs: Blobs,
        files: Files,
        *,
        gateway_url: Callable[[], str],
        vault: Callable[[], Vault],
        clock: Clock,
        at_once: int = 32,
    ) -> None:
        self._ledger = ledger
        self._blobs = blobs
        self._files = files
        self._gateway_url = gateway_url
        self._vault = vault
        self._clock = clock
        self._at_once = at_once

    def run(self, context: JobContext, arguments: dict[str, Any]) -> dict[str, Any]:
        """The calls of a batch in JSON Lines, one by one, as OpenAI's batch API describes it."""
        batch_id = str(arguments.get("batch", ""))
        batch = self._batch(batch_id)
        actor = system("batches", batch.project)
        context.progress(0.0, "validating")
        checked = context.step("validate", lambda: self._validate(batch))
        if checked["problem"]:
            ended = BatchEnded(status="failed", problem=checked["problem"])
            context.step("end", lambda: self._record(actor, batch_id, ended))
            return {"status": "failed", "problem": checked["problem"]}
        total: int = checked["total"]
        context.step("start", lambda: self._record(actor, batch_id, BatchStarted(total=total)))
        pieces: list[dict[str, Any]] = []
        offset = done = failed = 0
        why = "completed"
        while done < total:
            stop = context.step(f"look {done}", lambda: self._stop(batch_id))
            if stop:
                why = stop
                break
            context.progress(done / total, f"completed={done - failed} failed={failed}")
            piece = context.step(f"calls {done}", partial(self._piece, batch, offset))
            pieces.append(piece)
            offset = piece["offset"]
            done += piece["calls"]
            failed += piece["failed"]
        context.progress(done / total, f"completed={done - failed} failed={failed}")
        result: dict[str, Any] = context.step("finish", lambda: self._finish(actor, batch, pieces, offset, why))
        return result

    def _batch(self, batch_id: str) -> Batch:
        found = self._ledger.get(BATCHES, f"batch/{batch_id}")
        if found is None:
            raise NotFound(f"There is no batch '{batch_id[:60]}'.", hint="Submit one with POST /v1/batches.")
        return found

    def _record(self, actor: Principal, batch_id: str, body: BatchStarted | BatchEnded) -> None:
        found = self._batch(batch_id)
        if found.status in ENDED or (isinstance(body, BatchStarted) and found.started):
            return  # a step that was cut off after its fact was recorded
        self._ledger.append([Draft(f"batch/{batch_id}", body)], actor=actor.actor, project=actor.project)

    def _stop(self, batch_id: str) -> str:
        found = self._batch(batch_id)
        if found.status == "cancelling":
            return "cancelled"
        return "expired" if self._clock.now() >= found.expires else ""

    # The input

    def _validate(self, batch: Batch) -> dict[str, Any]:
        """Read all lines once: how many there are, or what is wrong with the first bad one.

        The words stand in a fact, so nothing of what was sent is in them.
        """
        seen: set[str] = set()
        number = 0
        try:
            for raw, _ in self._lines(batch, 0):
                number += 1
                line = _read_line(raw, number)
                if line.method != "POST" or line.url != batch.endpoint:
                    raise InvalidInput(f"Line {number} is no call of POST {batch.endpoint}.")
                if line.custom_id in seen:
                    raise InvalidInput(f"Line {number} repeats the custom_id of a line before it.")
                seen.add(line.custom_id)
                if number > MAX_LINES:
                    raise InvalidInput(f"The file holds more than {MAX_LINES} lines.")
        except (InvalidInput, NotFound) as error:
            return {"total": 0, "problem": error.message}
        return {"total": number, "problem": "" if number else "The file holds no lines."}

    def _lines(self, batch: Batch, offset: int) -> Iterator[tuple[bytes, int]]:
        """Lines from an offset, each with the offset behind it; blank ones are skipped."""
        file = self._ledger.get(FILES, f"file/{batch.input_file}")
        if file is None:
            raise NotFound("The input file was removed.")
        with self._blobs.open(file.digest) as data:
            data.seek(offset)
            while raw := data.readline(_MAX_LINE + 1):
                offset += len(raw)
                if len(raw) > _MAX_LINE:
                    raise InvalidInput(f"A line is longer than {_MAX_LINE} bytes.")
                if raw.strip():
                    yield raw, offset

    # The calls

    def _piece(self, batch: Batch, offset: int) -> dict[str, Any]:
        lines: list[_Line] = []
        for raw, behind in self._lines(batch, offset):
            lines.append(_read_line(raw, 0))
            offset = behind
            if len(lines) == 2 * self._at_once:
                break
        answers = asyncio.run(self._call_all(batch, lines))
        good = b"".join(answer for answer, fine in answers if fine)
        bad = b"".join(answer for answer, fine in answers if not fine)
        return {
            "offset": offset,
            "calls": len(lines),
            "failed": sum(not fine for _, fine in answers),
            "output": self._blobs.put(good) if good else "",
            "errors": self._blobs.put(bad) if bad else "",
        }

    async def _call_all(self, batch: Batch, lines: list[_Line]) -> list[tuple[bytes, bool]]:
        client = Client(_TIMEOUTS)
        room = asyncio.Semaphore(self._at_once)
        try:
            lane = client.lane(read_endpoint(self._gateway_url()), allow_private=True)

            async def one(line: _Line) -> tuple[bytes, bool]:
                async with room:
                    return await self._call(batch, lane, line)

            return list(await asyncio.gather(*(one(line) for line in lines)))
        finally:
            client.close()

    async def _call(self, batch: Batch, lane: Lane, line: _Line) -> tuple[bytes, bool]:
        """One line's answer as a line of the output or error file, and which of the two."""
        pause = _FIRST_PAUSE
        while True:
            now = self._clock.now()
            if now >= batch.expires:
                return self._undone(batch, line, "batch_expired", "The batch's window was over."), False
            try:
                status, headers, data = await self._post(batch, lane, line, now)
            except WorldError as error:
                status, headers, data = 503, {}, b""
                last = error.message
            else:
                last = ""
                if status not in _AGAIN:
                    body = _json_or_text(data)
                    request_id = headers.get(b"x-request-id", b"").decode("latin-1") or _name(batch, line)
                    response = {"status_code": status, "request_id": request_id, "body": body}
                    return _written(line, request_id, response, None), status == 200
            if self._stop(batch.id) == "cancelled":
                return self._undone(batch, line, "batch_cancelled", last or "The batch was cancelled."), False
            asked = headers.get(b"retry-after", b"")
            wait = float(asked) if asked.isdigit() else pause * random.uniform(0.5, 1.0)  # noqa: S311  (jitter)
            await asyncio.sleep(min(wait, _LONGEST_PAUSE))
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _undone(self, batch: Batch, line: _Line, code: str, message: str) -> bytes:
        return _written(line, _name(batch, line), None, {"code": code, "message": message})

    async def _post(self, batch: Batch, lane: Lane, line: _Line, now: int) -> tuple[int, dict[bytes, bytes], bytes]:
        given = Delegation(
            project=batch.project,
            key_id=batch.key_id,
            user_id=batch.user_id,
            priority="batch",
            expires=now + 30 * MINUTE,
        )
        body = bytes(line.body)
        head = (
            f"POST {line.url} HTTP/1.1\r\nhost: {lane.endpoint.authority}\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {issue(self._vault(), given).reveal()}\r\n"
            f"x-detent-session: {batch.id}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        deadline = asyncio.get_running_loop().time() + _TIMEOUTS.total
        connection = await lane.send(head.encode() + body, hold=False, total_deadline=deadline)
        try:
            data = await connection.read_all()
        except BaseException:
            connection.close()
            raise
        connection.release()
        return connection.status, connection.headers, data

    # The end

    def _finish(
        self, actor: Principal, batch: Batch, pieces: list[dict[str, Any]], offset: int, why: str
    ) -> dict[str, Any]:
        completed = sum(piece["calls"] - piece["failed"] for piece in pieces)
        failed = sum(piece["failed"] for piece in pieces)
        output = self._joined(actor, f"{batch.id}_output.jsonl", [piece["output"] for piece in pieces], b"")
        left, undone = b"", 0
        if why == "expired":
            for raw, _ in self._lines(batch, offset):
                left += self._undone(batch, _read_line(raw, 0), "batch_expired", "The batch's window was over.")
                undone += 1
        errors = self._joined(actor, f"{batch.id}_error.jsonl", [piece["errors"] for piece in pieces], left)
        ended = BatchEnded(
            status=why,  # type: ignore[arg-type]  # one of its words
            completed=completed,
            failed=failed + undone,
            output_file=output,
            error_file=errors,
        )
        self._record(actor, batch.id, ended)
        for digest in {piece[kind] for piece in pieces for kind in ("output", "errors") if piece[kind]}:
            if not any(file.digest == digest for file in self._ledger.rows(FILES).values()):
                self._blobs.delete(digest)
        return {"status": why, "completed": completed, "failed": failed + undone}

    def _joined(self, actor: Principal, name: str, digests: list[str], rest: bytes) -> str:
        """One file of all pieces; its id, or nothing when there is nothing in them.

        A run that was cut off here finds the file that it made: its pieces may be gone already.
        """
        for file in self._ledger.rows(FILES, project=actor.project).values():
            if file.purpose == "batch_output" and file.filename == name:
                return file.id
        with tempfile.TemporaryFile() as whole:
            for digest in digests:
                if digest:
                    with self._blobs.open(digest) as piece:
                        while data := piece.read(1 << 20):
                            whole.write(data)
            whole.write(rest)
            size = whole.tell()
            if not size:
                return ""
            whole.seek(0)
            return self._files.keep(actor, name, "batch_output", whole, size).id


def _read_line(raw: bytes, number: int) -> _Line:
    try:
        line = _LINES.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"Line {number} cannot be used: {str(error)[:200]}.") from None
    if not 0 < len(line.custom_id) <= 512 or bytes(line.body)[:1] != b"{":
        raise InvalidInput(f"Line {number} needs a custom_id of up to 512 characters, and an object as its body.")
    return line


def _written(line: _Line, name: str, response: dict[str, Any] | None, error: dict[str, str] | None) -> bytes:
    found = {"id": f"batch_req_{name}", "custom_id": line.custom_id, "response": response, "error": error}
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode(errors="replace") + b"\n"


def _name(batch: Batch, line: _Line) -> str:
    """Of a call that was never answered, so that no two lines of any two batches are the same bytes."""
    return hashlib.sha256(f"{batch.id}/{line.custom_id}".encode(errors="replace")).hexdigest()[:32]


def _json_or_text(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return data.decode(errors="replace")

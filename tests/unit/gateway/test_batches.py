"""Files and batches: what is refused, what a run does with good and bad lines, cuts, cancellation and expiry."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from detent.app.checking import check_blobs, is_sound
from detent.app.platform import Platform, open_platform
from detent.gateway.batches.facts import BatchEnded
from detent.gateway.batches.model import Batch
from detent.gateway.batches.run import BatchRun
from detent.gateway.delegation import accept
from detent.guard.vault import open_vault
from detent.kernel.clock import HOUR, FixedClock
from detent.kernel.errors import Conflict, InvalidInput, NotFound
from detent.kernel.identity import Actor, Permission, Principal
from detent.kernel.settings import Settings
from detent.testing import Fault, ScriptedModel

ENDPOINT = "/v1/chat/completions"


class Context:
    """Runs steps, remembers what they gave, and is cut off when told."""

    id = "job"

    def __init__(self) -> None:
        self.done: dict[str, Any] = {}
        self.told: list[str] = []
        self.cut_before = ""

    def step(self, name: str, work: Callable[[], Any]) -> Any:
        if name == self.cut_before:
            raise KeyboardInterrupt
        if name not in self.done:
            self.done[name] = json.loads(json.dumps(work()))
        return self.done[name]

    def progress(self, _fraction: float, note: str = "") -> None:
        self.told.append(note)


class Stage:
    """A platform with a fixed clock, and somebody who submits."""

    def __init__(self, home: Path) -> None:
        self.clock = FixedClock()
        self.home = home
        self.platform: Platform = open_platform(Settings(home=str(home)), clock=self.clock)
        self.vault = open_vault(home / "keys" / "root.key")
        self.caller = Principal(Actor("key", "k1"), "default", frozenset({Permission.GATEWAY_CALL}))

    def submit(self, lines: list[Any], **more: Any) -> Batch:
        data = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
        file = self.platform.files.store(self.caller, "in.jsonl", "batch", data, len(data) or 1)
        return self.platform.batches.submit(self.caller, input_file=file.id, endpoint=ENDPOINT, **more)

    def run(self, batch: Batch, model: ScriptedModel | None, context: Context | None = None) -> dict[str, Any]:
        run = BatchRun(
            self.platform.ledger,
            self.platform.blobs,
            self.platform.files,
            gateway_url=lambda: model.url.removesuffix("/v1") if model else "http://127.0.0.1:9",
            vault=lambda: self.vault,
            clock=self.clock,
        )
        return run.run(context or Context(), {"batch": batch.id})

    def read(self, file_id: str) -> list[Any]:
        with self.platform.files.content(self.caller, file_id) as data:
            return [json.loads(line) for line in data.read().splitlines()]

    def now(self, batch: Batch) -> Batch:
        return self.platform.batches.batch(self.caller, batch.id)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    found = Stage(tmp_path)
    yield found
    found.platform.close()


def line(number: int, **more: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": f"say {number}"}]}
    return {"custom_id": f"c{number}", "method": "POST", "url": ENDPOINT, "body": body, **more}


def echo(call: dict[str, Any]) -> Any:
    text = call["messages"][0]["content"]
    return Fault(400, "no") if text.endswith("7") else f"said {text}"


def test_good_and_bad_lines(stage: Stage) -> None:
    batch = stage.submit([*(line(n) for n in range(10)), b"", b"  "], metadata={"team": "search"})
    assert (batch.status, batch.key_id) == ("validating", "k1")
    with ScriptedModel(echo) as model:
        assert stage.run(batch, model) == {"status": "completed", "completed": 9, "failed": 1}
        sent = {headers["authorization"].removeprefix("Bearer ") for headers in model.headers}
        sessions = {headers["x-detent-session"] for headers in model.headers}
    given = [accept(stage.vault, token, stage.clock.now()) for token in sent]
    assert {(d.project, d.key_id, d.priority) for d in given if d} == {("default", "k1", "batch")}
    assert sessions == {batch.id}
    ended = stage.now(batch)
    assert (ended.status, ended.total, ended.completed, ended.failed) == ("completed", 10, 9, 1)
    good = {row["custom_id"]: row for row in stage.read(ended.output_file)}
    assert sorted(good) == [f"c{n}" for n in range(10) if n != 7]
    assert good["c3"]["response"]["body"]["choices"][0]["message"]["content"] == "said say 3"
    assert (good["c3"]["response"]["status_code"], good["c3"]["error"]) == (200, None)
    bad = stage.read(ended.error_file)
    assert [(row["custom_id"], row["response"]["status_code"]) for row in bad] == [("c7", 400)]
    assert stage.platform.batches.metadata(ended) == {"team": "search"}


def test_a_run_that_was_cut_off_goes_on(stage: Stage) -> None:
    batch = stage.submit([line(n) for n in range(150)])
    context = Context()
    with ScriptedModel(echo) as model:
        context.cut_before = "calls 128"
        with pytest.raises(KeyboardInterrupt):
            stage.run(batch, model, context)
        assert stage.now(batch).status == "in_progress"
        assert len(model.calls) == 128
        context.cut_before = ""
        assert stage.run(batch, model, context)["completed"] == 135
        assert len(model.calls) == 150
    assert len(stage.read(stage.now(batch).output_file)) == 135
    assert context.told[-1] == "completed=135 failed=15"
    # Nothing is left of the pieces.
    kept = {file.digest for file in stage.platform.files.files(stage.caller)}
    assert set(stage.platform.blobs.digests()) == kept


def test_an_end_that_was_cut_off_is_made_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = stage.submit([line(n) for n in range(70)])
    context = Context()
    cut = [True]
    record = BatchRun._record

    def record_or_die(self: BatchRun, actor: Principal, batch_id: str, body: Any) -> None:
        record(self, actor, batch_id, body)
        if isinstance(body, BatchEnded) and cut:
            raise KeyboardInterrupt

    monkeypatch.setattr(BatchRun, "_record", record_or_die)
    with ScriptedModel(echo) as model:
        with pytest.raises(KeyboardInterrupt):
            stage.run(batch, model, context)
        cut.clear()
        assert stage.run(batch, model, context)["completed"] == 63
    outputs = stage.platform.files.files(stage.caller, purpose="batch_output")
    assert [file.filename for file in outputs] == [f"{batch.id}_error.jsonl", f"{batch.id}_output.jsonl"]
    assert check_blobs(stage.platform.ledger, stage.platform.blobs) == ()


def test_what_files_and_batches_need_is_no_orphan(stage: Stage) -> None:
    batch = stage.submit([line(1)], metadata={"team": "search"})
    blobs, ledger = stage.platform.blobs, stage.platform.ledger
    assert check_blobs(ledger, blobs) == ()
    left = blobs.put(b"a piece that only a job knows")
    assert check_blobs(ledger, blobs) == ()
    with ScriptedModel(["fine"]) as model:
        stage.run(batch, model)
    found = check_blobs(ledger, blobs)
    assert [(damage.digest, damage.problem) for damage in found] == [(left, "orphaned")]
    assert is_sound(found)
    blobs.delete(stage.platform.files.file(stage.caller, batch.input_file).digest)
    found = check_blobs(ledger, blobs)
    assert {damage.problem for damage in found} == {"orphaned", "missing"}
    assert not is_sound(found)


def test_a_job_that_was_cancelled_is_told(stage: Stage) -> None:
    batch = stage.submit([line(1)])
    stage.platform.jobs.cancel(batch.id)
    found = stage.now(batch)
    assert (found.status, found.ended > 0) == ("cancelled", True)
    assert "resume" in found.problem
    assert stage.platform.batches.batches(stage.caller) == (found,)


def test_lines_that_were_not_called_differ_between_batches(stage: Stage) -> None:
    kept = []
    for _ in range(2):
        batch = stage.submit([line(1)], window="1h")
        stage.clock.advance(HOUR)
        stage.run(batch, None)
        kept.append(stage.read(stage.now(batch).error_file))
    assert kept[0] != kept[1]
    assert [row["custom_id"] for rows in kept for row in rows] == ["c1", "c1"]


def test_no_room_is_waited_for(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("detent.gateway.batches.run.asyncio.sleep", sleep)
    batch = stage.submit([line(1)])
    with ScriptedModel([Fault(429, "busy", 3), Fault(503, "busy"), "at last"]) as model:
        assert stage.run(batch, model)["completed"] == 1
    assert waits[0] == 3
    assert 0 < waits[1] <= 1


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([], "no lines"),
        ([b"{"], "Line 1 cannot be used"),
        ([line(1), b"7"], "Line 2 cannot be used"),
        ([line(1), line(1)], "Line 2 repeats"),
        ([line(1, url="/v1/embeddings")], "Line 1 is no call"),
        ([line(1, method="GET")], "Line 1 is no call"),
        ([line(1, body=[])], "Line 1 needs"),
        ([line(1, custom_id="")], "Line 1 needs"),
    ],
)
def test_bad_input_fails_as_a_whole(stage: Stage, lines: list[Any], problem: str) -> None:
    batch = stage.submit(lines or [b" "])
    assert stage.run(batch, None)["status"] == "failed"
    ended = stage.now(batch)
    assert problem in ended.problem
    assert (ended.status, ended.output_file, ended.error_file) == ("failed", "", "")


def test_cancelled_between_pieces(stage: Stage) -> None:
    batch = stage.submit([line(n) for n in range(100)])
    context = Context()

    def answer(call: dict[str, Any]) -> str:
        if stage.now(batch).status == "in_progress":
            stage.platform.batches.cancel(stage.caller, batch.id)
        return "done"

    with ScriptedModel(answer) as model:
        assert stage.run(batch, model, context)["status"] == "cancelled"
    ended = stage.now(batch)
    assert (ended.status, ended.completed) == ("cancelled", 64)
    assert len(stage.read(ended.output_file)) == 64
    with pytest.raises(Conflict):
        stage.platform.batches.cancel(stage.caller, batch.id)


def test_what_is_left_when_the_window_is_over_expires(stage: Stage) -> None:
    batch = stage.submit([line(n) for n in range(70)], window="1h")

    def answer(_call: dict[str, Any]) -> str:
        stage.clock.advance(HOUR)
        return "late"

    with ScriptedModel(answer) as model:
        assert stage.run(batch, model)["status"] == "expired"
    ended = stage.now(batch)
    assert ended.status == "expired"
    assert ended.completed + ended.failed == 70
    expired = [row for row in stage.read(ended.error_file) if row["error"]["code"] == "batch_expired"]
    assert len(expired) == ended.failed >= 6


def test_refusals(stage: Stage) -> None:
    files, batches = stage.platform.files, stage.platform.batches
    for name, purpose, size in (("", "batch", 1), ("a", "other", 1), ("a", "batch_output", 1), ("a", "batch", 0)):
        with pytest.raises(InvalidInput):
            files.store(stage.caller, name, purpose, b"x", size)
    other = files.store(stage.caller, "a", "user_data", b"x", 1)
    for wrong in (
        {"input_file": other.id, "endpoint": ENDPOINT},
        {"input_file": other.id, "endpoint": "/v1/nothing"},
        {"input_file": other.id, "endpoint": ENDPOINT, "window": "99d"},
        {"input_file": other.id, "endpoint": ENDPOINT, "window": "soon"},
    ):
        with pytest.raises(InvalidInput):
            batches.submit(stage.caller, **wrong)
    with pytest.raises(NotFound):
        batches.submit(stage.caller, input_file="file-none", endpoint=ENDPOINT)
    with pytest.raises(InvalidInput):
        stage.submit([line(1)], metadata={str(n): "x" for n in range(17)})


def test_a_file_that_is_read_cannot_be_removed(stage: Stage) -> None:
    batch = stage.submit([line(1)])
    with pytest.raises(Conflict):
        stage.platform.files.remove(stage.caller, batch.input_file)
    with ScriptedModel(["fine"]) as model:
        stage.run(batch, model)
    digest = stage.platform.files.file(stage.caller, batch.input_file).digest
    stage.platform.files.remove(stage.caller, batch.input_file)
    assert not stage.platform.blobs.has(digest)


def test_the_same_bytes_twice_are_removed_with_the_last(stage: Stage) -> None:
    files = stage.platform.files
    one, two = (files.store(stage.caller, "a", "batch", b"same", 4) for _ in range(2))
    files.remove(stage.caller, one.id)
    assert stage.platform.blobs.has(two.digest)
    files.remove(stage.caller, two.id)
    assert not stage.platform.blobs.has(two.digest)


def test_nothing_is_seen_from_another_project(stage: Stage) -> None:
    batch = stage.submit([line(1)])
    stranger = Principal(Actor("key", "k2"), "other", frozenset({Permission.GATEWAY_CALL}))
    assert stage.platform.files.files(stranger) == stage.platform.batches.batches(stranger) == ()
    for ask in (
        lambda: stage.platform.batches.batch(stranger, batch.id),
        lambda: stage.platform.batches.cancel(stranger, batch.id),
        lambda: stage.platform.files.content(stranger, batch.input_file),
        lambda: stage.platform.files.remove(stranger, batch.input_file),
    ):
        with pytest.raises(NotFound):
            ask()

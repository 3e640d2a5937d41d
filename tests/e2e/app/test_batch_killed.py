"""kill -9 of the worker in the middle of a batch: the batch goes on, and each line has one answer."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from tests.e2e.app.conftest import START_SECONDS, Installation, until

from detent.app.checking import check_blobs
from detent.gateway.model import Target
from detent.testing import ScriptedModel

pytestmark = pytest.mark.e2e
LINES = 200
STOPS_AT = 100


def test_a_batch_goes_on(installation: Installation) -> None:
    reached, killed = threading.Event(), threading.Event()
    seen: list[str] = []

    def answer(call: dict[str, Any]) -> str:
        text = call["messages"][0]["content"]
        seen.append(text)
        if len(seen) == STOPS_AT:
            reached.set()
            killed.wait(START_SECONDS)
        return f"said {text}"

    lines = [
        {
            "custom_id": f"c{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "far", "messages": [{"role": "user", "content": f"say {number}"}]},
        }
        for number in range(LINES)
    ]
    data = "\n".join(json.dumps(line) for line in lines).encode()
    installation.start()
    with ScriptedModel(answer) as model, installation.platform() as platform:
        caller = platform.access.operator()
        platform.gateway.save_provider(caller, "scripted", url=model.url, allow_private=True)
        platform.gateway.save_route(caller, "far", (Target("scripted", "m"),))
        file = platform.files.store(caller, "in.jsonl", "batch", data, len(data))
        batch = platform.batches.submit(caller, input_file=file.id, endpoint="/v1/chat/completions")
        assert reached.wait(START_SECONDS)
        try:
            installation.kill("worker")
        finally:
            killed.set()
        until(lambda: platform.batches.batch(caller, batch.id).ended > 0, 2 * START_SECONDS, "the batch ended")
        ended = platform.batches.batch(caller, batch.id)
        assert (ended.status, ended.completed, ended.failed, ended.error_file) == ("completed", LINES, 0, "")
        with platform.files.content(caller, ended.output_file) as output:
            answers = [json.loads(row) for row in output.read().splitlines()]
        assert [row["custom_id"] for row in answers] == [f"c{number}" for number in range(LINES)]
        said = [row["response"]["body"]["choices"][0]["message"]["content"] for row in answers]
        assert said == [f"said say {number}" for number in range(LINES)]
        # Calls of the piece that was cut off were made again, those of pieces before it were not.
        assert LINES < len(seen) <= LINES + 64
        assert len(platform.files.files(caller, purpose="batch_output")) == 1
        # What was left of the piece that was cut off may be an orphan; nothing else is.
        assert {damage.problem for damage in check_blobs(platform.ledger, platform.blobs)} <= {"orphaned"}

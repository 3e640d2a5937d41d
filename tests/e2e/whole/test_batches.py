"""A batch by the openai package, through the gateway's address, done by the worker with the embedded model."""

from __future__ import annotations

import json
import time

import openai
import pytest
from openai import OpenAI
from tests.e2e.whole.conftest import Running

pytestmark = pytest.mark.e2e


def test_a_batch(shared: Running) -> None:
    key = shared.told("keys", "create", "--name", "batches")["key"]
    lines = [
        {
            "custom_id": f"c{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "detent-tiny" if number else "no-such-model",
                "messages": [{"role": "user", "content": f"Where is my order {40_000 + number}?"}],
            },
        }
        for number in range(5)
    ]
    with OpenAI(base_url=shared.gateway, api_key=key) as client:
        data = "\n".join(json.dumps(line) for line in lines).encode()
        file = client.files.create(file=("in.jsonl", data), purpose="batch")
        assert client.files.content(file.id).read() == data
        batch = client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"for": "test"}
        )
        deadline = time.monotonic() + 60
        while batch.status not in {"completed", "failed"}:
            assert time.monotonic() < deadline, batch
            time.sleep(0.2)
            batch = client.batches.retrieve(batch.id)
        assert batch.request_counts is not None
        assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == ("completed", 4, 1)
        assert batch.metadata == {"for": "test"}
        assert batch.output_file_id
        assert batch.error_file_id
        good = [json.loads(row) for row in client.files.content(batch.output_file_id).text.splitlines()]
        assert [row["custom_id"] for row in good] == ["c1", "c2", "c3", "c4"]
        assert all(row["response"]["body"]["choices"][0]["message"]["content"] for row in good)
        bad = json.loads(client.files.content(batch.error_file_id).text)
        assert (bad["custom_id"], bad["response"]["body"]["error"]["code"]) == ("c0", "model_not_found")
        assert batch.id in [found.id for found in client.batches.list(limit=5)]
        assert client.files.delete(file.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(file.id)
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="dtk_" + "x" * 43).files.list()
    spans = shared.told("traces", "list", "--session", batch.id)["items"]
    assert len(spans) == 4 or len(spans) == 5

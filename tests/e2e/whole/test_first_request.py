"""The main job: a call with the openai package is answered, and is seen, found, rated, costed and audited."""

from __future__ import annotations

import json
import time
from typing import Any

import anthropic
import openai
import pytest
from openai import OpenAI
from tests.e2e.whole.conftest import Running

pytestmark = pytest.mark.e2e

SEEN_SECONDS = 2.0


def client(running: Running, name: str) -> OpenAI:
    key = running.told("keys", "create", "--name", name)["key"]
    found = OpenAI(base_url=running.gateway, api_key=key, max_retries=0)
    deadline = time.monotonic() + 5
    while True:  # a new key is known to the gateway with the next snapshot
        try:
            found.models.list()
        except openai.AuthenticationError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return found


def ask(found: OpenAI, text: str, **more: Any) -> Any:
    return found.chat.completions.create(model="detent-tiny", messages=[{"role": "user", "content": text}], **more)


def seen(running: Running, words: str) -> list[dict[str, Any]]:
    deadline = time.monotonic() + SEEN_SECONDS + 3  # the command itself takes a second on a busy machine
    while True:
        rows = running.told("traces", "search", words)["items"]
        if rows or time.monotonic() > deadline:
            return rows
        time.sleep(0.1)


def test_a_call_is_answered_and_seen(shared: Running) -> None:
    with client(shared, "plain") as found:
        answer = ask(found, "Where is my order 48213? It was to be in Lyon.")
    assert json.loads(answer.choices[0].message.content)["intent"]
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.completion_tokens > 0
    rows = seen(shared, "48213")
    assert len(rows) == 1
    trace = shared.told("traces", "show", rows[0]["trace_id"])
    assert "48213" in json.dumps(trace)
    shared.told("traces", "rate", rows[0]["trace_id"], "--up", "--comment", "well done")
    assert "well done" in json.dumps(shared.told("traces", "show", rows[0]["trace_id"]))


def test_a_stream_says_the_same(shared: Running) -> None:
    with client(shared, "streamed") as found:
        question = "I want to return my blue lamp, order 77120."
        whole = ask(found, question, temperature=0).choices[0].message.content
        chunks = list(ask(found, question, temperature=0, stream=True, stream_options={"include_usage": True}))
    parts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(parts) == whole
    assert len([part for part in parts if part]) > 1
    assert chunks[-1].usage.completion_tokens > 0
    deadline = time.monotonic() + 5
    while len(seen(shared, "77120")) < 2:
        assert time.monotonic() < deadline


def test_the_embedded_model_by_every_api(shared: Running) -> None:
    with client(shared, "apis") as found:
        first = found.responses.create(model="detent-tiny", input="Where is my order 48214?")
        assert json.loads(first.output_text)["intent"]
        again = found.responses.create(model="detent-tiny", input="And 48215?", previous_response_id=first.id)
        assert json.loads(again.output_text)["intent"]
        with anthropic.Anthropic(base_url=shared.gateway.removesuffix("/v1"), api_key=found.api_key) as other:
            said = other.messages.create(
                model="detent-tiny", max_tokens=60, messages=[{"role": "user", "content": "Where is my order 48216?"}]
            )
        assert said.content[0].type == "text"


@pytest.mark.parametrize(
    ("key", "model", "error"),
    [("dtk_wrong", "detent-tiny", openai.AuthenticationError), (None, "no-such-model", openai.NotFoundError)],
)
def test_mistakes_have_the_dialects_shape(
    key: str | None, model: str, error: type[openai.APIStatusError], shared: Running
) -> None:
    with client(shared, f"mistakes {model}") as found:
        other = found.with_options(api_key=key or found.api_key)
        with pytest.raises(error) as caught:
            other.chat.completions.create(model=model, messages=[{"role": "user", "content": "hello"}])
    body = caught.value.response.json()["error"]
    assert {"message", "type", "param", "code"} <= set(body)
    assert body["code"]
    assert body["hint"]


def test_the_history_verifies(shared: Running) -> None:
    shared.told("keys", "create", "--name", "audited")
    assert "key.minted" in json.dumps(shared.told("audit", "log"))
    shared.told("audit", "checkpoint")
    assert shared.run("audit", "verify").returncode == 0
    assert shared.run("doctor").returncode == 0


def test_a_revoked_key_is_refused_within_a_second(shared: Running) -> None:
    with client(shared, "leaked") as found:
        ask(found, "hello")
        shared.told("keys", "revoke", "leaked", "--reason", "leaked")
        time.sleep(1)
        with pytest.raises(openai.AuthenticationError):
            ask(found, "hello")


def test_everything_stops_cleanly_and_goes_on_where_it_ended(running: Running) -> None:
    with client(running, "kept") as found:
        ask(found, "Where is order 90210?")
        assert running.stop() == 0
        assert len(seen(running, "90210")) == 1, "the spool is written out before the end"
        running.start()
        ask(found, "Where is order 90211?")
    assert len(seen(running, "90211")) == 1
    assert running.run("audit", "verify").returncode == 0

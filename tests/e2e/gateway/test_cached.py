"""Answers given again: what the client sees, what is recorded, what is never kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from detent.gateway.model import CachePolicy, Limit, Route

pytestmark = pytest.mark.e2e


@pytest.fixture
def worker(start: Callable[..., Any], tools: ModuleType, upstream: Any) -> Any:
    rules = {"m": Route(name="m", project="default", targets=(), cache=CachePolicy("exact", 60))}
    limit = Limit(name="l", project="default", scope="key", unit="requests", amount=1000)
    found = start(
        tools.snapshot({"m": [upstream.url], "plain": [upstream.url]}, rules=rules, limits={"default": (limit,)})
    )
    found.wait_ready()
    upstream.script((tools.answer(tools.completion("fresh")), tools.KEEP))
    return found


def test_an_answer_is_given_again(worker: Any, upstream: Any) -> None:
    first = worker.chat({"temperature": 0})
    assert (first.headers["x-detent-cache"], first.status) == ("miss", 200)
    body = first.read()
    time.sleep(0.2)  # it is written behind the answer
    again = worker.chat({"temperature": 0, "user": "somebody else"})
    assert again.headers["x-detent-cache"] == "hit-exact"
    assert int(again.headers["age"]) < 10
    assert again.read() == body
    assert len(upstream.requests) == 1
    span = worker.span(again)
    assert (span.cost, span.input_tokens, span.attempts, span.provider) == (0, 0, 0, "p0")
    assert (span.attributes["detent.cache"], span.attributes["detent.cache.saved_output_tokens"]) == ("hit-exact", 5)
    assert span.attributes["detent.cache.saved_usd"] == pytest.approx(20_000 / 1e9)
    assert json.loads(span.output)["content"] == "fresh"
    assert 'detent_gateway_cache_hits_total{route="m",kind="exact"} 1' in worker.get("/metrics").read().decode()


def test_a_stream_is_given_again_as_a_stream(worker: Any, tools: ModuleType, upstream: Any) -> None:
    upstream.script(tools.GOOD_STREAM)
    first = worker.chat({"stream": True})
    body = first.read()
    time.sleep(0.2)
    again = worker.chat({"stream": True})
    assert (again.headers["x-detent-cache"], again.headers["content-type"]) == (
        "hit-exact",
        "text/event-stream; charset=utf-8",
    )
    assert again.read() == body
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("headers", [{"cache_control": "no-cache"}, {"x_detent_cache": "off"}])
def test_the_client_may_want_a_fresh_one(worker: Any, upstream: Any, headers: dict[str, str]) -> None:
    worker.chat({}).read()
    time.sleep(0.2)
    assert worker.chat({}, **headers).headers.get("x-detent-cache") != "hit-exact"
    assert len(upstream.requests) == 2


def test_what_is_never_kept(worker: Any, tools: ModuleType, upstream: Any) -> None:
    for script in (
        (tools.answer(b'{"error": {"message": "no"}}', "400 Bad Request"), tools.KEEP),
        (tools.STREAM_HEAD, tools.chunk(tools.event("Half")), tools.RESET),
    ):
        upstream.script(script)
        for _ in range(2):
            got = worker.chat({"stream": script[0] is tools.STREAM_HEAD})
            got.read()
            time.sleep(0.1)
            assert got.headers.get("x-detent-cache") != "hit-exact"
        assert len(upstream.requests) == 2
    upstream.script((tools.answer(tools.completion("fresh")), tools.KEEP))
    for _ in range(2):
        assert "x-detent-cache" not in worker.chat({"model": "plain"}).headers

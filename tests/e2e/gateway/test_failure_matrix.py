"""Every way in which a provider can fail: what the client gets, which tokens are counted, what they cost."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from http.client import IncompleteRead
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from detent.gateway.snapshot import load, publish

pytestmark = pytest.mark.e2e

FAST = {
    "DETENT_GATEWAY_CONNECT_TIMEOUT": "0.5",
    "DETENT_GATEWAY_FIRST_TOKEN_TIMEOUT": "0.5",
    "DETENT_GATEWAY_IDLE_TIMEOUT": "0.5",
    "DETENT_GATEWAY_TOTAL_TIMEOUT": "2",
    "DETENT_GATEWAY_MAX_INFLIGHT": "8",
}
# Priced at 1 and 2 micro-dollars a token: nano-dollars of the scripted usage (10 in, 5 out).
FULL_COST = 10 * 1000 + 5 * 2000
MESSAGES = b'[{"role": "user", "content": "Hi!!"}]'
ESTIMATED_INPUT = -(-len(MESSAGES) // 4)


class Stage:
    """One worker and two providers: route `m` has the first, route `two` has both in order."""

    def __init__(self, tools: ModuleType, folder: Path) -> None:
        self.first = tools.Upstream()
        self.second = tools.Upstream()
        chain = [self.first.url, self.second.url]
        self._published = tools.snapshot({"m": chain[:1], "two": chain})
        self._empty = tools.snapshot({})
        self._folder = folder / "snapshot"
        publish(self._published, self._folder)
        self.worker = tools.Worker(folder, FAST)
        self.worker.wait_ready()

    def forget(self) -> None:
        """Let the worker forget how its deployments fared: for a moment there are none."""
        for snapshot in (self._empty, self._published):
            now = load(self._folder)
            assert now is not None
            publish(msgspec.structs.replace(snapshot, position=now.position + 1), self._folder)
            assert self.worker.get("/v1/models", authorization=f"Bearer {'dtk_' + 'k' * 43}").status == 200


@pytest.fixture(scope="module")
def shared(tools: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    found = Stage(tools, tmp_path_factory.mktemp("gateway"))
    yield found
    assert found.worker.stop() == 0, found.worker.errors.read_text()
    found.first.close()
    found.second.close()


@pytest.fixture
def stage(shared: Stage, tools: ModuleType) -> Stage:
    shared.second.script((tools.answer(tools.completion("second")), tools.KEEP))
    shared.forget()
    return shared


def events(body: bytes) -> list[Any]:
    """The data of each event: JSON, or text."""
    found = []
    for part in body.decode().split("\n\n"):
        if part:
            assert part.startswith("data: "), part
            data = part.removeprefix("data: ")
            found.append(data if data == "[DONE]" else json.loads(data))
    return found


def text_of(found: list[Any]) -> str:
    return "".join(
        e["choices"][0]["delta"].get("content") or "" for e in found if isinstance(e, dict) and e.get("choices")
    )


def outcome(span: Any) -> tuple[Any, ...]:
    return (span.status, span.error_type, span.http_status, span.attempts)


def bill(span: Any) -> tuple[Any, ...]:
    return (span.input_tokens, span.output_tokens, span.usage_estimated, span.cost)


def estimated(characters: int) -> tuple[Any, ...]:
    """What a call costs whose usage nobody gave."""
    output = -(-characters // 4)
    return (ESTIMATED_INPUT, output, True, ESTIMATED_INPUT * 1000 + output * 2000)


# What goes well


def test_an_answer_in_one_piece(stage: Stage, tools: ModuleType) -> None:
    sent = tools.completion("Hello there")
    stage.first.script((tools.answer(sent), tools.KEEP))
    got = stage.worker.chat({"temperature": 0.5, "max_tokens": 9, "some_new_field": {"a": [1, 2.5]}})
    assert got.read() == sent
    span = stage.worker.span(got)
    assert outcome(span) == ("ok", "", 200, 1)
    assert bill(span) == (10, 5, False, FULL_COST)
    assert (span.name, span.operation, span.route, span.key_id) == ("chat m", "chat", "m", "key-1")
    assert (span.request_model, span.response_model) == ("real-model", "real-model-7")
    assert span.provider in {"p0", "p1"}
    assert json.loads(span.input) == json.loads(MESSAGES)
    assert json.loads(span.output) == {"role": "assistant", "content": "Hello there"}
    assert span.attributes == {
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.response.id": "chatcmpl-1",
    }
    assert (span.finish_reason, span.stream, span.ttft) == ("stop", False, None)
    request = stage.first.requests[0]
    assert request.json["model"] == "real-model"
    assert b'"some_new_field":{"a": [1, 2.5]}' in request.raw
    assert "authorization" not in request.headers
    assert request.headers["traceparent"] == f"00-{span.trace_id}-{span.span_id}-01"


def test_cached_and_reasoning_tokens_are_priced(stage: Stage, tools: ModuleType) -> None:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "prompt_tokens_details": {"cached_tokens": 40},
        "completion_tokens_details": {"reasoning_tokens": 30},
    }
    stage.first.script((tools.answer(tools.completion(usage=usage)), tools.KEEP))
    span = stage.worker.span(stage.worker.chat())
    assert (span.cached_input_tokens, span.reasoning_tokens) == (40, 30)
    assert bill(span) == (100, 50, False, 60 * 1000 + 40 * 500 + 50 * 2000)


def test_a_stream(stage: Stage, tools: ModuleType) -> None:
    stage.first.script(tools.GOOD_STREAM)
    got = stage.worker.chat({"stream": True})
    found = events(got.read())
    assert text_of(found) == "Hello"
    assert found[-1] == "[DONE]"
    assert not any(isinstance(e, dict) and e.get("usage") for e in found)  # the client did not ask for it
    assert stage.first.requests[0].json["stream_options"] == {"include_usage": True}
    span = stage.worker.span(got)
    assert outcome(span) == ("ok", "", 200, 1)
    assert bill(span) == (10, 5, False, FULL_COST)
    assert json.loads(span.output) == {"role": "assistant", "content": "Hello"}
    assert span.ttft is not None
    assert 0 < span.ttft <= span.duration


def test_a_stream_whose_client_asked_for_usage_gets_it(stage: Stage, tools: ModuleType) -> None:
    stage.first.script(tools.GOOD_STREAM)
    got = stage.worker.chat({"stream": True, "stream_options": {"include_usage": True, "new": 1}})
    assert events(got.read())[-2]["usage"] == {"prompt_tokens": 10, "completion_tokens": 5}
    assert stage.first.requests[0].json["stream_options"] == {"include_usage": True, "new": 1}
    assert bill(stage.worker.span(got)) == (10, 5, False, FULL_COST)


def test_tool_calls_are_put_together(stage: Stage, tools: ModuleType) -> None:
    def call(**more: Any) -> bytes:
        return tools.chunk(
            tools.event(choices=[{"index": 0, "delta": {"tool_calls": [{"index": 0, **more}]}, "finish_reason": None}])
        )

    stage.first.script(
        (
            tools.STREAM_HEAD,
            call(id="call_1", type="function", function={"name": "look", "arguments": ""}),
            call(function={"arguments": '{"at":'}),
            call(function={"arguments": '"it"}'}),
            tools.chunk(tools.event(finish="tool_calls") + tools.DONE),
            tools.END,
        )
    )
    span = stage.worker.span(stage.worker.chat({"stream": True}))
    function = {"name": "look", "arguments": '{"at":"it"}'}
    assert json.loads(span.output) == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
    }
    assert span.finish_reason == "tool_calls"
    assert bill(span) == estimated(len("look") + len('{"at":"it"}'))


# The matrix


def test_cut_stream(stage: Stage, tools: ModuleType) -> None:
    """Output came, then the connection broke: an error event, no `[DONE]`, the tokens so far are estimated."""
    for end in (tools.HANG_UP, tools.RESET):
        stage.first.script((tools.STREAM_HEAD, tools.chunk(tools.event("Half an ans")), 0.05, end))
        got = stage.worker.chat({"model": "two", "stream": True})
        found = events(got.read())
        assert text_of(found) == "Half an ans"
        assert found[-1]["error"]["code"] == "upstream_cut"
        span = stage.worker.span(got)
        assert outcome(span) == ("error", "upstream_cut", 200, 1)
        assert bill(span) == estimated(len("Half an ans"))
        assert json.loads(span.output)["content"] == "Half an ans"


def test_stream_cut_within_an_event(stage: Stage, tools: ModuleType) -> None:
    """The client never sees half an event."""
    broken = tools.event("never seen")[:-20]
    stage.first.script((tools.STREAM_HEAD, tools.chunk(tools.event("Whole")), tools.chunk(broken), tools.RESET))
    found = events(stage.worker.chat({"stream": True}).read())
    assert text_of(found) == "Whole"
    assert found[-1]["error"]["code"] == "upstream_cut"


def test_stream_that_ends_without_an_end(stage: Stage, tools: ModuleType) -> None:
    """The HTTP is in order, but the answer was not finished."""
    stage.first.script((tools.STREAM_HEAD, tools.chunk(tools.event("Half")), tools.END, tools.KEEP))
    got = stage.worker.chat({"stream": True})
    assert events(got.read())[-1]["error"]["code"] == "upstream_cut"
    assert bill(stage.worker.span(got)) == estimated(4)


def test_stream_that_is_finished_but_forgets_to_say_so(stage: Stage, tools: ModuleType) -> None:
    stage.first.script(
        (tools.STREAM_HEAD, tools.chunk(tools.event("All") + tools.event(finish="stop")), tools.END, tools.KEEP)
    )
    got = stage.worker.chat({"stream": True})
    assert events(got.read())[-1] == "[DONE]"
    assert outcome(stage.worker.span(got)) == ("ok", "", 200, 1)


def test_stream_cut_before_output_falls_back(stage: Stage, tools: ModuleType) -> None:
    stage.first.script((tools.STREAM_HEAD, tools.chunk(tools.ROLE), 0.05, tools.HANG_UP))
    stage.second.script(tools.GOOD_STREAM)
    got = stage.worker.chat({"model": "two", "stream": True})
    found = events(got.read())
    assert (text_of(found), found[-1]) == ("Hello", "[DONE]")
    span = stage.worker.span(got)
    assert outcome(span) == ("ok", "", 200, 2)
    assert bill(span) == (10, 5, False, FULL_COST)
    assert span.attributes["detent.failed_attempts"][0].endswith("real-model: upstream_cut")


def test_last_target_is_passed_on_from_its_first_event(stage: Stage, tools: ModuleType) -> None:
    """Nobody is left to take over, so nothing is held; the first token still has its own time-out."""
    stage.first.script((tools.STREAM_HEAD, tools.chunk(tools.ROLE), tools.HOLD))
    got = stage.worker.chat({"stream": True})
    began = time.monotonic()
    assert got.status == 200
    assert b"assistant" in got.read1()
    assert time.monotonic() - began < 0.3
    assert events(got.read())[-1]["error"]["code"] == "first_token_timeout"
    span = stage.worker.span(got)
    assert outcome(span) == ("error", "first_token_timeout", 200, 1)
    assert bill(span) == (0, 0, False, 0)
    assert span.ttft is None


def test_client_gone_after_the_first_empty_event(stage: Stage, tools: ModuleType) -> None:
    """On any target: the provider had the prompt, and that is counted."""
    for model in ("m", "two"):
        stage.first.script((tools.STREAM_HEAD, tools.chunk(tools.ROLE), tools.HOLD))
        trace = f"{time.monotonic_ns():032x}"
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hi!!"}], "stream": True}).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tools.KEY}\r\n"
            f"traceparent: 00-{trace}-00f067aa0ba902b7-01\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", stage.worker.port)) as client:
            client.sendall(head.encode() + body)
            while not stage.first.requests:
                time.sleep(0.01)
            time.sleep(0.1)
        assert stage.first.gone.wait(0.4)
        span = stage.worker.span(trace)
        assert outcome(span) == ("cancelled", "client_disconnected", 499, 1)
        assert bill(span) == estimated(0)


def test_late_error(stage: Stage, tools: ModuleType) -> None:
    """The provider reports an error in the middle of its stream."""
    fault = b'data: {"error": {"message": "out of memory", "type": "server_error"}}\n\n'
    stage.first.script(
        (tools.STREAM_HEAD, tools.chunk(tools.event("Some")), tools.chunk(fault + tools.DONE), tools.END)
    )
    got = stage.worker.chat({"model": "two", "stream": True})
    found = events(got.read())
    assert text_of(found) == "Some"
    assert found[-1]["error"]["code"] == "upstream_error"
    assert "out of memory" in found[-1]["error"]["message"]
    span = stage.worker.span(got)
    assert outcome(span) == ("error", "upstream_error", 200, 1)
    assert bill(span) == estimated(4)


def test_early_error_falls_back(stage: Stage, tools: ModuleType) -> None:
    fault = b'event: error\ndata: {"message": "no capacity"}\n\n'
    stage.first.script((tools.STREAM_HEAD, tools.chunk(tools.ROLE + fault), tools.END))
    stage.second.script(tools.GOOD_STREAM)
    got = stage.worker.chat({"model": "two", "stream": True})
    assert text_of(events(got.read())) == "Hello"
    assert outcome(stage.worker.span(got)) == ("ok", "", 200, 2)


def test_slow_drip(stage: Stage, tools: ModuleType) -> None:
    """Byte by byte, but never standing still: served, and each event leaves as soon as it is whole."""
    drip: list[Any] = [tools.STREAM_HEAD]
    for byte in tools.event("drop"):
        drip += [tools.chunk(bytes([byte])), 0.001]
    stage.first.script((*drip, 0.3, tools.chunk(tools.event(finish="stop") + tools.DONE), tools.END, tools.KEEP))
    got = stage.worker.chat({"stream": True})
    first = got.read1()
    arrived = time.monotonic()
    rest = got.read()
    assert time.monotonic() - arrived > 0.2
    assert text_of(events(first)) == "drop"
    assert events(rest)[-1] == "[DONE]"
    assert bill(stage.worker.span(got)) == estimated(4)


def test_heartbeats_do_not_put_off_the_first_token(stage: Stage, tools: ModuleType) -> None:
    beats = (tools.chunk(b": still thinking\n\n"), 0.1) * 12
    stage.first.script((tools.STREAM_HEAD, *beats, tools.HOLD))
    got = stage.worker.chat({"stream": True})
    assert (got.status, json.loads(got.read())["error"]["code"]) == (504, "first_token_timeout")
    span = stage.worker.span(got)
    assert outcome(span) == ("error", "first_token_timeout", 504, 1)
    assert bill(span) == (0, 0, False, 0)


def test_stream_that_stands_still(stage: Stage, tools: ModuleType) -> None:
    stage.first.script((tools.STREAM_HEAD, tools.chunk(tools.event("Well,")), tools.HOLD))
    got = stage.worker.chat({"stream": True})
    assert events(got.read())[-1]["error"]["code"] == "idle_timeout"
    assert stage.first.gone.wait(5)
    span = stage.worker.span(got)
    assert outcome(span) == ("error", "idle_timeout", 200, 1)
    assert bill(span) == estimated(5)


def test_stream_without_end(stage: Stage, tools: ModuleType) -> None:
    endless = (tools.chunk(tools.event("more")), 0.1) * 60
    stage.first.script((tools.STREAM_HEAD, *endless))
    began = time.monotonic()
    got = stage.worker.chat({"stream": True})
    assert events(got.read())[-1]["error"]["code"] == "total_timeout"
    assert 1.5 < time.monotonic() - began < 4


@pytest.mark.parametrize("stream", [False, True])
def test_200_with_an_error_body(stage: Stage, tools: ModuleType, stream: bool) -> None:
    script = (tools.answer(b'{"error": {"message": "quota", "code": 42}}'), tools.KEEP)
    stage.first.script(script)
    got = stage.worker.chat({"stream": stream})
    assert got.status == 502
    error = json.loads(got.read())["error"]
    assert (error["code"], error["message"]) == ("upstream_error", "The provider reported an error: quota")
    span = stage.worker.span(got)
    assert outcome(span) == ("error", "upstream_error", 502, 1)
    assert bill(span) == (0, 0, False, 0)
    stage.first.script(script)
    stage.second.script(tools.GOOD_STREAM if stream else (tools.answer(tools.completion("second")), tools.KEEP))
    got = stage.worker.chat({"model": "two", "stream": stream})
    got.read()
    assert outcome(stage.worker.span(got)) == ("ok", "", 200, 2)


def test_bad_sse(stage: Stage, tools: ModuleType) -> None:
    """An event that is no JSON ends the stream; the client's parser never sees it."""
    stage.first.script((tools.STREAM_HEAD, tools.chunk(tools.event("Good") + b'data: {"cho\n\n'), tools.END))
    got = stage.worker.chat({"stream": True})
    found = events(got.read())
    assert text_of(found) == "Good"
    assert found[-1]["error"]["code"] == "bad_answer"
    assert bill(stage.worker.span(got)) == estimated(4)


@pytest.mark.parametrize("stream", [False, True])
def test_garbage(stage: Stage, tools: ModuleType, stream: bool) -> None:
    for script in (
        (b"\x00\x01garbage\r\n\r\n", tools.HANG_UP),
        (tools.answer(b"<html>It works!</html>", kind="text/html"), tools.KEEP),
        (tools.answer(b"\xff\xfe", kind="application/json"), tools.KEEP),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 9\r\n\r\nhello", tools.HANG_UP),
        (b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 100_000 + b"\r\n\r\n", tools.HANG_UP),
        (tools.answer(b"\x1f\x8b", extra="content-encoding: gzip\r\n"), tools.KEEP),
    ):
        stage.first.script(script)
        got = stage.worker.chat({"stream": stream})
        assert (got.status, json.loads(got.read())["error"]["code"]) == (502, "bad_answer"), script
        assert bill(stage.worker.span(got)) == (0, 0, False, 0)


def test_giant_chunk(stage: Stage, tools: ModuleType) -> None:
    """A single event of megabytes passes; the text kept of it is bounded."""
    text = "x" * 3_000_000
    stage.first.script(
        (
            tools.STREAM_HEAD,
            tools.chunk(tools.event(text)),
            tools.chunk(tools.event(finish="stop") + tools.DONE),
            tools.END,
        )
    )
    got = stage.worker.chat({"stream": True})
    found = events(got.read())
    assert len(text_of(found)) == len(text)
    assert found[-1] == "[DONE]"
    span = stage.worker.span(got)
    assert bill(span) == estimated(len(text))
    assert len(span.output) < 1_100_000


def test_endless_event(stage: Stage, tools: ModuleType) -> None:
    piece = tools.chunk(b"x" * 1_000_000)
    stage.first.script((tools.STREAM_HEAD, tools.chunk(tools.event("a") + b"data: "), *([piece] * 20), tools.HOLD))
    found = events(stage.worker.chat({"stream": True}).read())
    assert found[-1]["error"]["code"] == "bad_answer"


@pytest.mark.parametrize("stream", [False, True])
def test_hang_before_headers(stage: Stage, tools: ModuleType, stream: bool) -> None:
    stage.first.script((tools.HOLD,))
    began = time.monotonic()
    got = stage.worker.chat({"stream": stream})
    assert (got.status, json.loads(got.read())["error"]["code"]) == (504, "first_token_timeout")
    assert 0.4 < time.monotonic() - began < 1.5
    assert stage.first.gone.wait(5)
    span = stage.worker.span(got)
    assert outcome(span) == ("error", "first_token_timeout", 504, 1)
    assert bill(span) == (0, 0, False, 0)


def test_hang_before_headers_falls_back(stage: Stage, tools: ModuleType) -> None:
    stage.first.script((tools.HOLD,))
    got = stage.worker.chat({"model": "two"})
    assert b"second" in got.read()
    assert outcome(stage.worker.span(got)) == ("ok", "", 200, 2)


def test_429_with_retry_after(stage: Stage, tools: ModuleType) -> None:
    busy = tools.answer(
        b'{"error": {"message": "Rate limit reached"}}', "429 Too Many Requests", extra="retry-after: 17\r\n"
    )
    stage.first.script((busy, tools.KEEP))
    got = stage.worker.chat()
    assert (got.status, got.headers["retry-after"]) == (429, "17")
    error = json.loads(got.read())["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "upstream_rate_limited")
    assert "Rate limit reached" in error["message"]
    span = stage.worker.span(got)
    assert outcome(span) == ("error", "upstream_rate_limited", 429, 1)
    assert bill(span) == (0, 0, False, 0)
    # It asked to be left alone, and is: by itself that is an answer of ours, else the next one is asked at once.
    asked = len(stage.first.requests)
    got = stage.worker.chat()
    assert (got.status, json.loads(got.read())["error"]["code"]) == (503, "no_deployment")
    assert 1 <= int(got.headers["retry-after"]) <= 17
    got = stage.worker.chat({"model": "two"})
    assert b"second" in got.read()
    assert outcome(stage.worker.span(got)) == ("ok", "", 200, 1)
    assert len(stage.first.requests) == asked
    stage.forget()
    got = stage.worker.chat({"model": "two"})
    assert b"second" in got.read()
    assert outcome(stage.worker.span(got)) == ("ok", "", 200, 2)


@pytest.mark.parametrize(
    "status", ["500 Oops", "502 Bad", "503 No", "529 Overloaded", "401 Who", "403 No", "302 Found"]
)
def test_errors_of_a_provider(stage: Stage, tools: ModuleType, status: str) -> None:
    """They are the provider's, not the client's: 502 for the last target, otherwise the next is asked."""
    extra = "location: http://127.0.0.1:1/\r\n" if status.startswith("302") else ""
    script = (tools.answer(b"nope", status, "text/plain", extra), tools.KEEP)
    stage.first.script(script)
    got = stage.worker.chat()
    code = "credential_refused" if status[:3] in {"401", "403"} else "upstream_error"
    assert (got.status, json.loads(got.read())["error"]["code"]) == (502, code)
    span = stage.worker.span(got)
    assert outcome(span) == ("error", code, 502, 1)
    assert bill(span) == (0, 0, False, 0)
    stage.first.script(script)
    assert b"second" in stage.worker.chat({"model": "two"}).read()


def test_the_clients_own_mistake_is_passed_on(stage: Stage, tools: ModuleType) -> None:
    words = b'{"error": {"message": "temperature is too hot", "param": "temperature"}}'
    stage.first.script((tools.answer(words, "400 Bad Request"), tools.KEEP))
    got = stage.worker.chat({"model": "two", "temperature": 99})
    assert (got.status, got.read()) == (400, words)
    span = stage.worker.span(got)
    assert outcome(span) == ("error", "upstream_rejected", 400, 1)
    assert bill(span) == (0, 0, False, 0)


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -10, "completion_tokens": 5},
        {"prompt_tokens": "many", "completion_tokens": 5},
        {"prompt_tokens": 10.5, "completion_tokens": 5},
        {"completion_tokens": 5},
        {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 11}},
        {"prompt_tokens": 10, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 6}},
        [],
        "none",
        "absent",
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_wrong_usage(stage: Stage, tools: ModuleType, usage: Any, stream: bool) -> None:
    """The answer is passed on as it came; what is accounted is estimated and says so."""
    if stream:
        told = b"" if usage == "absent" else tools.event(choices=[], usage=usage)
        body = tools.event("Hello there") + tools.event(finish="stop") + told + tools.DONE
        stage.first.script((tools.STREAM_HEAD, tools.chunk(body), tools.END, tools.KEEP))
    else:
        stage.first.script((tools.answer(tools.completion("Hello there", usage)), tools.KEEP))
    got = stage.worker.chat({"stream": stream})
    assert got.status == 200
    body = got.read()
    span = stage.worker.span(got)
    assert outcome(span) == ("ok", "", 200, 1)
    size = len("Hello there") if stream else len(json.dumps(json.loads(body)["choices"][0]["message"]))
    assert bill(span) == estimated(size)


def test_usage_of_nothing_for_a_real_answer(stage: Stage, tools: ModuleType) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 0}
    stage.first.script((tools.answer(tools.completion("Hello there", usage)), tools.KEEP))
    span = stage.worker.span(stage.worker.chat())
    assert (span.input_tokens, span.usage_estimated) == (10, True)
    assert span.output_tokens > 5


def test_client_gone_within_a_stream(stage: Stage, tools: ModuleType) -> None:
    """The provider is told at once, and what was said until then is counted."""
    stage.first.script((tools.STREAM_HEAD, tools.chunk(tools.event("Half an ans")), tools.HOLD))
    got = stage.worker.chat({"stream": True})
    trace = got.headers["x-detent-trace-id"]
    got.read1()
    got.close()
    stage.worker.hang_up()
    assert stage.first.gone.wait(0.4)
    span = stage.worker.span(trace)
    assert outcome(span) == ("cancelled", "client_disconnected", 499, 1)
    assert bill(span) == estimated(len("Half an ans"))


@pytest.mark.parametrize("stream", [False, True])
def test_client_gone_before_any_output(stage: Stage, tools: ModuleType, stream: bool) -> None:
    """The provider had the prompt, so the prompt is counted."""
    stage.first.script((tools.HOLD,))
    trace = f"{time.monotonic_ns():032x}"
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi!!"}], "stream": stream}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tools.KEY}\r\n"
        f"traceparent: 00-{trace}-00f067aa0ba902b7-01\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", stage.worker.port)) as client:
        client.sendall(head.encode() + body)
        while not stage.first.requests:
            time.sleep(0.01)
    assert stage.first.gone.wait(0.4)
    span = stage.worker.span(trace)
    assert outcome(span) == ("cancelled", "client_disconnected", 499, 1)
    assert bill(span) == estimated(0)
    assert span.parent_id == "00f067aa0ba902b7"


def test_nobody_listens(stage: Stage, tools: ModuleType, free_port: int) -> None:
    stage.first.script((tools.answer(tools.completion()), tools.KEEP))
    worker = stage.worker
    publish(
        tools.snapshot(
            {"m": [stage.first.url], "two": [stage.first.url, stage.second.url]}
            | {
                "dead": [f"http://127.0.0.1:{free_port}/v1"],
                "half": [f"http://127.0.0.1:{free_port}/v1", stage.first.url],
            },
            position=2_000_000_000,
        ),
        worker.home / "snapshot",
    )
    time.sleep(0.5)
    got = worker.chat({"model": "dead"})
    assert (got.status, json.loads(got.read())["error"]["code"]) == (502, "connect_failed")
    assert bill(worker.span(got)) == (0, 0, False, 0)
    got = worker.chat({"model": "half"})
    assert got.status == 200
    assert outcome(worker.span(got)) == ("ok", "", 200, 2)


def test_cut_answer_in_one_piece(stage: Stage, tools: ModuleType) -> None:
    whole = tools.answer(tools.completion())
    stage.first.script((whole[:-10], tools.HANG_UP))
    got = stage.worker.chat()
    assert (got.status, json.loads(got.read())["error"]["code"]) == (502, "upstream_cut")
    stage.first.script((whole[:-10], tools.HANG_UP))
    assert b"second" in stage.worker.chat({"model": "two"}).read()


def test_connection_that_died_while_idle_is_replaced(stage: Stage, tools: ModuleType) -> None:
    """A provider closes a kept connection just when it is used again: the call is made anew, once."""
    good = tools.answer(tools.completion())
    stage.first.script((good, tools.KEEP), (tools.HANG_UP,), (good, tools.KEEP))
    assert stage.worker.chat().status == 200
    got = stage.worker.chat()
    assert (got.status, stage.worker.span(got).error_type) == (200, "")
    assert outcome(stage.worker.span(got)) == ("ok", "", 200, 1)


def test_body_without_length_ends_with_the_connection(stage: Stage, tools: ModuleType) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"
    stage.first.script((head, tools.completion("to the end"), tools.HANG_UP))
    assert b"to the end" in stage.worker.chat().read()


def test_interim_answers_are_skipped(stage: Stage, tools: ModuleType) -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    stage.first.script((b"HTTP/1.1 100 Continue\r\n\r\n" + early, 0.05, tools.answer(tools.completion()), tools.KEEP))
    assert stage.worker.chat().status == 200


def test_slow_client_holds_the_provider_back(stage: Stage, tools: ModuleType) -> None:
    """Back-pressure: a client that reads nothing is not read for; after the idle time it counts as gone."""
    piece = tools.chunk(tools.event("x" * 100_000))
    stage.first.script((tools.STREAM_HEAD, *([piece] * 400), tools.HOLD))
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi!!"}], "stream": True}).encode()
    trace = f"{time.monotonic_ns():032x}"
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tools.KEY}\r\n"
        f"traceparent: 00-{trace}-00f067aa0ba902b7-01\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", stage.worker.port))
        client.sendall(head.encode() + body)
        span = stage.worker.span(trace)
    assert outcome(span) == ("cancelled", "client_disconnected", 499, 1)
    assert 0 < span.output_tokens < 400 * 25_000 // 2
    assert stage.first.gone.wait(5)


def test_a_dying_answer_is_no_whole_one(stage: Stage, tools: ModuleType) -> None:
    """Over chunked encoding a cut stream still ends in good order, so that only the error event tells."""
    stage.first.script((tools.STREAM_HEAD, tools.chunk(tools.event("x")), tools.RESET))
    got = stage.worker.chat({"stream": True})
    try:
        got.read()
    except IncompleteRead:
        pytest.fail("the gateway cut its own answer")

"""The worker as a process: who is let in, what is refused, what it says of itself, how it starts, swaps and leaves."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import openai
import pytest

from detent.gateway.keys import hash_token
from detent.gateway.snapshot import Snapshot, TargetEntry, publish
from detent.guard.vault import open_vault
from detent.kernel.identity import Permission
from detent.kernel.secret import Secret

pytestmark = pytest.mark.e2e

OTHER = "dtk_" + "o" * 43


class Stage:
    """A worker with several keys; none of its tests changes it."""

    def __init__(self, tools: ModuleType, folder: Path) -> None:
        self.upstream = tools.Upstream()
        keys = {
            tools.KEY: tools.entry(),
            OTHER: tools.entry(id="key-2", project="other"),
            "dtk_" + "e" * 43: tools.entry(expires=1),
            "dtk_" + "p" * 43: tools.entry(id="key-4", permissions=(Permission.TRACES_WRITE,)),
            "dtk_" + "r" * 43: tools.entry(id="key-5", routes=("elsewhere",)),
        }
        found = tools.snapshot(
            {"m": [self.upstream.url], "elsewhere": [self.upstream.url], "empty": []},
            keys={str(hash_token(token)): key for token, key in keys.items()},
        )
        publish(found, folder / "snapshot")
        self.worker = tools.Worker(folder, {"DETENT_GATEWAY_MAX_BODY_BYTES": "2000000"})
        self.worker.wait_ready()


@pytest.fixture(scope="module")
def stage(tools: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    found = Stage(tools, tmp_path_factory.mktemp("gateway"))
    yield found
    assert found.worker.stop() == 0, found.worker.errors.read_text()
    found.upstream.close()


@pytest.fixture
def good(stage: Stage, tools: ModuleType) -> Stage:
    stage.upstream.script((tools.answer(tools.completion()), tools.KEEP))
    return stage


def error_of(response: Any) -> dict[str, Any]:
    found = json.loads(response.read())
    assert set(found) == {"error"}
    assert set(found["error"]) - {"hint"} == {"message", "type", "param", "code"}
    return dict(found["error"])


# Who is let in


@pytest.mark.parametrize(
    ("key", "status", "code"),
    [
        ("", 401, "invalid_api_key"),
        ("dtk_" + "x" * 43, 401, "invalid_api_key"),
        ("dtk_" + "e" * 43, 401, "invalid_api_key"),
        ("sk-1' OR '1'='1", 401, "invalid_api_key"),
        ("dtk_" + "p" * 43, 403, "permission_denied"),
        ("dtk_" + "r" * 43, 404, "model_not_found"),
        (OTHER, 404, "model_not_found"),
    ],
)
def test_keys_that_may_not(stage: Stage, key: str, status: int, code: str) -> None:
    before = len(stage.worker.spans())
    got = stage.worker.chat(key=key)
    error = error_of(got)
    assert (got.status, error["code"]) == (status, code)
    assert error["hint"]
    if status == 401:
        assert got.headers["www-authenticate"] == "Bearer"
        time.sleep(0.05)
        assert len(stage.worker.spans()) == before
    else:
        span = stage.worker.span(got)
        assert (span.status, span.error_type, span.http_status, span.cost) == ("error", code, status, 0)
        assert span.project == ("other" if key == OTHER else "default")


def test_a_key_within_the_json_or_the_url_is_no_key(stage: Stage, tools: ModuleType) -> None:
    assert stage.worker.get(f"/v1/models?api_key={tools.KEY}").status == 401
    assert stage.worker.chat({"api_key": tools.KEY}, key="").status == 401
    assert stage.worker.get("/v1/models", authorization=f"Basic {tools.KEY}").status == 401


# What is refused

MESSAGES: Any = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (b"", 400, "malformed_json", None),
        (b"{", 400, "malformed_json", None),
        (b"not json", 400, "malformed_json", None),
        (b'{"model": "m"} trailing', 400, "malformed_json", None),
        (b'{"model": "m", "messages": NaN}', 400, "malformed_json", None),
        (b'{"model": "m\xff", "messages": []}', 400, "malformed_json", None),
        (b"[]", 400, "invalid_input", None),
        (b'"m"', 400, "invalid_input", None),
        ({"model": 7}, 400, "invalid_input", "model"),
        ({"model": ""}, 400, "invalid_input", "model"),
        ({"model": "x" * 300}, 400, "invalid_input", "model"),
        ({"model": "nope"}, 404, "model_not_found", "model"),
        ({"model": "../../etc/passwd"}, 404, "model_not_found", "model"),
        ({"model": "empty"}, 404, "model_not_found", "model"),
        (b'{"model": "m"}', 400, "invalid_input", "messages"),
        ({"messages": []}, 400, "invalid_input", "messages"),
        ({"messages": "Hi"}, 400, "invalid_input", "messages"),
        ({"messages": [{"content": "Hi"}]}, 400, "invalid_input", "messages[0]"),
        ({"messages": [{"role": "user", "content": 7}]}, 400, "invalid_input", "messages[0].content"),
        ({"max_tokens": -1}, 400, "invalid_input", "max_tokens"),
        ({"max_tokens": 0}, 400, "invalid_input", "max_tokens"),
        ({"max_tokens": 1.5}, 400, "invalid_input", "max_tokens"),
        ({"max_completion_tokens": "many"}, 400, "invalid_input", "max_completion_tokens"),
        ({"n": -3}, 400, "invalid_input", "n"),
        ({"stream": "yes"}, 400, "invalid_input", "stream"),
        ({"stream_options": []}, 400, "invalid_input", "stream_options"),
        ({"temperature": "hot"}, 400, "invalid_input", "temperature"),
        (b'{"model": "m", "messages": [{"role": "user"}], "model": "elsewhere"}', 400, "invalid_input", "model"),
        (b'{"model": "m", "messages": [{"role": "user"}], "x": 1, "x": 1}', 400, "invalid_input", "x"),
        (b'{"model": "m", "messages": [{"role": "user"}], "\\u0078": 1, "x": 1}', 400, "invalid_input", "x"),
        (b'{"model": "m", "messages": ' + b"[" * 100 + b"]" * 100 + b"}", 400, "too_deep", None),
        (b'{"model": "m", "x": ' + b'["]",' * 100 + b"1" + b"]" * 100 + b"}", 400, "too_deep", None),
        (b"[" * 500_000, 400, "too_deep", None),
    ],
)
def test_bad_bodies(stage: Stage, body: Any, status: int, code: str, param: str | None) -> None:
    got = stage.worker.chat(body)
    error = error_of(got)
    assert (got.status, error["code"], error["param"]) == (status, code, param), error
    assert error["type"] == "invalid_request_error"
    assert error["hint"]
    span = stage.worker.span(got)
    assert (span.status, span.error_type, span.http_status) == ("error", code, status)
    assert (span.cost, span.input_tokens, span.attempts) == (0, 0, 0)


def test_depth_within_the_limit_and_brackets_within_strings_pass(good: Stage) -> None:
    deep: Any = "x"
    for _ in range(60):
        deep = [deep]
    assert good.worker.chat({"x": deep, "y": ["[" * 500, '"[[\\'] * 40}).status == 200


def test_oversized_bodies(stage: Stage, tools: ModuleType) -> None:
    got = stage.worker.chat({"x": "y" * 2_000_000})
    assert (got.status, error_of(got)["code"]) == (413, "body_too_large")
    assert stage.worker.span(got).error_type == "body_too_large"

    def pieces() -> Iterator[bytes]:
        yield b'{"model": "m", "x": "'
        for _ in range(30):
            yield b"y" * 100_000

    got = stage.worker.ask(
        "POST",
        "/v1/chat/completions",
        pieces(),
        {"authorization": f"Bearer {tools.KEY}"},
    )
    assert (got.status, error_of(got)["code"]) == (413, "body_too_large")


def test_compressed_bodies(stage: Stage) -> None:
    got = stage.worker.chat(content_encoding="gzip")
    assert (got.status, error_of(got)["code"]) == (415, "unsupported_encoding")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/chat/completions", 405, "method_not_allowed"),
        ("POST", "/readyz", 405, "method_not_allowed"),
        ("POST", "/v1/complete", 404, "unknown_path"),
        ("GET", "/", 404, "unknown_path"),
        ("GET", "//v1/models", 404, "unknown_path"),
        ("GET", "/v1/models%00", 404, "unknown_path"),
        ("GET", "/v1/../metrics", 404, "unknown_path"),
    ],
)
def test_other_paths_and_methods(stage: Stage, method: str, path: str, status: int, code: str) -> None:
    got = stage.worker.ask(method, path, None, {})
    assert (got.status, error_of(got)["code"]) == (status, code)
    if status == 405:
        assert got.headers["allow"] in {"GET", "POST"}


# The edge of HTTP


def raw(port: int, *pieces: bytes | float) -> bytes:
    """What comes back for raw bytes until the connection ends."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        for piece in pieces:
            if isinstance(piece, bytes):
                client.sendall(piece)
            else:
                time.sleep(piece)
        found = b""
        try:
            while data := client.recv(65536):
                found += data
        except ConnectionResetError:
            pass
        return found


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"GARBAGE\r\n\r\n", b"400", b"invalid_input"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n", b"400", b"invalid_input"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 70_000 + b"\r\n\r\n", b"431", b"headers_too_large"),
        (b"GET /" + b"y" * 70_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", b"431", b"headers_too_large"),
        (b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 500 + b"\r\n", b"431", b"headers_too_large"),
        (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
            b"400",
            b"invalid_input",
        ),
    ],
)
def test_bad_http(stage: Stage, sent: bytes, status: bytes, code: bytes) -> None:
    got = raw(stage.worker.port, sent)
    assert got.startswith(b"HTTP/1.1 " + status)
    assert b'"code":"' + code + b'"' in got
    assert got.count(b"HTTP/1.1 ") == 1


def test_pipelined_requests_are_answered_in_order(stage: Stage) -> None:
    one = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    last = b"GET /nope HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    got = raw(stage.worker.port, one + one + last)
    assert [part[:3] for part in got.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"404"]


def test_a_body_in_pieces(good: Stage, tools: ModuleType) -> None:
    body = json.dumps({"model": "m", "messages": MESSAGES}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\n"
        f"authorization: Bearer {tools.KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()
    got = raw(good.worker.port, head[:40], 0.02, head[40:], 0.02, body[:10], 0.02, body[10:])
    assert got.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")


def test_slow_loris(start: Callable[..., Any], tools: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that drips in is cut off, and costs nobody else anything."""
    worker = start(tools.snapshot({}))
    worker.wait_ready(503)
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", worker.port), timeout=30) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\n")
        client.settimeout(0.5)
        got = b""
        while time.monotonic() - began < 15:
            try:
                data = client.recv(1000)
            except TimeoutError:
                client.sendall(b"x: y\r\n")
                continue
            if not data:
                break
            got += data
    assert 8 < time.monotonic() - began < 13
    assert b" 408 " in got
    assert b"request_timeout" in got


# What it says of itself


def test_models(stage: Stage, tools: ModuleType) -> None:
    bearer = {"authorization": f"Bearer {tools.KEY}"}
    found = json.loads(stage.worker.get("/v1/models", **bearer).read())
    assert found["object"] == "list"
    assert [model["id"] for model in found["data"]] == ["elsewhere", "empty", "m"]
    assert found["data"][2] == {"id": "m", "object": "model", "created": 1_700_000_000, "owned_by": "p0"}
    assert json.loads(stage.worker.get("/v1/models/m", **bearer).read()) == found["data"][2]
    assert stage.worker.get("/v1/models/nope", **bearer).status == 404
    limited = {"authorization": "Bearer dtk_" + "r" * 43}
    assert [m["id"] for m in json.loads(stage.worker.get("/v1/models", **limited).read())["data"]] == ["elsewhere"]
    assert stage.worker.get("/v1/models").status == 401


def test_metrics(good: Stage) -> None:
    def value(name: str) -> float:
        lines = good.worker.get("/metrics").read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    before = value('detent_gateway_requests_total{route="m",status="200"}')
    tokens = value('detent_gateway_tokens_total{route="m",kind="input"}')
    good.worker.chat().read()
    assert value('detent_gateway_requests_total{route="m",status="200"}') == before + 1
    assert value('detent_gateway_tokens_total{route="m",kind="input"}') == tokens + 10
    assert value("detent_gateway_snapshot_position") == 1
    assert value("detent_gateway_inflight") == 0
    text = good.worker.get("/metrics").read().decode()
    assert "dtk_" not in text
    assert "key-1" not in text


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:7400", 200),
        ("localhost", 200),
        ("[::1]:7400", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 421),
    ],
)
def test_metrics_only_under_our_own_name(good: Stage, host: str, status: int) -> None:
    assert good.worker.get("/metrics", host=host).status == status


def test_a_body_of_too_many_parts(good: Stage) -> None:
    many = {"messages": [{"role": "user", "content": "x"}] * 50_001}
    got = good.worker.chat(many)
    assert (got.status, error_of(got)["code"]) == (413, "too_many_parts")
    braces = {"messages": [{"role": "user", "content": "{" * 60_000}]}
    assert good.worker.chat(braces).status == 200


def test_health(stage: Stage) -> None:
    assert stage.worker.get("/healthz").read() == b'{"status":"ok"}'
    assert stage.worker.get("/readyz").read() == b'{"status":"ready"}'


# Context and content


def test_trace_context_session_and_user(good: Stage) -> None:
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    got = good.worker.chat(
        {"user": "ignored"}, traceparent=f"00-{trace}-{parent}-01", x_detent_session="s-1", x_detent_user="u-1"
    )
    span = good.worker.span(trace)
    assert got.headers["x-detent-trace-id"] == trace
    assert got.headers["x-request-id"] == span.span_id
    assert (span.parent_id, span.session_id, span.user_id) == (parent, "s-1", "u-1")


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-4bf9-00f0-01",
    ],
)
def test_a_broken_traceparent_begins_a_new_trace(good: Stage, sent: str) -> None:
    got = good.worker.chat({"user": "u-2"}, traceparent=sent, x_detent_session="a\xe4b")
    span = good.worker.span(got)
    assert len(span.trace_id) == 32
    assert span.trace_id not in sent.lower()
    assert (span.parent_id, span.session_id, span.user_id) == ("", "", "u-2")


def test_content_by_policy(start: Callable[..., Any], tools: ModuleType, upstream: Any) -> None:
    upstream.script((tools.answer(tools.completion("secret answer")), tools.KEEP))
    both = tools.snapshot({"m": [upstream.url]}, content={"default": "drop"})
    worker = start(both)
    worker.wait_ready()
    span = worker.span(worker.chat())
    assert (span.input, span.output) == ("", "")
    assert (span.input_tokens, span.output_tokens) == (10, 5)
    upstream.script(tools.GOOD_STREAM)
    got = worker.chat({"stream": True})
    got.read()
    span = worker.span(got)
    assert (span.input, span.output, span.output_tokens) == ("", "", 5)
    kept = b"".join(path.read_bytes() for path in (worker.home / "spool").glob("*.seg"))
    assert b"secret answer" not in kept
    assert b"Hello" not in kept


# The SDK that people use


@pytest.fixture
def sdk(stage: Stage, tools: ModuleType) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stage.worker.url}/v1", api_key=tools.KEY, max_retries=0) as found:
        yield found


def test_openai_sdk(good: Stage, sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model="m", messages=MESSAGES)
    assert answer.choices[0].message.content == "Hello there"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 15
    assert [model.id for model in sdk.models.list()] == ["elsewhere", "empty", "m"]
    assert sdk.models.retrieve("m").owned_by == "p0"


def test_openai_sdk_streams(stage: Stage, tools: ModuleType, sdk: openai.OpenAI) -> None:
    stage.upstream.script(tools.GOOD_STREAM)
    pieces = list(sdk.chat.completions.create(model="m", messages=MESSAGES, stream=True))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == "Hello"
    options: Any = {"include_usage": True}
    pieces = list(sdk.chat.completions.create(model="m", messages=MESSAGES, stream=True, stream_options=options))
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.total_tokens == 0 or pieces[-1].usage.prompt_tokens == 10


def test_openai_sdk_sees_errors(stage: Stage, tools: ModuleType, sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        sdk.chat.completions.create(model="nope", messages=MESSAGES)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.AuthenticationError):
        sdk.with_options(api_key="sk-wrong").models.list()
    stage.upstream.script((tools.answer(b"{}", "429 Busy"), tools.KEEP))
    with pytest.raises(openai.RateLimitError):
        sdk.chat.completions.create(model="m", messages=MESSAGES)
    stage.upstream.script((tools.STREAM_HEAD, tools.chunk(tools.event("Half")), tools.RESET))
    with sdk.chat.completions.create(model="m", messages=MESSAGES, stream=True) as pieces:
        assert next(pieces).choices[0].delta.content == "Half"
        with pytest.raises(openai.APIError, match="closed the connection"):
            next(pieces)


# The snapshot


def test_swap_under_load(start: Callable[..., Any], tools: ModuleType, upstream: Any) -> None:
    """Configuration changes thirty times under load; not one call fails, and the last one is in use at the end."""
    upstream.script((tools.answer(tools.completion()), tools.KEEP))
    worker = start(tools.snapshot({"m": [upstream.url]}))
    worker.wait_ready()
    statuses: list[int] = []
    stop = threading.Event()

    def load() -> None:
        connection = HTTPConnection("127.0.0.1", worker.port, timeout=20)
        body = json.dumps({"model": "m", "messages": MESSAGES})
        while not stop.is_set():
            connection.request("POST", "/v1/chat/completions", body, {"authorization": f"Bearer {tools.KEY}"})
            got = connection.getresponse()
            got.read()
            statuses.append(got.status)
        connection.close()

    callers = [threading.Thread(target=load) for _ in range(4)]
    for caller in callers:
        caller.start()
    for position in range(2, 32):
        publish(
            tools.snapshot({"m": [upstream.url], f"r{position}": [upstream.url]}, position=position),
            worker.home / "snapshot",
        )
        time.sleep(0.05)
    time.sleep(0.4)
    stop.set()
    for caller in callers:
        caller.join()
    assert len(statuses) > 100
    assert set(statuses) == {200}
    assert worker.get("/v1/models/r31", authorization=f"Bearer {tools.KEY}").status == 200
    assert len([span for span in worker.spans() if span.status == "ok"]) == len(statuses)


def test_a_damaged_snapshot_is_reported_and_not_used(
    start: Callable[..., Any], tools: ModuleType, upstream: Any
) -> None:
    upstream.script((tools.answer(tools.completion()), tools.KEEP))
    worker = start(tools.snapshot({"m": [upstream.url]}))
    worker.wait_ready()
    current = worker.home / "snapshot" / "current.json"
    for damaged in (current.read_bytes()[:-40], b"", b"\xff" * 100, b'{"format": 99}'):
        fresh = current.with_name("fresh")
        fresh.write_bytes(damaged)
        fresh.replace(current)
        time.sleep(0.35)
        assert worker.chat().status == 200
    assert worker.errors.read_text().count("snapshot refused") == 4
    assert b"detent_gateway_snapshot_refused_total 4" in worker.get("/metrics").read()
    publish(tools.snapshot({"n": [upstream.url]}, position=5), worker.home / "snapshot")
    time.sleep(0.5)
    assert worker.chat({"model": "n"}).status == 200
    assert worker.chat({"model": "m"}).status == 404


def test_a_revoked_key_stops_working(start: Callable[..., Any], tools: ModuleType, upstream: Any) -> None:
    upstream.script((tools.answer(tools.completion()), tools.KEEP))
    worker = start(tools.snapshot({"m": [upstream.url]}))
    worker.wait_ready()
    assert worker.chat().status == 200
    publish(tools.snapshot({"m": [upstream.url]}, position=2, keys={}), worker.home / "snapshot")
    time.sleep(0.5)
    assert worker.chat().status == 401


# Readiness


def test_ready_when_a_call_would_be_served(
    start: Callable[..., Any], tools: ModuleType, upstream: Any, free_port: int
) -> None:
    worker = start(None)
    assert error_of(worker.get("/readyz"))["code"] == "not_ready"
    assert error_of(worker.chat())["code"] == "not_ready"
    assert worker.get("/healthz").status == 200
    dead = f"http://127.0.0.1:{free_port}/v1"
    publish(tools.snapshot({"m": [dead]}), worker.home / "snapshot")
    time.sleep(0.4)
    assert worker.wait_ready(503)["error"]["code"] == "no_upstream"
    publish(tools.snapshot({"m": [dead, upstream.url]}, position=2), worker.home / "snapshot")
    worker.wait_ready()
    upstream.close()
    assert worker.wait_ready(503)["error"]["code"] == "no_upstream"


def test_ready_asks_the_embedded_engine_itself(start: Callable[..., Any], tools: ModuleType, upstream: Any) -> None:
    found = tools.snapshot({"m": [upstream.url]})
    provider = found.providers["default/p0"]
    found = msgspec.structs.replace(
        found,
        providers={"default/embedded": msgspec.structs.replace(provider, name="embedded")},
        routes={
            "default/m": msgspec.structs.replace(
                found.routes["default/m"], targets=(TargetEntry("default/embedded", "detent-tiny", 1, None),)
            )
        },
    )
    upstream.script((tools.answer(b"loading", "503 Not Yet"), tools.KEEP))
    worker = start(found)
    assert worker.wait_ready(503)["error"]["code"] in {"no_upstream", "not_ready"}
    assert upstream.requests[0].line == "GET /healthz HTTP/1.1" if upstream.requests else True
    upstream.script((tools.answer(b"{}"), tools.KEEP))
    worker.wait_ready()


def test_start_is_quick_and_small(start: Callable[..., Any], tools: ModuleType, upstream: Any) -> None:
    began = time.monotonic()
    worker = start(tools.snapshot({"m": [upstream.url]}))
    worker.wait_ready()
    assert time.monotonic() - began < 5  # the bar is 2 s on a quiet machine; benchmarks measure it
    resident = int(Path(f"/proc/{worker.process.pid}/statm").read_text().split()[1]) * 4096
    assert resident < 120 * 1024 * 1024


# Limits and ends


def test_too_many_in_flight(start: Callable[..., Any], tools: ModuleType, upstream: Any) -> None:
    upstream.script((tools.HOLD,))
    worker = start(tools.snapshot({"m": [upstream.url]}), DETENT_GATEWAY_MAX_INFLIGHT="2")
    worker.wait_ready()
    callers = [threading.Thread(target=lambda: worker.chat().read()) for _ in range(2)]
    for caller in callers:
        caller.start()
    while len(upstream.requests) < 2:
        time.sleep(0.01)
    got = worker.chat()
    assert (got.status, got.headers["retry-after"]) == (503, "1")
    assert error_of(got)["code"] == "overloaded"
    assert worker.span(got).error_type == "overloaded"
    assert worker.get("/readyz").status == 503
    upstream.close()
    for caller in callers:
        caller.join(10)
    assert worker.get("/metrics").status == 200


@pytest.mark.parametrize("policy", ["shed", "refuse"])
def test_a_full_spool(start: Callable[..., Any], tools: ModuleType, upstream: Any, policy: str) -> None:
    upstream.script((tools.answer(tools.completion("x" * 5000)), tools.KEEP))
    worker = start(
        tools.snapshot({"m": [upstream.url]}),
        DETENT_TELEMETRY_SPOOL_MAX_BYTES="20000",
        DETENT_TELEMETRY_SPOOL_SEGMENT_BYTES="10000",
        DETENT_TELEMETRY_WHEN_FULL=policy,
    )
    worker.wait_ready()
    found = [worker.chat() for _ in range(12)]
    shed = next(
        line
        for line in worker.get("/metrics").read().decode().splitlines()
        if line.startswith("detent_gateway_spans_shed")
    )
    if policy == "shed":
        assert {got.status for got in found} == {200}
        assert int(shed.rpartition(" ")[2]) > 3
    else:
        assert found[0].status == 200
        assert found[-1].status == 503
        assert error_of(found[-1])["code"] == "spool_full"
        assert found[-1].headers["retry-after"]
        assert worker.get("/readyz").status == 503


def test_drain(start: Callable[..., Any], tools: ModuleType, upstream: Any) -> None:
    """SIGTERM: what is in flight is finished, nothing new is taken, the exit is clean, the span is there."""
    upstream.script(
        (
            tools.STREAM_HEAD,
            tools.chunk(tools.event("slow")),
            0.8,
            tools.chunk(tools.event(finish="stop") + tools.DONE),
            tools.END,
        )
    )
    worker = start(tools.snapshot({"m": [upstream.url]}))
    worker.wait_ready()
    got = worker.chat({"stream": True})
    got.read1()
    worker.process.send_signal(signal.SIGTERM)
    assert got.read().endswith(b"data: [DONE]\n\n")
    assert worker.process.wait(10) == 0
    assert worker.span(got).status == "ok"


def test_drain_ends(start: Callable[..., Any], tools: ModuleType, upstream: Any) -> None:
    """What is not finished in time is told so."""
    upstream.script((tools.STREAM_HEAD, tools.chunk(tools.event("never ends")), tools.HOLD))
    worker = start(tools.snapshot({"m": [upstream.url]}), DETENT_GATEWAY_DRAIN_SECONDS="1")
    worker.wait_ready()
    got = worker.chat({"stream": True})
    got.read1()
    worker.process.send_signal(signal.SIGTERM)
    assert b'"code":"draining"' in got.read()
    assert worker.process.wait(10) == 0
    span = worker.span(got)
    assert (span.status, span.error_type, span.usage_estimated) == ("error", "draining", True)


def test_kill_9_loses_no_answered_call(start: Callable[..., Any], tools: ModuleType, upstream: Any) -> None:
    upstream.script((tools.answer(tools.completion()), tools.KEEP))
    worker = start(tools.snapshot({"m": [upstream.url]}))
    worker.wait_ready()
    answered = [worker.chat().headers["x-detent-trace-id"] for _ in range(50)]
    worker.process.kill()
    worker.process.wait()
    assert {span.trace_id for span in worker.spans()} >= set(answered)


def test_workers_share_a_port_and_add_up_their_figures(
    start: Callable[..., Any], tools: ModuleType, upstream: Any
) -> None:
    upstream.script((tools.answer(tools.completion()), tools.KEEP))
    published = tools.snapshot({"m": [upstream.url]})
    one, two = start(published), start(None, name="1")
    one.wait_ready()
    two.wait_ready()
    for worker in (one, two, two):
        assert worker.chat().status == 200
    time.sleep(1.3)
    for worker in (one, two):
        assert b'requests_total{route="m",status="200"} 3' in worker.get("/metrics").read()
    two.process.kill()
    two.process.wait()
    two.process = two.start()
    two.wait_ready()
    assert two.chat().status == 200
    assert b'requests_total{route="m",status="200"} 4' in two.get("/metrics").read()


def test_port_taken(tmp_path: Path, tools: ModuleType, capfd: pytest.CaptureFixture[str], free_port: int) -> None:
    from detent.gateway.worker import main

    with socket.create_server(("127.0.0.1", free_port)), pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETENT_GATEWAY_PORT", str(free_port))
        assert main(["--home", str(tmp_path)]) == 1
    assert "cannot listen" in capfd.readouterr().err


# Credentials


def test_the_credential_reaches_its_provider_and_nobody_else(
    start: Callable[..., Any], tools: ModuleType, upstream: Any
) -> None:
    upstream.script((tools.answer(tools.completion()), tools.KEEP))
    found = tools.snapshot({"m": [upstream.url]})
    provider = found.providers["default/p0"]

    def sealed_for(url: str, home: Path) -> Snapshot:
        secret = open_vault(home / "keys" / "root.key").seal(Secret("sk-very-secret"), url=url)
        entry = msgspec.structs.replace(provider, sealed=secret)
        return msgspec.structs.replace(found, providers={"default/p0": entry}, position=found.position + 1)

    worker = start(None)
    publish(sealed_for(upstream.url, worker.home), worker.home / "snapshot")
    worker.wait_ready()
    got = worker.chat(authorization_extra="x")
    assert got.status == 200
    assert upstream.requests[0].headers["authorization"] == "Bearer sk-very-secret"
    # The same ciphertext under another origin does not open: nothing is sent there.
    upstream.requests.clear()
    moved = msgspec.structs.replace(sealed_for("http://127.0.0.1:1/v1", worker.home), position=9)
    publish(moved, worker.home / "snapshot")
    time.sleep(0.5)
    got = worker.chat()
    assert (got.status, error_of(got)["code"]) == (502, "credential_unusable")
    assert upstream.requests == []
    everything = worker.errors.read_bytes() + b"".join(p.read_bytes() for p in (worker.home / "spool").glob("*.seg"))
    assert b"very-secret" not in everything
    assert b"very-secret" not in worker.get("/metrics").read()


@pytest.mark.parametrize("allow", [True, False])
def test_private_addresses_only_by_configuration(
    start: Callable[..., Any], tools: ModuleType, upstream: Any, allow: bool
) -> None:
    upstream.script((tools.answer(tools.completion()), tools.KEEP))
    found = tools.snapshot({"m": [f"http://localhost:{upstream.port}/v1"]})
    provider = msgspec.structs.replace(found.providers["default/p0"], allow_private=allow)
    worker = start(msgspec.structs.replace(found, providers={"default/p0": provider}))
    if allow:
        worker.wait_ready()
        assert worker.chat().status == 200
    else:
        assert worker.wait_ready(503)
        time.sleep(0.3)
        got = worker.chat()
        assert (got.status, error_of(got)["code"]) == (502, "address_refused")
        assert upstream.connections == 0

"""Files and batches are the control plane's; the gateway hands them on, key and all."""

from __future__ import annotations

import contextlib
import json
import select
import socket
from collections.abc import Callable
from http.client import IncompleteRead
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.e2e


def begin(start: Callable[..., Any], tools: ModuleType, upstream: Any) -> Any:
    control = upstream.url.removesuffix("/v1")
    worker = start(tools.snapshot({"m": [upstream.url]}, control_url=control))
    worker.wait_ready()
    return worker


def test_there_and_back(start: Callable[..., Any], tools: ModuleType, upstream: Any) -> None:
    worker = begin(start, tools, upstream)
    upstream.script((tools.answer(b'{"id": "batch_1"}'), tools.HANG_UP))
    headers = {"authorization": f"Bearer {tools.KEY}", "x-own": "stays here"}
    got = worker.ask("GET", "/v1/batches/batch_1?after=x%20y", None, headers)
    assert (got.status, json.loads(got.read())) == (200, {"id": "batch_1"})
    sent = upstream.requests[-1]
    assert sent.line == "GET /v1/batches/batch_1?after=x%20y HTTP/1.1"
    assert sent.headers["authorization"] == f"Bearer {tools.KEY}"
    assert "x-own" not in sent.headers


def test_a_large_answer_comes_through(start: Callable[..., Any], tools: ModuleType, upstream: Any) -> None:
    worker = begin(start, tools, upstream)
    data = bytes(range(256)) * 20_000
    upstream.script((tools.answer(data, kind="application/octet-stream"), tools.HANG_UP))
    got = worker.ask("GET", "/v1/files/file_1/content", None, {})
    assert got.read() == data


def test_a_body_goes_through(start: Callable[..., Any], tools: ModuleType, upstream: Any) -> None:
    worker = begin(start, tools, upstream)
    data = bytes(range(256)) * 8_000
    upstream.script((tools.answer(b'{"id": "file_1"}'), tools.HANG_UP))
    got = worker.ask("POST", "/v1/files", data, {"content-type": "multipart/form-data; boundary=x"})
    assert got.status == 200
    assert upstream.requests[-1].raw == data
    assert upstream.requests[-1].headers["content-type"] == "multipart/form-data; boundary=x"


def test_an_answer_before_the_body_is_over_is_the_answer(
    start: Callable[..., Any], tools: ModuleType, upstream: Any
) -> None:
    """Whoever refuses a large body early is heard, and nobody waits for it to take the rest."""
    worker = begin(start, tools, upstream)
    refusal = tools.answer(b'{"error": {"code": "too_large"}}', "413 Content Too Large")
    upstream.refuse_unread(refusal)
    with socket.create_connection(("127.0.0.1", worker.port), timeout=10) as client:
        client.sendall(b"POST /v1/files HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        piece = tools.chunk(bytes(65536))
        client.settimeout(10)
        with contextlib.suppress(OSError):
            for _ in range(400):
                client.sendall(piece)
                if select.select([client], [], [], 0)[0]:
                    break
        assert client.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_an_answer_that_breaks_off_breaks_off(start: Callable[..., Any], tools: ModuleType, upstream: Any) -> None:
    worker = begin(start, tools, upstream)
    upstream.script((b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf", tools.RESET))
    got = worker.ask("GET", "/v1/files/file_1/content", None, {})
    with pytest.raises((IncompleteRead, ConnectionError)):
        got.read()
    assert worker.get("/healthz").status == 200
    assert b"Traceback" not in worker.errors.read_bytes()


@pytest.mark.parametrize("method", ["HEAD", "PUT", "OPTIONS", "PATCH"])
def test_other_methods_are_refused_here(
    start: Callable[..., Any], tools: ModuleType, upstream: Any, method: str
) -> None:
    worker = begin(start, tools, upstream)
    upstream.requests.clear()
    assert worker.ask(method, "/v1/files", None, {}).status == 405
    assert not upstream.requests


def test_errors_are_the_control_planes(start: Callable[..., Any], tools: ModuleType, upstream: Any) -> None:
    worker = begin(start, tools, upstream)
    upstream.script((tools.answer(b'{"error": {}}', "404 Not Found"), tools.HANG_UP))
    assert worker.ask("DELETE", "/v1/files/none", None, {}).status == 404


def test_without_a_control_plane(start: Callable[..., Any], tools: ModuleType, upstream: Any, free_port: int) -> None:
    worker = start(tools.snapshot({"m": [upstream.url]}, control_url=f"http://127.0.0.1:{free_port}"))
    worker.wait_ready()
    got = worker.ask("GET", "/v1/files", None, {})
    assert (got.status, json.loads(got.read())["error"]["code"]) == (503, "control_away")
    upstream.script((tools.answer(tools.completion()), tools.KEEP))
    assert worker.chat().status == 200


@pytest.mark.parametrize("path", ["/v1/filesystem", "/v1/batchesx/1", "/v1/file"])
def test_others_are_not_handed_on(start: Callable[..., Any], tools: ModuleType, upstream: Any, path: str) -> None:
    worker = begin(start, tools, upstream)
    assert worker.ask("GET", path, None, {}).status == 404

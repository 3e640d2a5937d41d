"""`detent up` from start to stop: first call, banner, drain, refusals, and what a start says when it cannot be."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.app.conftest import START_SECONDS, Installation, until

from detent.app.doctor import examine
from detent.gateway.model import Target
from detent.kernel.telemetry import SpanFilter

pytestmark = pytest.mark.e2e

CHUNKS = 15


@pytest.fixture
def dripping() -> Iterator[str]:
    """A provider that streams one chunk each 0.1 s."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(0.2)
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            try:
                connection, _ = listening.accept()
            except TimeoutError:
                continue
            threading.Thread(target=drip, args=(connection,), daemon=True).start()

    def drip(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):  # whoever asked may be gone
            connection.settimeout(10)
            while b"\r\n\r\n" not in connection.recv(65536):
                pass
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
            for number in range(CHUNKS):
                delta = {"role": "assistant", "content": f"{number} "}
                chunk: dict[str, Any] = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "drip"}
                chunk["choices"] = [{"index": 0, "delta": delta, "finish_reason": None}]
                connection.sendall(b"data: " + json.dumps(chunk).encode() + b"\n\n")
                time.sleep(0.1)
            chunk["choices"] = [{"index": 0, "delta": {}, "finish_reason": "stop"}]
            connection.sendall(b"data: " + json.dumps(chunk).encode() + b"\n\ndata: [DONE]\n\n")

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    stop.set()
    thread.join()
    listening.close()


def get(url: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_a_first_call_is_answered_and_seen(installation: Installation) -> None:
    installation.start()
    assert installation.told["sign_in"].startswith(f"{installation.told['console_url']}/login?token=dtl_")
    assert get(installation.told["gateway_url"], "/readyz")[0] == 200
    assert get(installation.told["console_url"], "/healthz") == (200, b'{"status":"ok"}')
    assert [part.state for part in installation.state().parts] == ["running"] * 4

    key = installation.key()
    answer = installation.call(key)
    assert answer.whole
    with installation.platform() as platform:
        until(lambda: platform.lake.trace("default", answer.trace_id), 2, "the call in the lake")
        (span,) = platform.lake.trace("default", answer.trace_id)
        assert (span.response_model, span.status, span.cost) == ("detent-tiny", "ok", 0)
        assert span.input_tokens > 0
        assert span.output_tokens > 0
        assert "48213" in span.input
        found = platform.lake.traces(SpanFilter(project="default", text="Lyon"))
        assert [row.trace_id for row in found.rows] == [answer.trace_id]
        assert {check.name: check.state for check in examine(installation.settings) if check.state == "failed"} == {}
        status = platform.status()
        assert (status.lake.spans, status.spool.lag, len(status.parts)) == (1, 0, 4)

    second = subprocess.run(
        [sys.executable, "-m", "detent", "up"], env=installation.env, capture_output=True, text=True, check=False
    )
    assert second.returncode != 0
    assert f"already up on {installation.home} (process {installation.state().pid})" in second.stderr
    assert installation.stop() == 0
    assert not (installation.home / "run" / "state.json").exists()


def test_a_stop_lets_a_stream_finish_and_loses_no_span(installation: Installation, dripping: str) -> None:
    installation.start()
    with installation.platform() as platform:
        caller = platform.access.operator()
        platform.gateway.save_provider(caller, "drip", url=dripping, allow_private=True)
        platform.gateway.save_route(caller, "slow", (Target("drip", "drip"),))
    key = installation.key()
    answers = []
    thread = threading.Thread(target=lambda: answers.append(installation.call(key, model="slow", stream=True)))
    thread.start()
    time.sleep(0.6)
    assert installation.stop() == 0
    thread.join()
    (answer,) = answers
    assert answer.whole
    assert answer.body.count(b"data: ") == CHUNKS + 2
    with installation.platform() as platform:
        (span,) = platform.lake.trace("default", answer.trace_id)
        assert (span.status, span.finish_reason, span.stream) == ("ok", "stop", True)


def test_interrupted_twice_it_leaves_at_once(installation: Installation, dripping: str) -> None:
    installation.start()
    with installation.platform() as platform:
        caller = platform.access.operator()
        platform.gateway.save_provider(caller, "drip", url=dripping, allow_private=True)
        platform.gateway.save_route(caller, "slow", (Target("drip", "drip"),))
    key = installation.key()

    def call() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            installation.call(key, model="slow", stream=True)

    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(0.5)
    assert installation.process is not None
    began = time.monotonic()
    installation.process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    installation.process.send_signal(signal.SIGINT)
    assert installation.wait() == 0
    assert time.monotonic() - began < 10
    thread.join()


def test_a_newer_schema_stops_the_start_with_its_reason(installation: Installation) -> None:
    with installation.platform():
        pass
    database = sqlite3.connect(installation.home / "ledger.db")
    database.execute("UPDATE detent_schema SET version_num = '9999'")
    database.commit()
    database.close()
    ended = subprocess.run(
        [sys.executable, "-m", "detent", "up"],
        env=installation.env,
        capture_output=True,
        text=True,
        check=False,
        timeout=START_SECONDS,
    )
    assert ended.returncode != 0
    assert "newer than this Detent" in ended.stderr
    assert "Traceback" not in ended.stderr
    checks = {check.name: check for check in examine(installation.settings)}
    assert checks["ledger"].state == "failed"
    assert "newer than this Detent" in checks["ledger"].what


def test_open_to_the_network_only_with_an_admin(installation: Installation) -> None:
    installation.env["DETENT_HOST"] = "0.0.0.0"
    ended = subprocess.run(
        [sys.executable, "-m", "detent", "up"],
        env=installation.env,
        capture_output=True,
        text=True,
        check=False,
        timeout=START_SECONDS,
    )
    assert ended.returncode != 0
    assert "no admin has a password" in ended.stderr
    assert "Traceback" not in ended.stderr

    with installation.platform() as platform:
        caller = platform.access.operator()
        admin = platform.people.sign_in_link(platform.people.first_link().reveal()).account
        platform.people.set_password(caller, admin.id, "correct horse battery")
    installation.start()
    assert installation.told["sign_in"] == ""
    assert installation.stop() == 0


def test_the_gateway_goes_on_without_the_control_plane(installation: Installation) -> None:
    installation.start()
    key = installation.key()
    answer = installation.call(key)
    assert answer.whole
    supervisor = installation.process
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGSTOP)  # nobody starts it again
    try:
        os.kill(installation.part("control").pid, signal.SIGKILL)
        time.sleep(0.2)
        kept = [installation.call(key).trace_id for _ in range(3)]
    finally:
        os.kill(supervisor.pid, signal.SIGCONT)
    with installation.platform() as platform:
        until(
            lambda: all(platform.lake.trace("default", trace_id) for trace_id in kept),
            START_SECONDS,
            "what was spooled meanwhile is in the lake",
        )
    assert installation.stop() == 0


@pytest.mark.skipif(shutil.which("mount") is None or os.getuid() != 0, reason="needs to mount a small disk")
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("may not mount here")
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "detent", "--home", str(small / "home"), "up"],
            capture_output=True,
            text=True,
            check=False,
            timeout=START_SECONDS,
        )
        assert ended.returncode != 0
        assert "is full" in ended.stderr
        assert "storage.retention_days" in ended.stderr
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.postgres
def test_the_same_on_postgresql_with_two_gateways(home: Path, postgres_url: str) -> None:
    installation = Installation(home, DETENT_STORAGE_LEDGER_URL=postgres_url, DETENT_GATEWAY_WORKERS="2").start()
    try:
        key = installation.key()
        answers = [installation.call(key) for _ in range(4)]
        assert all(answer.whole for answer in answers)
        for part in ("gateway-1", "control", "worker"):
            installation.kill(part)
        answers.append(installation.call(key))
        with installation.platform() as platform:
            caller = platform.access.operator()
            platform.gateway.save_provider(caller, "later", url="http://127.0.0.1:1/v1", allow_private=True)
            until(lambda: platform.ledger.read(kind="provider.saved"), 10, "the sealer chained the fact")
            job = platform.jobs.start("ledger.verify", {}, project="default")
            until(lambda: platform.jobs.get(job.id).state == "done", 20, "the job done")
            assert (platform.jobs.get(job.id).result or {})["ok"]
            until(lambda: all(platform.lake.trace("default", answer.trace_id) for answer in answers), 10, "in the lake")
            assert platform.status().ledger.kind == "postgresql"
    finally:
        assert installation.stop() == 0

"""`detent up` as real processes, and a load that remembers what it was promised."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import pytest

from detent.app.platform import Platform, open_platform
from detent.app.state import State, read_state
from detent.app.status import Part
from detent.kernel.settings import load_settings

START_SECONDS = 30.0
QUESTION = [{"role": "user", "content": "Where is my order 48213? I live in Lyon."}]


def until(true: Callable[[], object], seconds: float, what: str) -> None:
    """Wait for something, not longer than it may take."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


class Installation:
    """A home, and `detent up` on it with ports of its own."""

    def __init__(self, home: Path, **settings: str) -> None:
        self.home = home
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("DETENT_")},
            "DETENT_HOME": str(home),
            "DETENT_PORT": "0",
            "DETENT_GATEWAY_PORT": "0",
            "DETENT_ENGINE_PORT": "0",
            **settings,
        }
        self.settings = load_settings(self.env)
        self.log = home.parent / "up.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.told: dict[str, Any] = {}

    def start(self) -> Installation:
        """Start it and wait until it says that it is up."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "detent", "up", "--json"], env=self.env, stdout=subprocess.PIPE, stderr=log
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it did not come up:\n{self.log.read_text()[-3000:]}"
        self.told = json.loads(line)
        return self

    def stop(self) -> int:
        """Ask it to stop, and wait."""
        assert self.process is not None
        self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        assert self.process is not None
        assert self.process.stdout is not None
        status = self.process.wait(timeout=60)
        self.process.stdout.close()
        return status

    def state(self) -> State:
        found = read_state(self.home / "run")
        assert found is not None
        return found

    def part(self, name: str) -> Part:
        return next(part for part in self.state().parts if part.name == name)

    def kill(self, *names: str) -> None:
        """kill -9 parts at the same moment, and wait until other processes took their places."""
        before = {name: self.part(name).pid for name in names}
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)
        for name, pid in before.items():
            until(lambda n=name, p=pid: self.part(n).pid not in {0, p}, START_SECONDS, f"{name} started again")
            until(lambda n=name: self.part(n).state == "running", START_SECONDS, f"{name} running again")

    @contextlib.contextmanager
    def platform(self) -> Iterator[Platform]:
        """The stores, as another process opens them."""
        with open_platform(self.settings) as platform:
            yield platform

    def key(self) -> str:
        with self.platform() as platform:
            return platform.gateway.mint_key(platform.access.operator(), "test").token.reveal()

    def call(self, key: str, *, model: str = "detent-tiny", stream: bool = False, timeout: float = 20) -> Answer:
        """One chat completion; raises OSError or HTTPException when it was cut off."""
        host = self.told["gateway_url"].removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=timeout)
        try:
            body = json.dumps({"model": model, "messages": QUESTION, "stream": stream, "max_tokens": 40})
            headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
            connection.request("POST", "/v1/chat/completions", body, headers)
            response = connection.getresponse()
            return Answer(response.status, dict(response.headers), response.read())
        finally:
            connection.close()


class Answer:
    """What came back, whole."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.trace_id = {name.lower(): value for name, value in headers.items()}.get("x-detent-trace-id", "")
        self.body = body

    @property
    def whole(self) -> bool:
        """Whether the answer came to its end."""
        return self.status == 200 and (not self.body.startswith(b"data:") or self.body.endswith(b"data: [DONE]\n\n"))


class Load:
    """Calls, without pause; those that were answered to their end are promised to be in the lake, once."""

    def __init__(self, installation: Installation, key: str, *, threads: int = 3) -> None:
        self.promised: list[str] = []
        self.cut = 0
        self.refused: dict[int, int] = {}
        self._installation = installation
        self._key = key
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        turn = number
        while not self._stop.is_set():
            turn += 1
            try:
                answer = self._installation.call(self._key, stream=turn % 2 == 0)
            except (OSError, http.client.HTTPException):
                with self._lock:
                    self.cut += 1
                time.sleep(0.02)
                continue
            with self._lock:
                if answer.whole:
                    self.promised.append(answer.trace_id)
                else:
                    self.refused[answer.status] = self.refused.get(answer.status, 0) + 1
            time.sleep(0.01)


@pytest.fixture
def installation(home: Path) -> Iterator[Installation]:
    found = Installation(home)
    yield found
    if found.process is not None and found.process.poll() is None:
        found.stop()

"""The whole product, started as people start it, in a folder and on ports of its own."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import find_port

_READY_SECONDS = 30.0


class Running:
    """`detent up`, and the command line on the same folder."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.gateway_port, self.port, engine_port = find_port(), find_port(), find_port()
        self.log = folder / "up.log"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("DETENT_")},
            "DETENT_HOME": str(self.home),
            "DETENT_GATEWAY_PORT": str(self.gateway_port),
            "DETENT_PORT": str(self.port),
            "DETENT_ENGINE_PORT": str(engine_port),
            "NO_COLOR": "1",
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def gateway(self) -> str:
        """Base URL for clients."""
        return f"http://127.0.0.1:{self.gateway_port}/v1"

    def start(self) -> None:
        """Start and wait until a call would be served and the console answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "detent", "up"], env=self.environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + _READY_SECONDS
        while not (self.answers(self.gateway_port, "/readyz") and self.answers(self.port, "/healthz")):
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def stop(self) -> int:
        """Stop as a service manager would; its exit status."""
        if self._process is None:
            return 0
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(timeout=60)
        self._process = None
        return status

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command."""
        return subprocess.run(
            [sys.executable, "-m", "detent", *arguments],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def told(self, *arguments: str, **environment: str) -> Any:
        """A command's answer as JSON."""
        done = self.run(*arguments, "--json", **environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    @staticmethod
    def answers(port: int, path: str) -> bool:
        """Whether 200 comes back."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """The product, running."""
    found = Running(tmp_path)
    try:
        found.start()
        yield found
    finally:
        found.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The product, running, for tests that only add to it."""
    found = Running(tmp_path_factory.mktemp("shared"))
    try:
        found.start()
        yield found
    finally:
        found.stop()

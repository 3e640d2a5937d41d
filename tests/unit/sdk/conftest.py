"""A real control plane on loopback for the SDK to call, and a scripted server for what a good one would not do."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest
import uvicorn
from tests.conftest import find_port

from detent import sdk
from detent.api import mount
from detent.app.platform import Platform, open_platform
from detent.app.web import build
from detent.kernel.identity import Permission
from detent.kernel.settings import Settings


class Server(NamedTuple):
    """A running control plane and a key that may do everything."""

    platform: Platform
    url: str
    key: str


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with open_platform(Settings(home=str(tmp_path_factory.mktemp("home")))) as platform:
        app = build(platform, faces=False)
        mount(app, platform)
        port = find_port()
        config = uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, lifespan="off", ws="none")
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run)
        thread.start()
        try:
            deadline = time.monotonic() + 20
            while not running.started and time.monotonic() < deadline:
                time.sleep(0.01)
            made = platform.gateway.mint_key(platform.access.operator(), "sdk", permissions=frozenset(Permission))
            yield Server(platform, f"http://127.0.0.1:{port}", made.token.reveal())
        finally:
            running.should_exit = True
            thread.join()


@pytest.fixture(autouse=True)
def _untraced() -> Iterator[None]:
    yield
    sdk.shutdown(timeout=2)


class Scripted:
    """Answers with what it is told, in turn; the last one again and again. Remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], bytes] | Callable[[], None]] = []
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.url = ""

    def say(self, status: int, body: Any = None, **headers: str) -> None:
        """Add an answer."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.append((status, named, json.dumps(body or {}).encode()))


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    script = Scripted()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            script.asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            answer = script.answers.pop(0) if len(script.answers) > 1 else script.answers[0]
            if callable(answer):
                answer()
                self.close_connection = True
                return
            status, headers, data = answer
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    script.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield script
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()

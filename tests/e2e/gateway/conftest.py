"""A real worker process, and a provider whose every byte is scripted."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from detent.gateway.keys import hash_token
from detent.gateway.model import Route
from detent.gateway.snapshot import FORMAT, KeyEntry, ProviderEntry, RouteEntry, Snapshot, TargetEntry, publish
from detent.kernel.identity import Permission
from detent.kernel.money import Price
from detent.kernel.telemetry import Span
from detent.traces.spool import SpoolReader, decode

KEY = "dtk_" + "k" * 43
MESSAGES = [{"role": "user", "content": "Hi!!"}]
PRICE = Price(input=1_000_000, output=2_000_000, cached_input=500_000)

# Steps of a script besides bytes and pauses (floats).
HANG_UP = "hang up"  # FIN
RESET = "reset"  # RST
HOLD = "hold"  # nothing more, until the other side goes
KEEP = "keep"  # the answer is complete: take the next request on this connection

Step = bytes | float | str


class Request:
    """What the provider was sent."""

    def __init__(self, head: bytes, body: bytes) -> None:
        lines = head.decode("latin-1").split("\r\n")
        self.line = lines[0]
        self.headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
        self.raw = body

    @property
    def json(self) -> Any:
        return json.loads(self.raw)


class Upstream:
    """A provider on loopback that does exactly what each script says, request by request.

    A script is used for one request; the last one is used again and again.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.gone = threading.Event()
        self._scripts: list[tuple[Step, ...]] = [(answer(b"{}"), KEEP)]
        self._refusal = b""
        self._streamed: tuple[Step, ...] = ()
        self._context = context
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listening.getsockname()[1])
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def script(self, *scripts: tuple[Step, ...]) -> None:
        """Say what the next requests get."""
        self._scripts = list(scripts)
        self.requests.clear()
        self.gone.clear()

    def stream_to(self, script: tuple[Step, ...]) -> None:
        """Say what those get who ask for a stream, whatever others get."""
        self._streamed = script

    def refuse_unread(self, refusal: bytes) -> None:
        """Answer so as soon as a head has come, and read nothing of its body."""
        self._refusal = refusal

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in tuple(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            self._open.add(connection)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._refusal:
                time.sleep(0.3)  # the body comes meanwhile, more than fits on the way
                connection.sendall(self._refusal)
                self.gone.wait(5)
                return
            while (request := self._read(connection)) is not None:
                self.requests.append(request)
                steps = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
                if self._streamed and b'"stream":true' in request.raw.replace(b" ", b""):
                    steps = self._streamed
                if not self._play(connection, steps):
                    break
        except OSError:
            self.gone.set()
        finally:
            self._open.discard(connection)
            connection.close()

    def _play(self, connection: socket.socket, steps: tuple[Step, ...]) -> bool:
        for step in steps:
            if isinstance(step, bytes):
                connection.sendall(step)
            elif isinstance(step, float):
                time.sleep(step)
            elif step == RESET:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            elif step == HOLD:
                while connection.recv(65536):
                    pass
                self.gone.set()
                return False
            elif step == KEEP:
                return True
        return False

    @staticmethod
    def _read(connection: socket.socket) -> Request | None:
        data = b""
        while b"\r\n\r\n" not in data:
            more = connection.recv(65536)
            if not more:
                return None
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        request = Request(head, b"")
        length = int(request.headers.get("content-length", "0"))
        while len(body) < length:
            body += connection.recv(65536)
        request.raw = body
        return request


def answer(body: bytes, status: str = "200 OK", kind: str = "application/json", extra: str = "") -> bytes:
    """A whole answer."""
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


def completion(text: str = "Hello there", usage: Any = None, **more: Any) -> bytes:
    """A completion as a provider writes it."""
    found = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "real-model-7",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15} if usage is None else usage,
        **more,
    }
    return json.dumps({k: v for k, v in found.items() if v != "absent"}).encode()


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def chunk(data: bytes) -> bytes:
    """One piece of chunked transfer encoding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(text: str | None = None, finish: str | None = None, **more: Any) -> bytes:
    """An event of a stream."""
    delta = {} if text is None else {"content": text}
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    found = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "real-model-7", "choices": choices, **more}
    return b"data: " + json.dumps(found).encode() + b"\n\n"


def usage_event(prompt: Any = 10, completion: Any = 5) -> bytes:
    """The last event of a stream whose caller asked for usage."""
    return event(choices=[], usage={"prompt_tokens": prompt, "completion_tokens": completion})


ROLE = event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
GOOD_STREAM = (
    STREAM_HEAD,
    *(chunk(e) for e in (ROLE, event("Hel"), event("lo"), event(finish="stop"), usage_event(), DONE)),
    END,
    KEEP,
)


class Worker:
    """A gateway worker and what can be seen of it from outside."""

    def __init__(self, home: Path, settings: dict[str, str] | None = None, *, name: str = "0") -> None:
        self.home = home
        self.name = name
        self.errors = home / f"stderr-{name}"
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = int(self._listening.getsockname()[1])
        self._settings = settings or {}
        self._reader = SpoolReader(home / "spool")
        self._spans: list[Span] = []
        self._clients: list[HTTPConnection] = []
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Start it on the socket that this test keeps, as the supervisor does."""
        with self.errors.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "detent.gateway", "--worker", self.name, "--fd", str(self._listening.fileno())],
                pass_fds=[self._listening.fileno()],
                env={**os.environ, **self._settings, "DETENT_HOME": str(self.home)},
                stderr=log,
            )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, **headers: str) -> HTTPResponse:
        return self.ask("GET", path, None, headers)

    def chat(self, body: Any = None, key: str = KEY, **headers: str) -> HTTPResponse:
        """A chat completion; a dict, or raw bytes."""
        if not isinstance(body, bytes):
            body = json.dumps(
                {"model": "m", "messages": [{"role": "user", "content": "Hi!!"}], **(body or {})}
            ).encode()
        named = {"authorization": f"Bearer {key}"} if key else {}
        return self.ask("POST", "/v1/chat/completions", body, {**named, **headers})

    def ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> HTTPResponse:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        self._clients.append(connection)
        connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        return connection.getresponse()

    def hang_up(self, place: int = -1) -> None:
        """The last client, or one before it, goes away, whatever it was doing."""
        self._clients.pop(place).close()

    def span(self, response: HTTPResponse | str) -> Span:
        """The span of an answered call; it is there when the answer has ended, or soon after when it was cut."""
        trace = response if isinstance(response, str) else response.headers["x-detent-trace-id"]
        for _ in range(200):
            found = [span for span in self.spans() if span.trace_id == trace]
            if found:
                assert len(found) == 1
                return found[0]
            time.sleep(0.02)
        raise AssertionError(f"no span of trace {trace}")

    def spans(self) -> list[Span]:
        """All spans so far."""
        while records := self._reader.read(10_000):
            for record in records:
                found = decode(record)
                assert isinstance(found, Span)
                self._spans.append(found)
        return self._spans

    def wait_ready(self, status: int = 200, seconds: float = 10) -> dict[str, Any]:
        """Wait until /readyz has this status; its body."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.get("/readyz")
            body = json.loads(found.read())
            if found.status == status or time.monotonic() > deadline:
                assert found.status == status, (found.status, body)
                return dict(body)
            time.sleep(0.02)

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        for client in self._clients:
            client.close()
        self.process.terminate()
        try:
            return self.process.wait(30)
        finally:
            self.close()

    def close(self) -> None:
        """Let go of what the test holds."""
        for client in self._clients:
            client.close()
        self._reader.close()
        self._listening.close()


def snapshot(
    targets: dict[str, list[str]],
    *,
    position: int = 1,
    keys: dict[str, KeyEntry] | None = None,
    dialects: dict[str, str] | None = None,
    flavours: dict[str, str] | None = None,
    rules: dict[str, Route] | None = None,
    max_concurrency: int = 0,
    **more: Any,
) -> Snapshot:
    """A snapshot with routes to providers by URL: `{"route": [url, ...]}`; every target is priced.

    Args:
        dialects, flavours: of providers, by URL; OpenAI's by default.
        rules: of routes by name.
    """
    urls = sorted({url for chain in targets.values() for url in chain})
    names = {url: f"p{number}" for number, url in enumerate(urls)}
    return Snapshot(
        format=FORMAT,
        position=position,
        made=0,
        keys={str(hash_token(KEY)): entry()} if keys is None else keys,
        providers={
            f"default/{names[url]}": ProviderEntry(
                names[url],
                (dialects or {}).get(url, "openai"),
                url,
                "",
                True,
                (flavours or {}).get(url, ""),
                max_concurrency=max_concurrency,
            )
            for url in urls
        },
        routes={
            f"default/{name}": RouteEntry(
                name,
                "default",
                1_700_000_000_000_000_000,
                tuple(TargetEntry(f"default/{names[url]}", "real-model", 1, PRICE) for url in chain),
                (rules or {}).get(name, Route(name=name, project="default", targets=())),
            )
            for name, chain in targets.items()
        },
        **more,
    )


def entry(**more: Any) -> KeyEntry:
    """A key that may call everything in the project `default`."""
    found: dict[str, Any] = {"id": "key-1", "project": "default", "routes": (), "expires": 0}
    return KeyEntry(**{**found, "permissions": (Permission.GATEWAY_CALL,), **more})


@pytest.fixture(scope="session")
def tools() -> Any:
    """This module: its names cannot be imported from beside it."""
    return sys.modules[__name__]


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """A provider that is up."""
    found = Upstream()
    yield found
    found.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Start workers on one data folder; they are stopped at the end, and must leave cleanly."""
    started: list[Worker] = []

    def begin(published: Snapshot | None, **settings: str) -> Worker:
        if published is not None:
            publish(published, tmp_path / "snapshot")
        name = settings.pop("name", "0")
        worker = Worker(tmp_path, settings, name=name)
        started.append(worker)
        return worker

    yield begin
    for worker in started:
        if worker.process.poll() is None:
            assert worker.stop() == 0, worker.errors.read_text()
        else:
            worker.close()

"""A load generator for chat completions that also times streams.

    python benchmarks/load.py --url URL --key KEY [--stream] [--connections N] [--seconds S] [--rate R] [--header H]

With `--rate` it is an open loop: requests start on schedule and latency counts from the scheduled start, so a stall is
not hidden by waiting for it. Otherwise each connection sends the next request when it has the answer. Prints JSON:
requests by status, errors, milliseconds to the first byte of the body, to the first token and to the last byte, events
per stream. With `--tokens N` every answer must hold that many of the mock provider's tokens; those that do not are
counted as wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import re
import time
from urllib.parse import urlsplit

import httptools
import uvloop

PROMPT = "Say hello to the world in one short sentence."
_TOKEN = re.compile(rb'tok[ "]')


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self) -> None:
        self.alive = False
        self.first = self.token = 0.0
        self.answered: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.alive = True

    def connection_lost(self, _exc: Exception | None) -> None:
        self.alive = False
        if self.answered is not None and not self.answered.done():
            self.answered.set_exception(ConnectionError("closed"))

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        if not self.first:
            self.first = time.perf_counter()
        if not self.token and b"tok" in body and _TOKEN.search(body):
            self.token = time.perf_counter()
        self.pieces.append(body)

    def on_message_complete(self) -> None:
        if self.answered is not None and not self.answered.done():
            self.answered.set_result(self.parser.get_status_code())

    def begin(self, request: bytes) -> asyncio.Future[int]:
        """Send; the status comes when the answer has ended."""
        self.parser = httptools.HttpResponseParser(self)
        self.first = 0.0
        self.token = 0.0
        self.pieces: list[bytes] = []
        self.answered = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.answered

    async def ask(self, request: bytes, patience: float = 30) -> int:
        """Send, and wait for the end of the answer; its status."""
        return await asyncio.wait_for(self.begin(request), patience)


class Run:
    """All requests of one run."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        where = urlsplit(options.url)
        self.host, self.port = where.hostname or "", where.port or 80
        body: dict[str, object] = {"model": options.model, "messages": [{"role": "user", "content": PROMPT}]}
        if options.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        data = json.dumps(body).encode()
        more = "".join(f"{header}\r\n" for header in options.header)
        self.request = (
            f"POST {where.path} HTTP/1.1\r\nhost: {where.netloc}\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {options.key}\r\ncontent-length: {len(data)}\r\n{more}\r\n"
        ).encode() + data
        self.statuses: collections.Counter[int] = collections.Counter()
        self.errors: collections.Counter[str] = collections.Counter()
        self.first: list[float] = []
        self.token: list[float] = []
        self.total: list[float] = []
        self.events: collections.Counter[int] = collections.Counter()
        self.unfinished = 0
        self.wrong = 0

    async def one(self, connection: Connection | None, start: float) -> Connection | None:
        """One request, on a fresh connection if need be; the connection if it can be used again."""
        try:
            if connection is None or not connection.alive:
                _, connection = await asyncio.get_running_loop().create_connection(Connection, self.host, self.port)
            status = await connection.ask(self.request)
        except (OSError, TimeoutError, httptools.HttpParserError) as error:
            self.errors[type(error).__name__] += 1
            return None
        end = time.perf_counter()
        self.statuses[status] += 1
        self.first.append(connection.first - start)
        self.token.append((connection.token or end) - start)
        self.total.append(end - start)
        body = b"".join(connection.pieces)
        if self.options.stream:
            self.events[body.count(b"data: ")] += 1
            self.unfinished += b"[DONE]" not in body[-32:]
        if self.options.tokens and body.count(b"tok ") + body.count(b'tok"') != self.options.tokens:
            self.wrong += 1
        return connection

    async def closed_loop(self, until: float) -> None:
        """One connection's share."""
        connection: Connection | None = None
        while time.perf_counter() < until:
            connection = await self.one(connection, time.perf_counter())

    async def open_loop(self, begin: float, until: float) -> None:
        """Requests on schedule."""
        idle: list[Connection] = []
        running: set[asyncio.Task[None]] = set()

        async def shot(start: float) -> None:
            connection = await self.one(idle.pop() if idle else None, start)
            if connection is not None:
                idle.append(connection)

        number = 0
        while (at := begin + number / self.options.rate) < until:
            await asyncio.sleep(max(at - time.perf_counter(), 0))
            task = asyncio.create_task(shot(at))
            running.add(task)
            task.add_done_callback(running.discard)
            number += 1
        if running:
            await asyncio.wait(running)

    async def work(self) -> None:
        """Run, and print."""
        begin = time.perf_counter()
        until = begin + self.options.seconds
        if self.options.rate:
            await self.open_loop(begin, until)
        else:
            await asyncio.gather(*(self.closed_loop(until) for _ in range(self.options.connections)))
        found = {
            "requests": sum(self.statuses.values()),
            "statuses": dict(self.statuses),
            "errors": dict(self.errors),
            "first_ms": percentiles(self.first),
            "token_ms": percentiles(self.token),
            "total_ms": percentiles(self.total),
            "events": dict(self.events),
            "unfinished": self.unfinished,
            "wrong": self.wrong,
        }
        print(json.dumps(found))


def percentiles(values: list[float]) -> dict[str, float]:
    """p50, p90, p99 and the most, in milliseconds."""
    ordered = sorted(values)
    if not ordered:
        return {}
    found = {f"p{q}": ordered[min(len(ordered) - 1, len(ordered) * q // 100)] for q in (50, 90, 99)}
    return {name: round(value * 1000, 3) for name, value in {**found, "max": ordered[-1]}.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", default="none")
    parser.add_argument("--model", default="mock-model")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rate", type=float, default=0)
    parser.add_argument("--tokens", type=int, default=0)
    parser.add_argument("--header", action="append", default=[])
    uvloop.run(Run(parser.parse_args()).work())

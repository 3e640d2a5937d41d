"""The same comparison as overload.py in real time: a gateway worker and engines that are processes of their own.

    python benchmarks/overload.py --through-gateway [--seconds N] [--quick]

prints JSON. For each load, each way has an engine (slow_engine.py, a server of event streams on loopback) to itself;
all loads and ways run at the same time with the same arrivals, so that what else the machine does disturbs all alike.
What is measured is what the client sees, from the scheduled arrival on:

    direct                the engine without a gateway, every request at once
    static                the engine behind Detent's line with a fixed cap in the client itself: the best of several
    fifo                  through the gateway, in order of arrival, at most so many at once as are best for `static`
    detent                through the gateway; the route states the objective and nothing else

One worker serves all routes of a way. `client_late_p99_ms` is how late the load generator itself was: beyond some 20 ms
the machine was too busy for the figures to mean anything. Requests that arrive in the first seconds, while limits are
being found, do not count.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import httptools
from benchmarks.gateway import KEY, Gateway
from benchmarks.load import Connection
from benchmarks.overload import (
    FIRST,
    LOADS,
    OUTPUT,
    PACE,
    PROMPT,
    Arrival,
    Enter,
    Leave,
    Served,
    arrivals,
    gate,
    no_control,
    summed_up,
)
from benchmarks.slow_engine import Model

from detent.gateway.errors import Shed
from detent.gateway.keys import hash_token
from detent.gateway.model import Queue, Route
from detent.gateway.snapshot import FORMAT, KeyEntry, ProviderEntry, RouteEntry, Snapshot, TargetEntry
from detent.kernel.identity import Permission

HERE: Final = Path(__file__).resolve().parent
CAPS: Final = (6, 7, 8)
FIFO_CAP: Final = 7
DRAIN: Final = 12.0
"""Seconds that the last requests get to end."""
SEED: Final = 10
RULES: Final = {
    "detent": (Queue(deadline_ms=round(FIRST * 1000), pace_ms=round(PACE * 1000)), 0),
    "fifo": (Queue(deadline_ms=600_000, length=100_000, order="fifo"), FIFO_CAP),
}
"""What is configured of each way through the gateway: the route's queue and the provider's bound."""


@contextlib.contextmanager
def engines(count: int) -> Iterator[list[int]]:
    """So many engines; their ports."""
    command = [sys.executable, str(HERE / "slow_engine.py"), "--port", "0"]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    try:
        yield [int(one.stdout.readline()) for one in started if one.stdout is not None]
    finally:
        for one in started:
            one.kill()
            one.wait()
            if one.stdout is not None:
                one.stdout.close()


@contextlib.contextmanager
def worker(ports: dict[str, int]) -> Iterator[Gateway]:
    """A worker with a route to each of these engines, which may have as many calls as come."""
    with tempfile.TemporaryDirectory(prefix="detent-bench-") as folder:
        found = Gateway(Path(folder), snapshot(ports), DETENT_GATEWAY_MAX_INFLIGHT="100000")
        try:
            yield found
        finally:
            found.process.kill()  # not to wait for what was left in line
            found.stop()


def snapshot(ports: dict[str, int]) -> Snapshot:
    """A route, a provider and its rules for each way through the gateway, by `way-load`."""
    providers, routes = {}, {}
    for name, port in ports.items():
        queue, cap = RULES[name.partition("-")[0]]
        url = f"http://127.0.0.1:{port}/v1"
        providers[f"default/{name}"] = ProviderEntry(name, "openai", url, "", allow_private=True, max_concurrency=cap)
        rules = Route(name="", project="", targets=(), queue=queue)
        routes[f"default/{name}"] = RouteEntry(
            name, "default", 0, (TargetEntry(f"default/{name}", "slow", 1, None),), rules
        )
    key = KeyEntry("key", "default", (), 0, (Permission.GATEWAY_CALL,))
    return Snapshot(FORMAT, 1, 0, {str(hash_token(KEY)): key}, providers, routes)


class Client(Connection):
    """A connection that tells its permit of the first token."""

    leave: Leave

    def on_body(self, body: bytes) -> None:
        """Take a piece of the answer."""
        before = self.token
        super().on_body(body)
        if self.token and not before:
            self.leave.first_output(asyncio.get_running_loop().time())


class Subject(NamedTuple):
    """One way at one load.

    Attributes:
        model: what is asked for.
        enter: what the client itself does before it asks.
    """

    name: str
    load: float
    port: int
    model: str
    enter: Enter


class Shooting:
    """All requests of one way at one load."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.served: list[Served] = []
        self.refused = self.broken = self.unfinished = 0
        self._idle: list[Client] = []

    async def run(self, coming: list[Arrival], begun: float) -> None:
        """Requests on schedule, and what is not done a while after the last is given up."""
        loop = asyncio.get_running_loop()
        running: set[asyncio.Task[None]] = set()
        for one in coming:
            await asyncio.sleep(begun + one.at - loop.time())
            task = asyncio.create_task(self._shot(one, begun))
            running.add(task)
            task.add_done_callback(running.discard)
        if running:
            await asyncio.wait(running, timeout=DRAIN)
        self.unfinished = len(running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for connection in self._idle:
            connection.transport.abort()

    async def _shot(self, one: Arrival, begun: float) -> None:
        loop = asyncio.get_running_loop()
        arrived = begun + one.at
        try:
            leave = await self.subject.enter(arrived + FIRST)
        except Shed:
            self.refused += 1
            return
        connection = await self._connection()
        connection.leave = leave
        try:
            status = await connection.begin(self._request(one))
        except (OSError, httptools.HttpParserError):
            self.broken += 1
            return
        except asyncio.CancelledError:
            connection.transport.abort()
            raise
        end = loop.time()
        leave.leave(end, "good", one.output)
        self._idle.append(connection)
        if status == 503:
            self.refused += 1
        elif status != 200 or b"[DONE]" not in b"".join(connection.pieces)[-32:]:
            self.broken += 1
        else:
            self.served.append(Served(one.at, connection.token - arrived, (end - connection.token) / (one.output - 1)))

    async def _connection(self) -> Client:
        while self._idle:
            found = self._idle.pop()
            if found.alive:
                return found
        _, made = await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", self.subject.port)
        return made

    def _request(self, one: Arrival) -> bytes:
        body = {
            "model": self.subject.model,
            "messages": [{"role": "user", "content": "Go on."}],
            "stream": True,
            "max_tokens": one.output,
            "prompt_tokens": one.prompt,
        }
        data = json.dumps(body).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{self.subject.port}\r\n"
            f"content-type: application/json\r\nauthorization: Bearer {KEY}\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        return head.encode() + data


async def _all(
    subjects: list[tuple[str, float, int, str]], seconds: float, warm_up: float
) -> tuple[dict[float, dict[str, dict[str, float]]], float]:
    loop = asyncio.get_running_loop()
    shootings = []
    for name, load, port, model in subjects:
        cap = int(name.removeprefix("static-")) if name.startswith("static-") else 0
        enter = gate(cap)(loop) if cap else no_control(loop)
        shootings.append(Shooting(Subject(name, load, port, model, enter)))
    coming = {
        load: arrivals(load * Model().capacity(PROMPT, OUTPUT, PACE), seconds, SEED)
        for load in {load for _, load, _, _ in subjects}
    }
    begun = loop.time() + 0.5
    late: list[float] = []

    async def watch() -> None:
        while True:
            until = loop.time() + 0.05
            await asyncio.sleep(0.05)
            late.append(loop.time() - until)

    watching = asyncio.create_task(watch())
    async with asyncio.TaskGroup() as group:
        for one in shootings:
            group.create_task(one.run(coming[one.subject.load], begun))
    watching.cancel()
    late.sort()
    found: dict[float, dict[str, dict[str, float]]] = {}
    for one in shootings:
        came = summed_up(one.served, coming[one.subject.load], seconds, warm_up)
        row = {field: round(value, 3) for field, value in came._asdict().items()}
        found.setdefault(one.subject.load, {})[one.subject.name] = row | {
            "refused": one.refused,
            "broken": one.broken,
            "unfinished": one.unfinished,
        }
    return found, late[len(late) * 99 // 100]


def measure(seconds: float, warm_up: float, loads: tuple[float, ...] = LOADS) -> dict[str, Any]:
    """The whole table."""
    ways = ["direct", *(f"static-{cap}" for cap in CAPS), *RULES]
    plan = [(way, load) for load in loads for way in ways]
    with engines(len(plan)) as ports, contextlib.ExitStack() as stack:
        behind = {pair: port for pair, port in zip(plan, ports, strict=True) if pair[0] in RULES}
        workers = {
            name: stack.enter_context(
                worker({f"{way}-{load:g}": port for (way, load), port in behind.items() if way == name})
            )
            for name in RULES
        }
        subjects = [
            (way, load, workers[way].port, f"{way}-{load:g}") if way in RULES else (way, load, port, "slow")
            for (way, load), port in zip(plan, ports, strict=True)
        ]
        before, at = workers["detent"].cpu(), time.monotonic()
        found, late = asyncio.run(_all(subjects, seconds, warm_up))
        used = (workers["detent"].cpu() - before) / (time.monotonic() - at)
    rows: dict[str, Any] = {}
    for load, row in found.items():
        cap = max(CAPS, key=lambda cap: row[f"static-{cap}"]["goodput"])
        top = max(one["goodput"] for one in row.values())
        rows[f"{load:g}"] = row | {
            "static": row[f"static-{cap}"],
            "static_cap": cap,
            "of_best": round(row["detent"]["goodput"] / top, 3),
        }
    return {
        "capacity": round(Model().capacity(PROMPT, OUTPUT, PACE), 2),
        "seconds": seconds,
        "warm_up": warm_up,
        "cores_used_by_the_worker": round(used, 3),
        "client_late_p99_ms": round(late * 1000, 1),
        "loads": rows,
    }

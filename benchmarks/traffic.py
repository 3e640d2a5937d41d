"""Mixed traffic for long runs: whole answers, streams, clients that leave, routes that fail; every call is accounted.

Calls start on schedule (an open loop), each of a kind that is drawn by weight from a fixed seed, and carry a trace id
of their own, so that afterwards it can be told which call has no span.
"""

from __future__ import annotations

import asyncio
import collections
import json
import random
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import httptools

from load import PROMPT, Connection, percentiles

TOKENS = 64


class Kind(NamedTuple):
    """A sort of call.

    Attributes:
        weight: how often it is drawn.
        route: what it calls.
        fails: whether it is meant to: an error status, or a stream that ends with an error.
        leave_ms: when its client hangs up, after sending; 0 stays to the end.
    """

    name: str
    weight: int
    route: str
    stream: bool = False
    fails: bool = False
    leave_ms: float = 0.0


class Outcome(NamedTuple):
    """What became of a call.

    Attributes:
        at: seconds from the start of the traffic to the call's scheduled start.
        status: as answered; 0 when nothing came or its client left.
        good: whether it came out as its kind should.
        seconds: to the end of the answer.
        problem: what was wrong with it, in a word or two.
    """

    kind: str
    trace: str
    at: float
    status: int
    good: bool
    seconds: float
    problem: str = ""


class Traffic:
    """Calls at a rate.

    Args:
        port: where the gateway is.
        keys: drawn in turn.
        patience: seconds a client waits at most.
        heard: told of each call's end.
    """

    def __init__(
        self,
        port: int,
        kinds: Sequence[Kind],
        keys: Sequence[str],
        *,
        rate: float,
        seed: int = 7,
        patience: float = 30.0,
        heard: Callable[[Outcome], None],
    ) -> None:
        self._port = port
        self._kinds = kinds
        self._keys = keys
        self._rate = rate
        self._random = random.Random(seed)
        self._patience = patience
        self._heard = heard
        self._idle: list[Connection] = []
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, seconds: float) -> None:
        """All calls of so many seconds, and wait for the last."""
        begun = time.perf_counter()
        weights = [kind.weight for kind in self._kinds]
        number = 0
        while (at := number / self._rate) < seconds:
            await asyncio.sleep(max(begun + at - time.perf_counter(), 0))
            kind = self._random.choices(self._kinds, weights)[0]
            task = asyncio.create_task(self._call(kind, self._keys[number % len(self._keys)], begun, at))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            number += 1
        if self._running:
            await asyncio.wait(self._running)
        for connection in self._idle:
            connection.transport.close()

    async def _call(self, kind: Kind, key: str, begun: float, at: float) -> None:
        trace = f"{self._random.getrandbits(128) | 1:032x}"
        connection: Connection | None = None
        status, problem = 0, ""
        try:
            connection = await self._connection()
            request = _request(kind, key, trace)
            if kind.leave_ms:
                answered = connection.begin(request)
                await asyncio.sleep(kind.leave_ms / 1000)
                answered.cancel()
                connection.transport.abort()
            else:
                status = await connection.ask(request, self._patience)
                problem = judge(kind, status, b"".join(connection.pieces))
                self._idle.append(connection)
        except TimeoutError:
            problem = "no end in time"
            if connection is not None:
                connection.transport.abort()
        except (OSError, httptools.HttpParserError) as error:
            problem = type(error).__name__
        took = time.perf_counter() - begun - at
        self._heard(Outcome(kind.name, trace, at, status, not problem, took, problem))

    async def _connection(self) -> Connection:
        while self._idle:
            found = self._idle.pop()
            if found.alive:
                return found
        _, made = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", self._port)
        return made


def judge(kind: Kind, status: int, body: bytes) -> str:
    """What is wrong with an answer; empty when nothing is."""
    if kind.fails:
        told = b'"error"' in body and b"[DONE]" not in body
        return "" if told else f"status {status} where an error was due"
    if status != 200:
        return f"status {status} {_code(body)}".strip()
    if body.count(b"tok ") + body.count(b'tok"') != TOKENS:
        return f"not all tokens {_code(body)}".strip()
    if kind.stream and b"[DONE]" not in body[-32:]:
        return "no end of the stream"
    return ""


def _code(body: bytes) -> str:
    """The error's code in an answer, if it has one."""
    text = body.removesuffix(b"\n\n").rpartition(b"data: ")[2]
    try:
        return str(json.loads(text)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return ""


def _request(kind: Kind, key: str, trace: str) -> bytes:
    body: dict[str, object] = {"model": kind.route, "messages": [{"role": "user", "content": PROMPT}]}
    if kind.stream:
        body["stream"] = True
    data = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {key}\r\ncontent-length: {len(data)}\r\n"
        f"traceparent: 00-{trace}-00f067aa0ba902b7-01\r\n\r\n"
    )
    return head.encode() + data


class Tally:
    """Outcomes added up by kind."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = collections.defaultdict(list)
        self.problems: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.traces: dict[str, str] = {}

    def __call__(self, outcome: Outcome) -> None:
        """Take one."""
        self.seconds[outcome.kind].append(outcome.seconds)
        self.traces[outcome.trace] = outcome.kind
        if outcome.problem:
            self.problems[outcome.kind][outcome.problem] += 1

    @property
    def calls(self) -> int:
        """How many there were."""
        return len(self.traces)

    def rows(self) -> dict[str, dict[str, object]]:
        """By kind: calls, problems, milliseconds."""
        return {
            kind: {"calls": len(values), "problems": dict(self.problems[kind]), "ms": percentiles(values)}
            for kind, values in sorted(self.seconds.items())
        }

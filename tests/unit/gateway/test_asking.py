"""A call's attempts: choice, waiting, retries, hedges, fallbacks, and that nothing is held once it is over, however.

The provider is a script that counts turns of the event loop, so nothing here depends on how fast the machine is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detent.gateway.admission import AdaptiveLimit, Gate, Permit
from detent.gateway.cache import AnswerCache
from detent.gateway.call import Call
from detent.gateway.conversations import Conversations
from detent.gateway.errors import ConnectFailed, FirstTokenTimedOut, UpstreamCut
from detent.gateway.limits.estimate import Typical
from detent.gateway.limits.memory import MemoryQuotas
from detent.gateway.limits.meter import Meter
from detent.gateway.listener import CONNECTION
from detent.gateway.metrics import Metrics
from detent.gateway.model import Breaker, Budget, Fallback, Hedge, Limit, Queue, Retry, Route
from detent.gateway.operations import OPERATIONS
from detent.gateway.routing import Fleet, HedgeClock
from detent.gateway.shadowing import Shadows
from detent.gateway.snapshot import KeyEntry, TargetEntry
from detent.gateway.upstream import Connection, Lane, Timeouts
from detent.gateway.world import Deployment, Seat, Way, World, Yard
from detent.guard.addresses import read_endpoint
from detent.kernel.clock import FixedClock
from detent.kernel.errors import DetentError
from detent.kernel.identity import Permission
from detent.kernel.money import Price
from detent.kernel.settings import GatewaySettings
from detent.kernel.telemetry import Span

PRICE = Price(input=1_000_000, output=2_000_000, cached_input=500_000)
PROJECT = "shop"
RULES = (
    Limit(name="calls", project=PROJECT, scope="project", unit="concurrency", amount=1000),
    Limit(name="each", project=PROJECT, scope="model", unit="concurrency", amount=1000),
    Limit(name="words", project=PROJECT, scope="project", unit="tokens", amount=10**9),
)
MONEY = Budget(name="month", project=PROJECT, scope="project", amount=10**12)
BODY = {"model": "m", "messages": [{"role": "user", "content": "Hi!!"}]}
USAGE = {"prompt_tokens": 10, "completion_tokens": 5}
CHOICE = {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
WHOLE = json.dumps({"id": "c", "model": "real", "choices": [CHOICE], "usage": USAGE}).encode()


def event(**found: Any) -> bytes:
    return b"data: " + json.dumps({"id": "c", "model": "real", **found}).encode() + b"\n\n"


ROLE = event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}])
WORD = event(choices=[{"index": 0, "delta": {"content": "Hello"}}])
STOP = event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
COUNT = event(choices=[], usage=USAGE)
DONE = b"data: [DONE]\n\n"
STREAM = (ROLE, WORD, STOP, COUNT, DONE)
MISTAKE = json.dumps({"error": {"message": "temperature is out of range"}}).encode()


class Script:
    """What a provider does with one request: it takes so many turns, then fails, or answers these pieces turn by turn.

    Args:
        status: of the answer; with 200 and several pieces it is a stream.
        odd: an exception that is none of ours, from within the reading of the answer.
    """

    def __init__(
        self,
        *pieces: bytes,
        turns: int = 0,
        status: int = 200,
        error: Exception | None = None,
        cut: bool = False,
        hangs: bool = False,
    ) -> None:
        self.pieces = pieces
        self.turns = turns
        self.status = status
        self.error = error
        self.cut = cut
        self.hangs = hangs


GOOD = Script(WHOLE)
STREAMED = Script(*STREAM)


def busy(turns: int = 0) -> Script:
    return Script(b"{}", status=429, turns=turns)


def down(turns: int = 0) -> Script:
    return Script(turns=turns, error=ConnectFailed("No connection."))


class Odd(Exception):
    """What nobody expects."""


class FakeConnection:
    """One exchange as it is scripted."""

    def __init__(self, provider: Provider, script: Script) -> None:
        self.provider = provider
        self.script = script
        self.status = script.status
        kind = b"text/event-stream" if len(script.pieces) > 1 else b"application/json"
        self.headers = {b"content-type": kind}
        self._left = list(script.pieces)
        provider.open.add(self)

    async def read(self) -> bytes:
        await turns(1)
        if self._left:
            return self._left.pop(0)
        if self.script.error is not None:
            raise self.script.error
        if self.script.hangs:
            await asyncio.Event().wait()
        if self.script.cut:
            raise UpstreamCut("The provider closed the connection.")
        return b""

    async def read_all(self) -> bytes:
        found = b""
        while data := await self.read():
            found += data
        return found

    async def finish(self, _seconds: float) -> None:
        await turns(1)
        self.release()

    def begin(self) -> None:
        pass

    def release(self) -> None:
        self.provider.open.discard(self)

    def close(self) -> None:
        self.provider.open.discard(self)


class Provider:
    """A lane whose far side is scripted; the last script is used again and again.

    Attributes:
        open: connections that nobody has given back.
    """

    def __init__(self, *scripts: Script) -> None:
        self.endpoint = read_endpoint("http://127.0.0.1:9/v1")
        self.scripts = list(scripts)
        self.open: set[FakeConnection] = set()
        self.asked = 0

    async def send(
        self,
        payload: bytes,
        *,
        hold: bool,
        total_deadline: float,
        timeouts: Timeouts,
        sending: Callable[[], None],
    ) -> Connection:
        assert payload.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        self.asked += 1
        sending()
        await turns(script.turns)
        if script.hangs and not script.pieces:
            await asyncio.Event().wait()
        if script.error is not None and not script.pieces:
            raise script.error
        return cast("Connection", FakeConnection(self, script))


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


class Client:
    """The client's connection."""

    stalled = False

    def __init__(self) -> None:
        self.on_gone: Callable[[], None] | None = None
        self.aborted = False
        self.transport = self

    def abort(self) -> None:
        self.aborted = True

    def go(self) -> None:
        if self.on_gone is not None:
            gone, self.on_gone = self.on_gone, None
            gone()


class Late(HedgeClock):
    """Every call is late at once, or after a while that is no time."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def delay(self, now: float, *, streamed: bool = True) -> float | None:
        return self.seconds


class Stage:
    """A worker's parts before scripted providers: route `m` at all but the last of them, its fallback at the last."""

    def __init__(self, folder: Path, *providers: Provider, room: int = 0, hedged: bool = False, **rules: Any) -> None:
        loop = asyncio.get_running_loop()
        self.clock = FixedClock()
        self.settings = GatewaySettings()
        self.metrics = Metrics(folder / "run", "0")
        self.quotas = MemoryQuotas(clock=self.clock)
        self.meter = Meter(self.quotas, clock=self.clock, sender="w")
        self.meter.configure({PROJECT: RULES}, {PROJECT: (MONEY,)})
        self.typical = Typical()
        self.cache = AnswerCache(folder / "cache")
        self.conversations = Conversations(folder / "responses")
        self.spans: list[Span] = []
        self.shadows = Shadows(clock=self.clock, metrics=self.metrics, record=self.record, draw=lambda: 0.5)
        self.providers = providers
        self.gates = [Gate(loop, f"p{n}", AdaptiveLimit()) for n in range(len(providers))]
        self.fleet = Fleet(lambda: 0.5)
        self.permits: list[Permit] = []
        self.sent: list[dict[str, Any]] = []
        rules.setdefault("queue", Queue())
        for gate in self.gates:
            gate.configure(rules["queue"], room)
        last = len(providers) - 1
        falls = rules.pop("fallback", False)
        own = range(last if falls else last + 1)
        if falls:
            rules["fallbacks"] = (Fallback("other"),)
        rules.setdefault("breaker", Breaker(error_rate=0))
        route = Route(name="m", project=PROJECT, targets=(), **rules)
        other = Route(name="other", project=PROJECT, targets=(), breaker=rules["breaker"], queue=rules["queue"])
        self.ways = {"m": self._way(route, own, hedged=hedged), "other": self._way(other, [last])}
        key = self.key = KeyEntry("k", PROJECT, (), 0, (Permission.GATEWAY_CALL,))
        self.world = World(1, {}, {"k": key}, {PROJECT: self.ways}, {}, {}, {}, {}, "")

    def _way(self, rules: Route, numbers: Any, *, hedged: bool = False) -> Way:
        deployments = []
        for n in numbers:
            target = TargetEntry(f"{PROJECT}/p{n}", "real", 1, PRICE)
            seat = Seat(lane=cast("Lane", self.providers[n]), path="/v1")
            deployments.append(Deployment(target, f"p{n}", seat, self.gates[n], self.clock, metered=True))
        candidates = tuple(self.fleet.candidate(d.name, rules.breaker, 0.0) for d in deployments)
        hedges = tuple(Late() if hedged else None for _ in candidates)
        budget = self.fleet.budget(f"{PROJECT}/{rules.name}")
        for _ in range(100):  # calls that came before, so that there is room for retries and hedges
            budget.called(asyncio.get_running_loop().time())
        simple = len(deployments) == 1 and not rules.fallbacks and rules.retry.attempts == 1
        return Way(
            rules.name,
            PROJECT,
            f"{PROJECT}/{rules.name}",
            0,
            tuple(deployments),
            rules,
            Timeouts(),
            simple,
            candidates,
            hedges,
            budget,
        )

    # Host

    def admit(self) -> None:
        pass

    def keeps_content(self, project: str) -> bool:
        return True

    def record(self, span: Span) -> None:
        self.spans.append(span)

    # The call

    def start(self, *, client: Client | None = None, **body: Any) -> asyncio.Task[None]:
        operation = OPERATIONS["/v1/chat/completions"]
        scope: dict[str, Any] = {} if client is None else {CONNECTION: client}
        raw = json.dumps({**BODY, **body}).encode()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": raw}

        async def send(message: Any) -> None:
            await turns(1)
            self.sent.append(message)

        call = Call(self, operation, scope, send, self.key, {})
        return asyncio.get_running_loop().create_task(call.run(self.world, receive))

    async def ask(self, **body: Any) -> tuple[int, bytes]:
        await self.start(**body)
        return self.answered

    @property
    def answered(self) -> tuple[int, bytes]:
        starts = [m["status"] for m in self.sent if m["type"] == "http.response.start"]
        assert len(starts) == 1
        return starts[0], b"".join(m["body"] for m in self.sent if m["type"] == "http.response.body")

    # What is held

    def fill(self, number: int, calls: int) -> None:
        """Others have these places at a deployment."""
        for _ in range(calls):
            permit = self.gates[number].try_enter(asyncio.get_running_loop().time())
            assert permit is not None
            self.permits.append(permit)

    def make_room(self) -> None:
        for permit in self.permits:
            permit.give_back(asyncio.get_running_loop().time())
        self.permits.clear()

    def assert_nothing_is_held(self) -> None:
        self.make_room()
        for gate in self.gates:
            status = gate.status()
            assert (status.in_flight, sum(status.waiting.values())) == (0, 0)
        for way in self.ways.values():
            for candidate in way.candidates:
                health = candidate.health
                assert (health.in_flight, health.streamed.waiting, health.whole.waiting) == (0, 0, 0)
        assert not [connection for provider in self.providers for connection in provider.open]
        assert {level.key: level.held for level in self.quotas.levels(PROJECT) if level.held} == {}
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []

    def assert_books_agree(self) -> None:
        """What was charged to the budget is what the spans say that it cost."""
        used = {level.key: level.used for level in self.quotas.levels(PROJECT) if "money" in level.key}
        assert sum(used.values()) == sum(span.cost or 0 for span in self.spans)
        calls = [span for span in self.spans if "detent.hedge" not in span.attributes]
        assert len(calls) <= 1


def played(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scene())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


# One after the other


def test_the_next_is_asked_when_one_fails(folder: Path) -> None:
    async def scene() -> None:
        stage = Stage(folder, Provider(down()), Provider(GOOD))
        assert await stage.ask() == (200, WHOLE)
        assert (stage.spans[0].attempts, stage.spans[0].provider, stage.spans[0].cost) == (2, "p1", 20_000)
        stage.assert_nothing_is_held()
        stage.assert_books_agree()

    played(scene)


def test_fallback_after_all_failed(folder: Path) -> None:
    async def scene() -> None:
        stage = Stage(
            folder, Provider(busy()), Provider(Script(ROLE, DONE, cut=True)), Provider(STREAMED), fallback=True
        )
        stage.providers[1].scripts = [Script(ROLE, b": ping\n\n", cut=True)]
        status, body = await stage.ask(stream=True)
        assert (status, body) == (200, ROLE + WORD + STOP + DONE)
        assert (stage.spans[0].attempts, stage.spans[0].provider) == (3, "p2")
        assert stage.spans[0].attributes["detent.fallback_route"] == "other"
        stage.assert_nothing_is_held()
        stage.assert_books_agree()

    played(scene)


def test_retries_keep_within_their_number(folder: Path) -> None:
    async def scene() -> None:
        stage = Stage(folder, Provider(busy()), retry=Retry(attempts=3, backoff_ms=0))
        status, _ = await stage.ask()
        assert (status, stage.providers[0].asked, stage.spans[0].attempts) == (429, 3, 3)
        stage.assert_nothing_is_held()

    played(scene)


def test_a_stream_that_broke_off_is_not_complete(folder: Path) -> None:
    async def scene() -> None:
        stage = Stage(folder, Provider(Script(ROLE, WORD, cut=True)), Provider(STREAMED))
        status, body = await stage.ask(stream=True)
        assert status == 200
        assert body.startswith(ROLE + WORD + b'data: {"error":')
        assert b"[DONE]" not in body
        assert (stage.spans[0].status, stage.spans[0].usage_estimated) == ("error", True)
        stage.assert_nothing_is_held()
        stage.assert_books_agree()

    played(scene)


# What nobody expects


@pytest.mark.parametrize("hedged", [False, True])
@pytest.mark.parametrize("script", [Script(error=Odd()), Script(ROLE, error=Odd()), Script(ROLE, WORD, error=Odd())])
def test_a_bug_of_ours_leaks_nothing_and_is_recorded(folder: Path, script: Script, *, hedged: bool) -> None:
    async def scene() -> None:
        slow = Script(*STREAM, turns=50)
        stage = Stage(folder, Provider(script), Provider(slow), hedged=hedged, hedge=Hedge(0.9, 1.0))
        with contextlib.suppress(Odd):
            await stage.ask(stream=True)
        assert [span.error_type for span in stage.spans if "detent.hedge" not in span.attributes] == ["bug"]
        stage.assert_nothing_is_held()

    played(scene)


# Hedges


HEDGED: dict[str, Any] = {"hedged": True, "hedge": Hedge(0.9, 1.0)}


def test_the_quicker_one_wins_and_the_other_is_paid(folder: Path) -> None:
    async def scene() -> None:
        stage = Stage(folder, Provider(Script(WHOLE, turns=100)), Provider(GOOD), **HEDGED)
        assert await stage.ask() == (200, WHOLE)
        lost, call = stage.spans
        assert (lost.provider, lost.attributes["detent.hedge"], lost.parent_id) == ("p0", "lost", call.span_id)
        assert (call.provider, call.attempts, call.attributes["detent.hedged"]) == ("p1", 2, True)
        stage.assert_nothing_is_held()
        stage.assert_books_agree()

    played(scene)


def test_both_at_once(folder: Path) -> None:
    async def scene() -> None:
        for slow in range(12):
            stage = Stage(folder, Provider(Script(WHOLE, turns=slow)), Provider(GOOD), **HEDGED)
            assert await stage.ask() == (200, WHOLE)
            assert sum("detent.hedge" not in span.attributes for span in stage.spans) == 1
            stage.assert_nothing_is_held()
            stage.assert_books_agree()

    played(scene)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("pace", range(12))
def test_a_hedge_that_is_refused_does_not_spoil_the_call(folder: Path, pace: int, *, stream: bool) -> None:
    async def scene() -> None:
        good = Script(*(STREAM if stream else (WHOLE,)), turns=pace)
        stage = Stage(folder, Provider(good), Provider(Script(MISTAKE, status=400)), **HEDGED)
        status, _ = await stage.ask(stream=stream)
        assert status == 200
        stage.assert_nothing_is_held()
        stage.assert_books_agree()

    played(scene)


@pytest.mark.parametrize("pace", range(12))
def test_a_hedge_that_fails_costs_nothing(folder: Path, pace: int) -> None:
    async def scene() -> None:
        stage = Stage(folder, Provider(Script(WHOLE, turns=pace)), Provider(busy(turns=2)), **HEDGED)
        assert (await stage.ask())[0] == 200
        stage.assert_nothing_is_held()
        stage.assert_books_agree()
        failed = [span for span in stage.spans if "detent.failed_attempts" in span.attributes]
        lost = [span for span in stage.spans if "detent.hedge" in span.attributes]
        assert len(failed) + len(lost) == stage.providers[1].asked

    played(scene)


def test_the_first_ones_refusal_is_the_answer(folder: Path) -> None:
    async def scene() -> None:
        refused = Script(MISTAKE, status=400, turns=5)
        stage = Stage(folder, Provider(refused), Provider(Script(WHOLE, turns=100)), **HEDGED)
        assert await stage.ask() == (400, MISTAKE)
        stage.assert_nothing_is_held()
        stage.assert_books_agree()

    played(scene)


# The client's connection


def test_the_next_call_on_a_connection_learns_that_its_client_is_gone(folder: Path) -> None:
    """A stream's end is read off while the client already sends its next request."""

    async def scene() -> None:
        stage, client = Stage(folder, Provider(STREAMED)), Client()
        task = stage.start(client=client, stream=True)
        while not stage.sent or stage.sent[-1].get("more_body", True):
            await turns(1)
        assert not task.done()
        client.on_gone = following = lambda: None
        await task
        assert client.on_gone is following
        stage.assert_nothing_is_held()

    played(scene)


# Swaps


def test_a_deployment_that_comes_back_is_known_while_calls_are_at_it() -> None:
    async def scene() -> None:
        yard = Yard(lambda: 0.5, FixedClock())
        gate, health = yard.gate("a/b/c", Queue(), 1), yard.fleet.health("a/b/c")
        permit = gate.try_enter(0.0)
        trial = yard.fleet.candidate("a/b/c", Breaker(), 0.0).begin(0.0)
        assert permit is not None
        assert trial is not None
        yard.keep(())
        assert yard.gate("a/b/c", Queue(), 1) is gate
        assert yard.fleet.health("a/b/c") is health
        permit.give_back(1.0)
        trial.abandoned()
        yard.keep(())
        assert yard.gate("a/b/c", Queue(), 1) is not gate
        assert yard.fleet.health("a/b/c") is not health

    played(scene)


# Cancelled at every await


SCENES: dict[str, Callable[[Path], Stage]] = {
    "queue": lambda folder: Stage(folder, Provider(GOOD), room=1),
    "whole": lambda folder: Stage(folder, Provider(Script(WHOLE, turns=3))),
    "stream": lambda folder: Stage(folder, Provider(STREAMED)),
    "retry": lambda folder: Stage(folder, Provider(busy(2), busy(2), STREAMED), retry=Retry(attempts=3, backoff_ms=0)),
    "next": lambda folder: Stage(folder, Provider(down(2)), Provider(Script(ROLE, cut=True)), Provider(STREAMED)),
    "fallback": lambda folder: Stage(folder, Provider(busy(2)), Provider(STREAMED), fallback=True),
    "hedge": lambda folder: Stage(folder, Provider(Script(*STREAM, turns=9)), Provider(STREAMED), **HEDGED),
    "hedge lost": lambda folder: Stage(folder, Provider(STREAMED), Provider(Script(*STREAM, turns=9)), **HEDGED),
    "hedge failed": lambda folder: Stage(folder, Provider(busy(3)), Provider(Script(*STREAM, turns=5)), **HEDGED),
    "hedge whole": lambda folder: Stage(folder, Provider(Script(WHOLE, turns=5)), Provider(GOOD), **HEDGED),
}


@pytest.mark.parametrize("who", ["client", "drain", "both"])
@pytest.mark.parametrize("name", SCENES)
def test_cancelled_at_every_turn(folder: Path, name: str, who: str) -> None:
    """However late a call is given up, nothing is held afterwards, and there is one span of it."""

    async def scene() -> None:
        for late in range(1, 45):
            stage, client = SCENES[name](folder), Client()
            if name == "queue":
                stage.fill(0, 1)
            task = stage.start(client=client, stream="whole" not in name)
            await turns(late)
            if name == "queue" and late > 10:
                stage.make_room()
                await turns(late - 10)
            if who != "drain":
                client.go()
            if who != "client":
                task.cancel()
            if who == "both":
                await turns(1)
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await turns(5)
            stage.assert_nothing_is_held()
            stage.assert_books_agree()
            assert sum("detent.hedge" not in span.attributes for span in stage.spans) == 1

    played(scene)


# Whatever happens


SCRIPTS = st.sampled_from(
    [
        GOOD,
        STREAMED,
        busy(),
        busy(4),
        down(),
        down(3),
        Script(error=FirstTokenTimedOut("No first output."), turns=2),
        Script(MISTAKE, status=400, turns=1),
        Script(b"no json"),
        Script(ROLE, cut=True),
        Script(ROLE, WORD, cut=True),
        Script(ROLE, b"data: \xff\n\n"),
        Script(*STREAM, turns=6),
        Script(WHOLE, turns=4),
        Script(hangs=True),
        Script(ROLE, WORD, hangs=True),
        Script(error=Odd(), turns=1),
    ]
)


@given(
    scripts=st.lists(st.lists(SCRIPTS, min_size=1, max_size=3), min_size=2, max_size=3),
    hedged=st.booleans(),
    fallback=st.booleans(),
    attempts=st.integers(1, 3),
    stream=st.booleans(),
    full=st.booleans(),
    late=st.integers(1, 60),
    who=st.sampled_from(["client", "drain", "both"]),
)
def test_nothing_is_held_afterwards(
    tmp_path_factory: pytest.TempPathFactory,
    scripts: list[list[Script]],
    hedged: bool,
    fallback: bool,
    attempts: int,
    stream: bool,
    full: bool,
    late: int,
    who: str,
) -> None:
    async def scene() -> None:
        providers = [Provider(*some) for some in scripts]
        stage = Stage(
            tmp_path_factory.getbasetemp(),
            *providers,
            room=1 if full else 0,
            hedged=hedged,
            hedge=Hedge(0.9, 1.0),
            fallback=fallback,
            retry=Retry(attempts=attempts, backoff_ms=0),
        )
        if full:
            stage.fill(0, 1)
        client = Client()
        task = stage.start(client=client, stream=stream)
        await turns(late // 2)
        stage.make_room()
        await turns(late - late // 2)
        if who != "drain":
            client.go()
        if who != "client":
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Odd, DetentError):
            await task
        await turns(5)
        stage.assert_nothing_is_held()
        stage.assert_books_agree()

    played(scene)

"""Limits under everything that happens: several workers, crashes, late and repeated settles, lost replies, clock steps.

Never more than the limit (plus, where a call took more than it had reserved, that shortfall); no refusal unless the
limit is really reached, but for the declared slack; nothing reserved after the lease.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from detent.gateway.errors import BudgetSpent, LimitExceeded
from detent.gateway.limits.memory import MemoryQuotas
from detent.gateway.limits.meter import Grant, Meter
from detent.gateway.limits.rules import Asked
from detent.gateway.model import Budget, Limit
from detent.kernel.clock import DAY, MINUTE, SECOND
from detent.kernel.errors import DetentError, StorageFailed
from detent.kernel.quotas import CELLS, LEASE, SEPARATOR, Counter, Level, Move, Share, blank, exchange, level

WINDOW = 60 * SECOND
SUB = WINDOW // 60
WORKERS = 3
SCALE = 16
"""Far counters get limits, and bursts, so much larger: slices begin where a sixteenth of what is free is one."""


class Clock:
    """A wall clock that people set, and a monotonic one that nobody does."""

    def __init__(self) -> None:
        self.wall = 1_767_225_600 * SECOND
        self.elapsed = 100 * DAY

    def now(self) -> int:
        return self.wall

    def monotonic(self) -> int:
        return self.elapsed

    def advance(self, by: int) -> None:
        self.wall += by
        self.elapsed += by


class Inline(Executor):
    """Runs at once what is handed to it."""

    def submit(self, work: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*arguments, **named))
        except DetentError as error:
            future.set_exception(error)
        return future


class Far:
    """Counters across a network that loses what was asked, or the reply."""

    remote = True

    def __init__(self, clock: Clock) -> None:
        self.near = MemoryQuotas(clock=clock)
        self.told: dict[str, tuple[Share, ...]] = {}
        self.faults: list[str] = []

    def exchange(self, moves: Sequence[Move], *, ticket: str = "") -> tuple[Share, ...]:
        fault = self.faults.pop() if self.faults else ""
        if fault == "before":
            raise StorageFailed("lost")
        if ticket not in self.told:
            self.told[ticket] = self.near.exchange(moves)
        if fault == "after":
            raise StorageFailed("lost")
        return self.told[ticket]

    def levels(self, project: str) -> tuple[Level, ...]:
        return self.near.levels(project)

    def sync(self) -> None: ...

    def close(self) -> None: ...


@dataclass
class Truth:
    """What really happened."""

    charged: list[tuple[int, int]] = field(default_factory=list)  # (time, grant) of requests that were not taken back
    tokens: list[tuple[int, int]] = field(default_factory=list)
    money: int = 0
    token_shortfall: int = 0
    money_shortfall: int = 0
    open: dict[str, tuple[int, Grant, int, int]] = field(default_factory=dict)  # id: worker, grant, tokens, cost
    lost: list[tuple[int, int, int, int]] = field(default_factory=list)  # time, calls, tokens, cost of crashed workers
    number: int = 0
    released: int = 0

    def within(self, events: list[tuple[int, int]], now: int, span: int) -> int:
        return sum(amount for at, amount in events if at > now - span)


Ops = list[tuple[Any, ...]]
_WORKER = st.integers(0, WORKERS - 1)
_WHICH = st.integers(0, 9)
_RESERVE = st.tuples(st.just("reserve"), _WORKER, st.integers(1, 120), st.integers(0, 700))
_SMALL = st.tuples(st.just("reserve"), _WORKER, st.integers(1, 20), st.integers(0, 50))
_SETTLE = st.tuples(st.sampled_from(["settle", "twice"]), _WHICH, st.integers(0, 150), st.integers(0, 900))
_LESS = st.tuples(st.just("settle"), _WHICH, st.integers(0, 10), st.integers(0, 20))
_RELEASE = st.tuples(st.just("release"), _WHICH, st.just(0), st.just(0))
_CRASH = st.tuples(st.just("crash"), _WORKER)
_SOON = st.tuples(st.just("advance"), st.sampled_from([SUB // 2, SECOND, 5 * SECOND]))
_LATER = st.tuples(st.just("advance"), st.sampled_from([LEASE, WINDOW, 2 * WINDOW]))
_STEP = st.tuples(st.just("step"), st.sampled_from([-3600 * SECOND, -SECOND, SECOND, 3600 * SECOND]))
_FAULT = st.tuples(st.just("fault"), st.sampled_from(["before", "after"]))
OPS = st.lists(
    st.one_of(
        *[
            _RESERVE,
            _SMALL,
            _SMALL,
            _SMALL,
            _SETTLE,
            _LESS,
            _LESS,
            _RELEASE,
            _CRASH,
            _SOON,
            _SOON,
            _LATER,
            _STEP,
            _FAULT,
        ]
    ),
    min_size=12,
    max_size=60,
)


class World:
    """Workers over one store, and the truth beside them."""

    def __init__(self, *, far: bool, crashes: bool, faults: bool) -> None:
        self.clock = Clock()
        self.scale = SCALE if far else 1
        self.requests = Limit(name="requests", project="p", scope="project", unit="requests", amount=8 * self.scale)
        self.tokens = Limit(name="tokens", project="p", scope="project", unit="tokens", amount=300 * self.scale)
        self.slots = Limit(name="slots", project="p", scope="project", unit="concurrency", amount=6 * self.scale)
        self.money = Budget(name="money", project="p", scope="project", amount=4_000 * self.scale)
        self.quotas: Any = Far(self.clock) if far else MemoryQuotas(clock=self.clock)
        self.far, self.crashes, self.faults = far, crashes, faults
        self.truth = Truth()
        self.born = 0
        self.degraded = 0
        self.meters = [self.worker() for _ in range(WORKERS)]

    def worker(self) -> Meter:
        self.born += 1
        meter = Meter(
            self.quotas, clock=self.clock, sender=f"w{self.born}", count=self.count, executor=Inline(), stands=0
        )
        meter.configure({"p": (self.requests, self.tokens, self.slots)}, {"p": (self.money,)})
        return meter

    def count(self, what: str) -> None:
        self.degraded += what == "degraded"

    async def do(self, op: tuple[Any, ...]) -> None:
        truth, clock = self.truth, self.clock
        match op:
            case ("reserve", worker, tokens, cost):
                for _ in range(self.scale):
                    await self.reserve(worker, tokens, cost)
                    await asyncio.sleep(0)
            case ("settle" | "twice" | "release" as how, which, tokens, cost):
                for _ in range(min(self.scale, len(truth.open))):
                    self.close(how, which, tokens, cost)
            case ("crash", worker) if self.crashes:
                mine = {call: held for call, held in truth.open.items() if held[0] == worker}
                for call, (_worker, _grant, tokens, cost) in mine.items():
                    truth.lost.append((clock.elapsed, 1, tokens, cost))
                    del truth.open[call]
                truth.lost.append((clock.elapsed, 0, 0, 0))
                for task in self.meters[worker]._tasks:
                    task.cancel()
                self.meters[worker] = self.worker()
            case ("advance", by):
                while by > 0:
                    clock.advance(min(by, SECOND))
                    by -= SECOND
                    for meter in self.meters:
                        await meter.tick()
            case ("step", by):
                clock.wall += by
            case ("fault", kind) if self.faults:
                self.quotas.faults.append(kind)
                truth.released += 1  # an ask that was lost and granted is taken back as well

    def close(self, how: str, which: int, tokens: int, cost: int) -> None:
        truth = self.truth
        call = sorted(truth.open)[which % len(truth.open)]
        _worker, grant, reserved, reserved_cost = truth.open.pop(call)
        if how == "release":
            assert grant.release()
            truth.released += 1
            truth.charged = [event for event in truth.charged if event[1] != int(call)]
            return
        assert grant.settle(tokens, cost)
        truth.tokens.append((self.clock.elapsed, tokens))
        truth.money += cost
        truth.token_shortfall += max(tokens - reserved, 0)
        truth.money_shortfall += max(cost - reserved_cost, 0)
        if how == "twice":
            assert not grant.settle(tokens, cost)
            assert not any(meter.settle(call, tokens, cost) for meter in self.meters)

    async def reserve(self, worker: int, tokens: int, cost: int) -> None:
        truth, now = self.truth, self.clock.elapsed
        truth.number += 1
        call = f"{truth.number:04d}"
        asked = Asked(id=call, project="p", key="k", tokens=tokens, cost=cost)
        try:
            grant = await self.meters[worker].reserve(asked)
        except (LimitExceeded, BudgetSpent) as error:
            self.check_refusal(error, tokens, cost, now)
            return
        truth.charged.append((now, truth.number))
        truth.open[call] = (worker, grant, tokens, cost)
        if not self.faults:
            self.check_bounds(now)

    def check_bounds(self, now: int) -> None:
        """Never more than the limit: used in the window and reserved by living calls, but for shortfalls."""
        truth = self.truth
        requests = [(at, 1) for at, _number in truth.charged]
        assert truth.within(requests, now, WINDOW) <= self.requests.amount
        held = sum(entry[2] for entry in truth.open.values())
        assert truth.within(truth.tokens, now, WINDOW) + held <= self.tokens.amount + truth.token_shortfall
        assert len(truth.open) <= self.slots.amount
        held = sum(entry[3] for entry in truth.open.values())
        assert truth.money + held <= self.money.amount + truth.money_shortfall

    def check_refusal(self, error: DetentError, tokens: int, cost: int, now: int) -> None:
        """No phantom: what is used or reserved, crashed workers' reservations included, leaves no room."""
        truth = self.truth
        lost = [entry for entry in truth.lost if entry[0] > now - LEASE]
        holders = WORKERS - 1 + sum(1 for entry in lost if not entry[1])
        slack = 0.1 * holders if self.far else 0.0
        if self.faults:
            return
        name = error.message.split("'")[1]
        if name == "requests":
            requests = [(at, 1) for at, _number in truth.charged]
            late = truth.released if self.far else 0
            taken, ask, amount = truth.within(requests, now, WINDOW + SUB) + late, 1, self.requests.amount
        elif name == "tokens":
            held = sum(entry[2] for entry in truth.open.values()) + sum(entry[2] for entry in lost)
            taken, ask, amount = (
                truth.within(truth.tokens, now, WINDOW + SUB + SECOND) + held,
                tokens,
                self.tokens.amount,
            )
        elif name == "slots":
            taken, ask, amount = len(truth.open) + len(lost), 1, self.slots.amount
        else:
            held = sum(entry[3] for entry in truth.open.values()) + sum(entry[3] for entry in lost)
            taken, ask, amount = truth.money + held, cost, self.money.amount
        assert taken + ask > amount * (1 - slack), (name, taken, ask, amount)

    def counted(self, events: list[tuple[int, int]], *, late: int = 0) -> int:
        """What a ring still counts of these now, if they were told up to `late` sub-windows late."""
        oldest = self.clock.elapsed // SUB - 60 - late
        return sum(amount for at, amount in events if at // SUB >= oldest)

    async def end(self) -> dict[str, int]:
        """All calls settle with nothing; after the lease nothing is held by anybody. What is used, by rule."""
        if self.faults:
            self.quotas.faults.clear()
            self.clock.advance(SECOND)
        for _worker, grant, _tokens, _cost in self.truth.open.values():
            grant.settle(0, 0)
        for meter in self.meters:
            await meter.tick()
        for _ in range(LEASE // SECOND):
            self.clock.advance(SECOND)
            for meter in self.meters:
                await meter.tick()
        levels = self.quotas.levels("p")
        assert [one.held for one in levels] == [0] * len(levels)
        used: dict[str, int] = {}
        for one in levels:
            name = one.key.split(SEPARATOR)[2]
            used[name] = used.get(name, 0) + one.used
        return used


def play(ops: Ops, *, far: bool, crashes: bool, faults: bool) -> None:
    async def work() -> None:
        world = World(far=far, crashes=crashes, faults=faults)
        for op in ops:
            await world.do(op)
        used = await world.end()
        truth = world.truth
        if not (far and crashes):  # a far worker that dies takes what it had not told yet with it, a second's worth
            assert used.get("money", 0) == truth.money
            requests = [(at, 1) for at, _number in truth.charged]
            # Far requests that were released are taken from the oldest sub-window, so they may come back late.
            late = truth.released if far else 0
            for name, events, more in (("tokens", truth.tokens, 0), ("requests", requests, late)):
                most = world.counted(events, late=2 if far else 0) + more
                assert world.counted(events) <= used.get(name, 0) <= most

    asyncio.run(work())


BURST: Ops = [("reserve", number % WORKERS, 1, 0) for number in range(8)]
SETTLED: Ops = [("settle", 0, 1, 0)] * 8
ALONE: Ops = [("reserve", 0, 1, 0), ("settle", 0, 1, 0)]


@given(OPS)
@example(
    [
        ("advance", SUB // 2),
        *BURST[:4],
        *SETTLED,
        *BURST[:4],
        *SETTLED,
        *BURST[:4],
        *SETTLED,
        ("advance", 59 * SECOND),
        ("advance", SUB // 2),
        *BURST,
    ]
)
@example([("reserve", 0, 1, 0), ("release", 0, 0, 0), ("advance", SUB // 2)] * 14)
@example([("reserve", number % 3, 20, 10) for number in range(5)] + [("crash", 0), ("advance", LEASE)] * 3)
def test_near_counters_are_exact(ops: Ops) -> None:
    play(ops, far=False, crashes=True, faults=False)


@given(OPS)
@example([*ALONE * 6, ("reserve", 1, 1, 0), *ALONE * 6])
def test_far_counters_never_let_more_through(ops: Ops) -> None:
    play(ops, far=True, crashes=False, faults=False)


@given(OPS)
def test_far_workers_that_die_leak_nothing(ops: Ops) -> None:
    play(ops, far=True, crashes=True, faults=False)


@given(OPS)
@example([("fault", "after"), ("reserve", 0, 1, 0), ("settle", 0, 5, 9), ("advance", SECOND)])
def test_lost_replies_and_outages_lose_and_double_nothing(ops: Ops) -> None:
    play(ops, far=True, crashes=False, faults=True)


# Writes that are cut


class Cut(Exception):
    """The process died."""


class Dying(list[int]):
    """Cells whose writer dies at a given write."""

    left = 1 << 30

    def __setitem__(self, at: Any, value: Any) -> None:
        if self.left == 0:
            raise Cut
        self.left -= 1
        super().__setitem__(at, value)


@pytest.mark.parametrize("writes", range(40))
@pytest.mark.parametrize("gap", [0, 5 * SECOND, WINDOW + 2 * SUB])
def test_a_process_that_dies_between_two_writes_leaves_nothing_wrong(writes: int, gap: int) -> None:
    window = Counter(f"p{SEPARATOR}w", "p", 100, window=WINDOW)
    slots = Counter(f"p{SEPARATOR}s", "p", 100)
    cells = [Dying(blank()), Dying(blank())]
    places = [(one, 0) for one in cells]
    now = 100 * DAY
    first = exchange(places, [Move(window, ask=10), Move(slots, ask=5)], now)
    exchange(places, [Move(window, ask=7, charge=True), Move(slots)], now)
    now += gap
    moves = [
        Move(window, spent=4, had=10, lease=first[0].lease, keep=3, ask=2),
        Move(slots, had=5, lease=first[1].lease, keep=2, ask=2),
    ]
    for one in cells:
        one.left = writes
    with contextlib.suppress(Cut):
        exchange(places, moves, now)
    for one in cells:
        one.left = 1 << 30
    seen = exchange(places, [Move(window), Move(slots)], now)
    before = 7 if gap < WINDOW else 0
    assert before <= seen[0].used <= before + 4
    assert seen[0].used + level(cells[0], 0, now)[1] <= 7 + 4 + 10
    # The cached sums are the rings' again, and all that was held lapses.
    assert seen[0].used == sum(cells[0][8 : 8 + 61])
    now += LEASE
    after = exchange(places, [Move(window), Move(slots)], now)
    assert [level(one, 0, now)[1] for one in cells] == [0, 0]
    assert after[1].free == 100
    assert len(cells[0]) == CELLS
    assert exchange(places, [Move(window), Move(slots)], now + 2 * WINDOW + MINUTE)[0].free == 100

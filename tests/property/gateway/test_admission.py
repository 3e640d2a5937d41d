"""The gate against a plain list of who waits and who is in: permits are conserved, nobody is lost or woken twice."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.overload import FixedLimit
from benchmarks.virtual_loop import VirtualLoop
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from detent.gateway.admission import Gate, Permit
from detent.gateway.errors import Shed
from detent.gateway.model import Queue

BANDS = ("interactive", "default", "batch")


class Caller:
    """One who asked, and what became of it."""

    def __init__(self, project: str, band: str, deadline: float) -> None:
        self.project = project
        self.band = band
        self.deadline = deadline
        self.task: asyncio.Task[Permit]
        self.cancelled = False
        self.over = False


class Admission(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.callers: list[Caller] = []

    @initialize(
        room=st.integers(1, 4),
        length=st.integers(0, 6),
        order=st.sampled_from(["newest_first", "fifo"]),
        ms=st.integers(1, 5000),
    )
    def make(self, room: int, length: int, order: Any, ms: int) -> None:
        self.limit = FixedLimit(room)
        self.gate = Gate(self.loop, "m", self.limit)
        self.queue = Queue(length=length, order=order, deadline_ms=ms)
        self.gate.configure(self.queue)

    def settle(self, seconds: float = 0.0) -> None:
        async def some() -> None:
            await asyncio.sleep(seconds)
            for _ in range(4):
                await asyncio.sleep(0)

        self.loop.run_until_complete(some())

    @property
    def inside(self) -> list[Caller]:
        return [c for c in self.callers if not c.over and c.task.done() and not failed(c)]

    @property
    def waiting(self) -> list[Caller]:
        return [c for c in self.callers if not c.task.done()]

    @rule(
        project=st.sampled_from("xyz"),
        band=st.sampled_from(BANDS),
        weight=st.integers(1, 5),
        within=st.floats(0.0, 5.0),
        wake=st.booleans(),
    )
    def ask(self, project: str, band: Any, weight: int, within: float, wake: bool) -> None:
        caller = Caller(project, band, self.loop.time() + within)
        caller.task = self.loop.create_task(self.gate.enter(project, weight, band, caller.deadline))
        self.callers.append(caller)
        if wake:
            self.settle()

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), outcome=st.sampled_from(["good", "overloaded", "failed", "abandoned"]), wake=st.booleans())
    def leave(self, data: st.DataObject, outcome: Any, wake: bool) -> None:
        caller = data.draw(st.sampled_from(self.inside))
        caller.over = True
        caller.task.result().leave(self.loop.time(), outcome, 10)
        if wake:
            self.settle()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), wake=st.booleans())
    def cancel(self, data: st.DataObject, wake: bool) -> None:
        caller = data.draw(st.sampled_from(self.waiting))
        caller.cancelled = True
        caller.task.cancel()
        if wake:
            self.settle()

    @rule(seconds=st.floats(0.0, 2.0))
    def wait(self, seconds: float) -> None:
        self.settle(seconds)

    @rule(room=st.integers(1, 6), length=st.integers(0, 6), order=st.sampled_from(["newest_first", "fifo"]))
    def configure(self, room: int, length: int, order: Any) -> None:
        self.settle()
        self.limit.room = max(
            room, len(self.inside)
        )  # a lower limit turns nobody out; not to be told from a breach here
        self.queue = Queue(length=max(length, len(self.waiting)), order=order, deadline_ms=self.queue.deadline_ms)
        self.gate.configure(self.queue)
        self.settle()

    @invariant()
    def books_are_right(self) -> None:
        if not hasattr(self, "gate"):
            return
        found = self.gate.status()
        assert found.in_flight <= self.limit.room
        assert sum(found.waiting.values()) <= self.queue.length
        assert len(self.inside) <= found.in_flight, "some may have a permit and not be awake"
        if sum(found.waiting.values()):
            assert found.in_flight == self.limit.room, "nobody waits while there is room"

    @rule()
    def look_when_all_are_awake(self) -> None:
        self.settle()
        found = self.gate.status()
        assert found.in_flight == len(self.inside)
        assert sum(found.waiting.values()) == len(self.waiting)
        for band in BANDS:
            assert found.waiting[band] == sum(c.band == band for c in self.waiting)
        assert all(c.deadline > self.loop.time() for c in self.waiting), "who is late was told so"

    def teardown(self) -> None:
        for caller in self.waiting:
            caller.task.cancel()
        self.settle()
        for caller in self.inside:
            caller.task.result().leave(self.loop.time(), "good")
        self.settle()
        if hasattr(self, "gate"):
            found = self.gate.status()
            assert (found.in_flight, sum(found.waiting.values())) == (0, 0)
        self.settle(10.0)
        self.loop.close()


def failed(caller: Caller) -> bool:
    if caller.task.cancelled():
        return True
    error = caller.task.exception()
    assert error is None or isinstance(error, Shed), error
    return error is not None


Admission.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAdmission = Admission.TestCase

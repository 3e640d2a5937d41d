"""The gate: permits, the line, refusals, cancellation. Real asyncio, in a loop whose clock jumps."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from benchmarks.overload import FixedLimit
from benchmarks.virtual_loop import run

from detent.gateway.admission import Gate, Permit, together
from detent.gateway.errors import DeadlineUnmet, QueueFull, Shed
from detent.gateway.model import Band, Queue
from detent.kernel.errors import Unavailable

Scene = Callable[[], Coroutine[Any, Any, None]]


def virtual(scene: Scene) -> Callable[[], None]:
    def test() -> None:
        run(scene())

    test.__name__ = scene.__name__
    test.__doc__ = scene.__doc__
    return test


def now() -> float:
    return asyncio.get_running_loop().time()


def gate(room: int = 1, **queue: Any) -> Gate:
    made = Gate(asyncio.get_running_loop(), "acme/large", FixedLimit(room))
    made.configure(Queue(**queue))
    return made


def entered(one: Gate) -> Permit:
    permit = one.try_enter(now())
    assert permit is not None
    return permit


class Callers:
    """Callers who wait, by name, in the order in which they were let in."""

    def __init__(self, one: Gate) -> None:
        self.gate = one
        self.order: list[str] = []
        self.refused: dict[str, Shed] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.permits: dict[str, Permit] = {}

    async def join(
        self, name: str, project: str = "p", weight: int = 1, band: Band = "default", within: float | None = None
    ) -> None:
        async def call() -> None:
            try:
                deadline = None if within is None else now() + within
                self.permits[name] = await self.gate.enter(project, weight, band, deadline)
                self.order.append(name)
            except Shed as error:
                self.refused[name] = error

        self.tasks[name] = asyncio.create_task(call())
        await asyncio.sleep(0)

    async def serve(self, first: Permit, count: int) -> None:
        """Let in one after the other, each giving its permit to the next."""
        permit = first
        for _ in range(count):
            permit.leave(now(), "good")
            await settle()
            permit = self.permits[self.order[-1]]


async def settle() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


@virtual
async def test_there_is_room_until_the_limit() -> None:
    one = gate(2)
    a, b = one.try_enter(0.0), one.try_enter(0.0)
    assert a is not None
    assert b is not None
    assert one.try_enter(0.0) is None
    a.leave(1.0, "good")
    assert one.try_enter(1.0) is not None


@virtual
async def test_a_permit_is_given_back_once() -> None:
    one = gate(2)
    a, _ = entered(one), entered(one)
    a.leave(1.0, "good")
    a.leave(1.0, "failed")
    a.give_back(1.0)
    a.first_output(2.0)
    assert one.status().in_flight == 1


@virtual
async def test_the_newest_is_served_first() -> None:
    one = gate()
    first, callers = entered(one), Callers(one)
    for name in "abc":
        await callers.join(name)
    await callers.serve(first, 3)
    assert callers.order == ["c", "b", "a"]


@virtual
async def test_or_the_first_where_so_configured() -> None:
    one = gate(order="fifo")
    first, callers = entered(one), Callers(one)
    for name in "abc":
        await callers.join(name)
    await callers.serve(first, 3)
    assert callers.order == ["a", "b", "c"]


@virtual
async def test_urgent_bands_go_first_and_none_starves() -> None:
    one = gate(length=1000, deadline_ms=1_000_000)
    first, callers = entered(one), Callers(one)
    for number in range(100):
        await callers.join(f"i{number}", band="interactive")
        await callers.join(f"d{number}", band="default")
        await callers.join(f"b{number}", band="batch")
    await callers.serve(first, 100)
    assert Counter(name[0] for name in callers.order) == {"i": 86, "d": 10, "b": 4}
    assert [name[0] for name in callers.order[:10]] == ["i"] * 9 + ["d"]


@virtual
async def test_projects_share_by_weight_however_many_calls_they_send() -> None:
    one = gate(length=1000, deadline_ms=1_000_000)
    first, callers = entered(one), Callers(one)
    for number in range(200):
        await callers.join(f"x{number}", "x", 1)
    for number in range(90):
        await callers.join(f"y{number}", "y", 3)
    await callers.serve(first, 80)
    assert Counter(name[0] for name in callers.order) == {"x": 20, "y": 60}


@virtual
async def test_who_comes_back_at_once_gets_no_more_than_its_share() -> None:
    """One call at a time, each sent as soon as the last one was let in, beside a project with many."""
    one = gate(length=1000, deadline_ms=1_000_000)
    permit, callers = entered(one), Callers(one)
    for number in range(60):
        await callers.join(f"x{number}", "x")
    await callers.join("y0", "y")
    for number in range(40):
        permit.leave(now(), "good")
        await settle()
        permit = callers.permits[callers.order[-1]]
        if callers.order[-1][0] == "y":
            await callers.join(f"y{number + 1}", "y")
    assert 18 <= Counter(name[0] for name in callers.order)["y"] <= 22


@virtual
async def test_whoever_can_no_longer_begin_in_time_is_refused_at_that_moment() -> None:
    one = gate(deadline_ms=2000)
    entered(one)
    callers = Callers(one)
    await callers.join("a")
    await callers.join("b", within=0.5)
    await asyncio.sleep(0.6)
    assert list(callers.refused) == ["b"]
    assert isinstance(callers.refused["b"], DeadlineUnmet)
    await asyncio.sleep(1.5)
    assert list(callers.refused) == ["b", "a"]
    assert one.status().waiting == {"interactive": 0, "default": 0, "batch": 0}
    assert one.status().shed == 2


@virtual
async def test_a_call_brings_its_own_deadline() -> None:
    one = gate(deadline_ms=1000)
    entered(one)
    callers = Callers(one)
    await callers.join("a", within=3.0)
    await callers.join("b")
    await asyncio.sleep(1.1)
    assert list(callers.refused) == ["b"]
    await asyncio.sleep(2)
    assert list(callers.refused) == ["b", "a"]


def test_a_deployment_of_several_routes_has_one_queue() -> None:
    assert together([]) == Queue()
    patient = Queue(deadline_ms=60_000, length=10, order="fifo")
    paced = Queue(deadline_ms=1000, pace_ms=60, length=100)
    assert together([patient]) == patient
    assert together([patient, paced, Queue(pace_ms=200, length=5)]) == Queue(deadline_ms=60_000, pace_ms=60, length=100)


@virtual
async def test_time_for_the_first_output_is_kept_back() -> None:
    one = gate(deadline_ms=1000)
    permit = entered(one)
    permit.first_output(now() + 0.2)
    permit.leave(now() + 0.2, "good", 1)
    entered(one)
    callers = Callers(one)
    await callers.join("a")
    await asyncio.sleep(0.55)
    assert not callers.refused
    await asyncio.sleep(0.1)  # 0.2 s and twice a deviation of 0.1 s
    assert list(callers.refused) == ["a"]


@virtual
async def test_a_slow_deployment_gets_half_of_the_time_at_most() -> None:
    """First outputs after 30 s and a deadline of 10 s: calls still may wait, for 5 s."""
    one = gate(deadline_ms=10_000)
    entered(one).first_output(now() + 30.0)
    callers = Callers(one)
    await callers.join("a")
    await asyncio.sleep(4.9)
    assert not callers.refused
    await asyncio.sleep(0.2)
    assert list(callers.refused) == ["a"]


@virtual
async def test_a_call_that_has_no_chance_is_refused_on_arrival() -> None:
    one = gate(deadline_ms=10_000)
    permit = entered(one)
    await asyncio.sleep(4)
    permit.leave(now(), "good")  # calls take 4 s
    entered(one)
    callers = Callers(one)
    await callers.join("a", band="interactive")
    await callers.join("b", band="interactive")
    await callers.join("c", band="batch", within=9.0)
    assert list(callers.refused) == ["c"]
    error = callers.refused["c"]
    assert isinstance(error, Unavailable)
    assert error.as_dict()["error"] == {
        "code": "deadline_unmet",
        "message": "The call would not begin in time: acme/large is busy, position 3 in line.",
        "hint": "Send it again later, or give it more time with x-detent-deadline-ms.",
    }
    assert (error.position, error.retry_after) == (3, 12.0)
    assert one.status().refused == 1


@virtual
async def test_a_full_line_sheds_the_oldest() -> None:
    one = gate(length=2)
    first, callers = entered(one), Callers(one)
    for name in "abc":
        await callers.join(name)
    await settle()
    assert list(callers.refused) == ["a"]
    assert isinstance(callers.refused["a"], QueueFull)
    await callers.serve(first, 2)
    assert callers.order == ["c", "b"]


@virtual
async def test_a_full_line_in_order_of_arrival_takes_nobody() -> None:
    one = gate(length=2, order="fifo")
    entered(one)
    callers = Callers(one)
    for name in "abc":
        await callers.join(name)
    assert list(callers.refused) == ["c"]
    assert callers.refused["c"].position == 3


@virtual
async def test_a_full_line_makes_room_at_the_expense_of_who_has_most() -> None:
    one = gate(length=4)
    entered(one)
    callers = Callers(one)
    for name in ("x1", "x2", "x3", "y1", "y2"):
        await callers.join(name, name[0])
    await settle()
    assert list(callers.refused) == ["x1"]


@virtual
async def test_less_urgent_calls_make_room_for_more_urgent_ones_and_not_the_other_way() -> None:
    one = gate(length=2)
    entered(one)
    callers = Callers(one)
    await callers.join("b", band="batch")
    await callers.join("i", band="interactive")
    await callers.join("d", band="default")
    await settle()
    assert list(callers.refused) == ["b"]
    await callers.join("b2", band="batch")
    await settle()
    assert list(callers.refused) == ["b", "b2"]


@virtual
async def test_without_a_line_nobody_waits() -> None:
    one = gate(length=0)
    entered(one)
    with pytest.raises(QueueFull):
        await one.enter("p")
    one.configure(Queue(deadline_ms=0))
    with pytest.raises(DeadlineUnmet):
        await one.enter("p")


@virtual
async def test_a_wider_limit_lets_in_who_waits() -> None:
    one = Gate(asyncio.get_running_loop(), "acme/large")
    one.configure(Queue(), max_concurrency=1)
    entered(one)
    callers = Callers(one)
    await callers.join("a")
    assert callers.order == []
    one.configure(Queue(), max_concurrency=0)
    assert one.status().limit == 1
    permit = callers.permits
    for _ in range(30):
        one._limit.saw_first(now(), 0.1, 1, now())
    one.configure(Queue(), max_concurrency=0)
    await settle()
    assert list(permit) == ["a"]


@virtual
async def test_a_cancelled_caller_leaves_the_line() -> None:
    one = gate()
    first, callers = entered(one), Callers(one)
    for name in "ab":
        await callers.join(name)
    callers.tasks["b"].cancel()
    await settle()
    assert one.status().waiting["default"] == 1
    await callers.serve(first, 1)
    assert callers.order == ["a"]


@virtual
async def test_a_permit_that_meets_a_cancelled_caller_goes_to_the_next() -> None:
    one = gate()
    first, callers = entered(one), Callers(one)
    for name in "ab":
        await callers.join(name)
    first.leave(now(), "good")  # b's, but b is cancelled before it wakes
    callers.tasks["b"].cancel()
    await settle()
    assert callers.order == ["a"]
    assert one.status().in_flight == 1


@virtual
async def test_a_caller_cancelled_first_and_not_yet_awake_is_passed_over() -> None:
    one = gate()
    first, callers = entered(one), Callers(one)
    for name in "ab":
        await callers.join(name)
    callers.tasks["b"].cancel()
    first.leave(now(), "good")
    await settle()
    assert callers.order == ["a"]
    assert one.status().in_flight == 1


@virtual
async def test_the_status_tells_how_things_are() -> None:
    one = gate(2)
    permit, _ = entered(one), entered(one)
    callers = Callers(one)
    await callers.join("a", band="batch")
    await asyncio.sleep(1.5)
    await callers.join("b")
    permit.leave(now(), "overloaded")
    found = one.status()
    assert (found.limit, found.in_flight, found.oldest_wait) == (2, 2, 1.5)
    assert found.waiting == {"interactive": 0, "default": 0, "batch": 1}
    assert (found.admitted, found.queued, found.overloads, found.refused, found.shed) == (3, 1, 1, 0, 0)


@virtual
async def test_a_queue_whose_calls_are_all_let_in_keeps_nothing() -> None:
    """Deadlines of calls that are long gone do not pile up."""
    one = gate(deadline_ms=3_600_000)
    permit = entered(one)
    for _ in range(1000):
        waiting = asyncio.create_task(one.enter("p"))
        await asyncio.sleep(0)
        permit.leave(now(), "failed")
        permit = await waiting
    assert len(one._cutoffs) <= 70


@pytest.mark.parametrize("seed", range(5))
def test_a_storm_of_cancellations_leaks_nothing(seed: int) -> None:
    """A thousand callers, of whom many go away at any moment: in the end nothing is in flight and nobody waits."""

    async def scene() -> None:
        rng = random.Random(seed)
        one = gate(4, length=50, deadline_ms=400)
        running = most = served = 0

        async def caller() -> None:
            nonlocal running, most, served
            permit = await one.enter(rng.choice("xyz"), rng.randint(1, 3), rng.choice(("interactive", "batch")))
            running += 1
            most = max(most, running)
            try:
                await asyncio.sleep(rng.random() * 0.05)
                permit.first_output(now())
                await asyncio.sleep(rng.random() * 0.05)
                served += 1
                permit.leave(now(), "good", 10)
            finally:
                running -= 1
                permit.leave(now(), "abandoned")

        tasks = []
        for _ in range(1000):
            task = asyncio.create_task(caller())
            tasks.append(task)
            if rng.random() < 0.4:
                asyncio.get_running_loop().call_later(rng.random() * 0.2, task.cancel)
            if rng.random() < 0.7:
                await asyncio.sleep(rng.random() * 0.02)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(o) for o in outcomes} <= {type(None), asyncio.CancelledError, QueueFull, DeadlineUnmet}
        found = one.status()
        assert (found.in_flight, sum(found.waiting.values()), most) == (0, 0, 4)
        assert served == sum(o is None for o in outcomes) > 100
        await asyncio.sleep(1)
        assert one._timer is None

    run(scene())


def test_the_same_storm_in_a_real_loop() -> None:
    async def scene() -> None:
        rng = random.Random(7)
        one = gate(3, length=30, deadline_ms=50)

        async def caller() -> None:
            permit = await one.enter("p")
            try:
                await asyncio.sleep(rng.random() * 0.002)
            finally:
                permit.leave(now(), "good")

        tasks = [asyncio.create_task(caller()) for _ in range(300)]
        for task in rng.sample(tasks, 100):
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        found = one.status()
        assert (found.in_flight, sum(found.waiting.values())) == (0, 0)

    asyncio.run(scene())

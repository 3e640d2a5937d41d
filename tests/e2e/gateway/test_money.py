"""Three workers, one budget, and one of them killed under load: the money adds up and nothing stays held."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from detent.gateway.limits.host import HostQuotas
from detent.gateway.limits.rules import place_of
from detent.gateway.model import Budget, Limit
from detent.gateway.snapshot import publish
from detent.kernel.clock import Clock, SystemClock
from detent.kernel.quotas import LEASE, Level

pytestmark = pytest.mark.e2e

CALL = 20_000
"""Nano-dollars that the provider's figures come to: ten tokens in and five out."""

CALLS = 120
CALLERS = 6
WORKERS = 3


class Later(SystemClock):
    """The time at which the leases of all who are dead by now are over."""

    def monotonic(self) -> int:
        return super().monotonic() + LEASE


class Counters:
    """The host's counters as they will be."""

    def __init__(self, levels: tuple[Level, ...]) -> None:
        self._levels = levels

    def held(self) -> dict[str, int]:
        return {level.key: level.held for level in self._levels}

    def used(self, measure: str) -> int:
        return sum(level.used for level in self._levels if place_of(level.key).measure == measure)


def quotas_of(home: Path, clock: Clock) -> Counters:
    quotas = HostQuotas(home / "run" / "quotas", clock=clock)
    try:
        return Counters(quotas.levels("default"))
    finally:
        quotas.close()


def test_a_budget_holds_over_workers_that_are_killed(
    start: Callable[..., Any], tools: ModuleType, upstream: Any
) -> None:
    slots = Limit(name="slots", project="default", scope="project", unit="concurrency", amount=50)
    month = Budget(name="month", project="default", scope="project", amount=CALLS * CALL)

    def published(position: int, amount: int, at_once: int) -> Any:
        budget = Budget(name=month.name, project="default", scope="project", amount=amount)
        limit = Limit(name=slots.name, project="default", scope="project", unit="concurrency", amount=at_once)
        found = tools.snapshot({"m": [upstream.url]}, position=position)
        return type(found)(
            **{
                **{name: getattr(found, name) for name in found.__struct_fields__},
                "limits": {"default": (limit,)},
                "budgets": {"default": (budget,)},
            }
        )

    first = published(1, month.amount, 50)
    workers = [start(first if number == 0 else None, name=str(number)) for number in range(WORKERS)]
    for worker in workers:
        worker.wait_ready()
    whole = (0.01, tools.answer(tools.completion()), tools.KEEP)
    upstream.script(whole)
    upstream.stream_to(tools.GOOD_STREAM)

    answered: list[int] = []
    broken = itertools.count()
    over = threading.Event()

    def caller(number: int) -> None:
        for turn in itertools.count(number):
            if over.is_set():
                return
            worker = workers[turn % WORKERS]
            body = {"stream": turn % 2 == 0, "max_tokens": 5}
            try:
                got = worker.chat(body)
                got.read()
            except (OSError, HTTPException):
                next(broken)
                continue
            answered.append(got.status)

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    victim = workers[-1]
    for _ in range(2):
        time.sleep(0.15)
        victim.process.kill()
        victim.process.wait()
        victim.process = victim.start()
    deadline = time.monotonic() + 8
    while answered[-20:].count(429) < 20 and time.monotonic() < deadline:
        time.sleep(0.02)
    over.set()
    for thread in threads:
        thread.join(20)
    assert {200, 429} >= set(answered)
    assert answered[-20:].count(429) == 20, "the budget was never spent"

    # What the spans say is within the budget. What a killed worker had out is held until its lease is over, and then it
    # is free: it was never charged, because nobody knows what came of it.
    spans = [span for span in workers[0].spans() if span.cost]
    assert sum(span.cost for span in spans) <= month.amount
    assert sum(span.cost for span in spans) >= month.amount - (WORKERS + CALLERS) * 3 * CALL
    assert len({span.trace_id for span in spans}) == len(spans)

    at_most = 2 * CALLERS  # calls were out when a worker was killed; all others have given their slots back
    assert (
        sum(held for key, held in quotas_of(workers[0].home, SystemClock()).held().items() if "slots" in key) <= at_most
    )
    later = quotas_of(workers[0].home, Later())
    assert {place_of(key).measure: held for key, held in later.held().items() if held} == {}
    charged = later.used("money")
    assert sum(span.cost for span in spans) <= charged <= month.amount

    # A budget that was raised lets calls through at once, on every worker, and no slot is taken by the dead.
    publish(published(2, month.amount + 10 * CALLS * CALL, 50), workers[0].home / "snapshot")
    for worker in workers:
        worker.wait_ready()
        for stream in (False, True):
            got = worker.chat({"stream": stream, "max_tokens": 5})
            assert got.status == 200, json.loads(got.read())
            got.read()

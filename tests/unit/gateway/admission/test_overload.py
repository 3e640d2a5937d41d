"""Goodput under overload, in the simulation that benchmarks/overload.py publishes: fixed seeds, virtual time."""

from __future__ import annotations

import asyncio
import functools

import pytest
from benchmarks.overload import FIRST, LOADS, Run, best, fifo, gate, mean, simulate
from benchmarks.slow_engine import Engine, Model
from benchmarks.virtual_loop import run

SECONDS, SEEDS = 120, (10, 11)
CAPS = (5, 6, 7, 8, 9)


@functools.cache
def best_static(load: float) -> tuple[int, Run]:
    return best(gate, load, SECONDS, SEEDS, CAPS)


@pytest.mark.parametrize("load", LOADS)
def test_the_gate_is_as_good_as_the_best_cap_that_could_have_been_set(load: float) -> None:
    detent = mean([simulate(gate(), load, SECONDS, seed) for seed in SEEDS])
    _, static = best_static(load)
    assert detent.goodput >= 0.95 * static.goodput
    assert detent.first_p99 <= FIRST


def test_the_best_cap_is_within_those_tried() -> None:
    assert {best_static(load)[0] for load in LOADS[1:]} <= set(CAPS[1:-1])


def test_a_queue_in_order_of_arrival_serves_next_to_nobody_in_time() -> None:
    """The same engine and load, the cap that is best for the gate."""
    found = simulate(fifo(best_static(2.0)[0]), 2.0, SECONDS, 0)
    assert found.goodput <= 0.1 * best_static(2.0)[1].goodput


def test_the_engine_takes_as_long_as_its_model_says() -> None:
    async def scene() -> list[float]:
        engine = Engine(Model(base=0.01, per_sequence=0.005, per_prompt_token=0.001, prompt_budget=8))
        loop = asyncio.get_running_loop()
        times: list[float] = []
        done = loop.create_future()

        def on_token(left: int) -> None:
            times.append(round(loop.time(), 6))
            if not left:
                done.set_result(None)

        engine.submit(12, 3, on_token)
        await done
        return times

    # 8 tokens of the prompt, then 4 and the first token, then one by one
    assert run(scene()) == [0.037, 0.052, 0.067]

"""The meter of one worker: what it reserves, settles, refuses, and does while the counters are away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from detent.gateway.errors import BudgetSpent, LimitExceeded, PriceUnknown, QuotasUnreachable
from detent.gateway.limits.memory import MemoryQuotas
from detent.gateway.limits.meter import FREE, Grant, Meter
from detent.gateway.limits.rules import Asked
from detent.gateway.model import Budget, Limit
from detent.kernel.clock import DAY, HOUR, SECOND, FixedClock
from detent.kernel.errors import StorageFailed
from detent.kernel.quotas import LEASE, Level, Move, Share

RPM = Limit(name="rpm", project="shop", scope="key", unit="requests", amount=3)
TPM = Limit(name="tpm", project="shop", scope="project", unit="tokens", amount=1000)
SLOTS = Limit(name="slots", project="shop", scope="route", subject="chat", unit="concurrency", amount=2)
MODEL = Limit(name="model", project="shop", scope="model", unit="requests", amount=1)
USERS = Limit(name="users", project="shop", scope="user", unit="requests", amount=1)
MONTH = Budget(name="month", project="shop", scope="project", amount=1_000_000)
SOFT = Budget(name="soft", project="shop", scope="project", amount=10, period="day", hard=False)


class Far:
    """Counters behind a network that can be cut, before or after an exchange."""

    remote = True

    def __init__(self, clock: FixedClock) -> None:
        self.near = MemoryQuotas(clock=clock)
        self.exchanges = 0
        self.cut = ""
        self.hold = threading.Event()
        self.hold.set()
        self.told: dict[str, tuple[Share, ...]] = {}

    def exchange(self, moves: Sequence[Move], *, ticket: str = "") -> tuple[Share, ...]:
        self.hold.wait(10)
        if self.cut == "before":
            raise StorageFailed("away")
        self.exchanges += 1
        if ticket not in self.told:
            self.told[ticket] = self.near.exchange(moves)
        if self.cut == "after":
            raise StorageFailed("away")
        return self.told[ticket]

    def levels(self, project: str) -> tuple[Level, ...]:
        return self.near.levels(project)

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


def asked(number: int = 0, **changes: Any) -> Asked:
    fields: dict[str, Any] = {"project": "shop", "key": "k1", "route": "chat", "tokens": 100, "cost": 1000}
    return Asked(id=f"call-{number}-{changes}", **{**fields, **changes})


def meter_of(quotas: Any, clock: FixedClock, *rules: Limit | Budget, **options: Any) -> Meter:
    meter = Meter(quotas, clock=clock, sender="w1", **options)
    configure(meter, *rules)
    return meter


def configure(meter: Meter, *rules: Limit | Budget) -> None:
    limits = tuple(rule for rule in rules if isinstance(rule, Limit))
    budgets = tuple(rule for rule in rules if isinstance(rule, Budget))
    meter.configure({"shop": limits}, {"shop": budgets})


@pytest.fixture
def quotas(clock: FixedClock) -> MemoryQuotas:
    return MemoryQuotas(clock=clock)


def now(meter: Meter, call: Asked) -> Grant:
    grant = meter.reserve_now(call)
    assert grant is not None
    return grant


def levels(quotas: Any) -> dict[str, tuple[int, int]]:
    """Used and held by the rule's name."""
    return {level.key.split("\x1f")[2]: (level.used, level.held) for level in quotas.levels("shop")}


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


# Near counters


def test_a_project_without_rules_costs_nothing(quotas: MemoryQuotas, clock: FixedClock) -> None:
    meter = meter_of(quotas, clock)
    assert now(meter, asked()) is FREE
    assert not meter.concerns("shop")
    assert FREE.headers() == ()
    assert FREE.settle(1, 1)


def test_requests_count_from_their_start_and_per_subject(quotas: MemoryQuotas, clock: FixedClock) -> None:
    meter = meter_of(quotas, clock, RPM)
    for number in range(3):
        now(meter, asked(number))
    with pytest.raises(LimitExceeded) as refused:
        now(meter, asked(4))
    assert refused.value.message == "The limit 'rpm' allows 3 requests in 60 s; 0 are free, and the call asks for 1."
    assert refused.value.retry_after == 61.0
    assert dict(refused.value.headers)[b"x-ratelimit-remaining-requests"] == b"0"
    now(meter, asked(5, key="k2"))


def test_tokens_and_money_are_held_and_then_settled(quotas: MemoryQuotas, clock: FixedClock) -> None:
    meter = meter_of(quotas, clock, TPM, MONTH)
    grant = now(meter, asked(tokens=600, cost=500))
    assert levels(quotas) == {"tpm": (0, 600), "month": (0, 500)}
    with pytest.raises(LimitExceeded, match="400 are free, and the call asks for 500"):
        now(meter, asked(1, tokens=500))
    assert grant.settle(150, 70)
    assert not grant.settle(150, 70)
    assert not meter.settle(grant.id, 150, 70)
    assert levels(quotas) == {"tpm": (150, 0), "month": (70, 0)}


def test_settling_by_id_and_reserving_an_id_twice_are_idempotent(quotas: MemoryQuotas, clock: FixedClock) -> None:
    meter = meter_of(quotas, clock, TPM, RPM)
    grant = now(meter, asked())
    assert now(meter, asked()) is grant
    assert meter.settle(grant.id, 10, None)
    assert not meter.settle(grant.id, 10, None)
    assert levels(quotas) == {"tpm": (10, 0), "rpm": (1, 0)}


def test_an_unknown_cost_is_charged_as_reserved(quotas: MemoryQuotas, clock: FixedClock) -> None:
    meter = meter_of(quotas, clock, MONTH)
    now(meter, asked(cost=123)).settle(1, None)
    assert levels(quotas) == {"month": (123, 0)}


def test_what_is_released_was_never_there(quotas: MemoryQuotas, clock: FixedClock) -> None:
    meter = meter_of(quotas, clock, RPM, TPM, SLOTS, MONTH)
    grant = now(meter, asked())
    clock.advance(5 * SECOND)
    now(meter, asked(1))
    assert grant.release()
    assert not grant.release()
    assert levels(quotas) == {"rpm": (1, 0), "tpm": (0, 100), "slots": (0, 1), "month": (0, 1000)}


def test_calls_at_once_are_freed_when_they_end(quotas: MemoryQuotas, clock: FixedClock) -> None:
    meter = meter_of(quotas, clock, SLOTS)
    first, _second = now(meter, asked(1)), now(meter, asked(2))
    with pytest.raises(LimitExceeded, match="allows 2 calls at once"):
        now(meter, asked(3))
    now(meter, asked(4, route="other"))
    first.settle(1, 1)
    now(meter, asked(5))


def test_a_refusal_reserves_nothing_anywhere(quotas: MemoryQuotas, clock: FixedClock) -> None:
    meter = meter_of(quotas, clock, RPM, TPM, SLOTS)
    with pytest.raises(LimitExceeded, match="never fits") as refused:
        now(meter, asked(tokens=1001))
    assert refused.value.retry_after is None
    assert set(levels(quotas).values()) == {(0, 0)}


def test_a_spent_budget_says_until_when(quotas: MemoryQuotas, clock: FixedClock) -> None:
    meter = meter_of(quotas, clock, MONTH)
    now(meter, asked(cost=999_999)).settle(1, 999_999)
    with pytest.raises(BudgetSpent) as refused:
        now(meter, asked(1, cost=2))
    assert refused.value.code == "insufficient_quota"
    assert refused.value.retry_after == 31 * DAY / SECOND
    assert refused.value.message == (
        "The budget 'month' allows $0.001 a month; $0.000000001 of it is free, and the call may cost $0.000000002."
    )
    clock.advance(31 * DAY)
    now(meter, asked(2, cost=2))


def test_a_call_that_outlives_its_period_is_charged_to_the_period_it_began_in(
    quotas: MemoryQuotas, clock: FixedClock
) -> None:
    day = Budget(name="day", project="shop", scope="project", amount=1000, period="day")
    meter = meter_of(quotas, clock, day)
    grant = now(meter, asked(cost=900))
    clock.advance(DAY)
    now(meter, asked(1, cost=900))
    grant.settle(1, 900)
    assert sorted((level.used, level.held) for level in quotas.levels("shop")) == [(0, 900), (900, 0)]


def test_an_unpriced_call_is_refused_under_a_hard_budget_only(quotas: MemoryQuotas, clock: FixedClock) -> None:
    meter = meter_of(quotas, clock, SOFT)
    now(meter, asked(cost=None)).settle(5, None)
    configure(meter, SOFT, MONTH)
    with pytest.raises(PriceUnknown, match="no price is known for a model of the route"):
        now(meter, asked(1, cost=None))


def test_a_soft_budget_only_counts(quotas: MemoryQuotas, clock: FixedClock) -> None:
    meter = meter_of(quotas, clock, SOFT)
    for number in range(3):
        now(meter, asked(number)).settle(5, 100)
    assert levels(quotas) == {"soft": (300, 0)}


def test_models_are_reserved_for_each_attempt(quotas: MemoryQuotas, clock: FixedClock) -> None:
    meter = meter_of(quotas, clock, MODEL, RPM)
    now(meter, asked())
    now(meter, asked(1, model="openai/a", only_model=True))
    now(meter, asked(2, model="openai/b", only_model=True))
    with pytest.raises(LimitExceeded, match="'model'"):
        now(meter, asked(3, model="openai/a", only_model=True))
    assert levels(quotas)["rpm"] == (1, 0)
    with pytest.raises(LimitExceeded, match="'model'"):
        now(meter, asked(4, model="openai/a"))


def test_calls_without_a_user_count_together(quotas: MemoryQuotas, clock: FixedClock) -> None:
    meter = meter_of(quotas, clock, USERS)
    now(meter, asked(0))
    now(meter, asked(1, user="ann"))
    with pytest.raises(LimitExceeded):
        now(meter, asked(2, key="k2"))


@pytest.mark.parametrize("user", ["x" * 5000, "a\x00", "a\x1fb", "\ud800", "é" * 300])
def test_hostile_users_are_counted_like_any_other(quotas: MemoryQuotas, clock: FixedClock, user: str) -> None:
    meter = meter_of(quotas, clock, USERS)
    now(meter, asked(0, user=user))
    with pytest.raises(LimitExceeded):
        now(meter, asked(1, user=user))


def test_a_changed_limit_applies_at_once_and_keeps_what_was_used(quotas: MemoryQuotas, clock: FixedClock) -> None:
    meter = meter_of(quotas, clock, RPM)
    for number in range(3):
        now(meter, asked(number))
    configure(meter, Limit(name="rpm", project="shop", scope="key", unit="requests", amount=4))
    now(meter, asked(3))
    with pytest.raises(LimitExceeded):
        now(meter, asked(4))


def test_open_calls_stay_reserved_as_long_as_their_worker_lives(quotas: MemoryQuotas, clock: FixedClock) -> None:
    async def work() -> None:
        meter = meter_of(quotas, clock, SLOTS)
        grant = now(meter, asked())
        for _ in range(40):
            clock.advance(LEASE // 4)
            await meter.tick()
        assert levels(quotas) == {"slots": (0, 1)}
        grant.settle(0, 0)
        assert levels(quotas) == {"slots": (0, 0)}

    run(work)


def test_a_worker_that_vanishes_leaks_nothing_after_the_lease(quotas: MemoryQuotas, clock: FixedClock) -> None:
    now(meter_of(quotas, clock, SLOTS, TPM), asked())
    clock.advance(LEASE)
    assert levels(quotas) == {"slots": (0, 0), "tpm": (0, 0)}


def test_what_nobody_settles_lapses_and_a_late_settle_is_charged(quotas: MemoryQuotas, clock: FixedClock) -> None:
    async def work() -> None:
        meter = meter_of(quotas, clock, SLOTS, TPM, longest=HOUR)
        grant = now(meter, asked())
        clock.advance(HOUR + 1)
        await meter.tick()
        assert levels(quotas) == {"slots": (0, 0), "tpm": (0, 0)}
        assert not meter.settle(grant.id, 70, 1)
        assert grant.settle(70, 1)
        assert levels(quotas) == {"slots": (0, 0), "tpm": (70, 0)}

    run(work)


def test_a_call_may_take_as_long_as_its_route_lets_it(quotas: MemoryQuotas, clock: FixedClock) -> None:
    async def work() -> None:
        meter = meter_of(quotas, clock, SLOTS, longest=HOUR)
        meter.configure({"shop": (SLOTS,)}, {}, longest=3 * HOUR)
        grant = now(meter, asked())
        clock.advance(HOUR + 1)
        await meter.tick()
        assert levels(quotas) == {"slots": (0, 1)}
        assert grant.settle(0, 0)
        assert levels(quotas) == {"slots": (0, 0)}

    run(work)


def test_headers_say_where_the_tightest_limit_stands(quotas: MemoryQuotas, clock: FixedClock) -> None:
    wide = Limit(name="wide", project="shop", scope="project", unit="requests", amount=100, window_seconds=3600)
    grant = now(meter_of(quotas, clock, wide, RPM, TPM, SLOTS, MONTH), asked())
    policies = (
        '"wide";q=100;w=3600;qu="requests", "rpm";q=3;w=60;qu="requests", '
        '"tpm";q=1000;w=60;qu="tokens", "slots";q=2;qu="concurrent-requests"'
    )
    assert [(name.decode(), value.decode()) for name, value in grant.headers()] == [
        ("x-ratelimit-limit-requests", "3"),
        ("x-ratelimit-remaining-requests", "2"),
        ("x-ratelimit-reset-requests", "1m0s"),
        ("x-ratelimit-limit-tokens", "1000"),
        ("x-ratelimit-remaining-tokens", "900"),
        ("x-ratelimit-reset-tokens", "1m0s"),
        ("ratelimit-policy", policies),
        ("ratelimit", '"wide";r=99;t=3600, "rpm";r=2;t=60, "tpm";r=900;t=60, "slots";r=1'),
        ("x-detent-budget-remaining", "0.000999000"),
    ]


# Far counters


def test_far_from_the_limit_calls_do_not_ask(clock: FixedClock) -> None:
    async def work() -> None:
        far = Far(clock)
        wide = Limit(name="wide", project="shop", scope="project", unit="requests", amount=10_000)
        meter = meter_of(far, clock, wide, TPM)
        for number in range(500):
            (await meter.reserve(asked(number, tokens=1))).settle(1, 0)
            await asyncio.sleep(0)
        assert far.exchanges < 60
        await meter.tick()
        standing = levels(far)
        assert (standing["wide"][0], standing["tpm"][0]) == (500, 500)
        assert standing["wide"][1] <= 1000
        assert standing["tpm"][1] <= 100
        await meter.stop()
        assert levels(far) == {"wide": (500, 0), "tpm": (500, 0)}

    run(work)


def test_two_far_workers_never_let_more_through(clock: FixedClock) -> None:
    async def work() -> None:
        far = Far(clock)
        limit = Limit(name="wide", project="shop", scope="project", unit="requests", amount=300)
        meters = [meter_of(far, clock, limit) for _ in range(2)]
        for index, meter in enumerate(meters):
            meter._sender = f"w{index}"
        passed = 0
        for number in range(400):
            try:
                await meters[number % 2].reserve(asked(number))
            except LimitExceeded:
                continue
            passed += 1
        assert passed == 300  # both use their slices up, so not even the declared slack is held back
        assert levels(far)["wide"][0] + sum(meter._accounts.popitem()[1].unreported for meter in meters) == 300

    run(work)


def test_an_idle_slice_is_given_back(clock: FixedClock) -> None:
    async def work() -> None:
        far = Far(clock)
        limit = Limit(name="wide", project="shop", scope="project", unit="requests", amount=160)
        meter = meter_of(far, clock, limit)
        await meter.reserve(asked())
        assert levels(far)["wide"] == (1, 9)
        await meter.tick()
        await meter.tick()
        assert levels(far)["wide"] == (1, 0)

    run(work)


def test_a_refusal_stands_for_a_moment_without_asking_again(clock: FixedClock) -> None:
    async def work() -> None:
        far = Far(clock)
        meter = meter_of(far, clock, TPM, RPM)
        grant = await meter.reserve(asked(tokens=900))
        other = meter_of(far, clock, TPM)
        other._sender = "w2"
        for number in range(5):
            with pytest.raises(LimitExceeded, match="'tpm'"):
                await other.reserve(asked(number, tokens=200))
        assert far.exchanges == 2
        await other.reserve(asked(6, tokens=50))
        grant.release()
        await meter.tick()
        clock.advance(SECOND // 10)
        await other.reserve(asked(7, tokens=200))

    run(work)


def test_what_is_being_given_back_is_nobody_s_until_it_is_asked_for(clock: FixedClock) -> None:
    async def work() -> None:
        far = Far(clock)
        meter = meter_of(far, clock, TPM)
        grant = await meter.reserve(asked(tokens=900))
        far.hold.clear()
        grant.settle(0, 0)
        await asyncio.sleep(0.01)
        assert meter.reserve_now(asked(1, tokens=500)) is None
        far.hold.set()
        await meter.reserve(asked(1, tokens=500))
        await meter.stop()
        assert levels(far) == {"tpm": (0, 500)}

    run(work)


def test_without_counters_calls_go_on_up_to_what_was_free(clock: FixedClock) -> None:
    async def work() -> None:
        counted: list[str] = []
        far = Far(clock)
        limit = Limit(name="wide", project="shop", scope="project", unit="requests", amount=20)
        meter = meter_of(far, clock, limit, count=counted.append)
        await meter.reserve(asked())
        far.cut = "before"
        for number in range(1, 20):
            await meter.reserve(asked(number))
        with pytest.raises(LimitExceeded):
            await meter.reserve(asked(99))
        assert counted.count("degraded") >= 17
        assert counted.count("unreachable") == 1
        far.cut = ""
        clock.advance(SECOND)
        await meter.tick()
        assert levels(far)["wide"][0] == 20

    run(work)


def test_without_counters_calls_are_refused_if_that_is_wanted(clock: FixedClock) -> None:
    async def work() -> None:
        far = Far(clock)
        far.cut = "before"
        meter = meter_of(far, clock, RPM, unreachable="refuse")
        with pytest.raises(QuotasUnreachable):
            await meter.reserve(asked())

    run(work)


def test_a_lost_reply_is_asked_for_again_and_counts_once(clock: FixedClock) -> None:
    async def work() -> None:
        far = Far(clock)
        meter = meter_of(far, clock, RPM, TPM)
        far.cut = "after"
        grant = await meter.reserve(asked())
        far.cut = ""
        clock.advance(SECOND)
        grant.settle(40, 0)
        await meter.tick()
        await meter.stop()
        assert levels(far) == {"rpm": (1, 0), "tpm": (40, 0)}

    run(work)


def test_counters_that_do_not_answer_hold_nobody_up(clock: FixedClock) -> None:
    async def work() -> None:
        far = Far(clock)
        meter = meter_of(far, clock, RPM, patience=0.01)
        far.hold.clear()
        for number in range(3):
            await meter.reserve(asked(number))
        with pytest.raises(LimitExceeded):
            await meter.reserve(asked(4))
        far.hold.set()
        clock.advance(SECOND)
        await meter.tick()
        await meter.stop()
        assert levels(far)["rpm"] == (3, 0)

    run(work)


def test_a_call_that_is_cancelled_while_it_asks_holds_nothing(clock: FixedClock) -> None:
    async def work() -> None:
        far = Far(clock)
        meter = meter_of(far, clock, RPM, SLOTS)
        far.hold.clear()
        asking = asyncio.create_task(meter.reserve(asked()))
        await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        far.hold.set()
        await meter.stop()
        assert levels(far) == {"rpm": (0, 0), "slots": (0, 0)}

    run(work)

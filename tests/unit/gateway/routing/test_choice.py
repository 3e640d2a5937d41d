"""Who is asked, and who is next."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import permutations
from math import sqrt

import pytest

from detent.gateway.model import Breaker, Failure, Fallback, Policy, Route
from detent.gateway.routing import Candidate, Fleet, fallbacks, order, prefix_key
from detent.kernel.money import Price

POLICIES: list[Policy] = ["ordered", "weighted", "least_latency", "cheapest", "prefix_affinity"]
NOW = 100.0


def candidates(
    count: int, *, weights: Sequence[int] = (), prices: Sequence[Price | None] = (), probes: int = 1
) -> list[Candidate]:
    them = Fleet(lambda: 0.0)
    rules = Breaker(min_calls=1, open_seconds=5.0, probes=probes)
    return [
        them.candidate(
            f"p/provider-{i}/m",
            rules,
            0.0,
            weight=weights[i] if weights else 1,
            price=prices[i] if prices else None,
        )
        for i in range(count)
    ]


def ordered(
    policy: Policy,
    of: Sequence[Candidate],
    *,
    now: float = NOW,
    rng: random.Random | None = None,
    sticky: str = "",
    prefix: bytes = b"",
    tokens: tuple[int, int] = (1000, 250),
    last_resort: bool = True,
) -> list[int]:
    return order(
        Route(name="r", project="p", targets=(), policy=policy),
        of,
        now=now,
        draw=(rng or random.Random(1)).random,
        sticky_key=sticky,
        prefix_key=prefix,
        tokens=tokens,
        last_resort=last_resort,
    )


def load(it: Candidate, calls: int) -> None:
    for _ in range(calls):
        assert it.begin(NOW) is not None


def answer(it: Candidate, seconds: float, now: float = NOW) -> None:
    trial = it.begin(now - seconds)
    assert trial is not None
    trial.succeeded(now)


def fail(it: Candidate, now: float = NOW, retry_after: float | None = None) -> None:
    trial = it.begin(now, force=True)
    assert trial is not None
    trial.failed(now, "unavailable", retry_after=retry_after)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("key", ["", "someone"])
class TestEveryPolicy:
    def test_names_each_once(self, policy: Policy, key: str) -> None:
        for count in range(1, 6):
            chosen = ordered(policy, candidates(count), sticky=key, prefix=key.encode())
            assert sorted(chosen) == list(range(count))

    def test_leaves_out_who_is_shut(self, policy: Policy, key: str) -> None:
        of = candidates(4)
        fail(of[1])
        fail(of[2], retry_after=60.0)
        assert sorted(ordered(policy, of, sticky=key, prefix=key.encode())) == [0, 3]
        assert sorted(ordered(policy, of, now=NOW + 6, sticky=key, prefix=key.encode())) == [0, 1, 3]

    def test_names_who_is_next_to_be_probed_when_all_are_shut(self, policy: Policy, key: str) -> None:
        of = candidates(3)
        for i in (1, 2, 0):
            fail(of[i], NOW + (0 if i == 1 else 1))
        assert ordered(policy, of, now=NOW + 2, sticky=key) == [1]
        assert ordered(policy, of, now=NOW + 2, sticky=key, last_resort=False) == []

    def test_names_nobody_when_all_asked_to_be_left_alone(self, policy: Policy, key: str) -> None:
        of = candidates(3)
        for it in of:
            fail(it, retry_after=30.0)
        assert ordered(policy, of, now=NOW + 29, sticky=key) == []
        assert sorted(ordered(policy, of, now=NOW + 31, sticky=key)) == [0, 1, 2]

    def test_a_single_target_is_never_locked_out_by_its_breaker(self, policy: Policy, key: str) -> None:
        of = candidates(1)
        fail(of[0])
        assert ordered(policy, of, sticky=key) == [0]
        assert ordered(policy, of, sticky=key, last_resort=False) == []
        assert ordered(policy, of, now=NOW + 6, sticky=key, last_resort=False) == [0]
        fail(of[0], retry_after=10.0)
        assert ordered(policy, of, sticky=key) == []

    def test_weight_nought_is_only_fallen_back_to(self, policy: Policy, key: str) -> None:
        if policy in {"weighted", "prefix_affinity"}:
            of = candidates(3, weights=(0, 1, 1))
            assert {ordered(policy, of, sticky=f"{key}{i}", prefix=b"%d" % i)[-1] for i in range(50)} == {0}


def test_in_order() -> None:
    assert ordered("ordered", candidates(4), sticky="does not matter") == [0, 1, 2, 3]


def test_weighted_is_drawn_without_replacement_in_exact_proportions() -> None:
    weights = (1, 2, 5)
    of = candidates(3, weights=weights)
    rng = random.Random(20260101)
    n = 20_000
    seen = Counter(tuple(ordered("weighted", of, rng=rng)) for _ in range(n))
    for a, b, c in permutations(range(3)):
        share = weights[a] / 8 * weights[b] / (8 - weights[a])
        assert abs(seen[a, b, c] / n - share) < 4 * sqrt(share * (1 - share) / n)


def test_the_better_of_two_drawn() -> None:
    of = candidates(3)
    for it, seconds in zip(of, (0.9, 0.1, 0.5), strict=True):
        answer(it, seconds)
    load(of[1], 1)
    rng = random.Random(3)
    n = 3000
    first = Counter(order(RULES, of, now=NOW, draw=rng.random, streamed=True)[0] for _ in range(n))
    assert first[0] == 0  # the worst of three is never the better of two
    assert first[1] / n == pytest.approx(2 / 3, abs=0.04)


RULES = Route(name="r", project="p", targets=(), policy="least_latency")


def test_a_new_replica_gets_one_call_until_it_has_answered() -> None:
    of = candidates(2)
    answer(of[0], 0.5)
    assert ordered("least_latency", of) == [1, 0]
    load(of[1], 1)
    assert ordered("least_latency", of) == [0, 1]


def test_the_cheapest_for_these_tokens_and_unpriced_ones_last() -> None:
    of = candidates(4, prices=(None, Price(10, 10), Price(1, 40), Price(10, 10)))
    assert ordered("cheapest", of, tokens=(1000, 10))[0] == 2
    many = ordered("cheapest", of, tokens=(10, 1000))
    assert (set(many[:2]), many[2:]) == ({1, 3}, [2, 0])


def test_equally_cheap_ones_go_by_latency_or_by_session() -> None:
    of = candidates(3, prices=(Price(1, 1), Price(1, 1), Price(2, 2)))
    answer(of[0], 0.9)
    answer(of[1], 0.2)
    assert ordered("cheapest", of) == [1, 0, 2]
    first = Counter(ordered("cheapest", of, sticky=f"s{i}")[0] for i in range(400))
    assert set(first) == {0, 1}
    assert min(first.values()) > 150


def test_the_same_prefix_goes_to_the_same_engine_until_that_is_overloaded() -> None:
    of = candidates(4)
    preferred, second = ordered("prefix_affinity", of, prefix=b"You are a helpful lamp.")[:2]
    for _ in range(20):
        assert ordered("prefix_affinity", of, prefix=b"You are a helpful lamp.")[0] == preferred
    load(of[preferred], 2)  # of a mean of (2 + 1) / 4, times 1.25
    assert ordered("prefix_affinity", of, prefix=b"You are a helpful lamp.")[0] == second
    for it in of:
        load(it, 8 if it is not of[preferred] else 6)
    assert ordered("prefix_affinity", of, prefix=b"You are a helpful lamp.")[0] == preferred


def test_without_a_prefix_the_least_loaded_is_asked() -> None:
    of = candidates(3)
    load(of[0], 2)
    load(of[2], 1)
    assert ordered("prefix_affinity", of) == [1, 2, 0]


def test_no_engine_gets_more_than_a_quarter_above_the_mean() -> None:
    of = candidates(8)
    rng = random.Random(11)
    for _ in range(400):  # three prompts in ten are the same one
        prompt = b"popular" if rng.random() < 0.3 else b"%d" % rng.randrange(10_000)
        load(of[ordered("prefix_affinity", of, prefix=prompt)[0]], 1)
    assert max(it.health.in_flight for it in of) <= 1.25 * 400 / 8 + 1


def test_a_session_stays_comes_back_and_few_move_when_a_target_comes() -> None:
    of = candidates(5)
    sessions = [f"session-{i}" for i in range(1000)]

    def homes(of: Sequence[Candidate], now: float = NOW) -> list[int]:
        return [ordered("weighted", of, now=now, sticky=session)[0] for session in sessions]

    before = homes(of)
    assert homes(of) == before
    assert min(Counter(before).values()) > 140
    fail(of[2])
    during = homes(of)
    assert all(d == b for d, b in zip(during, before, strict=True) if b != 2)
    assert set(during) == {0, 1, 3, 4}
    assert homes(of, NOW + 6) == before
    after = homes(candidates(6))
    moved = [(a, b) for a, b in zip(after, before, strict=True) if a != b]
    assert {a for a, _ in moved} == {5}
    assert len(moved) / len(sessions) < 2 / 6


def test_sessions_are_spread_by_weight() -> None:
    of = candidates(3, weights=(1, 3, 0))
    first = Counter(ordered("least_latency", of, sticky=f"user{i}")[0] for i in range(4000))
    assert first[0] / 4000 == pytest.approx(0.25, abs=0.03)
    assert first[2] == 0


def test_the_prompts_first_part_decides() -> None:
    system = b'[{"role":"system","content":"' + b"x" * 2000
    assert prefix_key(system + b"one") == prefix_key(system + b"two")
    assert prefix_key(b'[{"role":"user"') != prefix_key(b'[{"role":"system"')


@pytest.mark.parametrize(
    ("failures", "routes"),
    [
        ({"unavailable"}, ["spare", "any"]),
        ({"context_length"}, ["long", "any"]),
        ({"timeout", "context_length"}, ["long", "spare", "any"]),
        ({"content_filter"}, ["any"]),
        (set(), ["any"]),
    ],
)
def test_fallbacks_answer_classes_of_failure(failures: set[Failure], routes: list[str]) -> None:
    rules = Route(
        name="r",
        project="p",
        targets=(),
        fallbacks=(
            Fallback("long", ("context_length",)),
            Fallback("spare", ("unavailable", "timeout")),
            Fallback("any"),
        ),
    )
    assert fallbacks(rules, failures) == routes

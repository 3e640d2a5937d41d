"""What every adapter of the port Quotas holds: in memory, in a mapped file, in PostgreSQL, in Redis."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from detent.gateway.limits.host import HostQuotas
from detent.gateway.limits.memory import MemoryQuotas
from detent.kernel.clock import DAY, SECOND, FixedClock
from detent.kernel.errors import StorageFailed
from detent.kernel.ports import Quotas
from detent.kernel.quotas import GREATEST, LEASE, SEPARATOR, Counter, Level, Move, Share

START = 100 * DAY
MINUTE = Counter(f"shop{SEPARATOR}rpm", "shop", 10, window=60 * SECOND)
SLOTS = Counter(f"shop{SEPARATOR}slots", "shop", 3)
MONEY = Counter(f"shop{SEPARATOR}money", "shop", 1000, until=1 << 62)


@pytest.fixture
def clock() -> FixedClock:
    """Far from zero, as a real monotonic clock is, and on a border of sub-windows and leases."""
    still = FixedClock()
    still.advance(START)
    return still


@pytest.fixture(params=["memory", "host", pytest.param("postgres", marks=pytest.mark.postgres), "redis"])
def opened(request: pytest.FixtureRequest, tmp_path: Path, clock: FixedClock) -> Iterator[Callable[[], Quotas]]:
    """Opens the same counters once more, as another process would."""
    made: list[Quotas] = []

    def memory() -> Quotas:
        return made[0] if made else MemoryQuotas(clock=clock)

    def host() -> Quotas:
        return HostQuotas(tmp_path / "quotas", clock=clock, boot="this")

    def postgres() -> Quotas:
        from detent.store.quotas.postgres import PostgresQuotas

        return PostgresQuotas(url, clock=clock)

    def redis() -> Quotas:
        from detent.store.quotas.redis import RedisQuotas

        return RedisQuotas(url, clock=clock)

    url = request.getfixturevalue(f"{request.param}_url") if request.param in {"postgres", "redis"} else ""
    makers: dict[str, Callable[[], Quotas]] = {"memory": memory, "host": host, "postgres": postgres, "redis": redis}

    def open_one() -> Quotas:
        made.append(makers[request.param]())
        return made[-1]

    yield open_one
    for quotas in made:
        quotas.close()


@pytest.fixture
def quotas(opened: Callable[[], Quotas]) -> Quotas:
    return opened()


def one(quotas: Quotas, move: Move, *, ticket: str = "") -> Share:
    """Exchange a single move."""
    (share,) = quotas.exchange([move], ticket=ticket)
    return share


def charge(quotas: Quotas, amount: int = 1, counter: Counter = MINUTE) -> bool:
    return one(quotas, Move(counter, ask=amount, charge=True)).granted


def test_it_grants_up_to_the_limit_and_not_one_more(quotas: Quotas) -> None:
    assert [charge(quotas) for _ in range(12)] == [True] * 10 + [False] * 2


def test_a_share_says_where_the_counter_stands(quotas: Quotas) -> None:
    share = one(quotas, Move(SLOTS, ask=2))
    assert (share.granted, share.fits, share.held, share.used, share.free, share.wait) == (True, True, 2, 0, 1, 0)


def test_what_was_used_comes_back_when_its_sub_window_is_out_of_the_window(quotas: Quotas, clock: FixedClock) -> None:
    assert charge(quotas, 4)
    clock.advance(10 * SECOND)
    assert charge(quotas, 6)
    refused = one(quotas, Move(MINUTE, ask=4, charge=True))
    assert (refused.granted, refused.wait) == (False, 51 * SECOND)
    clock.advance(51 * SECOND - 1)
    assert not charge(quotas, 4)
    clock.advance(1)
    assert charge(quotas, 4)
    assert one(quotas, Move(MINUTE, ask=5, charge=True)).wait == 10 * SECOND


def test_a_window_without_calls_forgets_everything(quotas: Quotas, clock: FixedClock) -> None:
    assert charge(quotas, 10)
    clock.advance(300 * SECOND)
    assert one(quotas, Move(MINUTE)).used == 0


def test_an_ask_beyond_the_whole_limit_never_fits(quotas: Quotas) -> None:
    assert one(quotas, Move(MINUTE, ask=11)).wait == -1


def test_nothing_is_granted_unless_all_fits(quotas: Quotas) -> None:
    assert one(quotas, Move(SLOTS, ask=3)).granted
    shares = quotas.exchange([Move(MINUTE, ask=1, charge=True), Move(SLOTS, ask=1), Move(MONEY, ask=5)])
    assert [(share.granted, share.fits) for share in shares] == [(False, True), (False, False), (False, True)]
    assert [(share.used, share.held) for share in shares] == [(0, 0), (0, 0), (0, 0)]
    assert sorted(quotas.levels("shop"), key=lambda level: level.key) == [
        Level(MONEY.key, 0, 0),
        Level(MINUTE.key, 0, 0),
        Level(SLOTS.key, 0, 3),
    ]


def test_settling_gives_back_or_charges_the_difference(quotas: Quotas) -> None:
    first = one(quotas, Move(MONEY, ask=600))
    assert not one(quotas, Move(MONEY, ask=500)).granted
    assert one(quotas, Move(MONEY, spent=100, had=first.held, lease=first.lease)).free == 900
    second = one(quotas, Move(MONEY, ask=900))
    assert second.granted
    after = one(quotas, Move(MONEY, spent=950, had=second.held, lease=second.lease))
    assert (after.used, after.free) == (1050, -50)


def test_what_happened_counts_also_in_an_exchange_that_is_refused(quotas: Quotas) -> None:
    held = one(quotas, Move(MONEY, ask=600))
    refused = one(quotas, Move(MONEY, spent=500, had=held.held, lease=held.lease, ask=501))
    assert (refused.granted, refused.used, refused.held, refused.free) == (False, 500, 0, 500)


def test_a_lease_lapses_unless_it_is_renewed(quotas: Quotas, clock: FixedClock) -> None:
    gone = one(quotas, Move(SLOTS, ask=1))
    kept = one(quotas, Move(SLOTS, ask=1))
    clock.advance(LEASE - 2 * SECOND)
    kept = one(quotas, Move(SLOTS, had=1, lease=kept.lease, keep=1))
    assert kept.free == 1
    clock.advance(2 * SECOND)
    assert one(quotas, Move(SLOTS)).free == 2
    late = one(quotas, Move(SLOTS, had=1, lease=gone.lease))  # it gives back what is not held any more
    assert late.free == 2


def test_a_late_settle_is_charged(quotas: Quotas, clock: FixedClock) -> None:
    held = one(quotas, Move(MONEY, ask=400))
    clock.advance(10 * LEASE)
    after = one(quotas, Move(MONEY, spent=300, had=held.held, lease=held.lease))
    assert (after.used, after.free) == (300, 700)


def test_what_is_kept_is_held_also_when_there_is_no_room_any_more(quotas: Quotas, clock: FixedClock) -> None:
    stalled = one(quotas, Move(SLOTS, ask=2))
    clock.advance(2 * LEASE)
    assert one(quotas, Move(SLOTS, ask=3)).granted
    back = one(quotas, Move(SLOTS, had=2, lease=stalled.lease, keep=2))
    assert (back.held, back.free) == (2, -2)


def test_a_soft_counter_counts_and_never_refuses(quotas: Quotas) -> None:
    soft = Counter(f"shop{SEPARATOR}soft", "shop", 10, until=1 << 62, hard=False)
    share = one(quotas, Move(soft, ask=25))
    assert (share.granted, share.fits, share.held, share.free) == (True, True, 25, -15)


def test_what_is_taken_back_leaves_the_sub_window_it_was_charged_in(quotas: Quotas, clock: FixedClock) -> None:
    first = one(quotas, Move(MINUTE, ask=1, charge=True))
    clock.advance(5 * SECOND)
    assert charge(quotas, 3)
    assert one(quotas, Move(MINUTE, back=1, back_at=first.at)).used == 3
    assert one(quotas, Move(MINUTE, back=1, back_at=first.at)).used == 3  # nothing is left there to take back
    clock.advance(300 * SECOND)
    assert one(quotas, Move(MINUTE, back=1, back_at=first.at)).used == 0


def test_what_is_taken_back_from_nowhere_is_the_oldest(quotas: Quotas, clock: FixedClock) -> None:
    assert charge(quotas, 2)
    clock.advance(5 * SECOND)
    assert charge(quotas, 3)
    assert one(quotas, Move(MINUTE, back=3)).used == 2
    clock.advance(57 * SECOND)
    assert one(quotas, Move(MINUTE)).used == 2
    clock.advance(5 * SECOND)
    assert one(quotas, Move(MINUTE, spent=1, back=9)).used == 0
    assert one(quotas, Move(MONEY, spent=5, back=2)).used == 3


def test_slices_are_a_sixteenth_of_what_is_free(quotas: Quotas) -> None:
    wide = Counter(f"shop{SEPARATOR}wide", "shop", 1600, window=60 * SECOND)
    first = one(quotas, Move(wide, spare=10_000))
    second = one(quotas, Move(wide, spare=10_000))
    third = one(quotas, Move(wide, ask=1400, charge=True, spare=7))
    last = one(quotas, Move(wide, spare=10_000))
    assert [share.held for share in (first, second, third, last)] == [100, 93, 0, 0]
    assert last.free == 7


def test_a_changed_limit_goes_on_with_what_was_used(quotas: Quotas) -> None:
    assert charge(quotas, 8)
    lower = Counter(MINUTE.key, "shop", 5, window=60 * SECOND)
    assert one(quotas, Move(lower, ask=1)).free == -3
    higher = Counter(MINUTE.key, "shop", 20, window=60 * SECOND)
    assert one(quotas, Move(higher, ask=1, charge=True)).free == 11


def test_large_amounts_are_exact(quotas: Quotas) -> None:
    large = Counter(f"shop{SEPARATOR}large", "shop", GREATEST, until=1 << 62)
    assert one(quotas, Move(large, ask=GREATEST - 1, charge=True)).free == 1
    assert one(quotas, Move(large, spent=1)).used == GREATEST
    assert not charge(quotas, 1, large)


def test_the_others_see_it_at_once_and_it_outlives_whoever_counted(opened: Callable[[], Quotas]) -> None:
    first, second = opened(), opened()
    assert charge(first, 6)
    assert one(second, Move(MINUTE)).used == 6
    first.sync()
    first.close()
    assert one(opened(), Move(MINUTE)).used == 6


def test_projects_see_their_own_levels(quotas: Quotas) -> None:
    charge(quotas, 2)
    other = Counter(f"shop2{SEPARATOR}rpm", "shop2", 10, window=60 * SECOND)
    charge(quotas, 3, other)
    assert quotas.levels("shop") == (Level(MINUTE.key, 2, 0),)
    assert quotas.levels("shop2") == (Level(other.key, 3, 0),)
    assert quotas.levels("nobody") == ()


def test_levels_follow_the_time(quotas: Quotas, clock: FixedClock) -> None:
    quotas.exchange([Move(MINUTE, ask=4, charge=True), Move(SLOTS, ask=2)])
    clock.advance(400 * SECOND)
    assert all((level.used, level.held) == (0, 0) for level in quotas.levels("shop"))


@pytest.mark.parametrize("step", [-3600 * SECOND, -2 * SECOND])
def test_a_clock_that_is_set_back_forgets_nothing_and_blocks_for_a_window_at_most(
    quotas: Quotas, clock: FixedClock, step: int
) -> None:
    quotas.exchange([Move(MINUTE, ask=10, charge=True), Move(SLOTS, ask=3)])
    clock.advance(step)
    assert not charge(quotas)
    assert not one(quotas, Move(SLOTS, ask=1)).granted
    clock.advance(64 * SECOND)
    assert charge(quotas)
    assert one(quotas, Move(SLOTS, ask=1)).granted


def test_a_ticket_that_is_sent_again_changes_nothing(quotas: Quotas) -> None:
    if not quotas.remote:
        pytest.skip("no reply is lost within a host")
    first = one(quotas, Move(MINUTE, ask=3, charge=True), ticket="a-1")
    assert one(quotas, Move(MINUTE, ask=3, charge=True), ticket="a-1") == first
    assert one(quotas, Move(MINUTE), ticket="a-2").used == 3


def test_many_threads_lose_nothing(opened: Callable[[], Quotas]) -> None:
    granted: list[bool] = []
    shared = [opened(), opened()]

    def work(mine: Quotas) -> None:
        for _ in range(20):
            granted.append(charge(mine, 1, Counter(MINUTE.key, "shop", 50, window=60 * SECOND)))

    threads = [threading.Thread(target=work, args=(shared[number % 2],)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(granted), sum(granted)) == (80, 50)


@pytest.mark.parametrize("kind", ["postgres", "redis"])
def test_counters_that_cannot_be_reached_are_a_failure_of_storage(kind: str, free_port: int) -> None:
    from detent.store.quotas.postgres import PostgresQuotas
    from detent.store.quotas.redis import RedisQuotas

    gone: Quotas
    if kind == "postgres":
        gone = PostgresQuotas(f"postgresql://postgres@127.0.0.1:{free_port}/none")
    else:
        gone = RedisQuotas(f"redis://127.0.0.1:{free_port}")
    with pytest.raises(StorageFailed, match="cannot be reached"):
        gone.exchange([Move(MINUTE)])
    with pytest.raises(StorageFailed, match="cannot be reached"):
        gone.levels("shop")
    gone.close()

"""The mapped file of a host's counters: growth, reboots, damage, locks that are not let go."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from detent.gateway.limits import host
from detent.gateway.limits.host import HostQuotas
from detent.kernel.clock import DAY, HOUR, SECOND, FixedClock
from detent.kernel.errors import StorageFailed
from detent.kernel.quotas import LEASE, LONGEST_KEY, SEPARATOR, Counter, Move

MONEY = Counter(f"p{SEPARATOR}money", "p", 1000, until=1 << 62)
SLOTS = Counter(f"p{SEPARATOR}slots", "p", 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "quotas"


def opened(path: Path, clock: FixedClock, **options: Any) -> HostQuotas:
    return HostQuotas(path, clock=clock, **{"boot": "one", **options})


def used(quotas: HostQuotas, counter: Counter = MONEY) -> int:
    (share,) = quotas.exchange([Move(counter)])
    return share.used


def numbered(number: int) -> Counter:
    return Counter(f"p{SEPARATOR}{number}", "p", 1000, until=1 << 62)


def fill(quotas: HostQuotas) -> None:
    for number in range(300):
        quotas.exchange([Move(numbered(number), spent=1)])


def test_it_grows_and_every_process_follows(path: Path, clock: FixedClock) -> None:
    first, second = opened(path, clock, slots=64), opened(path, clock, slots=64)
    used(second)
    for number in range(300):
        first.exchange([Move(numbered(number), spent=number), Move(MONEY, spent=1)])
    assert path.stat().st_size > 300 * 1000
    assert [used(second, numbered(number)) for number in range(300)] == list(range(300))
    assert used(second) == used(first) == 300
    second.exchange([Move(MONEY, spent=1)])
    assert used(first) == 301
    assert len(first.levels("p")) == 301
    first.close()
    second.close()


def test_slots_of_counters_that_say_nothing_any_more_are_used_again(path: Path, clock: FixedClock) -> None:
    quotas = opened(path, clock, slots=64)
    size = path.stat().st_size
    for number in range(1000):
        quotas.exchange([Move(Counter(f"p{SEPARATOR}{number}", "p", 9, window=60 * SECOND), ask=1, charge=True)])
        clock.advance(10 * SECOND)
    assert path.stat().st_size == size
    quotas.exchange([Move(MONEY, spent=7), Move(SLOTS, ask=1)])
    for number in range(1000):
        quotas.exchange([Move(Counter(f"q{SEPARATOR}{number}", "q", 9, window=60 * SECOND), ask=1, charge=True)])
        clock.advance(10 * SECOND)
    assert used(quotas) == 7
    quotas.close()


def test_a_month_s_money_outlives_restarts_and_reboots(path: Path, clock: FixedClock) -> None:
    quotas = opened(path, clock)
    quotas.exchange([Move(MONEY, spent=400), Move(SLOTS, ask=2)])
    quotas.sync()
    quotas.close()
    for boot in range(5):
        rebooted = FixedClock(clock.now() + boot * HOUR)  # its monotonic clock begins at nothing
        quotas = opened(path, rebooted, boot=f"boot {boot}")
        assert used(quotas) == 400
        quotas.close()
    assert {level.key: level.held for level in opened(path, rebooted, boot="last").levels("p")}[SLOTS.key] == 0


def test_a_reboot_that_nobody_told_of_does_not_turn_time_back(path: Path, clock: FixedClock) -> None:
    clock.advance(DAY)
    quotas = opened(path, clock)
    quotas.exchange([Move(SLOTS, ask=3)])
    quotas.close()
    rebooted = FixedClock(clock.now())
    again = opened(path, rebooted)
    assert not again.exchange([Move(SLOTS, ask=1)])[0].granted
    rebooted.advance(LEASE)
    assert again.exchange([Move(SLOTS, ask=1)])[0].granted
    again.close()


@pytest.mark.parametrize("damage", [b"", b"junk", b"\0" * 8192, b"x" * 100_000])
def test_a_damaged_file_is_kept_aside_and_counting_begins_anew(
    damage: bytes, path: Path, clock: FixedClock, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(damage)
    with caplog.at_level(logging.ERROR):
        quotas = opened(path, clock)
    assert used(quotas) == 0
    quotas.close()
    aside = [other for other in path.parent.iterdir() if other != path]
    assert [other.read_bytes() for other in aside] == ([damage] if damage else [])
    assert bool(caplog.records) == bool(damage)


def test_a_cut_file_is_damaged(path: Path, clock: FixedClock) -> None:
    opened(path, clock).close()
    os.truncate(path, path.stat().st_size - 8)
    quotas = opened(path, clock)
    assert used(quotas) == 0
    assert len(list(path.parent.iterdir())) == 2
    quotas.close()


def test_a_file_that_was_removed_is_made_again_at_the_next_sync(path: Path, clock: FixedClock) -> None:
    first, second = opened(path, clock), opened(path, clock)
    first.exchange([Move(MONEY, spent=5)])
    path.unlink()
    first.sync()
    first.exchange([Move(MONEY, spent=6)])
    assert used(second) == used(first) == 6  # the old file says that it has moved
    second.sync()
    first.close()
    second.close()


def test_a_lock_that_is_not_let_go_is_not_waited_for(path: Path, clock: FixedClock) -> None:
    quotas = opened(path, clock)
    with path.open("rb") as stopped:
        fcntl.flock(stopped, fcntl.LOCK_EX)
        with pytest.raises(StorageFailed, match="does not let go"):
            used(quotas)
        with pytest.raises(StorageFailed, match="does not let go"):
            opened(path, clock)
    assert used(quotas) == 0
    quotas.close()


def test_a_lock_that_is_let_go_in_a_moment_is_waited_for(path: Path, clock: FixedClock) -> None:
    quotas = opened(path, clock)
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        letting_go = threading.Timer(0.01, fcntl.flock, (other.fileno(), fcntl.LOCK_UN))
        letting_go.start()
        assert used(quotas) == 0
        letting_go.join()
    quotas.close()


def test_a_full_disk_is_said_before_anything_is_mapped(
    path: Path, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    quotas = opened(path.with_name("other"), clock, slots=64)
    monkeypatch.setattr(host.os, "posix_fallocate", full)
    with pytest.raises(StorageFailed, match="No space left"):
        opened(path, clock)
    with pytest.raises(StorageFailed, match="No space left"):
        fill(quotas)
    assert used(quotas, numbered(0)) == 1
    assert 32 <= len(quotas.levels("p")) <= 64
    quotas.close()


def test_what_is_closed_says_so(path: Path, clock: FixedClock) -> None:
    quotas = opened(path, clock)
    quotas.close()
    quotas.close()
    with pytest.raises(StorageFailed, match="closed"):
        used(quotas)


def test_the_longest_key_fits(path: Path, clock: FixedClock) -> None:
    quotas = opened(path, clock)
    key = f"p{SEPARATOR}".ljust(LONGEST_KEY, "k")
    quotas.exchange([Move(Counter(key, "p", 10, until=1 << 62), spent=4)])
    assert [(level.key, level.used) for level in quotas.levels("p")] == [(key, 4)]
    quotas.close()

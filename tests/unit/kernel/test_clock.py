"""Time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detent.kernel.clock import DAY, SECOND, FixedClock, SystemClock, day_of, iso, parse_iso


def test_the_fixed_clock_moves_only_when_told() -> None:
    clock = FixedClock(start=10 * SECOND)
    assert (clock.now(), clock.monotonic()) == (10 * SECOND, 0)
    clock.advance(3)
    assert (clock.now(), clock.monotonic()) == (10 * SECOND + 3, 3)
    clock.advance(-5)
    assert clock.now() == 10 * SECOND - 2


def test_the_fixed_clock_may_tick() -> None:
    clock = FixedClock(start=0, step=7)
    assert [clock.now() for _ in range(3)] == [0, 7, 14]


def test_the_system_clock_runs() -> None:
    clock = SystemClock()
    assert clock.now() > 1_700_000_000 * SECOND
    assert clock.monotonic() <= clock.monotonic()


@given(st.integers(0, 253_402_300_799_999))
def test_milliseconds_survive_the_text(milliseconds: int) -> None:
    assert parse_iso(iso(milliseconds * 1_000_000)) == milliseconds * 1_000_000


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01", 0),
        ("1970-01-01T00:00:01", 1),
        ("1970-01-01T00:00:01Z", 1),
        ("1970-01-01T02:00:01+02:00", 1),
        ("1969-12-31T23:59:59Z", -1),
    ],
)
def test_reading(text: str, seconds: int) -> None:
    assert parse_iso(text) == seconds * SECOND


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "12"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_iso(text)


@given(st.integers(0, 100_000 * DAY))
def test_a_day_holds_its_times(now: int) -> None:
    day = day_of(now)
    assert parse_iso(day) <= now < parse_iso(day) + DAY
    assert iso(now).startswith(day)

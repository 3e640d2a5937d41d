"""Identifiers."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from detent.kernel.clock import FixedClock
from detent.kernel.ids import CountedIds, UuidV7, is_uuid, new_span_id, new_trace_id


@given(st.integers(0, 2**47 * 1_000_000))
def test_the_layout_is_that_of_rfc_9562(now: int) -> None:
    text = UuidV7(FixedClock(start=now)).new()
    found = uuid.UUID(text)
    assert (found.version, found.variant, str(found)) == (7, uuid.RFC_4122, text)
    milliseconds, fraction = found.int >> 80, (found.int >> 64) & 0xFFF
    expected = max((now // 1_000_000 << 12) | (now % 1_000_000 * 4096 // 1_000_000), 1)
    assert (milliseconds << 12) | fraction == expected


@given(st.lists(st.integers(-(10**9), 10**9), max_size=50))
def test_each_is_greater_also_when_the_clock_steps_back(steps: list[int]) -> None:
    clock = FixedClock()
    source = UuidV7(clock)
    made = []
    for step in steps:
        clock.advance(step)
        made.append(source.new())
    assert made == sorted(set(made))


def test_a_still_clock_counts_on_beyond_the_millisecond() -> None:
    source = UuidV7(FixedClock())
    made = [source.new() for _ in range(10_000)]
    assert made == sorted(set(made))


def test_threads_never_share_one() -> None:
    source = UuidV7()
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: [source.new() for _ in range(500)], range(8)))
    assert all(ids == sorted(ids) for ids in made)
    assert len({i for ids in made for i in ids}) == 4000


def test_counted_ids_are_well_formed() -> None:
    source = CountedIds()
    made = [source.new() for _ in range(3)]
    assert [uuid.UUID(i).version for i in made] == [7, 7, 7]
    assert made == ["00000000-0000-7000-8000-00000000000" + d for d in "123"]


def test_recognising() -> None:
    assert is_uuid(UuidV7().new())
    for wrong in ("", "x", UuidV7().new().upper(), UuidV7().new() + "\n", uuid.uuid4().hex, "-" * 36):
        assert not is_uuid(wrong)


def test_trace_and_span_ids_are_hex() -> None:
    assert len(bytes.fromhex(new_trace_id())) == 16
    assert len(bytes.fromhex(new_span_id())) == 8
    assert new_trace_id() != new_trace_id()

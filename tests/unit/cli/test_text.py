"""How results look: aligned, readable, harmless."""

from __future__ import annotations

import click
import pytest

from detent.cli.options import DURATION, LATER, PAIR, USD, WHEN
from detent.cli.text import clean, cost, details, duration, moment, number, shorten, size, table, width
from detent.cli.waterfall import in_tree_order, waterfall
from detent.kernel.clock import HOUR, MINUTE, SECOND
from detent.kernel.telemetry import Span


def test_numbers_stand_at_the_right() -> None:
    shown = table(("NAME", number("TOKENS"), "STATE"), [("a", "12", "ok"), ("longer", "1,234", "failed")])
    assert shown.splitlines() == [
        "NAME    TOKENS  STATE",
        "a           12  ok",
        "longer   1,234  failed",
    ]


def test_wide_characters_take_two_columns() -> None:
    assert (width("abc"), width("日本"), width("e\u0301")) == (3, 4, 1)
    lines = table(("NAME", "X"), [("日本", "1"), ("abcd", "2")]).splitlines()
    assert lines[1:] == ["日本  1", "abcd  2"]


def test_no_rows_is_no_table() -> None:
    assert table(("A",), []) == ""


def test_data_cannot_steer_the_terminal() -> None:
    hostile = "\x1b[2J\x1b]0;pwned\x07\r\nname\u202e\u200b"
    shown = table(("A", "B"), [(hostile, "x")])
    assert not {"\x1b", "\x07", "\r", "\u202e", "\u200b"} & set(shown)
    assert len(shown.splitlines()) == 2
    assert clean("two\nlines", keep_lines=True) == "two\nlines"


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [(None, "-"), (0, "0 µs"), (1_500, "2 µs"), (12_345_678, "12.3 ms"), (412_000_000, "412 ms"),
     (1_240_000_000, "1.24 s"), (3 * MINUTE + 5 * SECOND, "3 min 05 s"), (2 * HOUR + 7 * MINUTE, "2 h 07 min")],
)  # fmt: skip
def test_durations(nanoseconds: int | None, text: str) -> None:
    assert duration(nanoseconds) == text


def test_amounts_times_sizes() -> None:
    assert (cost(None), cost(0), cost(80_000)) == ("unpriced", "$0.00", "$0.00008")
    assert (moment(0), moment(1_767_225_600 * SECOND)) == ("-", "2026-01-01 00:00:00Z")
    assert (size(12), size(3_200_000)) == ("12 B", "3.2 MB")
    assert shorten("abcdef", 4) == "abc…"
    assert details([("a", "1"), ("longer", ""), ("bc", "2")]) == "a   1\nbc  2"


def test_options() -> None:
    assert WHEN.convert("2026-01-01", None, None) == 1_767_225_600 * SECOND
    assert WHEN.convert("2h", None, None) < LATER.convert("2h", None, None)
    assert DURATION.convert("1.5s", None, None) == 1_500_000_000
    assert USD.convert("$0.01", None, None) == 10_000_000
    assert PAIR.convert("a=b=c", None, None) == ("a", "b=c")
    for kind, wrong in ((WHEN, "soon"), (LATER, "x"), (DURATION, "5"), (USD, "-1"), (USD, "nan"), (PAIR, "a")):
        with pytest.raises(click.BadParameter):
            kind.convert(wrong, None, None)  # type: ignore[attr-defined]


def span(id: str, parent: str = "", start: int = 0, end: int = 10) -> Span:
    return Span(trace_id="a" * 32, span_id=id, parent_id=parent, name=id, start=start, end=end)


def test_a_trace_is_shown_as_a_tree() -> None:
    spans = (
        span("root", end=100),
        span("late", "root", 50, 90),
        span("child", "early", 20, 30),
        span("early", "root", 10, 40),
    )
    assert [(depth, s.name) for depth, s in in_tree_order(spans)] == [
        (0, "root"),
        (1, "early"),
        (2, "child"),
        (1, "late"),
    ]
    lines = waterfall(spans).splitlines()
    assert lines[1].split()[2] == "=" * 32
    assert lines[3].split()[2].strip(".").count("=") == 3


def test_broken_trees_lose_no_span() -> None:
    lost = (span("orphan", "gone"), span("self", "self"), span("a", "b"), span("b", "a"))
    assert {s.name for _depth, s in in_tree_order(lost)} == {"orphan", "self", "a", "b"}
    deep = tuple(span(str(i), str(i - 1) if i else "", i) for i in range(500))
    assert len(list(in_tree_order(deep))) == 500

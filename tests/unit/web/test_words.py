"""Numbers, times and money in words; conversations from whatever a span holds; tables as CSV."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detent.kernel.telemetry import Span
from detent.web import words
from detent.web.table import Table, safe_cell
from detent.web.views.conversation import conversation
from detent.web.views.trace import waterfall


@pytest.mark.parametrize(
    ("nanoseconds", "told"),
    [
        (None, "–"),
        (0, "0 ns"),
        (900, "900 ns"),
        (412_345, "412 µs"),
        (999_600, "1.00 ms"),
        (12_345_678, "12.3 ms"),
        (1_420_000_000, "1.42 s"),
        (125_000_000_000, "2 min 05 s"),
        (4_000_000_000_000, "1 h 06 min"),
    ],
)
def test_durations(nanoseconds: int | None, told: str) -> None:
    assert words.duration(nanoseconds) == told


@pytest.mark.parametrize(
    ("nano", "told"),
    [
        (None, "unpriced"),
        (0, "$0.00"),
        (345, "$0.000000345"),
        (-5, "-$0.000000005"),
        (123_456_789, "$0.123"),
        (9_999_999_999, "$10.00"),
        (12_345_678_901, "$12.35"),
        (1_234_567_000_000_000, "$1,234,567.00"),
    ],
)
def test_money(nano: int | None, told: str) -> None:
    assert words.money(nano) == told


@pytest.mark.parametrize(
    ("part", "whole", "told"),
    [(0, 0, "–"), (0, 5, "0%"), (1, 5000, "<0.1%"), (1, 3, "33.3%"), (5, 5, "100%"), (9999, 10000, ">99.9%")],
)
def test_shares(part: int, whole: int, told: str) -> None:
    assert words.percent(part, whole) == told


def test_how_long_ago() -> None:
    day = 86_400_000_000_000
    assert [words.ago(t, 10 * day) for t in (0, 10 * day, 9 * day, 7 * day, 11 * day, 10 * day - 90_000_000_000)] == [
        "never",
        "now",
        "1 day ago",
        "3 days ago",
        "in 1 day",
        "1 min ago",
    ]


def test_what_cannot_be_seen_is_shown() -> None:
    assert words.printable("a\u202eb\x00\n\tc é 👩‍💻") == "a\\u202eb\\u0000\n\tc é 👩‍💻"


def test_hits_are_marked() -> None:
    assert words.marked("a **b** c**d**") == [("a ", False), ("b", True), (" c", False), ("d", True)]
    assert words.marked("2 ** 3 <b>") == [("2 ** 3 <b>", False)]


def test_formulas_are_text() -> None:
    hostile = ["=1+1", " =1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "＝1", "plain", "a=b", ""]
    assert [safe_cell(cell) for cell in hostile] == [
        "'=1+1", "' =1", "'+1", "'-1", "'@SUM(A1)", "'\t=1", "'\r=1", "'＝1", "plain", "a=b", ""
    ]  # fmt: skip
    assert [safe_cell(cell) for cell in (-1, -1.5, True, None)] == ["-1", "-1.5", "true", ""]


@given(st.lists(st.lists(st.text() | st.integers() | st.none(), min_size=2, max_size=2)))
def test_a_table_survives_a_reader(rows: list[list[str | int | None]]) -> None:
    text = Table(("a", "b"), rows).csv()
    read = list(csv.reader(io.StringIO(text, newline="")))
    assert len(read) == len(rows) + 1
    assert all(len(row) == 2 for row in read)


# Conversations


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def test_a_conversation_of_every_kind_of_part() -> None:
    said = json.dumps(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Look"}, IMAGE]},
            {"role": "tool", "tool_call_id": "c1", "content": "42"},
        ]
    )  # fmt: skip
    answer = json.dumps(
        {
            "role": "assistant",
            "content": '{"intent":"refund"}',
            "reasoning_content": "Hm.",
            "tool_calls": [{"id": "c2", "function": {"name": "look", "arguments": '{"n":1}'}}],
        }
    )
    turns = conversation(said, answer)
    assert [(t.role, t.output, [(p.kind, p.text, p.label, p.id) for p in t.parts]) for t in turns] == [
        ("system", False, [("text", "Be brief.", "", "")]),
        ("user", False, [("text", "Look", "", ""), ("media", "image/png, inline, about 3 B", "image_url", "")]),
        ("tool", False, [("tool_result", "42", "", "c1")]),
        (
            "assistant",
            True,
            [
                ("reasoning", "Hm.", "", ""),
                ("json", '{\n  "intent": "refund"\n}', "", ""),
                ("tool_call", '{\n  "n": 1\n}', "look", "c2"),
            ],
        ),
    ]


WORDS = ["role", "content", "type", "text", "tool_calls", "x"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(WORDS), inner),
    max_leaves=12,
)  # fmt: skip


@given(JSON.map(json.dumps) | st.text(), JSON.map(json.dumps) | st.text())
def test_whatever_was_sent_can_be_shown(said: str, answer: str) -> None:
    for turn in conversation(said, answer):
        assert isinstance(turn.role, str)
        assert all(isinstance(part.text, str) for part in turn.parts)


def test_depth_cannot_break_a_page() -> None:
    deep = "[" * 50_000 + "]" * 50_000
    assert conversation(deep, deep)[0].parts[0].kind == "text"


# Waterfalls


@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 1000), st.integers(-50, 1000)),
        min_size=1,
        max_size=40,
        unique_by=lambda row: row[0],
    )
)
def test_a_waterfall_holds_every_span_once(rows: list[tuple[int, int, int, int]]) -> None:
    """Whatever the parents: missing, later, themselves, or in a ring."""
    spans = tuple(
        Span(trace_id="a" * 32, span_id=f"{i:016x}", parent_id=f"{p:016x}" if p else "", name="n", start=s, end=s + d)
        for i, p, s, d in rows
    )
    bars = waterfall(spans)
    assert sorted(bar.span_id for bar in bars) == sorted(span.span_id for span in spans)
    assert all(0 <= bar.left < 100 and 0 < bar.width <= 100.01 - bar.left for bar in bars)
    placed: dict[str, int] = {}
    for bar in bars:
        parent = placed.get(bar.parent_id)
        assert bar.depth == 0 or (parent is not None and bar.depth == parent + 1)
        placed[bar.span_id] = bar.depth

"""Lists that are longer than what is looked at in one go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from detent.kernel.clock import DAY, SECOND, FixedClock
from detent.kernel.telemetry import Batch, Span, SpanFilter
from detent.store.lake import open_lake, reading, sealed
from detent.store.lake.sqlite import SqliteLake
from detent.store.lake.text import snippet, words

T0 = 1_767_225_600 * SECOND
COUNT = 900


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqliteLake]:
    opened = open_lake(tmp_path_factory.mktemp("lake"), clock=FixedClock(T0 + 9 * DAY))
    opened.write(
        Batch(
            tuple(
                Span(
                    trace_id=f"{number:032x}",
                    span_id=f"{number:016x}",
                    name="chat",
                    operation="chat",
                    start=T0 + number * 150 * SECOND,
                    end=T0 + number * 150 * SECOND + number,
                    status="error" if number % 3 == 0 else "ok",
                    input=f'"every {"third" if number % 3 == 0 else "other"} word{number}"',
                )
                for number in range(1, COUNT + 1)
            )
        )
    )
    yield opened
    opened.close()


@pytest.mark.parametrize("few", [3, reading._FEW])
@pytest.mark.parametrize("limit", [1000, 97])
@pytest.mark.parametrize(
    ("where", "step"),
    [
        ({}, 1),
        ({"status": "ok"}, 0),
        ({"min_duration": 1}, 1),
        ({"operation": "chat"}, 1),
        ({"text": "every"}, 1),
        ({"text": "third"}, 3),
        ({"text": '"third word9"'}, 9),
        ({"status": "error", "text": "every third"}, 3),
    ],
)
def test_every_way_through_a_long_list_ends_at_its_end(
    lake: SqliteLake, monkeypatch: pytest.MonkeyPatch, few: int, limit: int, where: dict[str, Any], step: int
) -> None:
    monkeypatch.setattr(reading, "_FEW", few)
    found, after = [], ""
    while True:
        page = lake.traces(SpanFilter(project="default", **where), limit=limit, after=after)
        found += [int(row.trace_id, 16) for row in page.rows]
        after = page.after
        if not after:
            break
    if step == 0:
        assert found == [number for number in range(COUNT, 0, -1) if number % 3]
    elif step == 9:
        assert found == [9]
    else:
        assert found == [number for number in range(COUNT, 0, -1) if number % step == 0]


def test_sealed_parts_join_where_they_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "PART_SPANS", 7)
    opened = open_lake(tmp_path, clock=FixedClock(T0 + 9 * DAY))
    spans = tuple(
        Span(trace_id=f"{n // 5 + 1:032x}", span_id=f"{n + 1:016x}", name="x", start=T0 + n, end=T0 + n, input=f'"{n}"')
        for n in range(50)
    )
    opened.write(Batch(spans))
    opened.seal("default", "2026-01-01")
    assert len(list(tmp_path.rglob("*.parquet"))) == 8
    for trace in range(10):
        assert opened.trace("default", f"{trace + 1:032x}") == spans[trace * 5 : trace * 5 + 5]
    opened.close()


def test_parquet_is_readable_by_anything(tmp_path: Path) -> None:
    from arro3.io import read_parquet

    opened = open_lake(tmp_path, clock=FixedClock(T0 + 9 * DAY))
    span = Span(
        trace_id="1" * 32,
        span_id="2" * 16,
        name="chat",
        start=T0,
        end=T0 + 5,
        cost=None,
        input_tokens=3,
        stream=True,
        attributes={"a": 1},
        input='"é"',
    )
    opened.write(Batch((span,)))
    opened.seal("default", "2026-01-01")
    (part,) = tmp_path.rglob("*.parquet")
    table = read_parquet(part).read_all()
    row = {name: table.column(name).to_pylist()[0] for name in table.column_names}
    assert row["attributes"] == '{"a":1}'
    assert {name: row[name] for name in ("trace_id", "start", "cost", "input_tokens", "stream", "input")} == {
        "trace_id": "1" * 32,
        "start": T0,
        "cost": None,
        "input_tokens": 3,
        "stream": True,
        "input": '"é"',
    }
    assert set(row) == set(Span.__struct_fields__)
    opened.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World_1!", ["hello", "world_1"]),
        ("STRASSE straße", ["strasse", "strasse"]),
        ("ＡＢＣ ① ﬁn", ["abc", "1", "fin"]),
        ("退款 ok", ["退", "款", "ok"]),
        ("", []),
        ("\x00\ue000!", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_snippets() -> None:
    assert snippet("one two three", ["two"]) == "one **two** three"
    assert snippet("a b", ["missing"]) == "a b"
    assert snippet("x " * 200 + "NEEDLE" + " y" * 200, ["needle"]).count("**") == 2
    assert snippet("Straße 退款", ["strasse", "款"]) == "**Straße** 退**款**"
    assert snippet("", ["a"]) == ""

"""What every Lake does. One more adapter is one more entry in `LAKES`."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from detent.kernel.clock import DAY, HOUR, MINUTE, SECOND, FixedClock
from detent.kernel.errors import Conflict, InvalidInput, NotFound, StorageFailed
from detent.kernel.ports import Lake
from detent.kernel.telemetry import Batch, MetricQuery, MetricRow, Repriced, Score, Span, SpanFilter, Written
from detent.store.lake import open_lake

T0 = 1_767_225_600 * SECOND  # 2026-01-01
LAKES: dict[str, Callable[[Path, FixedClock], Lake]] = {"sqlite": lambda folder, clock: open_lake(folder, clock=clock)}


@pytest.fixture(params=LAKES)
def open_again(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Lake]]:
    """Opens the same lake once more; it is 2026-01-10."""
    opened: list[Lake] = []

    def again() -> Lake:
        opened.append(LAKES[request.param](tmp_path / "lake", FixedClock(T0 + 9 * DAY)))
        return opened[-1]

    yield again
    for lake in opened:
        lake.close()


@pytest.fixture
def lake(open_again: Callable[[], Lake]) -> Lake:
    return open_again()


def ids(trace: int, span: int) -> dict[str, str]:
    return {"trace_id": f"{trace:032x}", "span_id": f"{span:016x}"}


def make(trace: int = 1, span: int = 1, **fields: Any) -> Span:
    start = fields.pop("start", T0 + span * SECOND)
    return Span(
        **{
            "name": "chat support",
            "start": start,
            "end": start + SECOND,
            "operation": "chat",
            **ids(trace, span),
            **fields,
        }
    )


def found(lake: Lake, **where: Any) -> list[int]:
    """Traces that match, as small numbers, in the order in which they come."""
    page = lake.traces(SpanFilter(**{"project": "default", **where}))
    assert page.after == ""
    return [int(row.trace_id, 16) for row in page.rows]


FULL = make(
    7,
    70,
    parent_id="00000000000000ff",
    end=T0 + 75 * SECOND,
    status="error",
    error_type="upstream_timeout",
    provider="openai",
    request_model="gpt-4.1",
    response_model="gpt-4.1-2026-01-01",
    route="support",
    key_id="key-1",
    release="r1",
    session_id="s1",
    user_id="u1",
    input_tokens=11,
    output_tokens=7,
    cached_input_tokens=3,
    reasoning_tokens=2,
    usage_estimated=True,
    cost=1234,
    ttft=5_000_000,
    finish_reason="stop",
    stream=True,
    http_status=504,
    attempts=3,
    attributes={"a.b": 1, "list": ["x", 2, None], "flag": True, "half": 0.5, "nested": {"k": "v"}, "": "empty key"},
    input='[{"role":"user","content":"Where is my order?"}]',
    output='{"role":"assistant","content":"On its way."}',
)


# Writing and reading back


def test_a_span_comes_back_as_it_was(lake: Lake) -> None:
    assert lake.write(Batch((FULL,))) == Written(1, 0)
    assert lake.trace("default", FULL.trace_id) == (FULL,)


def test_nothing_is_there_before_the_first_write(lake: Lake) -> None:
    assert lake.traces(SpanFilter(project="default")).rows == ()
    assert lake.trace("default", FULL.trace_id) == ()
    assert lake.scores("default") == ()
    assert lake.values("default", "model") == ()
    assert lake.metrics(MetricQuery(project="default", since=0, until=2 * T0)) == ()
    assert lake.partitions() == ()
    assert lake.retain("default", before="2030-01-01") == 0
    assert lake.write(Batch()) == Written(0, 0)


def test_the_same_span_again_changes_nothing(lake: Lake) -> None:
    spans = (make(1, 1, cost=5), make(1, 2, cost=7, start=T0 + DAY), make(2, 1, cost=9))
    assert lake.write(Batch(spans)) == Written(3, 0)
    before = everything(lake)
    assert lake.write(Batch(spans)) == Written(0, 3)
    assert lake.write(Batch((make(1, 1, cost=99, name="other"),))) == Written(0, 1)
    assert lake.write(Batch((make(3, 1), make(3, 1)))) == Written(1, 1)
    after = everything(lake)
    assert after[0] == before[0] + 1
    assert [row for row in after[1] if row["trace_id"] != ids(3, 1)["trace_id"]] == before[1]


def everything(lake: Lake) -> tuple[int, list[dict[str, Any]]]:
    rows = lake.metrics(MetricQuery(project="default", since=0, until=2 * T0))
    traces = lake.traces(SpanFilter(project="default")).rows
    return sum(row.requests for row in rows), [msgspec.to_builtins(row) for row in traces]


def test_a_batch_with_old_and_new_spans_keeps_each_content(lake: Lake) -> None:
    def span(number: int) -> Span:
        return make(1, number, input=json.dumps(f"text {number}"), attributes={"n": number})

    lake.write(Batch((span(2), span(4))))
    assert lake.write(Batch(tuple(span(number) for number in range(1, 6)))) == Written(3, 2)
    assert lake.trace("default", ids(1, 1)["trace_id"]) == tuple(span(number) for number in range(1, 6))


def test_what_is_written_is_there_after_opening_again(open_again: Callable[[], Lake]) -> None:
    first = open_again()
    first.write(Batch((FULL,), (score("s1"),)))
    second = open_again()
    assert second.trace("default", FULL.trace_id) == (FULL,)
    second.write(Batch((make(8, 8),)))
    first.close()
    third = open_again()
    assert found(third) == [7, 8]
    assert third.scores("default") == (score("s1"),)
    with pytest.raises(StorageFailed):
        first.write(Batch((make(9, 9),)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"trace_id": "xyz"},
        {"trace_id": "0" * 32},
        {"trace_id": "ab " * 10 + "ab"},
        {"span_id": "1"},
        {"parent_id": "12"},
        {"start": -1},
        {"start": 0, "end": 0},
        {"start": 2**63},
        {"cost": -1},
        {"input_tokens": 2**60},
        {"attributes": {"big": 2**80}},
        {"input": "\ud800"},
        {"session_id": "\ud800"},
        {"project": ""},
        {"project": "x" * 300},
    ],
)
def test_what_cannot_be_stored_is_refused_with_its_batch(lake: Lake, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        lake.write(Batch((make(1, 1), make(2, 2, **{"start": T0, "end": T0, **wrong}))))
    assert found(lake) == []
    assert lake.write(Batch((make(1, 1),))) == Written(1, 0)


HOSTILE = [
    "'; DROP TABLE span; --",
    '" OR 1=1 --',
    "\x00 nul",
    "a" * 70_000,
    "{{7*7}}${jndi:ldap://x}",
    "\u202e rtl \u200b zero width \ue000",
    "\U0001f600 emoji \u0301 combining",
    "*", "^", "NEAR(a b)", "a AND b OR NOT c", "col:x", "-x", '""', '"', "%_\\", "\ue000status",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_data_everywhere(lake: Lake, text: str) -> None:
    span = make(
        1,
        1,
        name=text,
        session_id=text,
        user_id=text,
        request_model=text,
        error_type=text,
        attributes={text: text},
        input=json.dumps([{"role": "user", "content": text}]),
        output=text,
    )
    lake.write(Batch((span, make(2, 2))))
    assert lake.trace("default", span.trace_id) == (span,)
    assert found(lake, session_id=text) == [1]
    assert found(lake, model=text, user_id=text, error_type=text) == [1]
    assert found(lake, attributes={text: text}) == [1]
    assert 1 in found(lake, text=text)
    assert lake.values("default", "session") == (text,)
    assert found(lake) == [2, 1]


@pytest.mark.parametrize("name", ["../../etc", "a/b", "A", "a", "ä", "con", ".", "..", "x y", "%41", "\u202e"])
def test_any_name_of_a_project_is_a_folder_of_its_own(lake: Lake, tmp_path: Path, name: str) -> None:
    lake.write(Batch((make(1, 1, project=name),)))
    assert [partition.project for partition in lake.partitions()] == [name]
    assert lake.trace(name, ids(1, 1)["trace_id"])[0].project == name
    assert [path.name for path in tmp_path.iterdir()] == ["lake"]


def test_tenants_never_mix(lake: Lake) -> None:
    for project in ("a", "A", "b"):
        lake.write(
            Batch(
                (
                    make(
                        1, 1, project=project, input=json.dumps(project * 3), session_id=project, response_model=project
                    ),
                ),
                (score("same", project=project, value=project),),
            )
        )
    for project in ("a", "A", "b"):
        (span,) = lake.trace(project, ids(1, 1)["trace_id"])
        assert (span.project, span.session_id) == (project, project)
        page = lake.traces(SpanFilter(project=project))
        assert [row.root.session_id for row in page.rows] == [project]
        assert lake.values(project, "model") == (project,)
        assert [each.value for each in lake.scores(project)] == [project]
        (row,) = lake.metrics(MetricQuery(project=project, since=0, until=2 * T0, group_by=("model",)))
        assert (row.requests, row.group) == (1, {"model": project})
    assert found(lake, project="b", text="aaa") == []
    assert found(lake, project="c") == []
    assert lake.retain("a", before="2027-01-01") == 1
    assert {partition.project for partition in lake.partitions()} == {"A", "b"}


# Lists


def test_traces_come_newest_first_page_by_page(lake: Lake) -> None:
    lake.write(Batch(tuple(make(n, n, start=T0 + n % 7 * 13 * HOUR) for n in range(1, 60))))
    whole = lake.traces(SpanFilter(project="default"), limit=1000)
    assert whole.after == ""
    order = [row.trace_id for row in whole.rows]
    expected = sorted(range(1, 60), key=lambda n: (n % 7 * 13 * HOUR, ids(n, 1)["trace_id"]), reverse=True)
    assert [int(trace, 16) for trace in order] == expected
    for limit in (1, 7, 58, 59):
        pages, after = [], ""
        while True:
            page = lake.traces(SpanFilter(project="default"), limit=limit, after=after)
            assert len(page.rows) <= limit
            pages += [row.trace_id for row in page.rows]
            after = page.after
            if not after:
                break
        assert pages == order
    with pytest.raises(InvalidInput):
        lake.traces(SpanFilter(project="default"), after="nonsense")


def test_a_row_sums_up_its_trace(lake: Lake) -> None:
    root = make(1, 1, start=T0 + MINUTE, operation="invoke_agent", name="agent")
    lake.write(
        Batch((make(1, 2, parent_id="0" * 15 + "1", start=T0, end=T0 + HOUR, cost=5, input_tokens=1, output_tokens=2),))
    )
    lake.write(Batch((root, make(1, 3, parent_id="0" * 15 + "1", start=T0 + 2 * MINUTE, status="error"))))
    (row,) = lake.traces(SpanFilter(project="default")).rows
    assert row.root == root  # the span without a parent, though another began earlier and came first
    assert (row.spans, row.errors, row.input_tokens, row.output_tokens) == (3, 1, 1, 2)
    assert (row.cost, row.unpriced, row.end) == (5, 1, T0 + HOUR)


def test_without_a_parentless_span_the_first_is_the_root(lake: Lake) -> None:
    lake.write(Batch((make(1, 5, parent_id="a" * 16), make(1, 3, parent_id="a" * 16))))
    (row,) = lake.traces(SpanFilter(project="default")).rows
    assert row.root.span_id == ids(1, 3)["span_id"]
    assert (row.cost, row.unpriced) == (None, 2)


def test_a_trace_over_midnight_is_one(lake: Lake) -> None:
    early = make(1, 1, start=T0 + DAY - SECOND, cost=1)
    late = make(1, 2, start=T0 + DAY + SECOND, cost=2, parent_id="0" * 15 + "1", session_id="s")
    lake.write(Batch((late, make(2, 3, start=T0 + DAY))))
    lake.write(Batch((early,)))
    assert lake.trace("default", early.trace_id) == (early, late)
    page = lake.traces(SpanFilter(project="default"))
    assert [(row.root.span_id, row.spans, row.cost) for row in page.rows] == [
        (early.span_id, 2, 3),
        (ids(2, 3)["span_id"], 1, None),
    ]
    assert found(lake, session_id="s") == [1]
    assert found(lake, until=T0 + DAY) == [1]
    assert found(lake, since=T0 + DAY) == [1, 2]
    first = lake.traces(SpanFilter(project="default"), limit=1)
    second = lake.traces(SpanFilter(project="default"), limit=1, after=first.after)
    assert ([row.trace_id for row in second.rows], second.after) == ([ids(2, 3)["trace_id"]], "")


@pytest.mark.parametrize(
    "where",
    [
        {"status": "error"},
        {"operation": "chat"},
        {"provider": "openai"},
        {"model": "gpt-4.1"},
        {"model": "gpt-4.1-2026-01-01"},
        {"route": "support"},
        {"key_id": "key-1"},
        {"release": "r1"},
        {"session_id": "s1"},
        {"user_id": "u1"},
        {"error_type": "upstream_timeout"},
        {"min_duration": 5 * SECOND},
        {"min_cost": 1234},
        {"since": FULL.start},
        {"until": FULL.start + 1},
        {"text": "order"},
        {"text": "WAY order"},
        {"text": '"is my order"'},
        {"attributes": {"a.b": "1", "flag": "true", "half": "0.5"}},
        {"attributes": {"list": '["x",2,null]', "nested": '{"k":"v"}', "": "empty key"}},
        {"status": "error", "provider": "openai", "text": "order", "min_cost": 1, "attributes": {"a.b": "1"}},
    ],
)
def test_each_filter_finds_what_it_names(lake: Lake, where: dict[str, Any]) -> None:
    other = make(8, 80, operation="embeddings", start=T0 + 200 * SECOND if "until" in where else T0)
    lake.write(Batch((FULL, other)))
    assert found(lake, **where) == [7]


@pytest.mark.parametrize(
    "where",
    [
        {"status": "ok"},
        {"status": "strange"},
        {"operation": "Chat"},
        {"model": "gpt"},
        {"session_id": "s"},
        {"min_duration": 5 * SECOND + 1},
        {"min_cost": 1235},
        {"since": FULL.start + 1},
        {"until": FULL.start},
        {"text": "orde"},
        {"text": "role"},
        {"text": '"my is order"'},
        {"text": '"order on"', "status": "error"},
        {"attributes": {"a.b": "2"}},
        {"attributes": {"a": "1"}},
        {"attributes": {"missing": ""}},
    ],
)
def test_each_filter_leaves_the_rest(lake: Lake, where: dict[str, Any]) -> None:
    lake.write(Batch((FULL,)))
    assert found(lake, **where) == ([7] if where == {"text": "role"} and "role" in FULL.name else [])


def test_filters_hold_on_one_span(lake: Lake) -> None:
    lake.write(Batch((make(1, 1, provider="openai"), make(1, 2, route="support"))))
    assert found(lake, provider="openai") == found(lake, route="support") == [1]
    assert found(lake, provider="openai", route="support") == []


def test_snippets_show_the_hit(lake: Lake) -> None:
    text = "lorem " * 100 + "the Order A-17 left " + "ipsum " * 100
    lake.write(Batch((make(1, 1, input=json.dumps([{"content": text}])),)))
    (row,) = lake.traces(SpanFilter(project="default", text='order "a 17"')).rows
    assert "the **Order** **A**-**17** left" in row.snippet
    assert row.snippet.startswith("…")
    assert len(row.snippet) < 200
    assert row.root.input == ""
    (plain,) = lake.traces(SpanFilter(project="default")).rows
    assert plain.snippet.startswith("lorem lorem")
    assert plain.snippet.endswith("…")
    assert len(plain.snippet) == 120


def test_without_a_question_a_row_shows_what_its_root_was_asked(lake: Lake) -> None:
    asked = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "parts": [{"type": "text", "content": "Why?"}]},
    ]
    lake.write(Batch((make(1, 2, parent_id="0" * 15 + "1", input='"of the child"'),)))
    lake.write(Batch((make(1, 1, start=T0 + MINUTE, input=json.dumps(asked)), make(2, 3))))
    assert [row.snippet for row in lake.traces(SpanFilter(project="default")).rows] == ["", "Why?"]


def test_scripts_without_spaces_are_searched_by_letters(lake: Lake) -> None:
    lake.write(Batch((make(1, 1, input=json.dumps("我想要退款，谢谢")), make(2, 2, input=json.dumps("款项已退")))))
    assert found(lake, text="退款") == [1]
    assert found(lake, text="退") == [2, 1]
    assert found(lake, text="ＷＥＩＴ") == []
    lake.write(Batch((make(3, 3, input=json.dumps("weit STRASSE")),)))
    assert found(lake, text="ＷＥＩＴ straße") == [3]


def test_inlined_files_are_not_searched_and_escapes_are_read(lake: Lake) -> None:
    lake.write(
        Batch(
            (
                make(
                    1,
                    1,
                    input=json.dumps([{"url": "data:image/png;base64," + "needle+" * 50}, {"text": "one\ntwo\tthree"}]),
                ),
            )
        )
    )
    assert found(lake, text="needle") == []
    assert found(lake, text='"one two three"') == [1]


# Metrics


def test_metrics_sum_up_calls_by_hour_and_group(lake: Lake) -> None:
    spans = [
        make(n, n, start=T0 + n * 10 * MINUTE, end=T0 + n * 10 * MINUTE + n * SECOND, response_model=f"m{n % 2}",
             cost=n if n % 3 else None, input_tokens=n, output_tokens=1, status="error" if n == 5 else "ok",
             ttft=n * SECOND // 2 if n > 6 else None)
        for n in range(1, 13)
    ]  # fmt: skip
    lake.write(Batch((*spans, make(50, 50, operation="execute_tool", cost=10**9, start=T0))))
    rows = lake.metrics(MetricQuery(project="default", since=T0, until=T0 + 3 * HOUR, bucket=HOUR, group_by=("model",)))
    assert [(row.start, row.group["model"], row.requests) for row in rows] == [
        (T0, "m0", 2), (T0, "m1", 3), (T0 + HOUR, "m0", 3), (T0 + HOUR, "m1", 3), (T0 + 2 * HOUR, "m0", 1),
    ]  # fmt: skip
    (whole,) = lake.metrics(MetricQuery(project="default", since=T0, until=T0 + DAY))
    assert (whole.requests, whole.errors, whole.input_tokens, whole.output_tokens) == (12, 1, 78, 12)
    assert (whole.cost, whole.unpriced, whole.group, whole.start) == (78 - 3 - 6 - 9 - 12, 4, {}, T0)
    assert whole.duration is not None
    assert whole.ttft is not None
    for got, exact in zip(whole.duration, (6, 12, 12), strict=True):
        assert abs(got - exact * SECOND) <= 0.02 * exact * SECOND
    assert abs(whole.ttft[0] - 9 * SECOND // 2) <= 0.02 * 9 * SECOND // 2
    empty = lake.metrics(MetricQuery(project="default", since=T0 + 3 * HOUR, until=T0 + 9 * HOUR))
    assert empty == ()
    quiet = lake.metrics(MetricQuery(project="default", since=T0, until=T0 + HOUR))
    assert isinstance(quiet[0], MetricRow)
    assert quiet[0].ttft is None


def test_metrics_refuse_what_they_cannot_answer(lake: Lake) -> None:
    for query in (
        MetricQuery(project="default", since=0, until=T0, bucket=MINUTE),
        MetricQuery(project="default", since=0, until=T0, bucket=-HOUR),
        MetricQuery(project="default", since=0, until=T0, group_by=("session",)),  # type: ignore[arg-type]
    ):
        with pytest.raises(InvalidInput):
            lake.metrics(query)


def test_values_come_most_frequent_first(lake: Lake) -> None:
    lake.write(
        Batch(
            tuple(
                make(n, n, response_model=("a", "b", "b", "c", "c", "c")[n - 1], route="", user_id="u")
                for n in range(1, 7)
            )
        )
    )
    assert lake.values("default", "model") == ("c", "b", "a")
    assert lake.values("default", "model", limit=2) == ("c", "b")
    assert lake.values("default", "operation") == ("chat",)
    assert lake.values("default", "route") == ()
    with pytest.raises(InvalidInput):
        lake.values("default", "secret")  # type: ignore[arg-type]


# Scores


def score(id: str, **fields: Any) -> Score:
    return Score(**{"id": id, "name": "thumbs", "value": True, "source": "user", "time": T0, **ids(7, 70), **fields})


def test_scores_of_every_type_come_back_newest_first(lake: Lake) -> None:
    given = tuple(
        score(f"s{n}", value=value, time=T0 + n, name=name, comment="because 'x'", session_id="s", author="a")
        for n, (name, value) in enumerate(
            [("thumbs", True), ("exact", 0.25), ("stars", 4), ("label", "good"), ("thumbs", 0)]
        )
    )
    assert lake.write(Batch(scores=given)) == Written(5, 0)
    assert lake.scores("default") == given[::-1]
    assert [type(each.value) for each in lake.scores("default")] == [int, str, int, float, bool]
    assert lake.scores("default", name="thumbs") == (given[4], given[0])
    assert lake.scores("default", limit=2) == (given[4], given[3])
    assert lake.scores("default", trace_id="0" * 32) == ()
    assert lake.scores("default", trace_id=FULL.trace_id, name="stars") == (given[2],)


def test_a_later_score_with_the_same_id_replaces(lake: Lake) -> None:
    first, second = score("s1", value=True, time=T0), score("s1", value=False, time=T0 + DAY)
    assert lake.write(Batch(scores=(first,))) == Written(1, 0)
    assert lake.write(Batch(scores=(first,))) == Written(0, 1)
    assert lake.write(Batch(scores=(second,))) == Written(1, 0)
    assert lake.write(Batch(scores=(first, second))) == Written(0, 2)
    assert lake.scores("default") == (second,)


@pytest.mark.parametrize(
    "wrong", [{"id": ""}, {"name": ""}, {"trace_id": "", "span_id": ""}, {"time": -1}, {"comment": "\ud800"}]
)
def test_scores_that_cannot_be_stored_are_refused(lake: Lake, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        lake.write(Batch(scores=(score("x"), msgspec.structs.replace(score("y"), **wrong))))
    assert lake.scores("default") == ()


# Days


def filled(lake: Lake, days: int = 3, per_day: int = 30) -> tuple[Span, ...]:
    spans = tuple(
        make(
            day * 1000 + n // 3 + 1,
            n + 1,
            start=T0 + day * DAY + n * MINUTE,
            input=json.dumps([{"role": "user", "content": f"question {day} {n} word{n}"}]),
            output=json.dumps(f"answer {n}"),
            attributes={"n": n, "day": f"d{day}"},
            response_model=f"m{n % 2}",
            cost=n,
        )
        for day in range(days)
        for n in range(per_day)
    )
    lake.write(Batch(spans))
    return spans


QUESTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"text": "word7"},
    {"text": '"question 1"'},
    {"attributes": {"n": "4"}},
    {"model": "m1", "min_cost": 25},
    {"since": T0 + DAY + 5 * MINUTE, "until": T0 + 2 * DAY + 5 * MINUTE},
)


def answers(lake: Lake) -> list[Any]:
    lists = [lake.traces(SpanFilter(project="default", **where), limit=500) for where in QUESTIONS]
    query = MetricQuery(project="default", since=T0, until=T0 + 9 * DAY, bucket=HOUR, group_by=("model",))
    return [*lists, lake.metrics(query), lake.values("default", "model")]


def test_a_sealed_day_answers_as_before(lake: Lake, open_again: Callable[[], Lake]) -> None:
    spans = filled(lake)
    before = answers(lake)
    reader = open_again()
    assert answers(reader) == before
    sealed = lake.seal("default", "2026-01-02")
    assert (sealed.spans, sealed.sealed) == (30, True)
    assert answers(lake) == before
    assert answers(reader) == before  # another process had it open meanwhile
    for trace_id in {span.trace_id for span in spans}:
        assert lake.trace("default", trace_id) == tuple(span for span in spans if span.trace_id == trace_id)
    assert [(part.day, part.sealed) for part in lake.partitions()] == [
        ("2026-01-03", False),
        ("2026-01-02", True),
        ("2026-01-01", False),
    ]
    assert lake.seal("default", "2026-01-02") == sealed


def test_late_spans_into_a_sealed_day(lake: Lake) -> None:
    spans = filled(lake, days=1)
    lake.seal("default", "2026-01-01")
    late = make(4, 500, start=T0 + HOUR, input='"late needle"', attributes={"n": "late"})
    assert lake.write(Batch((spans[4], late))) == Written(1, 1)
    assert found(lake, text="needle") == [4]
    assert late in lake.trace("default", late.trace_id)
    assert lake.seal("default", "2026-01-01").spans == 31
    assert found(lake, text="needle") == [4]
    assert lake.write(Batch((late, spans[9]))) == Written(0, 2)
    assert late in lake.trace("default", late.trace_id)
    assert spans[9] in lake.trace("default", spans[9].trace_id)


def test_only_a_day_that_is_over_is_sealed(lake: Lake) -> None:
    today = make(1, 1, start=T0 + 9 * DAY)
    lake.write(Batch((today,)))
    with pytest.raises(Conflict):
        lake.seal("default", "2026-01-10")
    with pytest.raises(NotFound):
        lake.seal("default", "2026-01-05")
    with pytest.raises(InvalidInput):
        lake.seal("default", "yesterday")


def test_retention_drops_whole_days(lake: Lake, open_again: Callable[[], Lake]) -> None:
    filled(lake)
    lake.write(Batch(scores=(score("old", time=T0), score("new", time=T0 + 2 * DAY))))
    lake.seal("default", "2026-01-01")
    reader = open_again()
    assert len(reader.traces(SpanFilter(project="default")).rows) == 30
    assert lake.retain("default", before="2026-01-03") == 2
    assert lake.retain("default", before="2026-01-03") == 0
    assert [part.day for part in reader.partitions()] == ["2026-01-03"]
    assert len(reader.traces(SpanFilter(project="default")).rows) == 10
    assert [each.id for each in reader.scores("default")] == ["new"]


def test_a_dropped_day_can_begin_anew(lake: Lake, open_again: Callable[[], Lake]) -> None:
    """Both lakes have the old file open, for reading and for writing, when the day is dropped."""
    other = open_again()
    filled(lake, days=1)
    other.write(Batch((make(900, 900),)))
    assert len(found(other)) == 11
    assert lake.retain("default", before="2026-01-02") == 1
    for turn, writer in enumerate((other, lake, other)):
        assert writer.write(Batch((make(turn + 1, 7),))) == Written(1, 0)
    assert found(lake) == found(other) == [3, 2, 1]
    lake.close()
    assert found(other) == [3, 2, 1]
    assert found(open_again()) == [3, 2, 1]


# Many at once


def test_threads_write_the_same_and_different_spans(lake: Lake) -> None:
    def work(offset: int) -> None:
        for number in range(20):
            totals.append(lake.write(Batch((make(number + 1, offset + 1), make(number + 1, 99)))).inserted)

    totals: list[int] = []
    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(totals) == 20 * 7
    assert all(row.spans == 7 for row in lake.traces(SpanFilter(project="default")).rows)
    (row,) = lake.metrics(MetricQuery(project="default", since=0, until=2 * T0))
    assert row.requests == 140


# Another cost


def costs(lake: Lake) -> dict[int, int | None]:
    return {
        int(span.span_id, 16): span.cost
        for row in lake.traces(SpanFilter(project="default"), limit=1000).rows
        for span in lake.trace("default", row.trace_id)
    }


def doubled(span: Span) -> int | None:
    return None if span.cost is None else 2 * span.cost


def priced(lake: Lake) -> None:
    """Six calls on two days, of two models; the third is unpriced; and a span that is no call."""
    calls = [
        make(
            number // 2 + 1,
            number,
            start=T0 + number // 4 * DAY + number * HOUR,
            request_model="ab"[number % 2],
            cost=None if number == 3 else 10**number,
            attributes={"gen_ai.usage.cache_creation.input_tokens": number},
            input='[{"role": "user", "content": "hello"}]',
        )
        for number in range(1, 7)
    ]
    lake.write(Batch((*calls, make(9, 9, operation="execute_tool", cost=5))))


@pytest.mark.parametrize("sealed", [False, True])
def test_calls_get_another_cost(lake: Lake, open_again: Callable[[], Lake], sealed: bool) -> None:
    priced(lake)
    if sealed:
        lake.seal("default", "2026-01-01")
    before = {int(span.span_id, 16): span for span in lake.trace("default", ids(1, 1)["trace_id"])}
    other = open_again()
    other.metrics(MetricQuery(project="default", since=0, until=2 * T0))
    assert lake.reprice("default", "2026-01-01", doubled, dry_run=True) == Repriced(3, 2, 110, 220)
    assert costs(lake)[1] == 10
    assert lake.reprice("default", "2026-01-01", doubled) == Repriced(3, 2, 110, 220)
    for reader in (lake, other, open_again()):
        assert costs(reader) == {1: 20, 2: 200, 3: None, 4: 10**4, 5: 10**5, 6: 10**6, 9: 5}
        rows = reader.metrics(MetricQuery(project="default", since=0, until=2 * T0, group_by=("model",)))
        assert [(row.group["model"], row.cost, row.unpriced) for row in rows] == [
            ("a", 200 + 10**4 + 10**6, 0),
            ("b", 20 + 10**5, 1),
        ]
        listed = {int(row.trace_id, 16): (row.cost, row.unpriced) for row in traces_of(reader)}
        assert listed == {1: (20, 0), 2: (200, 1), 3: (10**4 + 10**5, 0), 4: (10**6, 0), 9: (5, 0)}
        (kept,) = [
            span for span in reader.trace("default", ids(1, 1)["trace_id"]) if span.span_id == ids(1, 1)["span_id"]
        ]
        assert kept == msgspec.structs.replace(before[1], cost=20)


def traces_of(lake: Lake) -> tuple[Any, ...]:
    return lake.traces(SpanFilter(project="default"), limit=100).rows


@pytest.mark.parametrize("sealed", [False, True])
def test_unpriced_becomes_priced_and_back(lake: Lake, sealed: bool) -> None:
    priced(lake)
    if sealed:
        lake.seal("default", "2026-01-01")
    assert lake.reprice("default", "2026-01-01", lambda span: 7).changed == 3
    assert lake.reprice("default", "2026-01-01", lambda span: 7) == Repriced(3, 0, 21, 21)
    assert lake.reprice("default", "2026-01-01", lambda span: None) == Repriced(3, 3, 21, 0)
    listed = {int(row.trace_id, 16): (row.cost, row.unpriced) for row in traces_of(lake)}
    assert listed[1] == (None, 1)
    assert listed[2] == (None, 2)
    if sealed:
        assert lake.seal("default", "2026-01-01").sealed
        assert costs(lake)[1] is None


def test_only_calls_in_the_range_are_asked_for_and_with_their_attributes(lake: Lake) -> None:
    priced(lake)
    asked = []

    def cost(span: Span) -> int | None:
        asked.append((span.request_model, span.attributes["gen_ai.usage.cache_creation.input_tokens"]))
        return span.cost

    since, until = T0 + 2 * HOUR, T0 + 3 * HOUR
    assert lake.reprice("default", "2026-01-01", cost, since=since, until=until) == Repriced(1, 0, 100, 100)
    assert asked == [("a", 2)]


def test_late_spans_of_a_sealed_day_get_another_cost_as_well(lake: Lake) -> None:
    priced(lake)
    lake.seal("default", "2026-01-01")
    lake.write(Batch((make(1, 70, start=T0 + HOUR, request_model="b", cost=1),)))
    assert lake.reprice("default", "2026-01-01", doubled) == Repriced(4, 3, 111, 222)
    lake.seal("default", "2026-01-01")
    assert (costs(lake)[1], costs(lake)[70]) == (20, 2)


def test_what_cannot_be_repriced(lake: Lake) -> None:
    priced(lake)
    with pytest.raises(NotFound):
        lake.reprice("default", "2026-01-05", doubled)
    with pytest.raises(NotFound):
        lake.reprice("nobody", "2026-01-01", doubled)
    with pytest.raises(InvalidInput):
        lake.reprice("default", "2026-01-01", lambda span: -1)
    with pytest.raises(InvalidInput):
        lake.reprice("default", "yesterday", doubled)
    assert costs(lake)[1] == 10

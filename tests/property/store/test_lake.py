"""A lake answers as a list of spans would: filters, text, totals, pages; also when sealed, also when written twice."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from detent.kernel.clock import DAY, HOUR, SECOND, FixedClock, day_of
from detent.kernel.telemetry import Batch, MetricQuery, Span, SpanFilter
from detent.store.lake import open_lake, reading

T0 = 1_767_225_600 * SECOND
WORDS = (
    "order",
    "Order",
    "refund",
    "straße",
    "STRASSE",
    "a-17",
    "退款",
    "x_y",
    "naïve",
    "7",
    "wo!rd",
    "\ue000odd",
    "día",
)

text = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)
few = st.sampled_from(("", "a", "b"))
offsets = st.integers(0, 20) | st.integers(-10, 10).map(lambda n: DAY // HOUR + n)


@st.composite
def spans(draw: st.DrawFn) -> Span:
    start = T0 + draw(offsets) * HOUR + draw(st.integers(0, 3)) * SECOND
    return Span(
        trace_id=f"{draw(st.integers(1, 5)):032x}",
        span_id=f"{draw(st.integers(1, 6)):016x}",
        parent_id=draw(st.sampled_from(("", "00000000000000aa"))),
        name=draw(st.sampled_from(("chat", "tool refund"))),
        project=draw(st.sampled_from(("p", "p", "q"))),
        operation=draw(st.sampled_from(("chat", "execute_tool"))),
        start=start,
        end=start + draw(st.integers(-1, 5)) * SECOND,
        status=draw(st.sampled_from(("ok", "ok", "error", "cancelled"))),
        error_type=draw(few),
        provider=draw(few),
        request_model=draw(few),
        response_model=draw(few),
        route=draw(few),
        key_id=draw(few),
        release=draw(few),
        session_id=draw(few),
        user_id=draw(few),
        input_tokens=draw(st.integers(0, 5)),
        output_tokens=draw(st.integers(0, 5)),
        cost=draw(st.none() | st.integers(0, 4)),
        ttft=draw(st.none() | st.integers(1, 10**9)),
        attributes=draw(st.dictionaries(few, st.sampled_from(("v", 1, 2.5, True, None)), max_size=2)),
        input=draw(text.map(lambda t: json.dumps([{"role": "user", "content": t}]) if t else "")),
        output=draw(text.map(lambda t: json.dumps(t, ensure_ascii=False) if t else "")),
    )


@st.composite
def filters(draw: st.DrawFn) -> SpanFilter:
    fields: dict[str, Any] = {}
    for name in ("provider", "model", "route", "key_id", "release", "session_id", "user_id", "error_type"):
        if draw(st.integers(0, 7)) == 0:
            fields[name] = draw(few)
    if draw(st.booleans()):
        words = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=2))
        fields["text"] = f'"{" ".join(words)}"' if draw(st.booleans()) else " ".join(words)
    if draw(st.integers(0, 3)) == 0:
        fields["status"] = draw(st.sampled_from(("ok", "error", "cancelled")))
    if draw(st.integers(0, 3)) == 0:
        fields["operation"] = draw(st.sampled_from(("chat", "execute_tool", "none")))
    if draw(st.integers(0, 3)) == 0:
        fields["since"] = T0 + draw(offsets) * HOUR
    if draw(st.integers(0, 3)) == 0:
        fields["until"] = T0 + draw(offsets) * HOUR + SECOND
    if draw(st.integers(0, 3)) == 0:
        fields["min_duration"] = draw(st.integers(0, 4)) * SECOND
    if draw(st.integers(0, 3)) == 0:
        fields["min_cost"] = draw(st.integers(0, 4))
    if draw(st.integers(0, 3)) == 0:
        fields["attributes"] = {draw(few): draw(st.sampled_from(("v", "1", "2.5", "true", "")))}
    return SpanFilter(project=draw(st.sampled_from(("p", "q"))), **fields)


# The same, naively


def naive_words(of: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", of).casefold())
    return re.findall(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+", folded)


def naive_holds(span: Span, where: SpanFilter) -> bool:
    for name in (
        "status",
        "operation",
        "provider",
        "route",
        "key_id",
        "release",
        "session_id",
        "user_id",
        "error_type",
    ):
        if getattr(where, name) and getattr(span, name) != getattr(where, name):
            return False
    if where.model and where.model not in (span.request_model, span.response_model):
        return False
    if span.start < where.since or (where.until and span.start >= where.until):
        return False
    if max(span.end - span.start, 0) < where.min_duration:
        return False
    if where.min_cost and (span.cost is None or span.cost < where.min_cost):
        return False
    as_text = {"v": "v", 1: "1", 2.5: "2.5", None: ""}
    for key, value in where.attributes.items():
        if key not in span.attributes:
            return False
        kept = span.attributes[key]
        if ("true" if kept is True else as_text[kept]) != value:
            return False
    content = [span.name]
    if span.input:
        content += [part for message in json.loads(span.input) for part in message.values()]
    if span.output:
        content.append(json.loads(span.output))
    have = naive_words("\n".join(content))
    for quoted, plain in re.findall(r'"([^"]*)"|(\S+)', where.text):
        wanted = naive_words(quoted or plain)
        if wanted and not any(have[at : at + len(wanted)] == wanted for at in range(len(have))):
            return False
    return True


def naive_rows(stored: list[Span], where: SpanFilter) -> list[dict[str, Any]]:
    mine = [span for span in stored if span.project == where.project]
    rows = []
    for trace_id in {span.trace_id for span in mine}:
        whole = [span for span in mine if span.trace_id == trace_id]
        hits = [span for span in whole if naive_holds(span, where)]
        if hits:
            newest = max(day_of(span.start) for span in hits)
            position = min(span.start for span in whole if day_of(span.start) == newest)
            costs = [span.cost for span in whole if span.cost is not None]
            row = {
                "trace_id": trace_id,
                "root": min(whole, key=lambda span: (span.parent_id != "", span.start, span.span_id)).span_id,
                "spans": len(whole),
                "errors": sum(span.status == "error" for span in whole),
                "input_tokens": sum(span.input_tokens for span in whole),
                "output_tokens": sum(span.output_tokens for span in whole),
                "cost": sum(costs) if costs else None,
                "unpriced": sum(span.cost is None and span.operation == "chat" for span in whole),
                "end": max(span.end for span in whole),
            }
            rows.append(((position, trace_id), row))
    return [row for _, row in sorted(rows, key=lambda pair: pair[0], reverse=True)]


def unique(given: list[Span]) -> list[Span]:
    """The first of each project, day, trace and span id: what a lake keeps."""
    kept: dict[Any, Span] = {}
    for span in given:
        kept.setdefault((span.project, day_of(span.start), span.trace_id, span.span_id), span)
    return list(kept.values())


# Not shrunk: a counterexample must be out before the time limit of a test is.
@settings(max_examples=50, phases=(Phase.explicit, Phase.generate), suppress_health_check=[HealthCheck.too_slow])
@given(
    batches=st.lists(st.lists(spans(), min_size=1, max_size=8), min_size=1, max_size=3),
    questions=st.lists(filters(), min_size=4, max_size=8),
    limit=st.integers(1, 4),
    sealed=st.booleans(),
    few=st.sampled_from((0, 2, reading._FEW)),
)
def test_as_a_list_of_spans_would(
    batches: list[list[Span]],
    questions: list[SpanFilter],
    limit: int,
    sealed: bool,
    few: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    lake = open_lake(tmp_path_factory.mktemp("lake"), clock=FixedClock(T0 + 9 * DAY))
    with pytest.MonkeyPatch.context() as patch:
        # From how many candidates on traces are walked instead: both ways have to give the same.
        patch.setattr(reading, "_FEW", few)
        for batch in batches:
            lake.write(Batch(tuple(batch)))
        stored = unique([span for batch in batches for span in batch])
        assert lake.write(Batch(tuple(batches[0]))).inserted == 0
        if sealed:
            for part in lake.partitions():
                lake.seal(part.project, part.day)
        for where in (*questions, SpanFilter(project="p")):
            assert rows_of(lake, where, limit) == naive_rows(stored, where), where
        for trace_id in {span.trace_id for span in stored}:
            whole = [span for span in stored if (span.project, span.trace_id) == ("p", trace_id)]
            assert list(lake.trace("p", trace_id)) == sorted(whole, key=lambda span: (span.start, span.span_id))
        check_metrics(lake, [span for span in stored if span.project == "p"])
    lake.close()


def rows_of(lake: Any, where: SpanFilter, limit: int) -> list[dict[str, Any]]:
    rows, after = [], ""
    while True:
        page = lake.traces(where, limit=limit, after=after)
        rows += [
            {
                "trace_id": row.trace_id,
                "root": row.root.span_id,
                "spans": row.spans,
                "errors": row.errors,
                "input_tokens": row.input_tokens,
                "output_tokens": row.output_tokens,
                "cost": row.cost,
                "unpriced": row.unpriced,
                "end": row.end,
            }
            for row in page.rows
        ]
        after = page.after
        if not after:
            return rows


def check_metrics(lake: Any, stored: list[Span]) -> None:
    calls = [span for span in stored if span.operation == "chat"]
    query = MetricQuery(project="p", since=T0, until=T0 + 3 * DAY, bucket=HOUR, group_by=("model", "route"))
    rows = {(row.start, *row.group.values()): row for row in lake.metrics(query)}
    groups: dict[Any, list[Span]] = {}
    for span in calls:
        key = (span.start // HOUR * HOUR, span.response_model or span.request_model, span.route)
        groups.setdefault(key, []).append(span)
    assert rows.keys() == groups.keys()
    for key, members in groups.items():
        row = rows[key]
        assert row.requests == len(members)
        assert row.errors == sum(span.status == "error" for span in members)
        assert row.cost == sum(span.cost or 0 for span in members)
        assert row.unpriced == sum(span.cost is None for span in members)
        durations = sorted(span.duration for span in members)
        assert row.duration is not None
        assert abs(row.duration[2] - durations[-1]) <= 0.02 * durations[-1]

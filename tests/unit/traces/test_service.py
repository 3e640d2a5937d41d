"""The verbs of traces: each asks for its right, stays in the caller's project, and keeps content from who may not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from detent.kernel.clock import FixedClock
from detent.kernel.errors import Forbidden, InvalidInput, NotFound, TooLarge
from detent.kernel.identity import Actor, Permission, Principal
from detent.kernel.ids import CountedIds
from detent.kernel.telemetry import Batch, MetricQuery, Score, Span, SpanFilter, Written
from detent.store.lake import open_lake
from detent.traces.service import Traces

P = Permission
EVERY = frozenset(P)
T0 = 1_767_225_600 * 10**9
TRACE = "1" * 32


def caller(*permissions: Permission, project: str = "p") -> Principal:
    return Principal(Actor("user", "u1"), project, frozenset(permissions or EVERY))


SPAN = Span(
    trace_id=TRACE,
    span_id="1" * 16,
    project="p",
    name="chat",
    operation="chat",
    start=T0,
    end=T0 + 5,
    session_id="s",
    input='"secret question"',
    output='"secret answer"',
    attributes={
        "app.tenant": "t",
        "app.count": 3,
        "tool.arguments": "secret",
        "gen_ai.tool.call.result": "secret",
        "long": "secret " * 60,
        "nested": {"prompt": "secret"},
        "otel.events": [{"name": "x", "attributes": {"message": "secret"}}],
    },
)


@pytest.fixture
def traces(tmp_path: Path) -> Iterator[Traces]:
    lake = open_lake(tmp_path / "lake", clock=FixedClock())
    verbs = Traces(lake, clock=FixedClock(), ids=CountedIds())
    verbs.write(caller(), Batch((SPAN,)))
    verbs.score(caller(), trace_id=TRACE, name="thumbs", value=True, comment="secret remark")
    yield verbs
    lake.close()


ANY = SpanFilter(project="")
CALLS: dict[str, tuple[Permission, Callable[[Traces, Principal], Any]]] = {
    "list": (P.TRACES_READ, lambda traces, who: traces.list(who, ANY)),
    "get": (P.TRACES_READ, lambda traces, who: traces.get(who, TRACE)),
    "metrics": (P.TRACES_READ, lambda traces, who: traces.metrics(who, MetricQuery(project="", since=0, until=T0 * 2))),
    "values": (P.TRACES_READ, lambda traces, who: traces.values(who, "session")),
    "scores": (P.TRACES_READ, lambda traces, who: traces.scores(who)),
    "write": (P.TRACES_WRITE, lambda traces, who: traces.write(who, Batch((SPAN,)))),
    "score": (P.SCORES_WRITE, lambda traces, who: traces.score(who, trace_id=TRACE, name="n", value=1)),
}


@pytest.mark.parametrize("verb", CALLS)
def test_each_verb_needs_its_permission(traces: Traces, verb: str) -> None:
    permission, call = CALLS[verb]
    call(traces, caller(permission))
    with pytest.raises(Forbidden, match=permission.value):
        call(traces, caller(*(EVERY - {permission})))


def test_scores_in_a_batch_need_their_own_permission(traces: Traces) -> None:
    score = Score(id="s", name="n", value=1, source="code", time=T0, trace_id=TRACE)
    with pytest.raises(Forbidden, match="scores:write"):
        traces.write(caller(P.TRACES_WRITE), Batch(scores=(score,)))


def test_another_project_sees_and_changes_nothing(traces: Traces) -> None:
    other = caller(project="q")
    assert traces.list(other, SpanFilter(project="p")).rows == ()
    assert traces.metrics(other, MetricQuery(project="p", since=0, until=T0 * 2)) == ()
    assert traces.values(other, "session") == ()
    assert traces.scores(other) == ()
    with pytest.raises(NotFound):
        traces.get(other, TRACE)
    with pytest.raises(NotFound):
        traces.score(other, trace_id=TRACE, name="n", value=1)
    # What it writes lands in its own project, whatever the span says.
    assert traces.write(other, Batch((SPAN,))) == Written(1, 0)
    assert traces.get(other, TRACE)[0].project == "q"
    assert len(traces.get(caller(), TRACE)) == 1


def test_without_the_right_to_content_there_is_none(traces: Traces) -> None:
    blind = caller(P.TRACES_READ)
    (span,) = traces.get(blind, TRACE)
    (row,) = traces.list(blind, ANY).rows
    (score,) = traces.scores(blind)
    assert "secret" not in f"{span} {row} {score}"
    assert span.attributes == {"app.tenant": "t", "app.count": 3}
    assert (span.session_id, score.name, score.value) == ("s", "thumbs", True)
    assert traces.list(blind, SpanFilter(project="", attributes={"app.tenant": "t"})).rows != ()
    for where in ({"text": "secret"}, {"attributes": {"tool.arguments": "secret"}}):
        with pytest.raises(Forbidden, match="content:read"):
            traces.list(blind, SpanFilter(project="", **where))  # type: ignore[arg-type]


def test_with_it_content_is_found_and_shown(traces: Traces) -> None:
    (row,) = traces.list(caller(), SpanFilter(project="", text="question")).rows
    assert row.snippet == "chat secret **question** secret answer"
    assert traces.get(caller(), TRACE) == (SPAN,)
    assert traces.scores(caller())[0].comment == "secret remark"


def test_a_score_says_who_and_when(traces: Traces) -> None:
    given = traces.score(
        caller(), trace_id=TRACE, span_id="1" * 16, name="stars", value=4, source="reviewer", id="mine"
    )
    assert given == Score(
        id="mine",
        project="p",
        trace_id=TRACE,
        span_id="1" * 16,
        session_id="s",
        name="stars",
        value=4,
        source="reviewer",
        author="user:u1",
        time=FixedClock().now(),
    )
    again = traces.score(caller(), trace_id=TRACE, name="stars", value=5, id="mine")
    assert traces.scores(caller(), name="stars") == (again,)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"trace_id": "2" * 32}, NotFound),
        ({"trace_id": "nonsense"}, NotFound),
        ({"span_id": "2" * 16}, NotFound),
        ({"name": ""}, InvalidInput),
        ({"name": "x" * 201}, InvalidInput),
        ({"id": "x" * 201}, InvalidInput),
        ({"value": float("nan")}, InvalidInput),
        ({"value": float("inf")}, InvalidInput),
        ({"value": 2**60}, InvalidInput),
        ({"value": "x" * 10_001}, TooLarge),
        ({"comment": "x" * 10_001}, TooLarge),
    ],
)
def test_scores_that_are_refused(traces: Traces, wrong: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        traces.score(caller(), **{"trace_id": TRACE, "name": "n", "value": 1, **wrong})
    assert len(traces.scores(caller())) == 1


def test_a_batch_has_a_bound(traces: Traces) -> None:
    with pytest.raises(TooLarge):
        traces.write(caller(), Batch((SPAN,) * 10_001))

"""The job that costs past calls anew: the prices of each call's time, exact sums, and a crash at any point."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from detent.app.catalog import catalog
from detent.app.recalculation import Range, recalculation
from detent.gateway.facts import PriceRemoved, PriceSet, PricesRecalculated
from detent.kernel.clock import DAY, HOUR, SECOND, FixedClock
from detent.kernel.errors import InvalidInput
from detent.kernel.facts import Draft
from detent.kernel.identity import Actor
from detent.kernel.ids import CountedIds
from detent.kernel.money import Price
from detent.kernel.ports import Lake, Ledger
from detent.kernel.telemetry import Batch, MetricQuery, Span, SpanFilter
from detent.store.lake import open_lake
from detent.store.ledger import open_ledger

T0 = 1_767_225_600 * SECOND
ME = Actor("system", "test")
EVER = {"since": 0, "until": T0 + 20 * DAY}


class Crash(Exception):
    """The process died."""


class Context:
    """A job's context that remembers finished steps as the worker's database does, and dies when told to.

    Attributes:
        dies: at which step, counted over all runs, and whether before the step's result was kept.
    """

    def __init__(self, project: str = "default", dies: int = 0) -> None:
        self.id = f"job-{project}"
        self.project = project
        self.dies = dies
        self.done: dict[str, Any] = {}
        self.fractions: list[float] = []

    def step(self, name: str, work: Callable[[], Any]) -> Any:
        if name not in self.done:
            self.dies -= 1
            result = json.loads(json.dumps(work(), allow_nan=False))
            if self.dies == 0:
                raise Crash  # the work is done, and nobody knows
            self.done[name] = result
        return self.done[name]

    def progress(self, fraction: float, note: str = "") -> None:
        self.fractions.append(fraction)


class Stage:
    """A ledger and a lake in a folder."""

    def __init__(self, folder: Path) -> None:
        clock = FixedClock(T0 + 9 * DAY)
        self.ledger: Ledger = open_ledger(
            f"sqlite:///{folder}/ledger.db",
            catalog(),
            checkpoints=folder / "checkpoints",
            key_file=folder / "ledger.key",
            clock=clock,
            ids=CountedIds(),
        )
        self.lake: Lake = open_lake(folder / "lake", clock=clock)

    def set_price(self, model: str, price: Price | None, effective: int, project: str = "default") -> None:
        body = PriceSet(provider="p", model=model, price=price, effective=effective)
        self.ledger.append([Draft(f"price/{project}/p/{model}", body)], actor=ME, project=project)

    def run(self, context: Context | None = None, **arguments: Any) -> dict[str, Any]:
        return recalculation(self.ledger, self.lake)(context or Context(), {**EVER, **arguments})

    def spans(self, project: str = "default") -> list[Span]:
        traces = {row.trace_id for row in self.lake.traces(SpanFilter(project=project), limit=1000).rows}
        return [span for trace in sorted(traces) for span in self.lake.trace(project, trace)]

    def costs(self) -> dict[int, int | None]:
        return {int(span.span_id, 16): span.cost for span in self.spans()}

    def close(self) -> None:
        self.lake.close()
        self.ledger.close()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    opened = Stage(tmp_path)
    yield opened
    opened.close()


def call(number: int, start: int, **fields: Any) -> Span:
    defaults: dict[str, Any] = {
        "trace_id": f"{number // 3 + 1:032x}",
        "span_id": f"{number:016x}",
        "name": "chat",
        "operation": "chat",
        "start": start,
        "end": start + SECOND,
        "provider": "p",
        "request_model": "m",
        "route": "r",
        "input_tokens": 1000,
    }
    return Span(**{**defaults, **fields})


def week(stage: Stage) -> None:
    """A call a day at 1 nano-dollar, of which the first two days are sealed."""
    stage.lake.write(Batch(tuple(call(day + 1, T0 + day * DAY + HOUR, cost=1) for day in range(5))))
    stage.lake.seal("default", "2026-01-01")
    stage.lake.seal("default", "2026-01-02")


def test_each_call_gets_the_price_of_its_time(stage: Stage) -> None:
    week(stage)
    stage.set_price("m", Price(1000, 0), T0 + DAY)
    stage.set_price("m", Price(2000, 0), T0 + 3 * DAY)
    dry = stage.run(dry_run=True)
    assert stage.costs() == dict.fromkeys(range(1, 6), 1)
    context = Context()
    result = stage.run(context)
    assert stage.costs() == {1: 1, 2: 1000, 3: 1000, 4: 2000, 5: 2000}
    totals = {"calls": 5, "changed": 4, "before": 5, "after": 6001}
    line = {"provider": "p", "model": "m", **totals, "unpriced_before": 0, "unpriced_after": 0}
    assert result == {"dry_run": False, "days": 5, **totals, "models": [line]}
    assert dry == {**result, "dry_run": True}
    assert context.fractions == sorted(context.fractions)
    (fact,) = stage.ledger.read(kind="prices.recalculated")
    assert fact.body == PricesRecalculated(**EVER, spans=5, changed=4, before=5, after=6001)
    assert (fact.project, str(fact.actor)) == ("default", "system:worker")


def test_only_the_range_and_the_model_that_were_asked_for(stage: Stage) -> None:
    week(stage)
    stage.lake.write(Batch((call(9, T0 + 2 * DAY, request_model="other", cost=1),)))
    for model in ("m", "other"):
        stage.set_price(model, Price(1000, 0), T0)
    assert stage.run(since=T0 + DAY, until=T0 + 3 * DAY, model="other")["changed"] == 1
    assert stage.run(since=T0 + DAY, until=T0 + 3 * DAY, provider="nobody")["calls"] == 0
    assert stage.run(Context(), since=T0 + 2 * DAY + HOUR, until=T0 + 2 * DAY + HOUR + 1)["calls"] == 1
    assert stage.costs() == {1: 1, 2: 1, 3: 1000, 4: 1, 5: 1, 9: 1000}


def test_a_project_is_costed_with_its_own_prices_only(stage: Stage) -> None:
    stage.lake.write(Batch(tuple(call(1, T0, project=project) for project in ("a", "b"))))
    stage.set_price("m", Price(1000, 0), T0, project="a")
    assert stage.run(Context("b"))["changed"] == 0
    assert stage.run(Context("a"))["models"][0]["unpriced_before"] == 1
    assert [span.cost for project in "ab" for span in stage.spans(project)] == [1000, None]


@pytest.mark.parametrize("arguments", [{"since": 5, "until": 5}, {"since": -1}, {"project": "other"}, {"until": "now"}])
def test_arguments_that_cannot_be_used(stage: Stage, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        stage.run(**arguments)


@pytest.mark.parametrize("dies", range(1, 12))
def test_a_crash_at_any_step_changes_neither_costs_nor_what_is_told(stage: Stage, dies: int) -> None:
    week(stage)
    stage.set_price("m", Price(1000, 0), T0 + DAY)
    context = Context(dies=dies)
    try:
        stage.run(context)
    except Crash:
        # Prices that change meanwhile are for the next job.
        stage.set_price("m", Price(7000, 0), T0 + DAY)
        if dies == 1:
            stage.ledger.append(
                [Draft("price/default/p/m", PriceRemoved(provider="p", model="m", effective=T0 + DAY))],
                actor=ME,
                project="default",
            )
            stage.set_price("m", Price(1000, 0), T0 + DAY)
        result = stage.run(context)
        assert (result["changed"], result["before"], result["after"]) == (4, 5, 4001)
    assert stage.costs() == {1: 1, 2: 1000, 3: 1000, 4: 1000, 5: 1000}
    (fact,) = stage.ledger.read(kind="prices.recalculated")
    assert isinstance(fact.body, PricesRecalculated)
    assert (fact.body.changed, fact.body.before, fact.body.after) == (4, 5, 4001)


# Money adds up

NUMBERS = count()


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """For all examples; each is a project of its own."""
    opened = Stage(tmp_path_factory.mktemp("stage"))
    yield opened
    opened.close()


def within(project: str, spans: list[Span]) -> list[Span]:
    return [msgspec.structs.replace(span, project=project) for span in spans]


prices = st.builds(Price, *[st.integers(0, 3000)] * 2, request=st.integers(0, 2))


@st.composite
def calls(draw: st.DrawFn) -> Span:
    number, day = draw(st.integers(1, 40)), draw(st.integers(0, 3))
    return call(
        number,
        T0 + day * DAY + draw(st.integers(0, 2)) * HOUR,
        trace_id=f"{number // 3 + 100 * (day // 2) + 1:032x}",  # lists join a trace's parts of two days in a row
        operation=draw(st.sampled_from(("chat", "chat", "execute_tool"))),
        request_model=draw(st.sampled_from(("m", "n"))),
        response_model=draw(st.sampled_from(("", "m-2026"))),
        route=draw(st.sampled_from(("", "r", "s"))),
        key_id=draw(st.sampled_from(("", "k"))),
        input_tokens=draw(st.integers(0, 5)),
        output_tokens=draw(st.integers(0, 5)),
        cost=draw(st.none() | st.integers(0, 9)),
        attributes=draw(st.sampled_from(({}, {"detent.usage.images": 2}, {"detent.cache": "hit-exact"}))),
    )


@settings(
    max_examples=25,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    batches=st.lists(st.lists(calls(), min_size=1, max_size=12), min_size=1, max_size=3),
    history=st.lists(st.tuples(st.sampled_from(("m", "n")), prices, st.integers(0, 4)), max_size=5),
    sealed=st.sets(st.integers(1, 4)),
    late=st.lists(calls(), max_size=4),
    hours=st.tuples(st.integers(0, 50), st.integers(51, 100)),
    dies=st.integers(0, 9),
)
def test_spans_traces_rollups_and_the_result_add_up(
    batches: list[list[Span]],
    history: list[tuple[str, Price, int]],
    sealed: set[int],
    late: list[Span],
    hours: tuple[int, int],
    dies: int,
    lasting: Stage,
) -> None:
    stage, project = lasting, f"p{next(NUMBERS)}"
    for batch in batches:
        stage.lake.write(Batch(tuple(within(project, batch))))
    for part in stage.lake.partitions():
        if part.project == project and int(part.day[-2:]) in sealed:
            stage.lake.seal(project, part.day)
    if late:
        stage.lake.write(Batch(tuple(within(project, late))))
    for model, price, day in history:
        stage.set_price(model, price, T0 + day * DAY, project)
    before = stage.spans(project)
    check(stage, project)
    since, until = (T0 + hour * HOUR for hour in hours)
    context = Context(project, dies=dies)
    try:
        result = stage.run(context, since=since, until=until)
    except Crash:
        check(stage, project)
        result = stage.run(context, since=since, until=until)
    check(stage, project)
    after = stage.spans(project)
    pairs = [
        (old, new)
        for old, new in zip(before, after, strict=True)
        if old.operation == "chat" and since <= old.start < until
    ]
    assert result["calls"] == len(pairs)
    assert result["changed"] == sum(old.cost != new.cost for old, new in zip(before, after, strict=True))
    assert result["before"] == sum(old.cost or 0 for old, _ in pairs)
    assert result["after"] == sum(new.cost or 0 for _, new in pairs)
    assert stage.run(Context(project), since=since, until=until)["changed"] == 0
    assert stage.spans(project) == after


def check(stage: Stage, project: str) -> None:
    """Spans, the traces they stand in, and the hourly roll-ups say the same."""
    spans = stage.spans(project)
    costed = [span for span in spans if span.operation == "chat"]
    rows = stage.lake.metrics(MetricQuery(project=project, since=0, until=T0 + 9 * DAY, bucket=HOUR, group_by=GROUPS))
    by_group: dict[tuple[Any, ...], list[int]] = {}
    for span in costed:
        group = (span.start // HOUR * HOUR, span.response_model or span.request_model, span.route, span.key_id)
        total = by_group.setdefault(group, [0, 0])
        total[0] += span.cost or 0
        total[1] += span.cost is None
    assert {(row.start, *row.group.values()): [row.cost, row.unpriced] for row in rows} == by_group
    for row in stage.lake.traces(SpanFilter(project=project), limit=1000).rows:
        mine = [span for span in spans if span.trace_id == row.trace_id]
        known = [span.cost for span in mine if span.cost is not None]
        assert row.cost == (sum(known) if known else None)
        assert row.unpriced == sum(span.cost is None and span.operation == "chat" for span in mine)


GROUPS = ("model", "route", "key")


def test_a_range_is_what_the_arguments_say() -> None:
    assert Range(since=1, until=2) == Range(since=1, until=2, provider="", model="", dry_run=False)

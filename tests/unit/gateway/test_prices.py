"""Prices by date: the shipped table, a project's own history, the snapshot of both, and what a recorded call costs."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.gateway.test_service import ADMIN, Stage, stage

from detent.gateway.costing import CACHE, cost_of, usage_attributes, usage_of
from detent.gateway.facts import PriceSet
from detent.gateway.model import PriceEntry, Provider, Route, Target
from detent.gateway.prices import PriceTable, dated_prices, own_prices, price_of, read_price, shipped_prices
from detent.gateway.snapshot import Sources, TargetEntry, compile_snapshot, price_at
from detent.kernel.chat import Usage
from detent.kernel.clock import DAY, SECOND, parse_iso
from detent.kernel.errors import InvalidInput, NotFound
from detent.kernel.money import NANO, DatedPrice, LongContext, Price, in_force
from detent.kernel.telemetry import Span

__all__ = ["stage"]
T0 = 1_767_225_600 * SECOND
TARGET = Target("p", "m")


def test_the_shipped_table_is_in_order_and_priced() -> None:
    table = shipped_prices()
    for name, dated in table.models.items():
        dates = [entry.effective for entry in dated]
        assert dates == sorted(set(dates)), name
        assert dates[0] == 0, name
        for entry in dated:
            assert entry.price is not None
            assert entry.price.input > 0, name
            assert entry.price.cached_input is None or entry.price.cached_input < entry.price.input, name


def test_an_announced_price_comes_on_its_day() -> None:
    table, day = shipped_prices(), parse_iso("2027-01-01")
    before, after = table.find("gemini-3.8-flash", day - 1), table.find("gemini-3.8-flash", day)
    assert before is not None
    assert after is not None
    assert (before.input, after.input) == (750_000, 1_500_000)


def test_every_figure_as_people_write_it() -> None:
    found = read_price(
        {
            "input": "1",
            "output": "2",
            "cached_input": "0.5",
            "reasoning": "3",
            "audio_input": "4",
            "audio_output": None,
            "image_output": "0.04",
            "request": "0.000001",
            "long": {"above": 100, "input": "2", "output": "4"},
        }
    )
    assert found == Price(
        1_000_000,
        2_000_000,
        cached_input=500_000,
        reasoning=3_000_000,
        audio_input=4_000_000,
        image_output=NANO // 25,
        request=1000,
        long=LongContext(100, 2_000_000, 4_000_000),
    )
    for wrong in (
        {"input": "x"},
        {"request": "-1"},
        {"long": {"above": 1}},
        {"long": {"above": "x", "input": "1", "output": "1"}},
        {"long": {"above": 1, "input": "1", "output": "1", "request": "1"}},
    ):
        with pytest.raises(InvalidInput):
            read_price({"input": "1", "output": "1", **wrong})


# A project's own


def test_a_history_by_date(stage: Stage) -> None:
    now = stage.clock.now()
    stage.gateway.set_price(ADMIN, TARGET, Price(1, 1))
    stage.gateway.set_price(ADMIN, TARGET, Price(3, 3), effective=now + DAY)
    stage.gateway.set_price(ADMIN, TARGET, Price(2, 2), effective=now - DAY)
    stage.gateway.set_price(ADMIN, TARGET, None, effective=now + 2 * DAY)
    entry = stage.gateway.set_price(ADMIN, TARGET, Price(4, 4), effective=now + DAY)
    assert entry.history == (
        DatedPrice(now - DAY, Price(2, 2)),
        DatedPrice(now, Price(1, 1)),
        DatedPrice(now + DAY, Price(4, 4)),
        DatedPrice(now + 2 * DAY, None),
    )
    assert [entry.at(now + shift) for shift in (-2 * DAY, -DAY, -1, 0, DAY, 2 * DAY)] == [
        None,
        Price(2, 2),
        Price(2, 2),
        Price(1, 1),
        Price(4, 4),
        None,
    ]


def test_a_price_is_removed_by_its_date_or_with_all(stage: Stage) -> None:
    now = stage.clock.now()
    stage.clock.advance(123_456)
    stage.gateway.set_price(ADMIN, TARGET, Price(1, 1))
    stage.gateway.set_price(ADMIN, TARGET, Price(2, 2), effective=now + DAY)
    with pytest.raises(NotFound):
        stage.gateway.remove_price(ADMIN, TARGET, effective=now + 2 * DAY)
    with pytest.raises(NotFound):
        stage.gateway.remove_price(ADMIN, Target("p", "other"))
    stage.gateway.remove_price(ADMIN, TARGET, effective=now, reason="a date as it is told, to the millisecond")
    assert [entry.history for entry in stage.gateway.prices(ADMIN)] == [(DatedPrice(now + DAY, Price(2, 2)),)]
    stage.gateway.set_price(ADMIN, TARGET, Price(3, 3))
    stage.gateway.remove_price(ADMIN, TARGET)
    assert stage.gateway.prices(ADMIN) == ()


@pytest.mark.parametrize("effective", [-1, 2**63])
def test_dates_that_are_none(stage: Stage, effective: int) -> None:
    with pytest.raises(InvalidInput):
        stage.gateway.set_price(ADMIN, TARGET, Price(1, 1), effective=effective)
    assert stage.changes == 0


def test_a_fact_from_before_there_were_dates_still_loads() -> None:
    old = {"provider": "p", "model": "m", "price": {"input": 1, "output": 2, "cached_input": None, "cache_write": None}}
    assert msgspec.convert(old, PriceSet) == PriceSet(provider="p", model="m", price=Price(1, 2))


# Both together

moments = st.integers(0, 12)
prices = st.builds(Price, st.integers(0, 3), st.integers(0, 3))


@st.composite
def histories(draw: st.DrawFn, price: st.SearchStrategy[Price | None]) -> tuple[DatedPrice, ...]:
    dates = sorted(draw(st.sets(moments, max_size=4)))
    return tuple(DatedPrice(date, draw(price)) for date in dates)


@given(histories(prices), histories(prices | st.none()), moments)
def test_all_times_at_once_are_each_time_by_itself(
    shipped: tuple[DatedPrice, ...], mine: tuple[DatedPrice, ...], compiled: int
) -> None:
    table, own = PriceTable("t", {"m": shipped} if shipped else {}), {("p", "m"): mine}
    dated = dated_prices(table, own, "p", "m")
    assert all(one.price != other.price for one, other in pairwise(dated))
    held = in_force(dated, compiled)
    target = TargetEntry(
        "x/p", "m", 1, held.price if held else None, tuple(each for each in dated if each.effective > compiled)
    )
    for moment in range(14):
        wanted = price_of(table, own, "p", "m", moment)
        found = in_force(dated, moment)
        assert (found.price if found else None) == wanted
        if moment >= compiled:
            assert price_at(target, moment) == wanted


def test_the_snapshot_knows_what_comes() -> None:
    table = PriceTable("t", {"m": (DatedPrice(0, Price(5, 5)), DatedPrice(T0 + 3 * DAY, Price(6, 6)))})
    entry = PriceEntry(
        provider="p",
        model="m",
        project="a",
        history=(DatedPrice(T0 - DAY, Price(1, 1)), DatedPrice(T0 + DAY, Price(2, 2)), DatedPrice(T0 + 2 * DAY, None)),
    )
    sources = Sources(
        position=1,
        keys=(),
        providers=tuple(Provider(name="p", project=project, url="https://p.example") for project in "ab"),
        routes=tuple(Route(name="r", project=project, targets=(Target("p", "m"),)) for project in "ab"),
        prices=(entry,),
        secrets={},
    )
    snapshot = compile_snapshot(sources, table=table, now=T0)
    (mine,), (other,) = snapshot.routes["a/r"].targets, snapshot.routes["b/r"].targets
    assert mine.price == Price(1, 1)
    assert mine.later == (
        DatedPrice(T0 + DAY, Price(2, 2)),
        DatedPrice(T0 + 2 * DAY, Price(5, 5)),
        DatedPrice(T0 + 3 * DAY, Price(6, 6)),
    )
    assert (other.price, other.later) == (Price(5, 5), (DatedPrice(T0 + 3 * DAY, Price(6, 6)),))
    assert msgspec.json.decode(msgspec.json.encode(snapshot), type=type(snapshot)) == snapshot


# What a recorded call costs

OWN = own_prices(
    (PriceEntry(provider="p", model="m", project="a", history=(DatedPrice(T0, Price(1_000_000, 0, request=5)),)),)
)
TABLE = PriceTable("t", {})


def span(**fields: object) -> Span:
    common = {"trace_id": "1" * 32, "span_id": "1" * 16, "name": "chat", "start": T0, "end": T0 + 1, "route": "r"}
    return msgspec.convert({**common, "provider": "p", "request_model": "m", "operation": "chat", **fields}, Span)


@pytest.mark.parametrize(
    ("fields", "cost"),
    [
        ({"input_tokens": 2}, 2005),
        ({"input_tokens": 2, "cost": 7}, 2005),
        ({"input_tokens": 2, "cost": 7, "start": T0 - 1}, 7),
        ({"input_tokens": 2, "start": T0 - 1}, None),
        ({"input_tokens": 2, "cost": 0, "attributes": {CACHE: "hit-exact"}}, 0),
        ({"input_tokens": 2, "attributes": {CACHE: "miss"}}, 2005),
        ({"cost": 0}, 0),
        ({"attributes": {"detent.usage.images": 3}}, 5),
        ({"input_tokens": 2, "cost": 7, "route": ""}, 7),
        ({"input_tokens": 2, "route": ""}, 2005),
        ({"input_tokens": 2, "cost": 7, "provider": "q"}, 7),
    ],
)
def test_the_cost_of_a_recorded_call(fields: dict[str, object], cost: int | None) -> None:
    assert cost_of(span(**fields), TABLE, OWN) == cost


@given(
    st.builds(
        Usage,
        *[st.integers(0, 9)] * 5,
        st.booleans(),
        *[st.integers(0, 9)] * 4,
    )
)
def test_a_span_tells_all_of_a_usage(usage: Usage) -> None:
    recorded = span(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        usage_estimated=usage.estimated,
        attributes=usage_attributes(usage),
    )
    assert usage_of(recorded) == usage


@pytest.mark.parametrize("hostile", ["9", -1, 1.5, True, None, 2**60])
def test_what_is_no_count_counts_nothing(hostile: object) -> None:
    assert usage_of(span(attributes={"detent.usage.images": hostile})) == Usage()

"""Money is exact."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detent.kernel.chat import Usage
from detent.kernel.errors import InvalidInput
from detent.kernel.money import NANO, DatedPrice, LongContext, Price, dollars, in_force, per_million

TOKENS = st.integers(0, 10**7)
PICO = st.integers(0, 10**9)


@given(TOKENS, TOKENS, TOKENS, TOKENS, PICO, PICO, st.none() | PICO, st.none() | PICO)
def test_cost_is_the_exact_sum_rounded_once(
    fresh: int, cached: int, write: int, out: int, p_in: int, p_out: int, p_cached: int | None, p_write: int | None
) -> None:
    usage = Usage(fresh + cached + write, out, cached_input_tokens=cached, cache_write_tokens=write)
    exact = Fraction(
        fresh * p_in
        + cached * (p_in if p_cached is None else p_cached)
        + write * (p_in if p_write is None else p_write)
        + out * p_out,
        1000,
    )
    assert Price(p_in, p_out, p_cached, p_write).cost(usage) == round(exact)


def test_more_cached_than_input_never_gives_money_back() -> None:
    assert Price(1000, 0, cached_input=0).cost(Usage(input_tokens=1, cached_input_tokens=5)) == 0


@given(st.decimals(0, 1_000_000, places=6))
def test_a_price_as_people_write_it(usd: Decimal) -> None:
    assert Fraction(per_million(str(usd)), 10**6) == Fraction(usd)


def test_a_known_bill() -> None:
    """0.15 and 0.60 USD per million: 1,000 in and 500 out are 0.00045 USD."""
    price = Price(per_million("0.15"), per_million("0.60"))
    assert dollars(price.cost(Usage(1000, 500))) == "$0.00045"


@pytest.mark.parametrize("wrong", ["", "free", "-1", "NaN", "sNaN", "Infinity", "1000001", "1e99"])
def test_what_is_no_price(wrong: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        per_million(wrong, field="input")
    assert caught.value.field == "input"


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "$0.00"),
        (1, "$0.000000001"),
        (NANO, "$1.00"),
        (-NANO // 2, "-$0.50"),
        (1234 * NANO + 5 * 10**6, "$1,234.005"),
    ],
)
def test_amounts_for_people(nano: int, text: str) -> None:
    assert dollars(nano) == text


@given(st.integers(-(10**18), 10**18))
def test_amounts_lose_nothing(nano: int) -> None:
    assert Decimal(dollars(nano).replace("$", "").replace(",", "")) * NANO == nano


def test_parts_with_prices_of_their_own() -> None:
    price = Price(
        1000,
        2000,
        cached_input=100,
        reasoning=5000,
        audio_input=7000,
        audio_output=9000,
        image_input=3000,
        image_output=40,
        request=6,
    )
    usage = Usage(
        100,
        50,
        cached_input_tokens=20,
        reasoning_tokens=10,
        audio_input_tokens=30,
        audio_output_tokens=5,
        image_input_tokens=10,
        images=2,
    )
    text_in, text_out = 100 - 20 - 30 - 10, 50 - 10 - 5
    in_nano = text_in * 1 + 20 // 10 + 30 * 7 + 10 * 3
    assert price.cost(usage) == in_nano + text_out * 2 + 10 * 5 + 5 * 9 + 2 * 40 + 6


def test_a_long_prompt_costs_more_for_all_of_its_tokens() -> None:
    price = Price(1000, 2000, cached_input=100, long=LongContext(100, 4000, 8000))
    assert price.cost(Usage(100, 10)) == 120
    assert price.cost(Usage(101, 10, cached_input_tokens=1)) == 404 + 80


@given(st.tuples(*[st.integers(0, 10**4)] * 8), st.tuples(*[st.none() | PICO] * 4))
def test_parts_larger_than_the_whole_never_give_money_back(
    tokens: tuple[int, ...], figures: tuple[int | None, ...]
) -> None:
    """Whatever a provider reports, a cost is not below 0."""
    usage = Usage(*tokens[:5], False, *tokens[5:8])
    price = Price(
        100, 200, reasoning=figures[0], audio_input=figures[1], audio_output=figures[2], image_input=figures[3]
    )
    assert price.cost(usage) >= 0


def test_a_price_holds_from_its_date_until_the_next() -> None:
    dated = (DatedPrice(10, Price(1, 1)), DatedPrice(20, None))
    assert [in_force(dated, now) for now in (9, 10, 19, 20)] == [None, dated[0], dated[0], dated[1]]

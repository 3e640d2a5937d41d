"""Models and what they cost."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field

from detent.api.schemas.common import In, Out, TimeText, UsdText
from detent.gateway.model import PriceEntry
from detent.kernel.clock import iso
from detent.kernel.money import NANO, Price

_PER_MILLION: Final = 1_000_000


class LongContextIn(In):
    """Other prices for calls with more than so many tokens of input."""

    above: Annotated[int, Field(ge=1, le=2**40, description="Tokens of input that are still short.")]
    input: UsdText
    output: UsdText
    cached_input: UsdText | None = None
    cache_write: UsdText | None = None


class PriceIn(In):
    """A price to set."""

    input: UsdText
    output: UsdText
    cached_input: UsdText | None = None
    cache_write: UsdText | None = None
    reasoning: UsdText | None = None
    audio_input: UsdText | None = None
    audio_output: UsdText | None = None
    image_input: UsdText | None = None
    image_output: Annotated[str | None, Field(max_length=32, description="USD for each image made.")] = None
    request: Annotated[str | None, Field(max_length=32, description="USD for each call answered.")] = None
    long: LongContextIn | None = None
    effective: TimeText = Field(default="", description="Since when: RFC 3339, in the past or to come; now if empty.")


class LongContextOut(Out):
    """Other prices for calls with more than so many tokens of input, in USD per million tokens."""

    above: int
    input: float
    output: float
    cached_input: float | None
    cache_write: float | None


class PriceOut(Out):
    """USD per million tokens; an image and a request in USD apiece."""

    input: float
    output: float
    cached_input: float | None
    cache_write: float | None
    reasoning: float | None = None
    audio_input: float | None = None
    audio_output: float | None = None
    image_input: float | None = None
    image_output: float = 0.0
    request: float = 0.0
    long: LongContextOut | None = None

    @classmethod
    def of(cls, price: Price) -> Self:
        """From the domain's price."""
        long = price.long
        return cls(
            input=price.input / _PER_MILLION,
            output=price.output / _PER_MILLION,
            cached_input=_million(price.cached_input),
            cache_write=_million(price.cache_write),
            reasoning=_million(price.reasoning),
            audio_input=_million(price.audio_input),
            audio_output=_million(price.audio_output),
            image_input=_million(price.image_input),
            image_output=price.image_output / NANO,
            request=price.request / NANO,
            long=LongContextOut(
                above=long.above,
                input=long.input / _PER_MILLION,
                output=long.output / _PER_MILLION,
                cached_input=_million(long.cached_input),
                cache_write=_million(long.cache_write),
            )
            if long is not None
            else None,
        )


def _million(pico: int | None) -> float | None:
    return None if pico is None else pico / _PER_MILLION


class DatedPriceOut(Out):
    """A price and since when it holds; without a price the shipped one holds again."""

    effective: str
    price: PriceOut | None


class PriceEntryOut(Out):
    """A project's own prices for a provider's model: what holds now, and all of them by date."""

    provider: str
    model: str
    price: PriceOut | None
    history: list[DatedPriceOut]
    changed: str

    @classmethod
    def of(cls, entry: PriceEntry, *, now: int) -> Self:
        """From the domain's entry."""
        held = entry.at(now)
        return cls(
            provider=entry.provider,
            model=entry.model,
            price=PriceOut.of(held) if held else None,
            history=[
                DatedPriceOut(effective=iso(dated.effective), price=PriceOut.of(dated.price) if dated.price else None)
                for dated in entry.history
            ],
            changed=iso(entry.changed),
        )


class RecalculationIn(In):
    """Which past calls to work out anew, at the prices that held when they were made."""

    since: TimeText = Field(description="Started at or after: RFC 3339, or 15m, 2h, 7d ago.")
    until: TimeText = Field(default="", description="Started before; now if empty.")
    provider: Annotated[str, Field(max_length=200)] = ""
    model: Annotated[str, Field(max_length=200)] = ""
    dry_run: bool = False


class ModelOut(Out):
    """A model that can be reached; without a price it is unpriced, which is not free."""

    provider: str
    model: str
    routes: list[str]
    price: PriceOut | None
    price_source: Literal["own", "shipped", "built in", "unpriced"]

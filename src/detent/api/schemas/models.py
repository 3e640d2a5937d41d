"""Models and what they cost."""

from __future__ import annotations

from typing import Final, Literal, Self

from detent.api.schemas.common import In, Out, UsdText
from detent.gateway.model import PriceEntry
from detent.kernel.clock import iso
from detent.kernel.money import Price

_PER_MILLION: Final = 1_000_000


class PriceIn(In):
    """A price to set."""

    input: UsdText
    output: UsdText
    cached_input: UsdText | None = None
    cache_write: UsdText | None = None


class PriceOut(Out):
    """USD per million tokens."""

    input: float
    output: float
    cached_input: float | None
    cache_write: float | None

    @classmethod
    def of(cls, price: Price) -> Self:
        """From the domain's price."""
        return cls(
            input=price.input / _PER_MILLION,
            output=price.output / _PER_MILLION,
            cached_input=None if price.cached_input is None else price.cached_input / _PER_MILLION,
            cache_write=None if price.cache_write is None else price.cache_write / _PER_MILLION,
        )


class PriceEntryOut(Out):
    """A project's own price for a provider's model."""

    provider: str
    model: str
    price: PriceOut
    changed: str

    @classmethod
    def of(cls, entry: PriceEntry) -> Self:
        """From the domain's entry."""
        return cls(
            provider=entry.provider, model=entry.model, price=PriceOut.of(entry.price), changed=iso(entry.changed)
        )


class ModelOut(Out):
    """A model that can be reached; without a price it is unpriced, which is not free."""

    provider: str
    model: str
    routes: list[str]
    price: PriceOut | None
    price_source: Literal["own", "shipped", "built in", "unpriced"]

"""Money as integers, so that sums are exact: nano-dollars (1e-9 USD) for amounts, pico-dollars for a token's price."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Final

import msgspec

from detent.kernel.chat import Usage
from detent.kernel.errors import InvalidInput

NANO: Final = 1_000_000_000


class LongContext(msgspec.Struct, frozen=True):
    """What tokens cost in calls whose input is longer than `above` tokens: all of the call's tokens, not the surplus.

    Attributes:
        above: tokens of input that are still short.
        input, output, cached_input, cache_write: as in Price.
    """

    above: int
    input: int
    output: int
    cached_input: int | None = None
    cache_write: int | None = None


class Price(msgspec.Struct, frozen=True):
    """What a model costs: pico-dollars per token (USD per million tokens times 1,000,000) unless said otherwise.

    A kind of token without a price of its own (None) costs what the kind costs that it is a part of: a cached, cache-
    writing, audio or image token as much as one of input, a reasoning or audio token as much as one of output.

    Attributes:
        image_output: nano-dollars for each image that was made.
        request: nano-dollars for each call that was answered.
        long: other prices for long prompts; reasoning, audio and images keep theirs where they have one.
    """

    input: int
    output: int
    cached_input: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None
    audio_input: int | None = None
    audio_output: int | None = None
    image_input: int | None = None
    image_output: int = 0
    request: int = 0
    long: LongContext | None = None

    def cost(self, usage: Usage) -> int:
        """Nano-dollars for this usage, rounded half to even.

        Cached tokens are taken off the text first: no provider says how many of them were audio or images.
        """
        rate: Price | LongContext = self
        if self.long is not None and usage.input_tokens > self.long.above:
            rate = self.long
        cached = rate.input if rate.cached_input is None else rate.cached_input
        write = rate.input if rate.cache_write is None else rate.cache_write
        fresh = max(usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens, 0)
        pico = (
            fresh * rate.input
            + usage.cached_input_tokens * cached
            + usage.cache_write_tokens * write
            + usage.output_tokens * rate.output
        )
        # What follows is the difference to the price of the whole, for the few calls that have such parts.
        if self.audio_input is not None and usage.audio_input_tokens:
            audio = min(usage.audio_input_tokens, fresh)
            fresh -= audio
            pico += audio * (self.audio_input - rate.input)
        if self.image_input is not None and usage.image_input_tokens:
            pico += min(usage.image_input_tokens, fresh) * (self.image_input - rate.input)
        said = usage.output_tokens
        if self.audio_output is not None and usage.audio_output_tokens:
            audio = min(usage.audio_output_tokens, said)
            said -= audio
            pico += audio * (self.audio_output - rate.output)
        if self.reasoning is not None and usage.reasoning_tokens:
            pico += min(usage.reasoning_tokens, said) * (self.reasoning - rate.output)
        whole, rest = divmod(pico, 1000)
        whole += rest > 500 or (rest == 500 and whole % 2 == 1)
        return whole + usage.images * self.image_output + self.request


class DatedPrice(msgspec.Struct, frozen=True):
    """A price and since when it holds.

    Attributes:
        effective: ns since the epoch; 0 for as long as anybody can say.
        price: None says that from then on there is none.
    """

    effective: int
    price: Price | None


def in_force(dated: Sequence[DatedPrice], now: int) -> DatedPrice | None:
    """The one that holds at a time, of prices in the order of their dates; None before the first."""
    found = None
    for entry in dated:
        if entry.effective > now:
            break
        found = entry
    return found


def per_million(usd: str | int | Decimal, *, field: str = "price") -> int:
    """Pico-dollars per token from USD per million tokens as people write it (`"0.15"`).

    Raises:
        InvalidInput: not a number, negative, or absurd (above 1,000,000).
    """
    try:
        amount = Decimal(str(usd))
    except InvalidOperation:
        raise InvalidInput(
            f"'{usd}' is no amount.", hint='Give USD per million tokens, e.g. "0.15".', field=field
        ) from None
    if not amount.is_finite() or amount < 0 or amount > 1_000_000:
        raise InvalidInput(f"'{usd}' is out of range.", hint="Give 0 to 1000000 USD per million tokens.", field=field)
    return int((amount * 1_000_000).to_integral_value(ROUND_HALF_EVEN))


def dollars(nano: int) -> str:
    """An amount for people: at least two and at most nine decimals, e.g. `$0.000345`."""
    sign = "-" if nano < 0 else ""
    whole, rest = divmod(abs(nano), NANO)
    decimals = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}${whole:,}.{decimals}"


def read_usd(text: str, *, field: str = "usd") -> int:
    """Nano-dollars from an amount as people write it (`"100"`, `"0.25"`, `"$12"`).

    Raises:
        InvalidInput: not a number, negative, finer than a nano-dollar, or above 1,000,000,000.
    """
    try:
        amount = Decimal(text.strip().removeprefix("$"))
    except InvalidOperation:
        raise InvalidInput(
            f"'{text[:40]}' is no amount.", hint='Give USD, e.g. "100" or "0.25".', field=field
        ) from None
    if not amount.is_finite() or amount < 0 or amount > NANO:
        raise InvalidInput(f"'{text[:40]}' is out of range.", hint="Give 0 to 1000000000 USD.", field=field)
    nano = amount * NANO
    if nano != nano.to_integral_value():
        raise InvalidInput(f"'{text[:40]}' is too fine.", hint="Nine decimals are the most.", field=field)
    return int(nano)


def write_usd(nano: int) -> str:
    """An amount as `read_usd` takes it, exact and as short as it goes: `100`, `0.25`."""
    whole, rest = divmod(nano, NANO)
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".")

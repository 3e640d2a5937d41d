"""Money as integers, so that sums are exact: nano-dollars (1e-9 USD) for amounts, pico-dollars for a token's price."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Final

import msgspec

from detent.kernel.chat import Usage
from detent.kernel.errors import InvalidInput

NANO: Final = 1_000_000_000


class Price(msgspec.Struct, frozen=True):
    """What a model's tokens cost, in pico-dollars per token (USD per million tokens times 1,000,000).

    A cached or cache-writing token costs as much as an input token where no own price is given (None).
    """

    input: int
    output: int
    cached_input: int | None = None
    cache_write: int | None = None

    def cost(self, usage: Usage) -> int:
        """Nano-dollars for this usage, rounded half to even."""
        cached = self.input if self.cached_input is None else self.cached_input
        write = self.input if self.cache_write is None else self.cache_write
        fresh = max(usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens, 0)
        pico = (
            fresh * self.input
            + usage.cached_input_tokens * cached
            + usage.cache_write_tokens * write
            + usage.output_tokens * self.output
        )
        whole, rest = divmod(pico, 1000)
        return whole + (rest > 500 or (rest == 500 and whole % 2 == 1))


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

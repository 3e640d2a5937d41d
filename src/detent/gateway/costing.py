"""What a recorded call used, and what that costs at the prices of its time."""

from __future__ import annotations

from typing import Any, Final

from detent.gateway.prices import Own, PriceTable, price_of
from detent.kernel.chat import Usage
from detent.kernel.telemetry import Span

CACHE: Final = "detent.cache"
"""Attribute of calls on routes with a cache: `hit-exact`, `hit-semantic`, `miss`..."""

_ATTRIBUTES: Final = {
    "cache_write_tokens": "gen_ai.usage.cache_creation.input_tokens",
    "audio_input_tokens": "detent.usage.audio_input_tokens",
    "audio_output_tokens": "detent.usage.audio_output_tokens",
    "image_input_tokens": "detent.usage.image_input_tokens",
    "images": "detent.usage.images",
}
"""Where a span keeps the parts of the usage that it has no field for."""


def usage_attributes(usage: Usage) -> dict[str, int]:
    """The attributes that a span of this usage needs; those that are not 0."""
    odd = usage.cache_write_tokens or usage.audio_input_tokens or usage.audio_output_tokens
    if not (odd or usage.image_input_tokens or usage.images):
        return {}  # as nearly always; every call asks
    return {name: count for field, name in _ATTRIBUTES.items() if (count := getattr(usage, field))}


def usage_of(span: Span) -> Usage:
    """The usage that a span tells of, its attributes included. What is no count there is taken for 0."""
    return Usage(
        span.input_tokens,
        span.output_tokens,
        span.cached_input_tokens,
        reasoning_tokens=span.reasoning_tokens,
        estimated=span.usage_estimated,
        **{field: _count(span.attributes.get(name)) for field, name in _ATTRIBUTES.items()},
    )


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 2**40 else 0


def cost_of(span: Span, table: PriceTable, own: Own) -> int | None:
    """Nano-dollars of a recorded call at the price that held when it began.

    What is known stays: the cost of a call that used nothing, that was answered from the cache, that no price is known
    for, or that did not go through the gateway and came with a cost of its sender's.
    """
    usage = usage_of(span)
    if not (usage.total_tokens or usage.images) or str(span.attributes.get(CACHE, "")).startswith("hit"):
        return span.cost
    if not span.route and span.cost is not None:
        return span.cost
    price = price_of(table, own, span.provider, span.request_model, span.start)
    return span.cost if price is None else price.cost(usage)

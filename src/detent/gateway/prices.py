"""What calls cost: the shipped table, and a project's own prices before it; each with the dates from which it holds.

A model that is in neither is *unpriced*: its cost is unknown and is shown as that, never as zero.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final

import msgspec

from detent.gateway.model import EMBEDDED, EMBEDDED_MODEL, PriceEntry
from detent.kernel.clock import parse_iso
from detent.kernel.errors import InvalidInput
from detent.kernel.money import DatedPrice, LongContext, Price, in_force, per_million, read_usd

Own = Mapping[tuple[str, str], Sequence[DatedPrice]]
"""A project's own prices by provider and model, each in the order of their dates."""

PER_MILLION: Final = ("cached_input", "cache_write", "reasoning", "audio_input", "audio_output", "image_input")
"""Figures that may be given besides input and output, in USD per million tokens."""

EACH: Final = ("image_output", "request")
"""Figures in USD for each image made and each call answered."""

_SNAPSHOT_DATE = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{8})$")


class PriceTable(msgspec.Struct, frozen=True):
    """A version of the shipped prices.

    Attributes:
        version: date of the table.
        models: prices in the order of their dates, by the model's name as its maker writes it. The first holds since
            the model is there.
    """

    version: str
    models: dict[str, tuple[DatedPrice, ...]]

    def dated(self, model: str) -> tuple[DatedPrice, ...]:
        """A model's prices, also under a maker's prefix (`openai/gpt-4o`) or with a date behind its name."""
        bare = model.rpartition("/")[2]
        names = (model, bare, _SNAPSHOT_DATE.sub("", bare))
        return next((self.models[name] for name in names if name in self.models), ())

    def find(self, model: str, now: int) -> Price | None:
        """The price that holds at a time."""
        held = in_force(self.dated(model), now)
        return held.price if held is not None else None


def shipped_prices() -> PriceTable:
    """The table that comes with this version of Detent."""
    raw = msgspec.json.decode(files("detent.gateway").joinpath("prices.json").read_bytes())
    models = {name: entry if isinstance(entry, list) else [entry] for name, entry in raw["models"].items()}
    return PriceTable(raw["version"], {name: tuple(map(_dated, entries)) for name, entries in models.items()})


def _dated(entry: Mapping[str, Any]) -> DatedPrice:
    return DatedPrice(parse_iso(entry["from"]) if "from" in entry else 0, read_price(entry))


def read_price(entry: Mapping[str, Any]) -> Price:
    """A price from figures as people write them: `{"input": "0.15", "output": "0.60", "cached_input": "0.075"}`.

    `image_output` and `request` are USD apiece, `long` holds what other prices there are above `above` tokens of
    input, all others are USD per million tokens. What is None or not there has no price of its own.

    Raises:
        InvalidInput: a figure is no amount.
    """
    given = {name: value for name, value in entry.items() if value is not None}
    beyond = given.get("long")
    return Price(
        input=per_million(given["input"], field="input"),
        output=per_million(given["output"], field="output"),
        **{name: per_million(given[name], field=name) for name in PER_MILLION if name in given},
        **{name: read_usd(str(given[name]), field=name) for name in EACH if name in given},
        long=_read_long(beyond) if beyond else None,
    )


def _read_long(entry: Mapping[str, Any]) -> LongContext:
    above = entry.get("above")
    known = set(LongContext.__struct_fields__)
    if not str(above).isdecimal() or not {"above", "input", "output"} <= entry.keys() <= known:
        raise InvalidInput(
            "Prices for long prompts have a bound and figures for input and output.",
            hint='Give e.g. above = 200000, input = "4", output = "18".',
            field="long",
        )
    return LongContext(
        above=int(str(above)),
        input=per_million(entry["input"], field="long.input"),
        output=per_million(entry["output"], field="long.output"),
        **{
            name: per_million(entry[name], field=f"long.{name}")
            for name in ("cached_input", "cache_write")
            if entry.get(name) is not None
        },
    )


def own_prices(entries: Iterable[PriceEntry]) -> dict[tuple[str, str], tuple[DatedPrice, ...]]:
    """A project's own prices by provider and model."""
    return {(entry.provider, entry.model): entry.history for entry in entries}


def own_price(own: Own, provider: str, model: str, now: int) -> Price | None:
    """The project's own price at a time, if it has one then."""
    held = in_force(own.get((provider, model), ()), now)
    return held.price if held is not None else None


def price_of(table: PriceTable, own: Own, provider: str, model: str, now: int) -> Price | None:
    """The price at a time: the project's own, else nothing for the embedded model, else the shipped one, else None."""
    mine = own_price(own, provider, model, now)
    if mine is not None:
        return mine
    held = in_force(_common(table, provider, model), now)
    return held.price if held is not None else None


def dated_prices(table: PriceTable, own: Own, provider: str, model: str) -> tuple[DatedPrice, ...]:
    """What `price_of` gives, for all times: each change and when it comes."""
    moments = {entry.effective for entry in (*own.get((provider, model), ()), *_common(table, provider, model))}
    found: list[DatedPrice] = []
    for moment in sorted(moments):
        price = price_of(table, own, provider, model, moment)
        if price != (found[-1].price if found else None):
            found.append(DatedPrice(moment, price))
    return tuple(found)


def _common(table: PriceTable, provider: str, model: str) -> tuple[DatedPrice, ...]:
    """What everybody pays."""
    if provider == EMBEDDED and model == EMBEDDED_MODEL:
        return (DatedPrice(0, Price(0, 0)),)
    return table.dated(model)

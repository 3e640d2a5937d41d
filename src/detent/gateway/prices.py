"""What tokens cost: the shipped table, and a project's own prices before it.

A model that is in neither is *unpriced*: its cost is unknown and is shown as that, never as zero.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import msgspec

from detent.gateway.model import EMBEDDED, EMBEDDED_MODEL
from detent.kernel.money import Price, per_million

_SNAPSHOT_DATE = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{8})$")


class PriceTable(msgspec.Struct, frozen=True):
    """A version of the shipped prices.

    Attributes:
        version: date of the table.
        models: price by the model's name as its maker writes it.
    """

    version: str
    models: dict[str, Price]

    def find(self, model: str) -> Price | None:
        """The price of a model, also under a maker's prefix (`openai/gpt-4o`) or with a date behind its name."""
        bare = model.rpartition("/")[2]
        return self.models.get(model) or self.models.get(bare) or self.models.get(_SNAPSHOT_DATE.sub("", bare))


def shipped_prices() -> PriceTable:
    """The table that comes with this version of Detent."""
    raw = msgspec.json.decode(files("detent.gateway").joinpath("prices.json").read_bytes())
    return PriceTable(raw["version"], {name: read_price(entry) for name, entry in raw["models"].items()})


def read_price(entry: Mapping[str, Any]) -> Price:
    """A price from USD per million tokens: `{"input": "0.15", "output": "0.60", "cached_input": "0.075"}`.

    Raises:
        InvalidInput: a figure is no amount.
    """

    def optional(name: str) -> int | None:
        return per_million(entry[name], field=name) if entry.get(name) is not None else None

    return Price(
        input=per_million(entry["input"], field="input"),
        output=per_million(entry["output"], field="output"),
        cached_input=optional("cached_input"),
        cache_write=optional("cache_write"),
    )


def price_of(table: PriceTable, own: Mapping[tuple[str, str], Price], provider: str, model: str) -> Price | None:
    """The price that holds: the project's own, else nothing for the embedded model, else the shipped one, else None."""
    if (provider, model) in own:
        return own[provider, model]
    if provider == EMBEDDED and model == EMBEDDED_MODEL:
        return Price(0, 0)
    return table.find(model)

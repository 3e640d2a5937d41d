"""Kinds of values that several commands take."""

from __future__ import annotations

import re
from typing import Any, Final

import click

from detent.kernel.clock import DAY, HOUR, MINUTE, SECOND, parse_iso

_AGO: Final = re.compile(r"(\d+)\s*(s|m|min|h|d|w)")
_UNITS: Final = {"s": SECOND, "m": MINUTE, "min": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(us|µs|ms|s|m|min|h)")
_SPAN_UNITS: Final = {"us": 1_000, "µs": 1_000, "ms": 1_000_000, **_UNITS}


class When(click.ParamType[int]):
    """A time: `2026-03-03T10:00`, or so long ago: `15m`, `2h`, `7d`."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        text = str(value).strip()
        ago = _AGO.fullmatch(text)
        if ago:
            import time

            return time.time_ns() - int(ago[1]) * _UNITS[ago[2]]
        try:
            return parse_iso(text)
        except ValueError:
            self.fail(f"'{text}' is no time. Give a date and time such as 2026-03-03T10:00, or 15m, 2h, 7d ago.")


class Later(click.ParamType[int]):
    """A time to come: `2027-01-01`, or in so long: `12h`, `30d`."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        text = str(value).strip()
        later = _AGO.fullmatch(text)
        if later:
            import time

            return time.time_ns() + int(later[1]) * _UNITS[later[2]]
        try:
            return parse_iso(text)
        except ValueError:
            self.fail(f"'{text}' is no time. Give a date such as 2027-01-01, or 12h, 30d from now.")


class Duration(click.ParamType[int]):
    """A length of time: `250ms`, `2s`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = _SPAN.fullmatch(str(value).strip())
        if not found:
            self.fail(f"'{value}' is no duration. Give a number with a unit: 250ms, 2s, 1m.")
        return round(float(found[1]) * _SPAN_UNITS[found[2]])


class Dollars(click.ParamType[int]):
    """An amount in USD: `0.01`."""

    name = "usd"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from decimal import Decimal, InvalidOperation

        if isinstance(value, int):
            return value
        try:
            amount = Decimal(str(value).removeprefix("$"))
        except InvalidOperation:
            self.fail(f"'{value}' is no amount. Give USD, e.g. 0.01.")
        if not amount.is_finite() or amount < 0 or amount > 1_000_000:
            self.fail(f"'{value}' is out of range. Give 0 to 1000000 USD.")
        return int(amount * 1_000_000_000)


class Pair(click.ParamType[tuple[str, str]]):
    """A name and a value: `NAME=VALUE`."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, equals, rest = str(value).partition("=")
        if not equals or not name:
            self.fail(f"'{value}' is no pair. Give NAME=VALUE.")
        return name, rest


WHEN = When()
LATER = Later()
DURATION = Duration()
USD = Dollars()
PAIR = Pair()

"""`detent models`: what can be reached and what it costs."""

from __future__ import annotations

from typing import Any

import click

from detent.cli.prices import set_price
from detent.cli.shell import Noun, Shell, pass_shell
from detent.cli.shown import page_json, price_json
from detent.cli.text import number, table
from detent.gateway.model import EMBEDDED
from detent.gateway.prices import own_price, own_prices, price_of, shipped_prices
from detent.kernel.money import Price


@click.group("models", cls=Noun)
def models() -> None:
    """Models that can be reached, and their prices."""


@models.command("list")
@pass_shell
def list_models(shell: Shell) -> None:
    """Show the models behind the routes, with USD per million tokens."""
    with shell.platform() as (platform, caller):
        routes = platform.gateway.routes(caller)
        own = own_prices(platform.gateway.prices(caller))
        now = platform.clock.now()
    shipped = shipped_prices()
    behind: dict[tuple[str, str], list[str]] = {}
    for route in routes:
        for target in route.targets:
            behind.setdefault((target.provider, target.model), []).append(route.name)
    for target_key in own:
        behind.setdefault(target_key, [])
    items: list[dict[str, Any]] = []
    rows = []
    for provider, model in sorted(behind):
        price = price_of(shipped, own, provider, model, now)
        source = _source(provider, own=own_price(own, provider, model, now) is not None, price=price)
        names = behind[provider, model]
        items.append(
            {
                "provider": provider,
                "model": model,
                "routes": names,
                "price": price_json(price) if price else None,
                "price_source": source,
            }
        )
        rows.append((f"{provider}/{model}", *_figures(price), source, ", ".join(names) or "-"))
    shell.show(page_json(items), lambda: table(("MODEL", number("INPUT"), number("OUTPUT"), "PRICE", "ROUTES"), rows))


models.add_command(set_price, "price")


def _figures(price: Price | None) -> tuple[str, str]:
    if price is None:
        return "-", "-"
    return f"{price.input / 1e6:,.2f}", f"{price.output / 1e6:,.2f}"


def _source(provider: str, *, own: bool, price: Price | None) -> str:
    if own:
        return "own"
    if price is None:
        return "unpriced"
    return "built in" if provider == EMBEDDED else "shipped"

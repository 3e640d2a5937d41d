"""`detent models`: what can be reached and what it costs."""

from __future__ import annotations

from typing import Any

import click

from detent.cli.shell import Noun, Shell, pass_shell
from detent.cli.shown import page_json, price_entry_json, price_json
from detent.cli.text import number, table
from detent.gateway.model import EMBEDDED, Target
from detent.gateway.prices import price_of, read_price, shipped_prices
from detent.gateway.service import parse_target
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
        own = {(entry.provider, entry.model): entry.price for entry in platform.gateway.prices(caller)}
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
        price = price_of(shipped, own, provider, model)
        source = _source(provider, own=(provider, model) in own, price=price)
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


@models.command("price")
@click.argument("model", metavar="PROVIDER/MODEL")
@click.option("--input", "input_usd", required=True, metavar="USD", help="USD per million input tokens.")
@click.option("--output", "output_usd", required=True, metavar="USD", help="USD per million output tokens.")
@click.option("--cached-input", metavar="USD", help="USD per million input tokens read from the provider's cache.")
@click.option("--cache-write", metavar="USD", help="USD per million input tokens written to the provider's cache.")
@pass_shell
def price_model(
    shell: Shell, model: str, input_usd: str, output_usd: str, cached_input: str | None, cache_write: str | None
) -> None:
    """Set your own price for a model, from now on."""
    target = parse_target(model)
    figures = {"input": input_usd, "output": output_usd, "cached_input": cached_input, "cache_write": cache_write}
    price = read_price(figures)
    with shell.platform() as (platform, caller):
        saved = platform.gateway.set_price(caller, Target(target.provider, target.model), price)
    shell.show(price_entry_json(saved), lambda: f"{saved.provider}/{saved.model}")
    shell.say(f"Calls to {saved.provider}/{saved.model} are costed with it from now on.")


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

"""Telling of models whose price nobody knows, before a budget refuses calls to them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from detent.cli.shell import Shell
from detent.gateway.model import Route
from detent.gateway.prices import own_prices, price_of, shipped_prices
from detent.kernel.identity import Principal

if TYPE_CHECKING:
    from detent.app.platform import Platform


def unpriced(platform: Platform, caller: Principal, routes: Iterable[Route]) -> tuple[str, ...]:
    """Targets of the routes that have no price now."""
    own, shipped, now = own_prices(platform.gateway.prices(caller)), shipped_prices(), platform.clock.now()
    targets = {target for route in routes for target in route.targets}
    return tuple(
        sorted(f"{t.provider}/{t.model}" for t in targets if not price_of(shipped, own, t.provider, t.model, now))
    )


def say_unpriced(shell: Shell, models: tuple[str, ...], *, hard: bool) -> None:
    """Say it, and what comes of it.

    Args:
        hard: whether a budget refuses what it cannot count.
    """
    if not models:
        return
    then = "a hard budget that counts their calls refuses them" if hard else "what their calls cost is not known"
    shell.say(f"No price is known for {', '.join(models)}: {then}.")
    shell.say(f"Set one (0 where it costs nothing): detent models price {models[0]} --input USD --output USD")

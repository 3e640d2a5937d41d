"""`detent prices`: what calls cost, since when, and past calls worked out anew."""

from __future__ import annotations

from typing import Any

import click

from detent.cli.jobs import waited
from detent.cli.options import PAIR, WHEN
from detent.cli.shell import Noun, Shell, pass_shell
from detent.cli.shown import dated_price_json, job_json, page_json, price_entry_json
from detent.cli.text import cost, count, number, table
from detent.gateway.model import Target
from detent.gateway.prices import dated_prices, own_price, own_prices, read_price, shipped_prices
from detent.gateway.service import parse_target
from detent.kernel.clock import iso
from detent.kernel.errors import InvalidInput
from detent.kernel.money import DatedPrice, Price


@click.group("prices", cls=Noun)
def prices() -> None:
    """What calls cost: the shipped prices and your own, by date."""


@prices.command("list")
@pass_shell
def list_prices(shell: Shell) -> None:
    """Show your own prices, in USD per million tokens: what holds now, and what comes."""
    with shell.platform() as (platform, caller):
        now = platform.clock.now()
        found = platform.gateway.prices(caller)
    rows = []
    for entry in found:
        held = entry.at(now)
        coming = next((dated for dated in entry.history if dated.effective > now), None)
        state = "-" if coming is None else iso(coming.effective)
        rows.append((f"{entry.provider}/{entry.model}", *_figures(held), str(len(entry.history)), state))
    shell.show(
        page_json([price_entry_json(entry, now=now) for entry in found]),
        lambda: table(("MODEL", number("INPUT"), number("OUTPUT"), number("DATES"), "NEXT"), rows),
    )
    if not found:
        shell.say("No prices of your own. Shipped ones: detent prices show PROVIDER/MODEL")


@prices.command("show")
@click.argument("model", metavar="PROVIDER/MODEL")
@pass_shell
def show_price(shell: Shell, model: str) -> None:
    """Show what a model costs and did cost, by date: your own price where you have one, else the shipped one."""
    target = parse_target(model)
    with shell.platform() as (platform, caller):
        own = own_prices(platform.gateway.prices(caller))
    found = dated_prices(shipped_prices(), own, target.provider, target.model)
    items, rows = [], []
    for dated in found:
        mine = own_price(own, target.provider, target.model, dated.effective) is not None
        source = "own" if mine else "unpriced" if dated.price is None else "shipped"
        items.append({**dated_price_json(dated), "price_source": source})
        rows.append((_since(dated), *_figures(dated.price), _rest(dated.price), source))
    shell.show(page_json(items), lambda: table(("SINCE", number("INPUT"), number("OUTPUT"), "BESIDES", "PRICE"), rows))
    if not found:
        shell.say("No price is known: calls are unpriced. Set one: detent prices set")


@prices.command("set")
@click.argument("model", metavar="PROVIDER/MODEL")
@click.option("--input", "input_usd", metavar="USD", help="USD per million input tokens.")
@click.option("--output", "output_usd", metavar="USD", help="USD per million output tokens.")
@click.option("--cached-input", metavar="USD", help="USD per million input tokens read from the provider's cache.")
@click.option("--cache-write", metavar="USD", help="USD per million input tokens written to the provider's cache.")
@click.option("--reasoning", metavar="USD", help="USD per million reasoning tokens, where they differ from output.")
@click.option("--audio-input", metavar="USD", help="USD per million input tokens of audio.")
@click.option("--audio-output", metavar="USD", help="USD per million output tokens of audio.")
@click.option("--image-input", metavar="USD", help="USD per million input tokens of images.")
@click.option("--image-output", metavar="USD", help="USD for each image made.")
@click.option("--request", metavar="USD", help="USD for each call answered.")
@click.option("--long-above", type=click.IntRange(min=1), metavar="TOKENS", help="Other prices above so much input.")
@click.option("--long", "long_pairs", type=PAIR, multiple=True, metavar="NAME=USD", help="Such a price: input=0.50.")
@click.option("--effective", type=WHEN, metavar="TIME", help="Since when: a date, past or to come. [default: now]")
@click.option("--shipped", is_flag=True, help="The shipped price holds again from then on.")
@pass_shell
def set_price(
    shell: Shell,
    /,
    model: str,
    effective: int | None,
    shipped: bool,
    long_above: int | None,
    long_pairs: tuple[tuple[str, str], ...],
    **figures: str | None,
) -> None:
    """Set your own price for a model, from now on or from a date on."""
    target = parse_target(model)
    given = {name.removesuffix("_usd"): value for name, value in figures.items() if value is not None}
    price = None if shipped and not given else _price(given, long_above, dict(long_pairs))
    if shipped and price is not None:
        raise InvalidInput("Give figures or --shipped, not both.", field="shipped")
    with shell.platform() as (platform, caller):
        saved = platform.gateway.set_price(
            caller, Target(target.provider, target.model), price, effective=effective or 0
        )
        now = platform.clock.now()
    name = f"{saved.provider}/{saved.model}"
    shell.show(price_entry_json(saved, now=now), lambda: name)
    if effective is None or effective > now:
        since = "now" if effective is None else iso(effective)
        shell.say(f"Calls to {name} are costed with it from {since} on.")
    else:
        shell.say(f"Past calls keep their cost until: detent prices recalculate --from {iso(effective)}")


@prices.command("remove")
@click.argument("model", metavar="PROVIDER/MODEL")
@click.option("--effective", type=WHEN, metavar="TIME", help="Only the price that begins then. [default: all]")
@click.option("--reason", default="", help="Why, for the ledger.")
@pass_shell
def remove_price(shell: Shell, model: str, effective: int | None, reason: str) -> None:
    """Remove your own prices for a model as if they had not been set."""
    target = parse_target(model)
    name = f"{target.provider}/{target.model}"
    with shell.platform() as (platform, caller):
        platform.gateway.remove_price(
            caller, Target(target.provider, target.model), effective=effective or 0, reason=reason
        )
    shell.show({"removed": name}, lambda: name)


@prices.command("recalculate")
@click.option("--from", "since", type=WHEN, required=True, metavar="TIME", help="Calls begun at or after.")
@click.option("--to", "until", type=WHEN, metavar="TIME", help="Calls begun before. [default: now]")
@click.option("--provider", default="", help="Only this provider's.")
@click.option("--model", default="", help="Only this model's, by its name there.")
@click.option("--dry-run", is_flag=True, help="Only tell what would change.")
@click.option("--wait", is_flag=True, help="Wait for the totals, with a progress bar.")
@pass_shell
def recalculate(
    shell: Shell, since: int, until: int | None, provider: str, model: str, dry_run: bool, wait: bool
) -> None:
    """Work out the cost of past calls anew, at the prices that held when they were made. Runs as a job."""
    from detent.app.recalculation import Range, start_recalculation

    with shell.platform() as (platform, caller):
        until = until or platform.clock.now()
        wanted = Range(since=since, until=until, provider=provider, model=model, dry_run=dry_run)
        job = start_recalculation(platform.jobs, caller, wanted)
        if wait:
            job = waited(platform, job)
    result = job.result
    shell.show(job_json(job), lambda: job.id if result is None else _totals(result))
    if result is None and not job.error:
        shell.say(f"Queued. Follow it: detent jobs show {job.id} --wait")
    elif result is not None:
        done = "would change" if result["dry_run"] else "changed"
        shell.say(f"{count(result['changed'])} of {count(result['calls'])} calls {done}.")


def _price(given: dict[str, str], above: int | None, long: dict[str, str]) -> Price:
    if not {"input", "output"} <= given.keys():
        raise InvalidInput("A price has a figure for input and for output.", hint="Give both.", field="input")
    entry: dict[str, Any] = dict(given)
    if above is not None or long:
        named = {name.replace("-", "_"): value for name, value in long.items()}
        entry["long"] = named if above is None else {"above": above, **named}
    return read_price(entry)


def _figures(price: Price | None) -> tuple[str, str]:
    if price is None:
        return "-", "-"
    return f"{price.input / 1e6:,.2f}", f"{price.output / 1e6:,.2f}"


def _since(dated: DatedPrice) -> str:
    return iso(dated.effective) if dated.effective else "ever"


def _rest(price: Price | None) -> str:
    """What else the price says, briefly."""
    if price is None:
        return "-"
    names = ("cached_input", "cache_write", "reasoning", "audio_input", "audio_output", "image_input")
    said = [f"{name} {value / 1e6:g}" for name in names if (value := getattr(price, name)) is not None]
    said += [f"{name} {cost(value)}" for name in ("image_output", "request") if (value := getattr(price, name))]
    if price.long is not None:
        said.append(f"above {price.long.above}: {price.long.input / 1e6:g} / {price.long.output / 1e6:g}")
    return ", ".join(said) or "-"


def _totals(result: dict[str, Any]) -> str:
    rows = [
        (
            f"{line['provider'] or '-'}/{line['model'] or '-'}",
            count(line["calls"]),
            count(line["changed"]),
            cost(line["before"]),
            cost(line["after"]),
            count(line["unpriced_after"]),
        )
        for line in result["models"]
    ]
    rows.append(
        (
            "total",
            count(result["calls"]),
            count(result["changed"]),
            cost(result["before"]),
            cost(result["after"]),
            count(sum(line["unpriced_after"] for line in result["models"])),
        )
    )
    head = ("MODEL", number("CALLS"), number("CHANGED"), number("BEFORE"), number("AFTER"), number("UNPRICED"))
    return table(head, rows)

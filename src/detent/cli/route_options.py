"""A route's rules as options of a command, and in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar, get_args

import click
import msgspec

from detent.cli.options import DURATION, PAIR, USD
from detent.gateway.model import (
    Band,
    Breaker,
    CachePolicy,
    Failure,
    Fallback,
    Hedge,
    Policy,
    Queue,
    Retry,
    Route,
    Shadow,
    Timeouts,
)
from detent.kernel.clock import SECOND
from detent.kernel.errors import InvalidInput
from detent.kernel.money import dollars

F = TypeVar("F", bound=Callable[..., Any])
_MILLI: Final = 1_000_000
_OPTIONS: Final = (
    click.option(
        "--policy",
        type=click.Choice(get_args(Policy)),
        default="ordered",
        show_default=True,
        help="How a target is chosen.",
    ),
    click.option(
        "--fallback",
        "fallbacks",
        multiple=True,
        metavar="ROUTE[:ON,...]",
        help="Route to go to when all targets failed; after a colon only for these failures: "
        + ", ".join(get_args(Failure))
        + ".",
    ),
    click.option("--retries", type=int, default=0, metavar="N", help="Further tries of each target."),
    click.option("--backoff", type=DURATION, metavar="TIME", help="First pause before a retry at most: 100ms."),
    click.option("--retry-budget", type=float, metavar="SHARE", help="Retries and hedges per call at most: 0.2."),
    click.option(
        "--sticky", type=click.Choice(("session", "user")), help="Whose calls keep to one target while it is healthy."
    ),
    click.option(
        "--hedge",
        type=float,
        metavar="QUANTILE",
        help="Ask a second target after this quantile of the time to first token: 0.95.",
    ),
    click.option("--hedge-extra", type=float, metavar="SHARE", help="Hedges per call at most: 0.05."),
    click.option("--timeout-connect", type=DURATION, metavar="TIME", help="Until connected: 2s."),
    click.option("--timeout-first-token", type=DURATION, metavar="TIME", help="Until the first output: 20s."),
    click.option("--timeout-idle", type=DURATION, metavar="TIME", help="Between two pieces of output: 10s."),
    click.option("--timeout-total", type=DURATION, metavar="TIME", help="For the whole call: 5m."),
    click.option(
        "--breaker-errors", type=float, metavar="SHARE", help="Failed calls that open the breaker: 0.5; 0 never."
    ),
    click.option("--breaker-slow", type=float, metavar="SHARE", help="Slow calls that open the breaker; 0 never."),
    click.option("--slow-after", type=DURATION, metavar="TIME", help="First output later than this is slow."),
    click.option(
        "--breaker-open", type=DURATION, metavar="TIME", help="How long an open breaker waits for probes: 5s."
    ),
    click.option("--queue-deadline", type=DURATION, metavar="TIME", help="How long a call may wait to begin: 10s."),
    click.option("--queue-pace", type=DURATION, metavar="TIME", help="Time per output token to keep: 60ms."),
    click.option("--queue-length", type=int, metavar="N", help="Calls that wait at most, per deployment: 256."),
    click.option("--queue-order", type=click.Choice(("newest_first", "fifo")), help="Who is served first."),
    click.option(
        "--cache",
        type=click.Choice(("off", "exact", "semantic")),
        default="off",
        show_default=True,
        help="Keep answers.",
    ),
    click.option("--ttl", type=DURATION, metavar="TIME", help="How long a kept answer is good: 1h."),
    click.option("--similarity", type=float, metavar="COSINE", help="Least likeness of a semantic hit: 0.97."),
    click.option("--shadow", type=PAIR, metavar="ROUTE=SHARE", help="Copy that share of calls to another route."),
    click.option("--shadow-usd", type=USD, metavar="USD", help="What copies may cost a day; no bound without."),
    click.option(
        "--priority",
        type=click.Choice(get_args(Band)),
        default="default",
        show_default=True,
        help="The band of calls that name none.",
    ),
)


def rule_options(command: F) -> F:
    """Give a command an option for each rule of a route."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def rules_of(flags: Mapping[str, Any]) -> Route:
    """The rules that were asked for, as a route without name and targets; what was left out takes its default.

    Raises:
        InvalidInput: a fallback or shadow has another form.
    """

    def given(kind: type[msgspec.Struct], **named: Any) -> Any:
        return kind(**{name: value for name, value in named.items() if value is not None})

    return Route(
        name="",
        project="",
        targets=(),
        policy=flags["policy"],
        fallbacks=tuple(parse_fallback(text) for text in flags["fallbacks"]),
        retry=given(
            Retry,
            attempts=flags["retries"] + 1,
            backoff_ms=_milliseconds(flags["backoff"]),
            budget=flags["retry_budget"],
        ),
        breaker=given(
            Breaker,
            error_rate=flags["breaker_errors"],
            slow_rate=flags["breaker_slow"],
            slow_seconds=_seconds(flags["slow_after"]),
            open_seconds=_seconds(flags["breaker_open"]),
        ),
        hedge=given(Hedge, quantile=flags["hedge"], max_extra=flags["hedge_extra"]),
        timeouts=given(
            Timeouts,
            connect=_seconds(flags["timeout_connect"]),
            first_token=_seconds(flags["timeout_first_token"]),
            idle=_seconds(flags["timeout_idle"]),
            total=_seconds(flags["timeout_total"]),
        ),
        queue=given(
            Queue,
            deadline_ms=_milliseconds(flags["queue_deadline"]),
            pace_ms=_milliseconds(flags["queue_pace"]),
            length=flags["queue_length"],
            order=flags["queue_order"],
        ),
        sticky=flags["sticky"] or "",
        shadow=_shadow(flags["shadow"], flags["shadow_usd"]),
        cache=given(
            CachePolicy,
            mode=flags["cache"],
            ttl_seconds=None if flags["ttl"] is None else flags["ttl"] // SECOND,
            threshold=flags["similarity"],
        ),
        priority=flags["priority"],
    )


def parse_fallback(text: str) -> Fallback:
    """Read `ROUTE` or `ROUTE:FAILURE,FAILURE`.

    Raises:
        InvalidInput: there is no such failure.
    """
    route, colon, rest = text.partition(":")
    known: dict[str, Failure] = {failure: failure for failure in get_args(Failure)}
    wanted = [name.strip() for name in rest.split(",")] if colon else []
    unknown = [name for name in wanted if name not in known]
    if unknown or not route:
        raise InvalidInput(
            f"'{text}' is no fallback.",
            hint=f"Use ROUTE or ROUTE:FAILURE,FAILURE; failures are {', '.join(known)}.",
            field="fallback",
        )
    return Fallback(route, tuple(known[name] for name in wanted))


def _shadow(pair: tuple[str, str] | None, usd: int | None) -> Shadow | None:
    if pair is None:
        return None
    try:
        share = float(pair[1])
    except ValueError:
        raise InvalidInput(
            f"'{pair[1]}' is no share.",
            hint="Use ROUTE=SHARE with a share from 0 to 1, e.g. canary=0.1.",
            field="shadow",
        ) from None
    return Shadow(pair[0], share, usd or 0)


def _seconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / SECOND


def _milliseconds(nanoseconds: int | None) -> int | None:
    return None if nanoseconds is None else nanoseconds // _MILLI


_GROUPS: Final[dict[str, msgspec.Struct]] = {
    "retry": Retry(),
    "breaker": Breaker(),
    "hedge": Hedge(),
    "timeouts": Timeouts(),
    "queue": Queue(),
    "cache": CachePolicy(),
}


def rules_in_words(route: Route) -> Iterator[tuple[str, str]]:
    """Names and values of the rules that differ from their defaults; the policy always."""
    yield "policy", route.policy
    for fallback in route.fallbacks:
        yield "fallback", fallback.route + (f" on {', '.join(fallback.on)}" if fallback.on else " on any failure")
    for group, default in _GROUPS.items():
        rule = getattr(route, group)
        for name in default.__struct_fields__:
            if getattr(rule, name) != getattr(default, name):
                yield f"{group}.{name}", str(getattr(rule, name))
    if route.sticky:
        yield "sticky", route.sticky
    if route.shadow is not None:
        bound = f", {dollars(route.shadow.daily_budget)} a day at most" if route.shadow.daily_budget else ""
        yield "shadow", f"{route.shadow.share:g} of calls to {route.shadow.route}{bound}"
    if route.priority != "default":
        yield "priority", route.priority

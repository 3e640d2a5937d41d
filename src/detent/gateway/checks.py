"""What a provider, route, limit or budget may be: ranges, words, and that what they name exists. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from operator import attrgetter
from typing import Final, TypeVar, get_args

import msgspec

from detent.gateway.endpoints import check_api_version, check_flavour, check_region, check_url, default_url
from detent.gateway.model import EMBEDDED, Budget, Failure, Limit, Provider, Route, Scope, Target
from detent.kernel.errors import Conflict, InvalidInput, NotFound
from detent.kernel.money import NANO
from detent.kernel.refs import check_name

MAX_TARGETS: Final = 50
MAX_FALLBACKS: Final = 20
MAX_SUBJECT: Final = 200
_SHOWN: Final = 12
_DAY: Final = 86_400
_MAX_USD: Final = 1_000_000_000
_AT: Final = re.compile(r" - at `\$\.?([^`]*)`$")
V = TypeVar("V", Provider, Route, Limit, Budget)

ROUTE_RANGES: Final[tuple[tuple[str, float, float], ...]] = (
    ("retry.attempts", 1, 10),
    ("retry.backoff_ms", 0, 60_000),
    ("retry.budget", 0, 1),
    ("breaker.error_rate", 0, 1),
    ("breaker.slow_rate", 0, 1),
    ("breaker.slow_seconds", 0, 3_600),
    ("breaker.min_calls", 1, 100_000),
    ("breaker.window_seconds", 1, 3_600),
    ("breaker.open_seconds", 0.1, 3_600),
    ("breaker.probes", 1, 100),
    ("hedge.quantile", 0, 0.999),
    ("hedge.max_extra", 0, 1),
    ("timeouts.connect", 0, 300),
    ("timeouts.first_token", 0, 3_600),
    ("timeouts.idle", 0, 3_600),
    ("timeouts.total", 0, _DAY),
    ("queue.deadline_ms", 0, 3_600_000),
    ("queue.pace_ms", 0, 60_000),
    ("queue.length", 0, 100_000),
    ("cache.ttl_seconds", 1, 366 * _DAY),
    ("cache.threshold", 0, 1),
)
"""A route's figures with the least and the most that each may be."""


class Known(msgspec.Struct, frozen=True):
    """What there is in the project for others to name.

    Attributes:
        providers: by name, the built-in one included.
        routes: by name, the built-in one included.
        keys: names by id.
    """

    providers: frozenset[str]
    routes: Mapping[str, Route]
    keys: Mapping[str, str]


def check_provider(provider: Provider) -> Provider:
    """The provider in its plain form.

    Raises:
        InvalidInput: something about it cannot be used; names the field.
    """
    check_name(provider.name)
    _check_words(provider)
    if provider.name == EMBEDDED:
        raise InvalidInput(f"'{provider.name}' is built in.", hint="Choose another name.", field="name")
    check_flavour(provider.dialect, provider.flavour)
    check_region(provider.dialect, provider.region)
    check_api_version(provider.api_version)
    _check_range("max_concurrency", provider.max_concurrency, 0, 100_000)
    url = check_url(provider.url, provider.dialect, allow_private=provider.allow_private)
    return msgspec.structs.replace(provider, url=url)


def with_url(provider: Provider) -> Provider:
    """The provider at the address of its dialect and flavour.

    Raises:
        InvalidInput: there is no such flavour, or it has no address that everybody shares.
    """
    check_flavour(provider.dialect, provider.flavour)
    region = check_region(provider.dialect, provider.region)
    return msgspec.structs.replace(provider, url=default_url(provider.dialect, provider.flavour, region))


def check_route(route: Route, known: Known) -> Route:
    """Give the route back if calls can be sent by it.

    Raises:
        InvalidInput: a target, rule or figure cannot be used; names the field.
        NotFound: it names a provider or route that does not exist.
        Conflict: its fallbacks or shadow lead back to it.
    """
    check_name(route.name)
    _check_words(route)
    _check_targets(route, known)
    for path, low, high in ROUTE_RANGES:
        _check_range(path, attrgetter(path)(route), low, high)
    _check_rules(route)
    _check_fallbacks(route, known)
    _check_ring(route, known.routes)
    return route


def _check_targets(route: Route, known: Known) -> None:
    if not route.targets:
        raise InvalidInput("A route needs a target.", hint="Give --to PROVIDER/MODEL.", field="targets")
    if len(route.targets) > MAX_TARGETS:
        raise InvalidInput("The route has too many targets.", hint=f"{MAX_TARGETS} are the most.", field="targets")
    seen = set()
    for target in route.targets:
        if not 1 <= target.weight <= 1_000_000:
            raise InvalidInput(
                f"The weight of {target} is out of range."
                if target.weight > 0
                else f"The weight of {target} is below 1.",
                hint="Give 1 to 1000000.",
                field="targets",
            )
        if not target.model or len(target.model) > MAX_SUBJECT or not target.model.isprintable():
            raise InvalidInput("A target needs a model's name.", hint="Use PROVIDER/MODEL.", field="targets")
        if target.provider not in known.providers:
            raise NotFound(
                f"There is no provider '{target.provider}'.",
                hint="Add it with `detent providers add`, or choose one of: "
                + ", ".join(sorted(known.providers))
                + ".",
                field="targets",
            )
        if str(target) in seen:
            raise InvalidInput(f"{target} is a target twice.", hint="Give it more weight instead.", field="targets")
        seen.add(str(target))


def _check_rules(route: Route) -> None:
    breaker, timeouts = route.breaker, route.timeouts
    if breaker.slow_rate and not breaker.slow_seconds:
        raise InvalidInput(
            "The breaker does not know when a call is slow.",
            hint="Give breaker.slow_seconds as well.",
            field="breaker.slow_seconds",
        )
    if route.hedge.quantile and len(route.targets) < 2:
        raise InvalidInput(
            "A hedge asks a second target, and the route has one.",
            hint="Add a target, or leave the hedge out.",
            field="hedge.quantile",
        )
    if timeouts.total and max(timeouts.connect, timeouts.first_token, timeouts.idle) > timeouts.total:
        raise InvalidInput(
            "A time-out is longer than the total.", hint="Make timeouts.total the longest.", field="timeouts.total"
        )
    if route.shadow is not None:
        if not 0 < route.shadow.share <= 1:
            raise InvalidInput(
                "The shadow's share is out of range.", hint="Give more than 0, 1 at most.", field="shadow.share"
            )
        _check_range("shadow.daily_budget", route.shadow.daily_budget, 0, _MAX_USD * NANO)


def _check_fallbacks(route: Route, known: Known) -> None:
    if len(route.fallbacks) > MAX_FALLBACKS:
        raise InvalidInput(
            "The route has too many fallbacks.", hint=f"{MAX_FALLBACKS} are the most.", field="fallbacks"
        )
    names = [fallback.route for fallback in route.fallbacks]
    for name in names:
        if names.count(name) > 1:
            raise InvalidInput(
                f"'{name}' is a fallback twice.", hint="Name all its failures in one.", field="fallbacks"
            )
    for field, name in [("fallbacks", name) for name in names] + (
        [("shadow.route", route.shadow.route)] if route.shadow else []
    ):
        if name != route.name and name not in known.routes:
            raise NotFound(
                f"There is no route '{name[:64]}'.",
                hint="Add it first, or choose one of: " + ", ".join(sorted(known.routes)) + ".",
                field=field,
            )
    for fallback in route.fallbacks:
        if len(set(fallback.on)) != len(fallback.on):
            raise InvalidInput(
                f"The fallback to '{fallback.route}' names a failure twice.",
                hint=f"Failures are {', '.join(get_args(Failure))}.",
                field="fallbacks",
            )


def _check_ring(route: Route, routes: Mapping[str, Route]) -> None:
    """Fallbacks and shadows together lead nowhere twice: a copy that fails goes on to its own fallbacks."""
    ways = {**routes, route.name: route}
    came_from: dict[str, str] = {}
    waiting = [route.name]
    for name in waiting:  # grows while it is walked
        for after in leads_to(ways[name]) if name in ways else ():
            if after == route.name:
                ring = _trail(name, came_from, route.name)
                raise Conflict(
                    f"Calls would go round: {' -> '.join(ring)}.",
                    hint="Take one of these fallbacks or shadows out.",
                    field="fallbacks" if any(f.route == ring[1] for f in route.fallbacks) else "shadow.route",
                )
            if after not in came_from:
                came_from[after] = name
                waiting.append(after)


def _trail(last: str, came_from: Mapping[str, str], start: str) -> list[str]:
    """The way from the start to the last and back to the start; of a long one the ends."""
    trail = [start, last]
    while trail[-1] != start:
        trail.append(came_from[trail[-1]])
    trail.reverse()
    return trail if len(trail) <= _SHOWN else [*trail[:3], "...", *trail[-3:]]


def leads_to(route: Route) -> tuple[str, ...]:
    """The routes that a route falls back to or shadows."""
    shadow = (route.shadow.route,) if route.shadow is not None else ()
    return (*(fallback.route for fallback in route.fallbacks), *shadow)


def check_limit(limit: Limit, known: Known) -> Limit:
    """The limit in its plain form: the subject by its id, no window with `concurrency`.

    Raises:
        InvalidInput: a figure or the subject cannot be used; names the field.
        NotFound: the subject does not exist.
    """
    check_name(limit.name)
    _check_words(limit)
    _check_range("amount", limit.amount, 1, 10**15)
    window = 0 if limit.unit == "concurrency" else limit.window_seconds
    if limit.unit != "concurrency":
        _check_range("window_seconds", window, 1, 31 * _DAY)
    subject = check_subject(limit.scope, limit.subject, known)
    return msgspec.structs.replace(limit, subject=subject, window_seconds=window)


def check_budget(budget: Budget, known: Known) -> Budget:
    """The budget in its plain form: the subject by its id, alerts in order.

    Raises:
        InvalidInput: a figure or the subject cannot be used; names the field.
        NotFound: the subject does not exist.
    """
    check_name(budget.name)
    _check_words(budget)
    if not 0 < budget.amount <= _MAX_USD * NANO:
        raise InvalidInput(
            "The amount is out of range.", hint=f"Give more than 0, {_MAX_USD} USD at most.", field="usd"
        )
    alerts = tuple(sorted(set(budget.alerts)))
    if len(alerts) > 20 or not all(1 <= percent <= 1_000 for percent in alerts):
        raise InvalidInput(
            "An alert is out of range.", hint="Give up to 20 percentages from 1 to 1000.", field="alerts"
        )
    subject = check_subject(budget.scope, budget.subject, known)
    return msgspec.structs.replace(budget, subject=subject, alerts=alerts)


def check_subject(scope: Scope, subject: str, known: Known) -> str:
    """The subject of a limit or budget; a key may be named and is given back by its id.

    Raises:
        InvalidInput: the scope takes none, or this cannot be one.
        NotFound: it does not exist.
        Conflict: several keys have that name.
    """
    if not subject:
        return ""
    if scope == "project":
        raise InvalidInput("The scope 'project' is the whole project.", hint="Leave the subject out.", field="subject")
    if len(subject) > MAX_SUBJECT or not subject.isprintable():
        raise InvalidInput(
            "The subject cannot be used.", hint=f"Give 1 to {MAX_SUBJECT} printable characters.", field="subject"
        )
    if scope == "key":
        return _check_key(subject, known)
    if scope == "route" and subject not in known.routes:
        raise NotFound(f"There is no route '{subject}'.", hint="List them with `detent routes list`.", field="subject")
    if scope == "model" and parse_target(subject, field="subject").provider not in known.providers:
        raise NotFound(
            f"There is no provider for '{subject}'.", hint="List them with `detent providers list`.", field="subject"
        )
    return subject


def _check_key(subject: str, known: Known) -> str:
    if subject in known.keys:
        return subject
    named = [key for key, name in known.keys.items() if name == subject]
    if len(named) > 1:
        raise Conflict(f"{len(named)} keys are called '{subject}'.", hint="Give the id.", field="subject")
    if not named:
        raise NotFound(f"There is no key '{subject}'.", hint="List them with `detent keys list`.", field="subject")
    return named[0]


def parse_target(text: str, *, field: str = "targets") -> Target:
    """Read `PROVIDER/MODEL` or `PROVIDER/MODEL=WEIGHT`; the model's name may hold slashes.

    Raises:
        InvalidInput: it has another form.
    """
    provider, slash, rest = text.partition("/")
    model, _equals, weight = rest.rpartition("=") if "=" in rest else (rest, "", "1")
    if not slash or not provider or not model or not weight.isdecimal() or len(weight) > 9:
        raise InvalidInput(
            f"'{text[:80]}' is no target.", hint="Use PROVIDER/MODEL, e.g. openai/gpt-4o-mini.", field=field
        )
    return Target(provider, model, int(weight))


def write_target(target: Target) -> str:
    """A target as `parse_target` takes it."""
    plain = target.weight == 1 and "=" not in target.model
    return str(target) if plain else f"{target}={target.weight}"


def _check_range(field: str, value: float, low: float, high: float) -> None:
    # Turned round on purpose: what is no number is in no range.
    if not low <= value <= high:
        raise InvalidInput(f"{field} is out of range.", hint=f"Give {low:g} to {_plain(high)}.", field=field)


def _plain(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:g}"


def _check_words(value: V) -> None:
    """Hold a value that came from anywhere to its declared types; Structs do not check what they are made of."""
    try:
        msgspec.convert(msgspec.to_builtins(value), type(value))
    except msgspec.ValidationError as error:
        said = str(error)
        at = _AT.search(said)
        field = at[1] if at else None
        raise InvalidInput(
            f"{field or 'A field'} cannot be used: {_AT.sub('', said)}.",
            hint="The reference lists what it may be.",
            field=field,
        ) from None

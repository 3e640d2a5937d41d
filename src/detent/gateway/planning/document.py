"""`gateway.toml`: a configuration as a document, read with every mistake named by its place, and written. Pure.

version = 1

[providers.openai]
credential_env = "OPENAI_API_KEY"

[routes.support]
targets = ["openai/gpt-4o-mini=3", "embedded/detent-tiny"]
policy = "weighted"
retry = { attempts = 2 }
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeVar

import msgspec

from detent.gateway.checks import parse_target, with_url, write_target
from detent.gateway.model import (
    Band,
    Breaker,
    Budget,
    CachePolicy,
    Dialect,
    Failure,
    Fallback,
    Hedge,
    Limit,
    Period,
    Policy,
    Provider,
    Queue,
    Retry,
    Route,
    Scope,
    Shadow,
    Target,
    Timeouts,
    Unit,
)
from detent.gateway.planning.model import Configuration, Noun
from detent.gateway.prices import read_price
from detent.kernel.errors import CallerError, InvalidInput
from detent.kernel.money import LongContext, Price, read_usd, write_usd
from detent.kernel.refs import check_name

VERSION: Final = 1
MAX_BYTES: Final = 4 * 1024 * 1024
_SECTIONS: Final = ("providers", "routes", "limits", "budgets", "prices")
_ENV: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_AT: Final = re.compile(r" - at `\$\.?([^`]*)`$")
_APIECE: Final = frozenset({"image_output", "request"})
T = TypeVar("T")
Usd = str | int | float


class _ProviderEntry(msgspec.Struct, kw_only=True):
    url: str = ""
    dialect: Dialect = "openai"
    flavour: str = ""
    region: str = ""
    api_version: str = ""
    max_concurrency: int = 0
    allow_private: bool = False
    credential_env: str = ""


class _FallbackEntry(msgspec.Struct):
    route: str
    on: list[Failure] = []


class _ShadowEntry(msgspec.Struct):
    route: str
    share: float = 1.0
    daily_usd: Usd = "0"


class _RouteEntry(msgspec.Struct, kw_only=True):
    targets: list[str | Target]
    policy: Policy = "ordered"
    fallbacks: list[str | _FallbackEntry] = []
    retry: Retry = Retry()
    breaker: Breaker = Breaker()
    hedge: Hedge = Hedge()
    timeouts: Timeouts = Timeouts()
    queue: Queue = Queue()
    sticky: Literal["", "session", "user"] = ""
    shadow: _ShadowEntry | None = None
    cache: CachePolicy = CachePolicy()
    priority: Band = "default"


class _LimitEntry(msgspec.Struct, kw_only=True):
    scope: Scope
    subject: str = ""
    unit: Unit
    amount: int
    window_seconds: int = 60


class _BudgetEntry(msgspec.Struct, kw_only=True):
    scope: Scope
    subject: str = ""
    usd: Usd
    period: Period = "month"
    alerts: tuple[int, ...] = (50, 80, 100)
    hard: bool = True


# Reading


def parse_toml(text: str) -> Configuration:
    """A configuration from the text of a `gateway.toml`.

    Raises:
        InvalidInput: it is no TOML, or holds what no configuration may; names the field.
    """
    if len(text) > MAX_BYTES:
        raise InvalidInput("The document is too long.", hint="Split the project, or remove what is not used.")
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidInput(f"The document is no TOML: {error}.", hint="Correct it at that place.") from None
    return read_document(data)


def read_document(data: Mapping[str, Any]) -> Configuration:
    """A configuration from a document's tables. References between them are not looked at here.

    Raises:
        InvalidInput: a name, type or word cannot be used; names the field.
    """
    _refuse_unknown(data, {"version": 0, **dict.fromkeys(_SECTIONS)}, "")
    if data.get("version", VERSION) != VERSION:
        raise InvalidInput(
            f"The document has version {str(data['version'])[:20]}.",
            hint=f"This Detent reads version {VERSION}.",
            field="version",
        )
    credentials: dict[str, str] = {}
    return Configuration(
        providers=_section(data, "providers", lambda name, entry: _read_provider(name, entry, credentials)),
        routes=_section(data, "routes", _read_route),
        limits=_section(data, "limits", _read_limit),
        budgets=_section(data, "budgets", _read_budget),
        prices=_section(data, "prices", _read_price),
        credentials=credentials,
    )


def _section(data: Mapping[str, Any], section: str, read: Callable[[str, Any], T]) -> dict[str, T]:
    entries = data.get(section, {})
    if not isinstance(entries, Mapping):
        raise InvalidInput(
            f"'{section}' is no table.", hint=f"Write [{section}.NAME] and its fields below.", field=section
        )
    found = {}
    for name, entry in entries.items():
        with_place = f"{section}.{name}"
        try:
            if section != "prices":
                check_name(name, field="name")
            found[name] = read(name, entry)
        except CallerError as error:
            raise placed(error, with_place) from None
    return found


def placed(error: CallerError, place: str) -> CallerError:
    """The same error with the place in the document before its field."""
    field = f"{place}.{error.field}" if error.field and error.field != "name" else place
    return type(error)(error.message, hint=error.hint, field=field)


def _read_provider(name: str, entry: Any, credentials: dict[str, str]) -> Provider:
    read = _convert(entry, _ProviderEntry)
    if read.credential_env:
        if not _ENV.fullmatch(read.credential_env):
            raise InvalidInput(
                "credential_env is no name of an environment variable.",
                hint='Give the name, e.g. "OPENAI_API_KEY"; the credential itself never stands in the document.',
                field="credential_env",
            )
        credentials[name] = read.credential_env
    fields = {field: getattr(read, field) for field in _ProviderEntry.__struct_fields__ if field != "credential_env"}
    provider = Provider(name=name, project="", **fields)
    return provider if read.url else with_url(provider)


def _read_route(name: str, entry: Any) -> Route:
    read = _convert(entry, _RouteEntry)
    shadow = read.shadow
    return Route(
        name=name,
        project="",
        targets=tuple(parse_target(t) if isinstance(t, str) else t for t in read.targets),
        policy=read.policy,
        fallbacks=tuple(Fallback(f) if isinstance(f, str) else Fallback(f.route, tuple(f.on)) for f in read.fallbacks),
        retry=read.retry,
        breaker=read.breaker,
        hedge=read.hedge,
        timeouts=read.timeouts,
        queue=read.queue,
        sticky=read.sticky,
        shadow=Shadow(shadow.route, shadow.share, _usd(shadow.daily_usd, "shadow.daily_usd")) if shadow else None,
        cache=read.cache,
        priority=read.priority,
    )


def _read_limit(name: str, entry: Any) -> Limit:
    read = _convert(entry, _LimitEntry)
    return Limit(name=name, project="", **msgspec.structs.asdict(read))


def _read_budget(name: str, entry: Any) -> Budget:
    read = _convert(entry, _BudgetEntry)
    return Budget(
        name=name,
        project="",
        scope=read.scope,
        subject=read.subject,
        amount=_usd(read.usd, "usd"),
        period=read.period,
        alerts=read.alerts,
        hard=read.hard,
    )


def _read_price(name: str, entry: Any) -> Price:
    target = parse_target(name, field="name")
    if write_target(target) != name or "=" in name:
        raise InvalidInput(f"'{name[:80]}' is no model.", hint='Write [prices."PROVIDER/MODEL"].', field="name")
    if not isinstance(entry, Mapping):
        raise InvalidInput("A price is a table.", hint='Write input = "0.15" and output = "0.60".', field="name")
    for field in ("input", "output"):
        if field not in entry:
            raise InvalidInput(f"'{field}' is missing.", hint="Give USD per million tokens.", field=field)
    known = {**dict.fromkeys(Price.__struct_fields__), "long": dict.fromkeys(LongContext.__struct_fields__)}
    _refuse_unknown(entry, known, "")
    for field, value in entry.items():
        if not isinstance(value, str | int | float | Mapping) or isinstance(value, bool):
            raise InvalidInput(f"'{field}' is no amount.", hint='Give USD, e.g. "0.15".', field=field)
    return read_price({field: value if isinstance(value, Mapping) else str(value) for field, value in entry.items()})


def _usd(value: Usd, field: str) -> int:
    return read_usd(str(value), field=field)


def _convert(entry: Any, kind: type[T]) -> T:
    """An entry as its struct; nothing in it is passed over."""
    try:
        read = msgspec.convert(entry, kind)
    except msgspec.ValidationError as error:
        said = str(error)
        at = _AT.search(said)
        missing = re.search(r"missing required field `(\w+)`", said)
        field = at[1] if at else missing[1] if missing else "name"
        raise InvalidInput(
            f"It cannot be read: {_AT.sub('', said)}.",
            hint="The guide on configuring the gateway has all fields.",
            field=field,
        ) from None
    _refuse_unknown(entry, msgspec.to_builtins(read), "")
    return read


def _refuse_unknown(given: Any, known: Any, place: str) -> None:
    if isinstance(given, Mapping) and isinstance(known, Mapping):
        for name, value in given.items():
            here = f"{place}.{name}" if place else str(name)
            if name not in known:
                near = difflib.get_close_matches(str(name), [str(k) for k in known], 1)
                raise InvalidInput(
                    f"There is no field '{str(name)[:60]}'.",
                    hint=f"Did you mean '{near[0]}'?" if near else f"Fields are {', '.join(map(str, known))}.",
                    field=here[:200],
                )
            _refuse_unknown(value, known[name], here)
    elif isinstance(given, list) and isinstance(known, list):
        for index, (value, of_known) in enumerate(zip(given, known, strict=True)):
            _refuse_unknown(value, of_known, f"{place}[{index}]")


# Entries: everything about a thing, in the document's words


def provider_entry(provider: Provider) -> dict[str, Any]:
    """A provider's fields."""
    return {
        "url": provider.url,
        "dialect": provider.dialect,
        "flavour": provider.flavour,
        "region": provider.region,
        "api_version": provider.api_version,
        "max_concurrency": provider.max_concurrency,
        "allow_private": provider.allow_private,
    }


def route_entry(route: Route) -> dict[str, Any]:
    """A route's fields."""
    shadow = route.shadow
    return {
        "targets": [write_target(target) for target in route.targets],
        "policy": route.policy,
        "fallbacks": [{"route": f.route, "on": list(f.on)} if f.on else f.route for f in route.fallbacks],
        "retry": msgspec.to_builtins(route.retry),
        "breaker": msgspec.to_builtins(route.breaker),
        "hedge": msgspec.to_builtins(route.hedge),
        "timeouts": msgspec.to_builtins(route.timeouts),
        "queue": msgspec.to_builtins(route.queue),
        "sticky": route.sticky,
        "shadow": {"route": shadow.route, "share": shadow.share, "daily_usd": write_usd(shadow.daily_budget)}
        if shadow
        else None,
        "cache": msgspec.to_builtins(route.cache),
        "priority": route.priority,
    }


def limit_entry(limit: Limit) -> dict[str, Any]:
    """A limit's fields."""
    return {
        "scope": limit.scope,
        "subject": limit.subject,
        "unit": limit.unit,
        "amount": limit.amount,
        "window_seconds": limit.window_seconds,
    }


def budget_entry(budget: Budget) -> dict[str, Any]:
    """A budget's fields."""
    return {
        "scope": budget.scope,
        "subject": budget.subject,
        "usd": write_usd(budget.amount),
        "period": budget.period,
        "alerts": list(budget.alerts),
        "hard": budget.hard,
    }


def price_entry(price: Price) -> dict[str, Any]:
    """A price's fields, in USD as text; those that were not given are left out."""
    return {
        name: value
        for name, value in ((field, _write_figure(field, getattr(price, field))) for field in Price.__struct_fields__)
        if value is not None
    }


def _write_figure(field: str, value: Any) -> Any:
    if value is None or (field in _APIECE and not value):
        return None
    if isinstance(value, msgspec.Struct):
        return {
            name: getattr(value, name) if name == "above" else _write_figure(name, getattr(value, name))
            for name in value.__struct_fields__
            if getattr(value, name) is not None
        }
    return write_usd(value if field in _APIECE else value * 1_000)


ENTRIES: Final[dict[Noun, tuple[str, Callable[[Any], dict[str, Any]], dict[str, Any]]]] = {
    "provider": ("providers", provider_entry, provider_entry(Provider(name="", project="", url=""))),
    "route": ("routes", route_entry, route_entry(Route(name="", project="", targets=()))),
    "limit": ("limits", limit_entry, {"subject": "", "window_seconds": 60}),
    "budget": ("budgets", budget_entry, {"subject": "", "period": "month", "alerts": [50, 80, 100], "hard": True}),
    "price": ("prices", price_entry, {}),
}
"""By noun: its section, how one is written in full, and which fields may be left out because they have that value."""


def short_entry(noun: Noun, value: Any) -> dict[str, Any]:
    """The fields of something but for those that have their default."""
    _section, entry_of, default = ENTRIES[noun]
    entry = _trimmed(entry_of(value), default)
    if entry.get("unit") == "concurrency":
        entry.pop("window_seconds", None)
    return entry


def variable_for(provider: str) -> str:
    """The environment variable that a provider's credential is looked for in, where nothing else was said."""
    return "".join(c if c.isalnum() else "_" for c in provider.upper()) + "_API_KEY"


# Writing


def write_toml(configuration: Configuration) -> str:
    """The document of a configuration; what has its default is left out."""
    lines = [f"version = {VERSION}"]

    def table(section: str, name: str, entry: Mapping[str, Any]) -> None:
        lines.extend(("", f"[{section}.{_key(name)}]"))
        lines.extend(f"{_key(field)} = {_value(value)}" for field, value in entry.items())

    for noun, (section, _entry_of, _default) in ENTRIES.items():
        for name, value in sorted(getattr(configuration, section).items()):
            entry = short_entry(noun, value)
            if noun == "provider" and name in configuration.credentials:
                entry["credential_env"] = configuration.credentials[name]
            table(section, name, entry)
    return "\n".join(lines) + "\n"


def _trimmed(entry: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """An entry without what has its default."""
    kept: dict[str, Any] = {}
    for name, value in entry.items():
        if name in default and value == default[name]:
            continue
        plain = default.get(name)
        kept[name] = _trimmed(value, plain) if isinstance(value, dict) and isinstance(plain, dict) else value
    return kept


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _text(name)


def _text(text: str) -> str:
    """A basic string; JSON's escapes are TOML's, but for DEL, which TOML wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(name)} = {_value(item)}" for name, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return repr(value)

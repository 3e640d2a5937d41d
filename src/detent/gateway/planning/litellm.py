"""A LiteLLM proxy's `config.yaml` as a configuration of ours, with a word on everything that is not the same. Pure.

Read by LiteLLM's own reference (docs.litellm.ai, "All settings" of the proxy). Whatever has no counterpart is listed
with the reason; values are never repeated in what is said, for any of them may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec

from detent.gateway.checks import MAX_FALLBACKS, MAX_TARGETS, leads_to, with_url
from detent.gateway.endpoints import DEFAULT_URLS, check_api_version, check_region, check_url, flavours
from detent.gateway.model import (
    Budget,
    CachePolicy,
    Failure,
    Fallback,
    Limit,
    Policy,
    Provider,
    Route,
    Target,
    Timeouts,
    Unit,
)
from detent.gateway.planning.document import variable_for
from detent.gateway.planning.litellm_words import (
    ABOUT_MODELS,
    AWS,
    BARE,
    CARRIED,
    CUSTOMARY,
    KINDS,
    LITERAL,
    NEED_BASE,
    NO_COUNTERPART,
    NO_KEYS,
    PARAMETER,
    PERIODS,
    POLICIES,
    SPOKEN,
    Kind,
)
from detent.gateway.planning.model import Configuration
from detent.gateway.prices import read_price
from detent.kernel.errors import CallerError, InvalidInput
from detent.kernel.money import Price, read_usd
from detent.kernel.secret import Secret

_ENVIRON: Final = "os.environ/"
_MILLION: Final = 1_000_000


class Finding(msgspec.Struct, frozen=True):
    """What became of something in the file.

    Attributes:
        what: `changed` means the same to clients in another way; `left_out` is not carried over.
        places: where in the file.
        said: why, in a sentence.
    """

    what: Literal["changed", "left_out"]
    places: tuple[str, ...]
    said: str


class Imported(msgspec.Struct, frozen=True):
    """A configuration, what is to be known about it, and credentials that stood in the file, by provider."""

    configuration: Configuration
    findings: tuple[Finding, ...]
    credentials: dict[str, Secret]


def parse_yaml(text: str) -> Mapping[str, Any]:
    """The tables of a `config.yaml`.

    Raises:
        InvalidInput: it is no YAML, or no table.
    """
    import yaml  # type: ignore[import-untyped]

    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        # The parser's own words repeat the text, which may be a credential.
        raise InvalidInput(f"The file is no YAML{where}.", hint="Correct it there.", field="file") from None
    if not isinstance(found, Mapping):
        raise InvalidInput("The file holds no tables.", hint="Give a LiteLLM proxy's config.yaml.", field="file")
    return found


def read_litellm(config: Mapping[str, Any], environment: Mapping[str, str]) -> Imported:
    """A configuration of ours from LiteLLM's.

    Args:
        environment: where `os.environ/NAME` is looked up, but for credentials, of which only the name is taken.
    """
    return _Import(config, environment).read()


class _Import:
    """One file on its way."""

    def __init__(self, config: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self._config = config
        self._environment = environment
        self._router = _table(config.get("router_settings"))
        self._litellm = _table(config.get("litellm_settings"))
        self._findings: dict[tuple[Literal["changed", "left_out"], str], list[str]] = {}
        self._providers: dict[str, Provider] = {}
        self._identities: dict[tuple[Any, ...], str] = {}
        self._variables: dict[str, str] = {}
        self._literal: dict[str, Secret] = {}
        self._deployments: dict[str, list[_Deployment]] = {}
        self._routes: dict[str, Route] = {}
        self._names: dict[str, str] = {}
        self._aliases: dict[str, str] = {}
        self._limits: dict[str, Limit] = {}
        self._prices: dict[str, Price] = {}

    def read(self) -> Imported:
        """All of it."""
        for index, entry in enumerate(_list(self._config.get("model_list"))):
            self._read_model(f"model_list[{index}]", _table(entry))
        self._make_routes()
        self._make_aliases()
        self._make_fallbacks()
        self._finish_aliases()
        budgets = self._budgets()
        self._say_rest()
        configuration = Configuration(
            providers=self._providers,
            routes=self._routes,
            limits=self._limits,
            budgets=budgets,
            prices=self._prices,
            credentials=self._variables,
        )
        findings = tuple(Finding(what, tuple(places), said) for (what, said), places in self._findings.items())
        return Imported(configuration, tuple(sorted(findings, key=lambda f: f.what)), self._literal)

    # Models

    def _read_model(self, place: str, entry: Mapping[str, Any]) -> None:
        name, params = entry.get("model_name"), self._with_credential(_table(entry.get("litellm_params")))
        if not isinstance(name, str) or not isinstance(params.get("model"), str) or not name:
            self._left_out(place, "It has no model_name, or no litellm_params.model.")
            return
        if "*" in name or "*" in params["model"]:
            self._left_out(place, "A route has one name: add one for each model that is called, not a pattern.")
            return
        try:
            target = self._target(f"{place}.litellm_params", params)
        except CallerError as error:
            # Its message may repeat what stood in the file; the field is enough to find it by.
            self._left_out(f"{place}.litellm_params", f"The provider cannot be used: look at its {error.field}.")
            return
        if target is None:
            return
        info = _table(entry.get("model_info"))
        self._limits_of(f"{place}.litellm_params", params, target)
        self._price_of(f"{place}.litellm_params", {**info, **params}, target)
        self._deployments.setdefault(name, []).append(_Deployment(f"{place}.litellm_params", params, target))
        for field in params:
            if field not in CARRIED:
                said = AWS if str(field).startswith("aws_") else SPOKEN.get(str(field), PARAMETER)
                self._left_out(f"{place}.litellm_params.{_word(field)}", said)
        for field in info:
            if field in {"input_cost_per_token", "output_cost_per_token"}:
                continue
            said = "Detent needs no description of the model." if field in ABOUT_MODELS else NO_COUNTERPART
            self._left_out(f"{place}.model_info.{_word(field)}", said)
        for field in entry.keys() - {"model_name", "litellm_params", "model_info"}:
            self._left_out(f"{place}.{_word(field)}", NO_COUNTERPART)

    def _with_credential(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Parameters with those of the named credential below them."""
        wanted = params.get("litellm_credential_name")
        for entry in _list(self._config.get("credential_list")) if wanted else ():
            if _table(entry).get("credential_name") == wanted:
                return {**_table(_table(entry).get("credential_values")), **params}
        return params

    def _target(self, place: str, params: Mapping[str, Any]) -> Target | None:
        """The deployment, its provider made where there is none like it; None when it cannot be carried over."""
        prefix, model = self._split(params)
        kind = KINDS.get(prefix)
        if kind is None or not model or len(model) > 200 or not model.isprintable():
            self._left_out(f"{place}.model", f"Detent does not know the provider '{_word(prefix)}'.")
            return None
        given = {}
        for field in ("api_base", "base_url", "api_version", "aws_region_name"):
            value = self._resolved(f"{place}.{field}", params.get(field))
            if value is None:
                return None
            given[field] = value
        name = self._provider(place, prefix, kind, given, params.get("api_key"))
        return Target(name, model) if name else None

    def _split(self, params: Mapping[str, Any]) -> tuple[str, str]:
        model, named = str(params["model"]), params.get("custom_llm_provider")
        if isinstance(named, str) and named:
            return named, model.removeprefix(f"{named}/")
        prefix, slash, rest = model.partition("/")
        if slash and (prefix in KINDS or not params.get("api_base")):
            return prefix, rest.removeprefix("converse/") if prefix == "bedrock" else rest
        if slash or params.get("api_base"):
            return "openai", model
        return next((kind for pattern, kind in BARE if pattern.match(model)), model[:20]), model

    def _resolved(self, place: str, value: Any) -> str | None:
        """A value, from the environment where it says so; None when it is not there."""
        if value is None:
            return ""
        text = str(value)
        if not text.startswith(_ENVIRON):
            return text
        found = self._environment.get(text.removeprefix(_ENVIRON), "")
        if not found:
            variable = _word(text.removeprefix(_ENVIRON))
            self._left_out(place, f"{variable} is not set here: set it and import again.")
            return None
        return found

    def _provider(self, place: str, prefix: str, kind: Kind, given: Mapping[str, str], key: Any) -> str:
        """The name of the provider, made where there is none like it; empty when there can be none."""
        base = given["api_base"] or given["base_url"]
        url = _url(prefix, kind, base, versioned=bool(given["api_version"]))
        if (not url and (kind.dialect, kind.flavour) not in DEFAULT_URLS) or (prefix in NEED_BASE and not base):
            self._left_out(place, f"A provider of the kind '{prefix}' needs an api_base.")
            return ""
        variable = key.removeprefix(_ENVIRON) if isinstance(key, str) and key.startswith(_ENVIRON) else ""
        literal = key if isinstance(key, str) and key and not variable else ""
        identity = (kind, url, given["api_version"], given["aws_region_name"], variable, literal)
        if identity in self._identities:
            return self._identities[identity]
        name = self._free(_provider_name(prefix, base), self._providers)
        flavour = kind.flavour if kind.flavour in flavours(kind.dialect) else ""
        draft = Provider(
            name=name,
            project="",
            dialect=kind.dialect,
            flavour=flavour,
            url=url or DEFAULT_URLS.get((kind.dialect, kind.flavour), ""),
            region=check_region(kind.dialect, given["aws_region_name"]),
            api_version=check_api_version(given["api_version"]),
        )
        draft = draft if draft.url and "{" not in draft.url else with_url(draft)
        private = _is_private(draft.url)
        if private:
            self._changed(place, "The address is a private one: the provider is allowed to be called there.")
        check_url(draft.url, draft.dialect, allow_private=private)
        self._providers[name] = msgspec.structs.replace(draft, allow_private=private)
        self._identities[identity] = name
        if variable:
            self._variables[name] = variable
        elif literal and literal.lower() not in NO_KEYS:
            self._literal[name] = Secret(literal)
            self._variables[name] = variable_for(name)
            self._changed(f"{place}.api_key", LITERAL)
        elif kind.dialect == "bedrock" and not key:
            self._changed(place, f"LiteLLM finds AWS credentials where it runs, Detent does not. {AWS}")
        elif not key and not base and not private:
            self._variables[name] = CUSTOMARY.get(prefix, f"{prefix.upper()}_API_KEY")
            self._changed(place, "The file names no credential: LiteLLM's customary variable is taken.")
        return name

    def _limits_of(self, place: str, params: Mapping[str, Any], target: Target) -> None:
        counted: tuple[tuple[str, Unit, int], ...] = (
            ("rpm", "requests", 60),
            ("tpm", "tokens", 60),
            ("max_parallel_requests", "concurrency", 0),
        )
        for field, unit, window in counted:
            amount = _whole(params.get(field))
            if amount is None:
                continue
            name = _name(f"{field.replace('max_parallel_requests', 'parallel')}-{target.provider}-{target.model}")
            before = self._limits.get(name)
            if before is not None and before.amount != amount:
                self._changed(f"{place}.{field}", "One deployment had several figures: the largest holds.")
                amount = max(amount, before.amount)
            elif unit != "concurrency":
                self._changed(f"{place}.{field}", "It is a limit of the model: calls above it are refused, not moved.")
            self._limits[name] = Limit(
                name=name,
                project="",
                scope="model",
                subject=f"{target.provider}/{target.model}",
                unit=unit,
                amount=amount,
                window_seconds=window,
            )

    def _price_of(self, place: str, fields: Mapping[str, Any], target: Target) -> None:
        named = {
            "input": "input_cost_per_token",
            "output": "output_cost_per_token",
            "cached_input": "cache_read_input_token_cost",
            "cache_write": "cache_creation_input_token_cost",
        }
        if fields.get("input_cost_per_token") is None and fields.get("output_cost_per_token") is None:
            return
        try:
            figures = {
                name: str(Decimal(str(fields[field])) * _MILLION)
                for name, field in named.items()
                if fields.get(field) is not None
            }
            self._prices[f"{target.provider}/{target.model}"] = read_price({"input": "0", "output": "0", **figures})
        except (InvalidOperation, InvalidInput):
            self._left_out(f"{place}.input_cost_per_token", "The price is no amount in USD.")

    # Routes

    def _make_routes(self) -> None:
        for name, deployments in self._deployments.items():
            ours = self._free(_name(name), self._routes)
            self._names[name] = ours
            if ours != name:
                self._changed(
                    deployments[0].place.removesuffix(".litellm_params") + ".model_name",
                    f"Clients call it '{ours}': names are of a-z, 0-9, dot, dash and underscore.",
                )
            self._routes[ours] = self._route(ours, deployments)

    def _route(self, name: str, deployments: Sequence[_Deployment]) -> Route:
        targets, policy = self._targets(deployments)
        timeouts = Timeouts(
            total=self._seconds(deployments, "timeout", _first(self._router, "timeout")
                                or _first(self._litellm, "request_timeout")),
            first_token=self._seconds(deployments, "stream_timeout", _first(self._router, "stream_timeout")),
        )  # fmt: skip
        if timeouts.total and timeouts.first_token > timeouts.total:
            timeouts = Timeouts(total=timeouts.total, first_token=timeouts.total)
        route = Route(name=name, project="", targets=targets, policy=policy, timeouts=timeouts, cache=self._cache())
        retries = [_whole(d.params.get("num_retries", d.params.get("max_retries"))) for d in deployments]
        given = [count for count in retries if count is not None]
        general = _whole(_first(self._router, "num_retries", self._litellm.get("num_retries")))
        count = max(given) if given else general
        if count is not None:
            attempts = min(count + 1, 10)
            if attempts <= count:
                self._changed(f"{deployments[0].place}.num_retries", "Nine retries of a target are the most.")
            route = msgspec.structs.replace(route, retry=msgspec.structs.replace(route.retry, attempts=attempts))
        return self._with_breaker(self._with_backoff(route))

    def _targets(self, deployments: Sequence[_Deployment]) -> tuple[tuple[Target, ...], Policy]:
        strategy = str(self._router.get("routing_strategy", "simple-shuffle"))
        policy, said = POLICIES.get(strategy, ("weighted", "The strategy is not known here: targets are weighted."))
        if said and len(deployments) > 1:
            self._changed("router_settings.routing_strategy", said)
        orders = [_whole(d.params.get("order")) for d in deployments]
        if any(order is not None for order in orders):
            policy = "ordered"
            ranked = sorted(zip(deployments, orders, strict=True), key=lambda pair: pair[1] or 0)
            if len({order or 0 for order in orders}) < len(orders):
                self._changed(f"{deployments[0].place}.order", "Targets of one order follow each other as in the file.")
            deployments = [deployment for deployment, _order in ranked]
        weights: dict[Target, int] = {}
        for deployment, weight in zip(deployments, _weights(deployments), strict=True):
            if deployment.target in weights:
                self._changed(deployment.place, "The same deployment stood there twice: its weights are added.")
            weights[deployment.target] = weights.get(deployment.target, 0) + weight
        if len(weights) > MAX_TARGETS:
            self._left_out(deployments[MAX_TARGETS].place, f"A route has at most {MAX_TARGETS} targets.")
        if len(weights) == 1:
            return tuple(weights), "ordered"
        plain = policy != "weighted" or len(set(weights.values())) == 1
        targets = [Target(t.provider, t.model, 1 if plain else weight) for t, weight in weights.items()]
        return tuple(targets[:MAX_TARGETS]), policy

    def _seconds(self, deployments: Sequence[_Deployment], field: str, general: Any) -> float:
        figures = {_number(d.params[field]) for d in deployments if _number(d.params.get(field)) is not None}
        if len(figures) > 1:
            self._changed(f"{deployments[0].place}.{field}", "Its targets had several time-outs: the longest holds.")
        found = max((figure for figure in figures if figure is not None), default=_number(general) or 0.0)
        return min(found, 3_600.0)

    def _with_backoff(self, route: Route) -> Route:
        after = _number(self._router.get("retry_after"))
        if after is None:
            return route
        self._changed("router_settings.retry_after", "The first pause is drawn below it; the next ones double.")
        retry = msgspec.structs.replace(route.retry, backoff_ms=min(round(after * 1000), 60_000))
        return msgspec.structs.replace(route, retry=retry)

    def _with_breaker(self, route: Route) -> Route:
        fails, cooldown = _whole(self._router.get("allowed_fails")), _number(self._router.get("cooldown_time"))
        if fails is None:
            fails = _whole(self._litellm.get("allowed_fails"))
        breaker = route.breaker
        if fails is not None:
            self._changed(
                "router_settings.allowed_fails",
                "The breaker opens by the share of failed calls, once there are as many.",
            )
            breaker = msgspec.structs.replace(breaker, min_calls=fails + 1, window_seconds=60.0)
        if cooldown:
            breaker = msgspec.structs.replace(breaker, open_seconds=min(max(cooldown, 0.1), 3_600.0))
        return msgspec.structs.replace(route, breaker=breaker)

    def _cache(self) -> CachePolicy:
        params = _table(self._litellm.get("cache_params"))
        wanted = self._litellm.get("cache") is True or self._router.get("cache_responses") is True
        if not wanted:
            return CachePolicy()
        mode: Literal["exact", "semantic"] = "semantic" if "semantic" in str(params.get("type", "")) else "exact"
        ttl, likeness = _whole(params.get("ttl")), _number(params.get("similarity_threshold"))
        self._changed("litellm_settings.cache", "Answers are kept by each route, within the project, by Detent itself.")
        for field in params.keys() - {"type", "ttl", "similarity_threshold"}:
            self._left_out(f"litellm_settings.cache_params.{_word(field)}", "Detent keeps answers itself.")
        policy = CachePolicy(mode, ttl or CachePolicy().ttl_seconds)
        return msgspec.structs.replace(policy, threshold=likeness) if likeness and likeness <= 1 else policy

    def _make_aliases(self) -> None:
        for alias, meant in _table(self._router.get("model_group_alias")).items():
            place = f"router_settings.model_group_alias.{_word(alias)}"
            model = str(_table(meant).get("model", "")) if isinstance(meant, Mapping) else str(meant)
            if model not in self._names:
                self._left_out(place, "It stands for a model that is not carried over.")
                continue
            ours = self._free(_name(str(alias)), self._routes)
            self._names[str(alias)] = ours
            self._changed(place, "The alias is a route of its own, with the same targets and rules.")
            self._aliases[ours] = self._names[model]
            self._routes[ours] = msgspec.structs.replace(self._routes[self._names[model]], name=ours)

    def _finish_aliases(self) -> None:
        """An alias falls back where its model does, but never to itself."""
        for alias, model in self._aliases.items():
            kept = tuple(f for f in self._routes[model].fallbacks if not self._leads(f.route, alias))
            if kept and not self._routes[alias].fallbacks:
                self._routes[alias] = msgspec.structs.replace(self._routes[alias], fallbacks=kept)

    def _make_fallbacks(self) -> None:
        classes: tuple[tuple[str, tuple[Failure, ...]], ...] = (
            ("context_window_fallbacks", ("context_length",)),
            ("content_policy_fallbacks", ("content_filter",)),
            ("fallbacks", ()),
        )
        for section, settings in (("router_settings", self._router), ("litellm_settings", self._litellm)):
            for field, failures in classes:
                for index, entry in enumerate(_list(settings.get(field))):
                    for model, others in _table(entry).items():
                        self._add_fallbacks(f"{section}.{field}[{index}]", str(model), _list(others), failures)
            general = _list(settings.get("default_fallbacks"))
            for model in list(self._names) if general else ():
                if not self._routes[self._names[model]].fallbacks and model not in general:
                    self._add_fallbacks(f"{section}.default_fallbacks", model, general, ())

    def _add_fallbacks(self, place: str, model: str, others: Sequence[Any], failures: tuple[Failure, ...]) -> None:
        if model not in self._names:
            self._left_out(place, "It is for a model that is not carried over.")
            return
        name = self._names[model]
        for other in map(str, others):
            if other not in self._names:
                self._left_out(place, "It leads to a model that is not carried over.")
                continue
            route, to = self._routes[name], self._names[other]
            if self._leads(to, name):
                self._left_out(place, "It leads back to where it came from; fallbacks go round nowhere.")
                continue
            before = next((fallback for fallback in route.fallbacks if fallback.route == to), None)
            if before is not None:
                both = () if not before.on or not failures else tuple(dict.fromkeys((*before.on, *failures)))
                kept = tuple(Fallback(to, both) if f.route == to else f for f in route.fallbacks)
            elif len(route.fallbacks) == MAX_FALLBACKS:
                self._left_out(place, f"A route has at most {MAX_FALLBACKS} fallbacks.")
                continue
            else:
                kept = (*route.fallbacks, Fallback(to, failures))
            self._routes[name] = msgspec.structs.replace(route, fallbacks=kept)

    def _leads(self, start: str, wanted: str) -> bool:
        """Whether a route falls back to another in the end."""
        seen, waiting = {start}, [start]
        for name in waiting:
            if name == wanted:
                return True
            fresh = [other for other in leads_to(self._routes[name]) if other not in seen]
            seen.update(fresh)
            waiting += fresh
        return False

    def _budgets(self) -> dict[str, Budget]:
        amount = self._litellm.get("max_budget")
        if amount is None:
            return {}
        duration = str(self._litellm.get("budget_duration", "30d")).strip().lower()
        period = PERIODS.get(duration)
        try:
            nano = read_usd(str(amount))
        except InvalidInput:
            nano = 0
        if period is None or not nano:
            self._left_out("litellm_settings.max_budget", "Budgets are amounts in USD by day or month.")
            return {}
        if period == "month":
            self._changed("litellm_settings.max_budget", "It is by calendar month (UTC).")
        name = "litellm-max-budget"
        return {name: Budget(name=name, project="", scope="project", amount=nano, period=period)}

    # What is left

    def _say_rest(self) -> None:
        carried = {
            "router_settings": {
                "routing_strategy", "fallbacks", "context_window_fallbacks", "content_policy_fallbacks",
                "default_fallbacks", "num_retries", "retry_after", "timeout", "stream_timeout", "allowed_fails",
                "cooldown_time", "model_group_alias", "cache_responses",
            },
            "litellm_settings": {
                "cache", "cache_params", "fallbacks", "context_window_fallbacks", "content_policy_fallbacks",
                "default_fallbacks", "num_retries", "request_timeout", "allowed_fails", "max_budget", "budget_duration",
            },
            "general_settings": set[str](),
        }  # fmt: skip
        for section, known in carried.items():
            for field in _table(self._config.get(section)):
                if field not in known:
                    self._left_out(f"{section}.{_word(field)}", SPOKEN.get(str(field), NO_COUNTERPART))
        for section in self._config:
            if section not in {"model_list", "credential_list", *carried}:
                self._left_out(_word(section), SPOKEN.get(str(section), NO_COUNTERPART))

    def _free(self, name: str, taken: Mapping[str, Any]) -> str:
        """The name, or the first like it that is not taken."""
        number, found = 2, name
        while found in taken:
            found = f"{name[:60].rstrip('._-')}-{number}"
            number += 1
        return found

    def _changed(self, place: str, said: str) -> None:
        self._say("changed", place, said)

    def _left_out(self, place: str, said: str) -> None:
        self._say("left_out", place, said)

    def _say(self, what: Literal["changed", "left_out"], place: str, said: str) -> None:
        places = self._findings.setdefault((what, said), [])
        if place not in places:
            places.append(place)


class _Deployment(NamedTuple):
    place: str
    params: Mapping[str, Any]
    target: Target


def _weights(deployments: Sequence[_Deployment]) -> Iterator[int]:
    """LiteLLM's shuffle goes by `weight`, else by `rpm`, else by `tpm`, where any deployment has one; else evenly."""
    for field in ("weight", "rpm", "tpm"):
        figures = [_number(d.params.get(field)) for d in deployments]
        if any(figure for figure in figures):
            least = min(figure for figure in figures if figure)
            scale = 1 if all(float(figure or 1).is_integer() for figure in figures) else 100 / least
            yield from (min(max(round((figure or least) * scale), 1), 1_000_000) for figure in figures)
            return
    yield from (1 for _deployment in deployments)


def _url(prefix: str, kind: Kind, base: str, *, versioned: bool) -> str:
    """The base URL as our dialects want it."""
    url = (base or kind.url).strip().rstrip("/")
    if not base:
        return url
    if prefix in {"ollama", "ollama_chat"} and not url.endswith("/v1"):
        return f"{url}/v1"
    if prefix == "azure" and not versioned and "/openai" not in url:
        return f"{url}/openai/v1"  # with a version each deployment has a path of its own below the host
    return url


def _provider_name(prefix: str, base: str) -> str:
    host = (urlsplit(base).hostname or "") if base and "\\" not in base else ""
    label = host.partition(".")[0]
    plain = _name(prefix.replace("_", "-"))
    if not label or label.isdigit() or label in {"api", "www", "localhost"} or label == plain:
        return plain
    return _name(f"{plain}-{label}")


def _is_private(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        check_url(url, allow_private=False)
    except InvalidInput as error:
        return error.message.endswith("is a private address.")
    # A name without a dot is resolved by the network it is in.
    return "." not in host and ":" not in host


def _name(text: str) -> str:
    """The nearest name that a thing may have."""
    found = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("._-")[:64].rstrip("._-")
    return found or "model"


def _word(text: object) -> str:
    """A key of the file, fit to be shown."""
    shown = str(text)
    return shown if shown.isprintable() and len(shown) <= 60 else shown[:60].encode("unicode_escape").decode()


def _first(table: Mapping[str, Any], field: str, otherwise: Any = None) -> Any:
    found = table.get(field)
    return otherwise if found is None else found


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value] if isinstance(value, str) else []


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if 0 <= found < 10**12 else None


def _whole(value: Any) -> int | None:
    found = _number(value)
    return None if found is None else int(found)

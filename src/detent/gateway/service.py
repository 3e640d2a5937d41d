"""The gateway room's verbs: keys, providers, routes, limits, budgets, weights, prices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeVar

import msgspec

from detent.gateway.checks import (
    Known,
    check_budget,
    check_limit,
    check_provider,
    check_route,
    leads_to,
    parse_target,
    with_url,
)
from detent.gateway.endpoints import check_credential
from detent.gateway.facts import (
    BudgetRemoved,
    BudgetSet,
    KeyMinted,
    KeyRevoked,
    LimitRemoved,
    LimitSet,
    PriceRemoved,
    PriceSet,
    ProviderRemoved,
    ProviderSaved,
    RouteRemoved,
    RouteSaved,
    WeightSet,
)
from detent.gateway.keys import hash_token, hint_of, new_token
from detent.gateway.model import (
    EMBEDDED,
    EMBEDDED_MODEL,
    Budget,
    Dialect,
    Key,
    Limit,
    Period,
    PriceEntry,
    Provider,
    Route,
    Scope,
    Target,
    Unit,
    Weight,
)
from detent.gateway.views import BUDGETS, KEYS, LIMITS, PRICES, PROVIDERS, ROUTES, WEIGHTS
from detent.guard.vault import Vault, origin
from detent.kernel.clock import Clock
from detent.kernel.errors import Conflict, Forbidden, InvalidInput, NotFound
from detent.kernel.facts import ANY_VERSION, NEW_STREAM, Draft, FactBody
from detent.kernel.identity import DEFAULT_PROJECT, Permission, Principal
from detent.kernel.ids import Ids
from detent.kernel.money import Price
from detent.kernel.ports import Ledger, Secrets
from detent.kernel.refs import check_name
from detent.kernel.secret import Secret

__all__ = ["Gateway", "Kind", "MintedKey", "parse_target", "saved"]

_MAX_NAME = 100
_MAX_WEIGHT = 1_000
_MILLISECOND = 1_000_000
T = TypeVar("T")
Kind = Literal["provider", "route", "limit", "budget"]


class MintedKey(msgspec.Struct, frozen=True):
    """A new key and its token, which nobody can read again."""

    key: Key
    token: Secret


class Gateway:
    """What may be done to the gateway's configuration. Every verb takes the caller, checks, and records a fact.

    Args:
        changed: called after each recorded change; the composition compiles and publishes the snapshot there.
    """

    def __init__(
        self,
        ledger: Ledger,
        secrets: Secrets,
        vault: Callable[[], Vault],
        *,
        clock: Clock,
        ids: Ids,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._ledger = ledger
        self._secrets = secrets
        self._vault = vault
        self._clock = clock
        self._ids = ids
        self._changed = changed

    # Keys

    def keys(self, caller: Principal) -> tuple[Key, ...]:
        """All keys of the project, newest first."""
        caller.require(Permission.KEYS_READ)
        found = self._ledger.rows(KEYS, project=caller.project).values()
        return tuple(sorted(found, key=lambda key: key.created, reverse=True))

    def mint_key(
        self,
        caller: Principal,
        name: str,
        *,
        permissions: frozenset[Permission] = frozenset({Permission.GATEWAY_CALL}),
        routes: tuple[str, ...] = (),
        expires: int = 0,
    ) -> MintedKey:
        """Make a virtual key. Its rights are the part of `permissions` that the caller holds.

        Raises:
            InvalidInput: the name is empty or too long, `expires` is in the past, or no permission is left.
        """
        caller.require(Permission.KEYS_WRITE)
        if not name.strip() or len(name) > _MAX_NAME or not name.isprintable():
            raise InvalidInput("A key needs a name.", hint=f"Give 1 to {_MAX_NAME} printable characters.", field="name")
        if expires < 0 or (expires and expires <= self._clock.now()):
            raise InvalidInput("The key would be expired at once.", hint="Give a time to come.", field="expires")
        for route in routes:
            check_name(route, field="routes")
        granted = caller.issue(permissions)
        if not granted:
            raise InvalidInput(
                "None of the permissions can be granted.",
                hint="You can hand on only what you hold.",
                field="permissions",
            )
        token = new_token()
        key_id = self._ids.new()
        body = KeyMinted(
            name=name.strip(),
            hash=hash_token(token.reveal()) or "",
            hint=hint_of(token),
            permissions=tuple(sorted(granted)),
            routes=routes,
            expires=expires,
        )
        self._record(caller, Draft(f"key/{key_id}", body, NEW_STREAM))
        return MintedKey(self._found(self._ledger.get(KEYS, f"key/{key_id}"), "key", key_id), token)

    def revoke_key(self, caller: Principal, key: str, *, reason: str = "") -> Key:
        """Stop a key, given by id or by its (unique) name. Revoking twice changes nothing."""
        caller.require(Permission.KEYS_WRITE)
        matches = [k for k in self.keys_of(caller.project) if k.id == key]
        matches = matches or [k for k in self.keys_of(caller.project) if k.name == key and not k.revoked]
        if len(matches) > 1:
            raise Conflict(f"{len(matches)} keys are called '{key}'.", hint="Give the id.", field="key")
        found = self._found(matches[0] if matches else None, "key", key)
        if found.revoked:
            return found
        self._record(caller, Draft(f"key/{found.id}", KeyRevoked()), reason=reason)
        return self._found(self._ledger.get(KEYS, f"key/{found.id}"), "key", key)

    def keys_of(self, project: str) -> tuple[Key, ...]:
        """Keys without a caller's check, for authentication."""
        return tuple(self._ledger.rows(KEYS, project=project).values())

    # Providers

    def providers(self, caller: Principal) -> tuple[Provider, ...]:
        """All providers of the project by name, without the embedded one."""
        caller.require(Permission.PROVIDERS_READ)
        return tuple(sorted(self._ledger.rows(PROVIDERS, project=caller.project).values(), key=lambda p: p.name))

    def provider(self, caller: Principal, name: str) -> Provider:
        """One provider."""
        caller.require(Permission.PROVIDERS_READ)
        return self._found(self._ledger.get(PROVIDERS, f"provider/{caller.project}/{name}"), "provider", name)

    def save_provider(
        self,
        caller: Principal,
        name: str,
        *,
        url: str | None = None,
        credential: Secret | None = None,
        allow_private: bool = False,
        dialect: Dialect | None = None,
        flavour: str | None = None,
        region: str | None = None,
        api_version: str | None = None,
        max_concurrency: int | None = None,
        replace: bool = False,
        expected: int | None = None,
    ) -> Provider:
        """Add a provider, or with `replace` change one. Without a credential the old one stays if the host is the same.

        Args:
            url: None for the dialect's and flavour's own.
            dialect, flavour, region, api_version, max_concurrency: None keeps what there is, else takes the default.
            expected: the version that the caller has read; None does not care.

        Raises:
            InvalidInput: something cannot be used; or the host changed and no credential was given.
            Conflict: the name is taken and `replace` was not asked for; or it changed since it was read.
        """
        caller.require(Permission.PROVIDERS_WRITE)
        check_name(name)
        stream = f"provider/{caller.project}/{name}"
        version = self._version(stream, expected, "provider", name)
        before = self._ledger.get(PROVIDERS, stream)
        if before is not None and not replace:
            raise Conflict(f"There is a provider '{name}' already.", hint="Change it with --replace.", field="name")
        kept = before or Provider(name=name, project=caller.project, url="")
        wanted = Provider(
            name=name,
            project=caller.project,
            dialect=kept.dialect if dialect is None else dialect,
            flavour=kept.flavour if flavour is None else flavour,
            url=url or "",
            allow_private=allow_private,
            region=kept.region if region is None else region,
            api_version=kept.api_version if api_version is None else api_version,
            max_concurrency=kept.max_concurrency if max_concurrency is None else max_concurrency,
        )
        wanted = check_provider(with_url(wanted) if url is None else wanted)
        secret_id = self.keep_credential(before, wanted, credential)
        wanted = msgspec.structs.replace(wanted, secret_id=secret_id)
        try:
            self._record(caller, Draft(stream, saved(wanted), version))
        except BaseException:
            if credential:
                self._secrets.delete(secret_id)
            raise
        if before is not None and before.secret_id and before.secret_id != secret_id:
            self._secrets.delete(before.secret_id)
        return self._found(self._ledger.get(PROVIDERS, stream), "provider", name)

    def keep_credential(self, before: Provider | None, after: Provider, credential: Secret | None) -> str:
        """Seal a new credential for a provider, or go on with the stored one; the id that it is kept under, or none.

        Raises:
            InvalidInput: no header may hold it; or the host changed and none was given.
        """
        if credential:
            secret_id = self._ids.new()
            self._secrets.put(secret_id, self._vault().seal(check_credential(credential), url=after.url))
            return secret_id
        if before is None or not before.secret_id:
            return ""
        if origin(before.url) != origin(after.url):
            raise InvalidInput(
                "The host changed, so the stored credential is no longer valid for it.",
                hint="Give the credential again with --key-env.",
                field="credential",
            )
        return before.secret_id

    def is_credential(self, provider: Provider, credential: Secret) -> bool:
        """Whether a provider's stored credential is this one."""
        sealed = self._secrets.get(provider.secret_id) if provider.secret_id else None
        return sealed is not None and self._vault().open(sealed, url=provider.url) == check_credential(credential)

    def remove_provider(self, caller: Principal, name: str, *, reason: str = "", expected: int | None = None) -> None:
        """Remove a provider and destroy its credential.

        Raises:
            Conflict: a route, limit or budget still names it; or it changed since it was read.
        """
        caller.require(Permission.PROVIDERS_WRITE)
        stream = f"provider/{caller.project}/{name}"
        version = self._version(stream, expected, "provider", name)
        found = self._found(self._ledger.get(PROVIDERS, stream), "provider", name)
        users = [r.name for r in self._routes(caller.project) if any(t.provider == name for t in r.targets)]
        users += self._ruled(caller.project, "model", lambda subject: parse_target(subject).provider == name)
        if users:
            raise Conflict(
                f"The provider '{name}' is used by {', '.join(sorted(users))}.",
                hint="Change or remove those first.",
            )
        self._record(caller, Draft(stream, ProviderRemoved(name=name), version), reason=reason)
        if found.secret_id:
            self._secrets.delete(found.secret_id)

    # Routes

    def routes(self, caller: Principal) -> tuple[Route, ...]:
        """All routes of the project by name, the built-in one included."""
        caller.require(Permission.PROVIDERS_READ)
        found = self._named(caller.project)
        return tuple(found[name] for name in sorted(found))

    def route(self, caller: Principal, name: str) -> Route:
        """One route."""
        caller.require(Permission.PROVIDERS_READ)
        return self._found(self._named(caller.project).get(name), "route", name)

    def save_route(
        self,
        caller: Principal,
        name: str,
        targets: tuple[Target, ...],
        *,
        rules: Route | None = None,
        replace: bool = False,
        expected: int | None = None,
    ) -> Route:
        """Add a route, or with `replace` change one.

        Args:
            rules: everything but the name and the targets, as a route whose own are not looked at; None keeps what
                there is, else takes the defaults.
            expected: the version that the caller has read; None does not care.

        Raises:
            InvalidInput: name, targets or a rule cannot be used.
            NotFound: a target's provider, or a route that it names, does not exist.
            Conflict: the name is taken and `replace` was not asked for; it changed since it was read; or its fallbacks
                and shadows lead back to it.
        """
        caller.require(Permission.ROUTES_WRITE)
        check_name(name)
        stream = f"route/{caller.project}/{name}"
        version = self._version(stream, expected, "route", name)
        before = self._ledger.get(ROUTES, stream)
        if not replace and before is not None:
            raise Conflict(f"There is a route '{name}' already.", hint="Change it with --replace.", field="name")
        wanted = msgspec.structs.replace(
            rules or before or Route(name=name, project="", targets=()),
            name=name,
            project=caller.project,
            targets=targets,
            changed=0,
        )
        self._record(caller, Draft(stream, saved(check_route(wanted, self.known(caller.project))), version))
        return self._found(self._ledger.get(ROUTES, stream), "route", name)

    def remove_route(self, caller: Principal, name: str, *, reason: str = "", expected: int | None = None) -> None:
        """Remove a route; calls to it answer `model_not_found` from then on.

        Raises:
            Conflict: another route falls back to it or shadows it, or a limit or budget names it; or it changed since
                it was read.
        """
        caller.require(Permission.ROUTES_WRITE)
        stream = f"route/{caller.project}/{name}"
        version = self._version(stream, expected, "route", name)
        self._found(self._ledger.get(ROUTES, stream), "route", name)
        if name != EMBEDDED_MODEL:  # that one falls back to what is built in
            users = [route.name for route in self._routes(caller.project) if name in leads_to(route)]
            users += self._ruled(caller.project, "route", lambda subject: subject == name)
            if users:
                raise Conflict(
                    f"The route '{name}' is used by {', '.join(sorted(users))}.",
                    hint="Change or remove those first.",
                )
        self._record(caller, Draft(stream, RouteRemoved(name=name), version), reason=reason)

    # Limits, budgets, weights

    def limits(self, caller: Principal) -> tuple[Limit, ...]:
        """All limits of the project by name."""
        caller.require(Permission.PROVIDERS_READ)
        return tuple(sorted(self._ledger.rows(LIMITS, project=caller.project).values(), key=lambda rule: rule.name))

    def limit(self, caller: Principal, name: str) -> Limit:
        """One limit."""
        caller.require(Permission.PROVIDERS_READ)
        return self._found(self._ledger.get(LIMITS, f"limit/{caller.project}/{name}"), "limit", name)

    def set_limit(
        self,
        caller: Principal,
        name: str,
        *,
        scope: Scope,
        unit: Unit,
        amount: int,
        subject: str = "",
        window_seconds: int = 60,
        replace: bool = False,
        expected: int | None = None,
    ) -> Limit:
        """Add a limit, or with `replace` change one. A key as subject is given by its id or (unique) name.

        Raises:
            InvalidInput: a figure or the subject cannot be used.
            NotFound: the subject does not exist.
            Conflict: the name is taken and `replace` was not asked for; or it changed since it was read.
        """
        caller.require(Permission.ROUTES_WRITE)
        stream = f"limit/{caller.project}/{check_name(name)}"
        version = self._version(stream, expected, "limit", name)
        wanted = Limit(
            name=name,
            project=caller.project,
            scope=scope,
            subject=subject,
            unit=unit,
            amount=amount,
            window_seconds=window_seconds,
        )
        wanted = check_limit(wanted, self.known(caller.project))
        if not replace and self._ledger.get(LIMITS, stream) is not None:
            raise Conflict(f"There is a limit '{name}' already.", hint="Change it with --replace.", field="name")
        self._record(caller, Draft(stream, saved(wanted), version))
        return self._found(self._ledger.get(LIMITS, stream), "limit", name)

    def remove_limit(self, caller: Principal, name: str, *, reason: str = "", expected: int | None = None) -> None:
        """Remove a limit."""
        caller.require(Permission.ROUTES_WRITE)
        stream = f"limit/{caller.project}/{name}"
        version = self._version(stream, expected, "limit", name)
        self._found(self._ledger.get(LIMITS, stream), "limit", name)
        self._record(caller, Draft(stream, LimitRemoved(name=name), version), reason=reason)

    def budgets(self, caller: Principal) -> tuple[Budget, ...]:
        """All budgets of the project by name."""
        caller.require(Permission.PROVIDERS_READ)
        return tuple(sorted(self._ledger.rows(BUDGETS, project=caller.project).values(), key=lambda rule: rule.name))

    def budget(self, caller: Principal, name: str) -> Budget:
        """One budget."""
        caller.require(Permission.PROVIDERS_READ)
        return self._found(self._ledger.get(BUDGETS, f"budget/{caller.project}/{name}"), "budget", name)

    def set_budget(
        self,
        caller: Principal,
        name: str,
        *,
        scope: Scope,
        amount: int,
        subject: str = "",
        period: Period = "month",
        alerts: tuple[int, ...] = (50, 80, 100),
        hard: bool = True,
        replace: bool = False,
        expected: int | None = None,
    ) -> Budget:
        """Add a budget, or with `replace` change one; `amount` in nano-dollars. Subjects are those of limits.

        Raises:
            InvalidInput: a figure or the subject cannot be used.
            NotFound: the subject does not exist.
            Conflict: the name is taken and `replace` was not asked for; or it changed since it was read.
        """
        caller.require(Permission.ROUTES_WRITE)
        stream = f"budget/{caller.project}/{check_name(name)}"
        version = self._version(stream, expected, "budget", name)
        wanted = Budget(
            name=name,
            project=caller.project,
            scope=scope,
            subject=subject,
            amount=amount,
            period=period,
            alerts=alerts,
            hard=hard,
        )
        wanted = check_budget(wanted, self.known(caller.project))
        if not replace and self._ledger.get(BUDGETS, stream) is not None:
            raise Conflict(f"There is a budget '{name}' already.", hint="Change it with --replace.", field="name")
        self._record(caller, Draft(stream, saved(wanted), version))
        return self._found(self._ledger.get(BUDGETS, stream), "budget", name)

    def remove_budget(self, caller: Principal, name: str, *, reason: str = "", expected: int | None = None) -> None:
        """Remove a budget; what was spent stays spent for one of that name."""
        caller.require(Permission.ROUTES_WRITE)
        stream = f"budget/{caller.project}/{name}"
        version = self._version(stream, expected, "budget", name)
        self._found(self._ledger.get(BUDGETS, stream), "budget", name)
        self._record(caller, Draft(stream, BudgetRemoved(name=name), version), reason=reason)

    def weights(self, caller: Principal) -> tuple[Weight, ...]:
        """The shares that were set, by project. Concerns the whole installation."""
        caller.require(Permission.PROVIDERS_READ)
        _of_installation(caller)
        return tuple(sorted(self._ledger.rows(WEIGHTS).values(), key=lambda weight: weight.project))

    def set_weight(self, caller: Principal, project: str, weight: int, *, reason: str = "") -> Weight:
        """Give a project a share of deployments that several projects want at once.

        Raises:
            InvalidInput: the weight is not within 1 to 1000.
            Forbidden: the caller belongs to a project other than the installation's own: no project weighs itself.
        """
        caller.require(Permission.ROUTES_WRITE)
        _of_installation(caller)
        check_name(project, field="project")
        if not 1 <= weight <= _MAX_WEIGHT:
            raise InvalidInput("The weight is out of range.", hint=f"Give 1 to {_MAX_WEIGHT}.", field="weight")
        stream = f"weight/{project}"
        self._ledger.append(
            [Draft(stream, WeightSet(weight=weight))], actor=caller.actor, project=project, reason=reason
        )
        self._changed()
        return self._found(self._ledger.get(WEIGHTS, stream), "weight", project)

    # What is there

    def version(self, project: str, kind: Kind, name: str) -> int:
        """How often a provider, route, limit or budget was changed. Read it before the thing, give it as `expected`.

        Without a caller's check.
        """
        return self._ledger.stream_version(f"{kind}/{project}/{name}")

    def known(self, project: str) -> Known:
        """What there is in a project for routes, limits and budgets to name. Without a caller's check."""
        providers = self._ledger.rows(PROVIDERS, project=project).values()
        return Known(
            frozenset({EMBEDDED, *(p.name for p in providers)}),
            self._named(project),
            {key.id: key.name for key in self.keys_of(project)},
        )

    # Prices

    def prices(self, caller: Principal) -> tuple[PriceEntry, ...]:
        """The project's own prices."""
        caller.require(Permission.PROVIDERS_READ)
        found = self._ledger.rows(PRICES, project=caller.project).values()
        return tuple(sorted(found, key=lambda entry: (entry.provider, entry.model)))

    def set_price(
        self, caller: Principal, target: Target, price: Price | None, *, effective: int = 0, reason: str = ""
    ) -> PriceEntry:
        """Set the project's own price for a provider's model, from now on or from `effective` (ns) on.

        It holds until the next of the project's prices for the model; one of the very same date is replaced. A date
        in the past changes no span: that is what a recalculation does. Without a price the shipped one holds again.

        Raises:
            InvalidInput: the model has no name, or the date is none.
        """
        caller.require(Permission.ROUTES_WRITE)
        if not target.model or len(target.model) > 200 or not target.model.isprintable():
            raise InvalidInput("A price needs a model's name.", hint="Use PROVIDER/MODEL.", field="model")
        if not 0 <= effective < 2**63:
            raise InvalidInput("The date is out of range.", hint="Give one from 1970 to 2262.", field="effective")
        stream = f"price/{caller.project}/{target.provider}/{target.model}"
        body = PriceSet(provider=target.provider, model=target.model, price=price, effective=effective)
        self._record(caller, Draft(stream, body), reason=reason)
        return self._found(self._ledger.get(PRICES, stream), "price", f"{target.provider}/{target.model}")

    def remove_price(self, caller: Principal, target: Target, *, effective: int = 0, reason: str = "") -> None:
        """Take the price that holds from `effective` on out of the project's own, as if never set; 0 takes all.

        Raises:
            NotFound: there is none of that date, or none at all.
        """
        caller.require(Permission.ROUTES_WRITE)
        stream, name = f"price/{caller.project}/{target.provider}/{target.model}", f"{target.provider}/{target.model}"
        entry = self._found(self._ledger.get(PRICES, stream), "price", name)
        # Dates are told to the millisecond, and kept to the nanosecond.
        dates = [dated.effective for dated in entry.history]
        begun = next((date for date in dates if date // _MILLISECOND == effective // _MILLISECOND), 0)
        if effective and not begun:
            raise NotFound(
                f"No price of {name} begins at that time.",
                hint=f"See its dates with `detent prices show {name}`.",
                field="effective",
            )
        body = PriceRemoved(provider=target.provider, model=target.model, effective=begun)
        self._record(caller, Draft(stream, body), reason=reason)

    def _routes(self, project: str) -> tuple[Route, ...]:
        return tuple(self._ledger.rows(ROUTES, project=project).values())

    def _named(self, project: str) -> dict[str, Route]:
        built_in = Route(name=EMBEDDED_MODEL, project=project, targets=(Target(EMBEDDED, EMBEDDED_MODEL),))
        return {EMBEDDED_MODEL: built_in, **{route.name: route for route in self._routes(project)}}

    def _ruled(self, project: str, scope: Scope, concerns: Callable[[str], bool]) -> list[str]:
        """The limits and budgets of a scope whose subject is a certain one."""
        rules: tuple[Limit | Budget, ...] = (
            *self._ledger.rows(LIMITS, project=project).values(),
            *self._ledger.rows(BUDGETS, project=project).values(),
        )
        return [rule.name for rule in rules if rule.scope == scope and rule.subject and concerns(rule.subject)]

    def _version(self, stream: str, expected: int | None, kind: str, name: str) -> int:
        """What a draft expects of its stream. Looked at before anything else is read."""
        if expected is None:
            return ANY_VERSION
        if self._ledger.stream_version(stream) != expected:
            raise Conflict(
                f"The {kind} '{name}' is not as you have read it.", hint="Read it again and repeat your change."
            )
        return expected

    def _record(self, caller: Principal, draft: Draft, *, reason: str = "") -> None:
        self._ledger.append([draft], actor=caller.actor, project=caller.project, reason=reason)
        self._changed()

    @staticmethod
    def _found(value: T | None, kind: str, name: str) -> T:
        if value is None:
            raise NotFound(f"There is no {kind} '{name}'.", hint=f"List them with `detent {kind}s list`.", field=kind)
        return value


def saved(value: Provider | Route | Limit | Budget) -> FactBody:
    """The fact that a provider, route, limit or budget is now this one."""
    body = _BODIES[type(value)]
    return body(**{name: getattr(value, name) for name in body.__struct_fields__})


def _of_installation(caller: Principal) -> None:
    if caller.project != DEFAULT_PROJECT:
        raise Forbidden(
            "This concerns the whole installation, and the caller belongs to one project.",
            hint="Use a key of the default project.",
        )


_BODIES: Final[dict[type, type[FactBody]]] = {
    Provider: ProviderSaved,
    Route: RouteSaved,
    Limit: LimitSet,
    Budget: BudgetSet,
}

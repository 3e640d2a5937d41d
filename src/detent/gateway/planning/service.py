"""The verbs over a whole configuration: export it, plan a change of it, apply what was planned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import msgspec

from detent.gateway.checks import Known, check_budget, check_limit, check_provider, check_route
from detent.gateway.facts import (
    BudgetRemoved,
    LimitRemoved,
    PriceRemoved,
    PriceSet,
    ProviderRemoved,
    RouteRemoved,
)
from detent.gateway.model import EMBEDDED, EMBEDDED_MODEL, Route, Target
from detent.gateway.planning.diff import base_of, diff, merged, plan_digest
from detent.gateway.planning.document import placed, variable_for
from detent.gateway.planning.dryrun import PriceOf, call_of, dry_run
from detent.gateway.planning.model import Call, Change, Configuration, DryRun, Plan
from detent.gateway.prices import price_of, shipped_prices
from detent.gateway.service import Gateway, saved
from detent.gateway.views import BUDGETS, KEYS, LIMITS, PRICES, PROVIDERS, ROUTES
from detent.guard.vault import origin
from detent.kernel.clock import Clock
from detent.kernel.errors import CallerError, Conflict, InvalidInput
from detent.kernel.facts import Draft, FactBody
from detent.kernel.identity import Permission, Principal
from detent.kernel.money import DatedPrice, Price
from detent.kernel.ports import Lake, Ledger, Secrets
from detent.kernel.secret import Secret
from detent.kernel.telemetry import SpanFilter

MAX_CALLS: Final = 20_000
"""Recorded calls that a dry run looks at, the newest."""

_PAGE: Final = 500
_NO_SECRETS: Final[Mapping[str, Secret]] = {}


class _Step(NamedTuple):
    """A plan with what is needed to apply it."""

    plan: Plan
    before: Configuration
    after: Configuration
    fresh: frozenset[str]
    lacking: tuple[str, ...]


class Planning:
    """Plans and applies whole configurations of a project.

    A document never removes a credential, and one that it does not give stays, as long as the host is the same.

    Args:
        changed: called after a configuration was applied.
    """

    def __init__(
        self,
        gateway: Gateway,
        ledger: Ledger,
        lake: Lake,
        secrets: Secrets,
        *,
        clock: Clock,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._gateway = gateway
        self._ledger = ledger
        self._lake = lake
        self._secrets = secrets
        self._clock = clock
        self._changed = changed

    def export(self, caller: Principal) -> Configuration:
        """Everything that the project has set; of credentials the name of the variable that one would be put in."""
        caller.require(Permission.PROVIDERS_READ)
        return self._current(caller.project)

    def plan(
        self,
        caller: Principal,
        wanted: Configuration,
        *,
        keep: bool = False,
        since: int = 0,
        credentials: Mapping[str, Secret] = _NO_SECRETS,
    ) -> Plan:
        """What applying a configuration would change, and what it would have done with recorded traffic.

        Args:
            keep: leave alone what the configuration does not name; else that is removed.
            since: from when on traffic is looked at, ns since the epoch; 0 looks at none.
            credentials: by provider; the document holds none.

        Raises:
            InvalidInput, NotFound, Conflict: the configuration cannot be; the field says where.
        """
        caller.require(Permission.PROVIDERS_READ)
        if credentials:
            caller.require(Permission.PROVIDERS_WRITE)
        if since:
            caller.require(Permission.TRACES_READ)
            caller.require(Permission.KEYS_READ)
        step = self._step(caller.project, wanted, keep=keep, credentials=credentials)
        tried = self._dry_run(caller.project, step, since) if since else None
        return msgspec.structs.replace(step.plan, dry_run=tried)

    def apply(
        self,
        caller: Principal,
        wanted: Configuration,
        *,
        expect: str = "",
        keep: bool = False,
        credentials: Mapping[str, Secret] = _NO_SECRETS,
        reason: str = "",
    ) -> Plan:
        """Make all the changes of a plan, or none.

        Args:
            expect: digest of the plan that was looked at; empty applies whatever the plan is now.

        Raises:
            Conflict: the plan is another one by now: the configuration or the document changed since.
            InvalidInput, NotFound: the configuration cannot be, or a new provider's credential was not given.
        """
        step = self._step(caller.project, wanted, keep=keep, credentials=credentials)
        self._permit(caller, step.plan.changes)
        if expect and expect != step.plan.digest:
            raise Conflict(
                "The configuration or the document changed since the plan was made.",
                hint="Plan again, look at it, and apply that.",
                field="expect",
            )
        if step.lacking:
            name = step.lacking[0]
            raise InvalidInput(
                f"No credential was given for the provider '{name}'.",
                hint=f"Set {step.after.credentials[name]}, or take credential_env out.",
                field=f"providers.{name}.credential_env",
            )
        if not step.plan.changes:
            return step.plan
        streams = {_stream(caller.project, change) for change in step.plan.changes}
        versions = {stream: self._ledger.stream_version(stream) for stream in streams}
        # Read again between the versions and the append: nothing that the plan was made from can have moved.
        if base_of(self._current(caller.project)) != step.plan.base:
            raise Conflict("The configuration changed while it was applied.", hint="Plan again, and apply that.")
        sealed, drafts = self._drafts(caller.project, step, versions, credentials)
        try:
            self._ledger.append(drafts, actor=caller.actor, project=caller.project, reason=reason)
        except BaseException:
            for secret_id in sealed:
                self._secrets.delete(secret_id)
            raise
        self._forget(step)
        self._changed()
        return step.plan

    # What is, and what would be

    def _current(self, project: str) -> Configuration:
        providers = {p.name: p for p in self._ledger.rows(PROVIDERS, project=project).values()}
        return Configuration(
            providers=providers,
            routes={route.name: route for route in self._ledger.rows(ROUTES, project=project).values()},
            limits={limit.name: limit for limit in self._ledger.rows(LIMITS, project=project).values()},
            budgets={budget.name: budget for budget in self._ledger.rows(BUDGETS, project=project).values()},
            prices=self._prices(project),
            credentials={name: variable_for(name) for name, p in providers.items() if p.secret_id},
        )

    def _prices(self, project: str) -> dict[str, Price]:
        rows = self._ledger.rows(PRICES, project=project).values()
        now = self._clock.now()
        return {f"{entry.provider}/{entry.model}": price for entry in rows if (price := entry.at(now)) is not None}

    def _step(self, project: str, wanted: Configuration, *, keep: bool, credentials: Mapping[str, Secret]) -> _Step:
        before = self._current(project)
        whole = merged(before, wanted) if keep else wanted
        unknown = sorted(set(credentials) - set(wanted.providers))
        if unknown:
            raise InvalidInput(
                f"A credential was given for '{unknown[0][:64]}', which is no provider of the document.",
                hint="Add the provider, or leave the credential out.",
                field="credentials",
            )
        after = self._checked(project, before, whole)
        fresh = frozenset(name for name, secret in credentials.items() if self._is_new(before, after, name, secret))
        lacking = tuple(self._lacking(before, after, credentials))
        changes = diff(before, after, credentials=fresh)
        base = base_of(before)
        warnings = tuple(
            f"{after.credentials[name]} is not set, so '{name}' would have no credential." for name in lacking
        )
        return _Step(
            Plan(base=base, digest=plan_digest(base, changes), changes=changes, warnings=warnings),
            before,
            after,
            fresh,
            lacking,
        )

    def _checked(self, project: str, before: Configuration, whole: Configuration) -> Configuration:
        """The configuration in its plain form, everything in it held against everything else in it."""
        built_in = Route(name=EMBEDDED_MODEL, project=project, targets=(Target(EMBEDDED, EMBEDDED_MODEL),))
        keys = {key.id: key.name for key in self._ledger.rows(KEYS, project=project).values()}
        known = Known(frozenset({EMBEDDED, *whole.providers}), {EMBEDDED_MODEL: built_in, **whole.routes}, keys)
        providers, routes, limits, budgets = {}, {}, {}, {}
        for name, provider in whole.providers.items():
            with _place(f"providers.{name}"):
                old = before.providers.get(name)
                kept = check_provider(msgspec.structs.replace(provider, project=project))
                providers[name] = msgspec.structs.replace(kept, secret_id=old.secret_id if old else "")
        for name, route in whole.routes.items():
            with _place(f"routes.{name}"):
                routes[name] = check_route(msgspec.structs.replace(route, project=project), known)
        for name, limit in whole.limits.items():
            with _place(f"limits.{name}"):
                limits[name] = check_limit(msgspec.structs.replace(limit, project=project), known)
        for name, budget in whole.budgets.items():
            with _place(f"budgets.{name}"):
                budgets[name] = check_budget(msgspec.structs.replace(budget, project=project), known)
        return Configuration(
            providers=providers,
            routes=routes,
            limits=limits,
            budgets=budgets,
            prices=whole.prices,
            credentials=whole.credentials,
        )

    # Credentials

    def _is_new(self, before: Configuration, after: Configuration, name: str, secret: Secret) -> bool:
        old = before.providers.get(name)
        if old is None or not old.secret_id or origin(old.url) != origin(after.providers[name].url):
            return True
        return not self._gateway.is_credential(old, secret)

    @staticmethod
    def _lacking(before: Configuration, after: Configuration, credentials: Mapping[str, Secret]) -> Iterator[str]:
        for name, provider in after.providers.items():
            old = before.providers.get(name)
            if name in credentials:
                continue
            if old is not None and old.secret_id:
                if origin(old.url) != origin(provider.url):
                    raise InvalidInput(
                        f"The host of '{name}' changed, so its stored credential is no longer valid for it.",
                        hint=f"Give the credential again: set {after.credentials.get(name) or variable_for(name)} "
                        "and name it as credential_env.",
                        field=f"providers.{name}.url",
                    )
            elif name in after.credentials:
                yield name

    # Applying

    def _permit(self, caller: Principal, changes: tuple[Change, ...]) -> None:
        caller.require(Permission.ROUTES_WRITE)
        if any(change.noun == "provider" for change in changes):
            caller.require(Permission.PROVIDERS_WRITE)

    def _drafts(
        self, project: str, step: _Step, versions: Mapping[str, int], credentials: Mapping[str, Secret]
    ) -> tuple[list[str], list[Draft]]:
        """The facts of a plan, and the ids of the credentials that were sealed for them."""
        sealed: list[str] = []
        drafts = []
        try:
            for change in step.plan.changes:
                stream = _stream(project, change)
                if change.noun == "provider" and change.name in step.fresh:
                    provider = step.after.providers[change.name]
                    secret_id = self._gateway.keep_credential(None, provider, credentials[change.name])
                    sealed.append(secret_id)
                    body: FactBody = saved(msgspec.structs.replace(provider, secret_id=secret_id))
                else:
                    body = _body(change, step.after)
                drafts.append(Draft(stream, body, versions[stream]))
        except BaseException:
            for secret_id in sealed:
                self._secrets.delete(secret_id)
            raise
        return sealed, drafts

    def _forget(self, step: _Step) -> None:
        """Destroy the credentials that no provider uses any more."""
        for name, provider in step.before.providers.items():
            if provider.secret_id and (name in step.fresh or name not in step.after.providers):
                self._secrets.delete(provider.secret_id)

    # Traffic

    def _dry_run(self, project: str, step: _Step, since: int) -> DryRun:
        now = self._clock.now()
        calls, complete = self._calls(project, since, now)
        keys = {key.id: key for key in self._ledger.rows(KEYS, project=project).values() if key.live(now)}
        return dry_run(
            calls,
            step.before,
            step.after,
            prices=(_pricing(step.before, now), _pricing(step.after, now)),
            keys=keys,
            since=since,
            until=now,
            complete=complete,
        )

    def _calls(self, project: str, since: int, until: int) -> tuple[list[Call], bool]:
        """Recorded calls, the newest first, and whether these are all."""
        found: list[Call] = []
        after = ""
        while True:
            page = self._lake.traces(SpanFilter(project=project, since=since, until=until), limit=_PAGE, after=after)
            for row in page.rows:
                spans = (row.root,) if row.spans == 1 else self._lake.trace(project, row.trace_id)
                calls = [call for call in map(call_of, spans) if call is not None and since <= call.start < until]
                if len(found) + len(calls) > MAX_CALLS:
                    return found, False
                found += calls
            after = page.after
            if not after:
                return found, True


def _pricing(configuration: Configuration, now: int) -> PriceOf:
    table = shipped_prices()
    own = {}
    for name, price in configuration.prices.items():
        provider, _slash, model = name.partition("/")
        own[provider, model] = (DatedPrice(0, price),)
    known: dict[tuple[str, str], Price | None] = {}

    def price_for(provider: str, model: str) -> Price | None:
        if (provider, model) not in known:
            known[provider, model] = price_of(table, own, provider, model, now)
        return known[provider, model]

    return price_for


def _stream(project: str, change: Change) -> str:
    return f"{change.noun}/{project}/{change.name}"


def _body(change: Change, after: Configuration) -> FactBody:
    name = change.name
    if change.noun == "price":
        provider, _slash, model = name.partition("/")
        if change.action == "removed":
            return PriceRemoved(provider=provider, model=model)
        return PriceSet(provider=provider, model=model, price=after.prices[name])
    if change.action == "removed":
        removed: dict[str, type[FactBody]] = {
            "provider": ProviderRemoved,
            "route": RouteRemoved,
            "limit": LimitRemoved,
            "budget": BudgetRemoved,
        }
        return removed[change.noun](name=name)
    sections: dict[str, dict[str, Any]] = {
        "provider": after.providers,
        "route": after.routes,
        "limit": after.limits,
        "budget": after.budgets,
    }
    return saved(sections[change.noun][name])


@contextmanager
def _place(place: str) -> Iterator[None]:
    """Errors raised within say where in the document they are."""
    try:
        yield
    except CallerError as error:
        raise placed(error, place) from None

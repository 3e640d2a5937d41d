"""The gateway room's verbs: mint and revoke keys, save and remove providers and routes, set prices."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from detent.gateway.facts import (
    KeyMinted,
    KeyRevoked,
    PriceSet,
    ProviderRemoved,
    ProviderSaved,
    RouteRemoved,
    RouteSaved,
)
from detent.gateway.keys import hash_token, hint_of, new_token
from detent.gateway.model import EMBEDDED, EMBEDDED_MODEL, Key, PriceEntry, Provider, Route, Target
from detent.gateway.views import KEYS, PRICES, PROVIDERS, ROUTES
from detent.guard.addresses import judge, read_endpoint
from detent.guard.vault import Vault, origin
from detent.kernel.clock import Clock
from detent.kernel.errors import Conflict, InvalidInput, NotFound
from detent.kernel.facts import ANY_VERSION, NEW_STREAM, Draft
from detent.kernel.identity import Permission, Principal
from detent.kernel.ids import Ids
from detent.kernel.money import Price
from detent.kernel.ports import Ledger, Secrets
from detent.kernel.refs import check_name
from detent.kernel.secret import Secret

_MAX_NAME = 100
T = TypeVar("T")


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

    def save_provider(
        self,
        caller: Principal,
        name: str,
        *,
        url: str,
        credential: Secret | None = None,
        allow_private: bool = False,
        replace: bool = False,
    ) -> Provider:
        """Add a provider, or with `replace` change one. Without a credential the old one stays if the host is the same.

        Raises:
            InvalidInput: name or URL cannot be used; or the host changed and no credential was given.
            Conflict: the name is taken and `replace` was not asked for.
        """
        caller.require(Permission.PROVIDERS_WRITE)
        check_name(name)
        if name == EMBEDDED:
            raise InvalidInput(f"'{name}' is built in.", hint="Choose another name.", field="name")
        where = _check_url(url, allow_private=allow_private)
        stream = f"provider/{caller.project}/{name}"
        before = self._ledger.get(PROVIDERS, stream)
        if before is not None and not replace:
            raise Conflict(f"There is a provider '{name}' already.", hint="Change it with --replace.", field="name")
        secret_id = ""
        if credential:
            secret_id = self._ids.new()
            self._secrets.put(secret_id, self._vault().seal(_check_credential(credential), url=where))
        elif before is not None and before.secret_id:
            if origin(before.url) != origin(where):
                raise InvalidInput(
                    "The host changed, so the stored credential is no longer valid for it.",
                    hint="Give the credential again with --key-env.",
                    field="credential",
                )
            secret_id = before.secret_id
        body = ProviderSaved(name=name, url=where, secret_id=secret_id, allow_private=allow_private)
        self._record(caller, Draft(stream, body, ANY_VERSION))
        if before is not None and before.secret_id and before.secret_id != secret_id:
            self._secrets.delete(before.secret_id)
        return self._found(self._ledger.get(PROVIDERS, stream), "provider", name)

    def remove_provider(self, caller: Principal, name: str, *, reason: str = "") -> None:
        """Remove a provider and destroy its credential.

        Raises:
            Conflict: a route still sends calls to it.
        """
        caller.require(Permission.PROVIDERS_WRITE)
        stream = f"provider/{caller.project}/{name}"
        found = self._found(self._ledger.get(PROVIDERS, stream), "provider", name)
        users = [r.name for r in self._routes(caller.project) if any(t.provider == name for t in r.targets)]
        if users:
            raise Conflict(
                f"The provider '{name}' is used by {', '.join(sorted(users))}.",
                hint="Change or remove those routes first.",
            )
        self._record(caller, Draft(stream, ProviderRemoved(name=name)), reason=reason)
        if found.secret_id:
            self._secrets.delete(found.secret_id)

    # Routes

    def routes(self, caller: Principal) -> tuple[Route, ...]:
        """All routes of the project by name, the built-in one included."""
        caller.require(Permission.PROVIDERS_READ)
        found = {r.name: r for r in self._routes(caller.project)}
        found.setdefault(
            EMBEDDED_MODEL,
            Route(name=EMBEDDED_MODEL, project=caller.project, targets=(Target(EMBEDDED, EMBEDDED_MODEL),)),
        )
        return tuple(found[name] for name in sorted(found))

    def save_route(self, caller: Principal, name: str, targets: tuple[Target, ...], *, replace: bool = False) -> Route:
        """Add a route, or with `replace` change one.

        Raises:
            InvalidInput: name or targets cannot be used, or a weight is below 1.
            NotFound: a target's provider does not exist.
            Conflict: the name is taken and `replace` was not asked for.
        """
        caller.require(Permission.ROUTES_WRITE)
        check_name(name)
        if not targets:
            raise InvalidInput("A route needs a target.", hint="Give --to PROVIDER/MODEL.", field="targets")
        known = {p.name for p in self._ledger.rows(PROVIDERS, project=caller.project).values()} | {EMBEDDED}
        for target in targets:
            if target.weight < 1:
                raise InvalidInput(f"The weight of {target} is below 1.", hint="Give 1 or more.", field="targets")
            if not target.model or len(target.model) > 200 or not target.model.isprintable():
                raise InvalidInput("A target needs a model's name.", hint="Use PROVIDER/MODEL.", field="targets")
            if target.provider not in known:
                raise NotFound(
                    f"There is no provider '{target.provider}'.",
                    hint="Add it with `detent providers add`, or choose one of: " + ", ".join(sorted(known)) + ".",
                    field="targets",
                )
        stream = f"route/{caller.project}/{name}"
        if not replace and self._ledger.get(ROUTES, stream) is not None:
            raise Conflict(f"There is a route '{name}' already.", hint="Change it with --replace.", field="name")
        self._record(caller, Draft(stream, RouteSaved(name=name, targets=targets)))
        return self._found(self._ledger.get(ROUTES, stream), "route", name)

    def remove_route(self, caller: Principal, name: str, *, reason: str = "") -> None:
        """Remove a route; calls to it answer `model_not_found` from then on."""
        caller.require(Permission.ROUTES_WRITE)
        stream = f"route/{caller.project}/{name}"
        self._found(self._ledger.get(ROUTES, stream), "route", name)
        self._record(caller, Draft(stream, RouteRemoved(name=name)), reason=reason)

    # Prices

    def prices(self, caller: Principal) -> tuple[PriceEntry, ...]:
        """The project's own prices."""
        caller.require(Permission.PROVIDERS_READ)
        found = self._ledger.rows(PRICES, project=caller.project).values()
        return tuple(sorted(found, key=lambda entry: (entry.provider, entry.model)))

    def set_price(self, caller: Principal, target: Target, price: Price) -> PriceEntry:
        """Set the project's own price for a provider's model, from now on."""
        caller.require(Permission.ROUTES_WRITE)
        stream = f"price/{caller.project}/{target}"
        self._record(caller, Draft(stream, PriceSet(provider=target.provider, model=target.model, price=price)))
        return self._found(self._ledger.get(PRICES, stream), "price", str(target))

    def _routes(self, project: str) -> tuple[Route, ...]:
        return tuple(self._ledger.rows(ROUTES, project=project).values())

    def _record(self, caller: Principal, draft: Draft, *, reason: str = "") -> None:
        self._ledger.append([draft], actor=caller.actor, project=caller.project, reason=reason)
        self._changed()

    @staticmethod
    def _found(value: T | None, kind: str, name: str) -> T:
        if value is None:
            raise NotFound(f"There is no {kind} '{name}'.", hint=f"List them with `detent {kind}s list`.", field=kind)
        return value


def parse_target(text: str) -> Target:
    """Read `PROVIDER/MODEL` or `PROVIDER/MODEL=WEIGHT`; the model's name may hold slashes.

    Raises:
        InvalidInput: it has another form.
    """
    provider, slash, rest = text.partition("/")
    model, _equals, weight = rest.rpartition("=") if "=" in rest else (rest, "", "1")
    if not slash or not provider or not model or not weight.isdecimal():
        raise InvalidInput(
            f"'{text}' is no target.", hint="Use PROVIDER/MODEL, e.g. openai/gpt-4o-mini.", field="targets"
        )
    return Target(provider, model, int(weight))


def _check_url(url: str, *, allow_private: bool) -> str:
    """The base URL in its plain form; what could never be called is refused here rather than at the first call."""
    cleaned = url.strip().rstrip("/").removesuffix("/chat/completions")
    endpoint = read_endpoint(cleaned)
    verdict = judge(endpoint.host) if endpoint.literal else "private" if endpoint.host == "localhost" else "public"
    if verdict == "forbidden":
        raise InvalidInput(
            f"{endpoint.host} may never be called.", hint="Give the provider's own address.", field="url"
        )
    if verdict == "private" and not allow_private:
        raise InvalidInput(
            f"{endpoint.host} is a private address.",
            hint="If you mean it, allow it with --allow-private.",
            field="url",
        )
    return cleaned


def _check_credential(credential: Secret) -> Secret:
    """Without the white space that pasting adds; it is going to be a header's value."""
    plain = credential.reveal().strip()
    if not plain or not plain.isascii() or not plain.isprintable() or " " in plain:
        raise InvalidInput(
            "The credential holds characters that no header may.", hint="Copy it anew.", field="credential"
        )
    return Secret(plain)

"""Providers: who serves models over HTTP, and with which credential."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from detent.gateway.model import EMBEDDED
from detent.kernel.identity import Permission
from detent.kernel.secret import Secret
from detent.web.page import Action, Goto, Outcome, Page
from detent.web.table import Table
from detent.web.visit import Form, Visit


class ProviderLine(msgspec.Struct, frozen=True, kw_only=True):
    """A provider in the list; whether it has a credential is told, the credential never."""

    name: str
    url: str
    dialect: str
    credential: bool
    allow_private: bool
    routes: tuple[str, ...]
    changed: int
    builtin: bool = False


class ProvidersView(msgspec.Struct, frozen=True, kw_only=True):
    """All providers by name, the embedded one first."""

    providers: tuple[ProviderLine, ...]


def view(visit: Visit) -> ProvidersView:
    """The providers with the routes that use them."""
    caller, gateway = visit.caller, visit.platform.gateway
    users: dict[str, list[str]] = {}
    for route in gateway.routes(caller):
        for provider in dict.fromkeys(target.provider for target in route.targets):
            users.setdefault(provider, []).append(route.name)
    status = visit.platform.status()
    engine = next((part for part in status.parts if part.kind == "engine"), None)
    lines = [
        ProviderLine(
            name=EMBEDDED,
            url=engine.address if engine else "",
            dialect="openai",
            credential=False,
            allow_private=True,
            routes=tuple(users.get(EMBEDDED, ())),
            changed=0,
            builtin=True,
        )
    ]
    lines += [
        ProviderLine(
            name=p.name,
            url=p.url,
            dialect=p.dialect,
            credential=bool(p.secret_id),
            allow_private=p.allow_private,
            routes=tuple(users.get(p.name, ())),
            changed=p.changed,
        )
        for p in gateway.providers(caller)
    ]
    return ProvidersView(providers=tuple(lines))


def save(visit: Visit, form: Form) -> Outcome:
    """Add or change a provider."""
    credential = form.secret("credential").strip()
    visit.platform.gateway.save_provider(
        visit.caller,
        form.get("name"),
        url=form.get("url"),
        credential=Secret(credential) if credential else None,
        allow_private=form.flag("allow_private"),
        replace=form.flag("replace"),
    )
    return Goto("/providers", "provider-saved")


def remove(visit: Visit, form: Form) -> Outcome:
    """Remove a provider."""
    visit.platform.gateway.remove_provider(visit.caller, visit.args["name"], reason=form.get("reason"))
    return Goto("/providers", "provider-removed")


def tables(view: ProvidersView) -> Mapping[str, Table]:
    """The list."""
    return {
        "providers": Table(
            ("name", "url", "dialect", "credential", "allow_private", "routes", "changed_ns"),
            [
                (p.name, p.url, p.dialect, p.credential, p.allow_private, " ".join(p.routes), p.changed)
                for p in view.providers
            ],
        )
    }


PAGE = Page("/providers", Permission.PROVIDERS_READ, "providers.html", view, tables)
ACTIONS = (
    Action("/providers", Permission.PROVIDERS_WRITE, PAGE, save),
    Action("/providers/{name}/remove", Permission.PROVIDERS_WRITE, PAGE, remove),
)

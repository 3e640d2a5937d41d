"""Providers: who serves models over HTTP, and with which credential."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from detent.gateway.endpoints import flavours
from detent.gateway.model import EMBEDDED
from detent.kernel.errors import InvalidInput, NotFound
from detent.kernel.identity import Permission
from detent.kernel.secret import Secret
from detent.web.page import Action, Goto, Outcome, Page
from detent.web.table import Table
from detent.web.visit import Form, Visit

NAMES: Final = {
    "azure": "Azure OpenAI",
    "vllm": "vLLM",
    "sglang": "SGLang",
    "ollama": "Ollama",
    "llamacpp": "llama.cpp",
    "lmstudio": "LM Studio",
    "mistral": "Mistral",
    "groq": "Groq",
    "deepseek": "DeepSeek",
    "openrouter": "OpenRouter",
    "together": "Together",
    "fireworks": "Fireworks",
    "xai": "xAI",
    "cerebras": "Cerebras",
    "cohere": "Cohere",
    "nvidia": "NVIDIA",
    "perplexity": "Perplexity",
    "gemini": "Gemini, by its OpenAI dialect",
}
"""What makers call themselves."""


class ProviderLine(msgspec.Struct, frozen=True, kw_only=True):
    """A provider in the list; whether it has a credential is told, the credential never."""

    name: str
    url: str
    dialect: str
    flavour: str = ""
    region: str = ""
    max_concurrency: int = 0
    credential: bool
    allow_private: bool
    routes: tuple[str, ...]
    changed: int
    builtin: bool = False


class ProvidersView(msgspec.Struct, frozen=True, kw_only=True):
    """All providers by name, the embedded one first.

    Attributes:
        speaks: what a provider may speak, as `dialect/flavour`, to what it is called.
        editing: the provider that the URL names to be changed, empty for a new one.
        fields: what the form holds at first.
    """

    providers: tuple[ProviderLine, ...]
    speaks: dict[str, str]
    editing: str
    fields: dict[str, str]

    @property
    def form(self) -> Form:
        """The form as it is at first."""
        return Form(tuple(self.fields.items()))


def _speaks() -> dict[str, str]:
    known = {"openai/": "OpenAI, or like it"}
    known |= {f"openai/{name}": NAMES.get(name, name) for name in flavours("openai") if name != "openai"}
    return known | {"anthropic/": "Anthropic", "gemini/": "Google Gemini", "bedrock/": "Amazon Bedrock"}


SPEAKS: Final = _speaks()


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
            flavour=p.flavour,
            region=p.region,
            max_concurrency=p.max_concurrency,
            credential=bool(p.secret_id),
            allow_private=p.allow_private,
            routes=tuple(users.get(p.name, ())),
            changed=p.changed,
        )
        for p in gateway.providers(caller)
    ]
    editing, fields = _form(visit)
    return ProvidersView(providers=tuple(lines), speaks=SPEAKS, editing=editing, fields=fields)


def _form(visit: Visit) -> tuple[str, dict[str, str]]:
    """The provider that is to be changed, and what the form holds at first."""
    name = visit.get("provider")
    if not name or not visit.may(Permission.PROVIDERS_WRITE):
        return "", {}
    version = visit.platform.gateway.version(visit.caller.project, "provider", name)
    found = next((p for p in visit.platform.gateway.providers(visit.caller) if p.name == name), None)
    if found is None:
        raise NotFound(f"There is no provider '{name[:64]}'.", hint="Choose one from the list.", field="provider")
    return name, {
        "name": name,
        "speaks": f"{found.dialect}/{found.flavour}",
        "url": found.url,
        "region": found.region,
        "api_version": found.api_version,
        "max_concurrency": str(found.max_concurrency or ""),
        "allow_private": "1" if found.allow_private else "",
        "replace": "1",
        "expected": str(version),
    }


def save(visit: Visit, form: Form) -> Outcome:
    """Add or change a provider."""
    credential = form.secret("credential").strip()
    speaks, most, version = form.get("speaks"), form.get("max_concurrency") or "0", form.get("expected")
    if speaks and speaks not in SPEAKS:
        raise InvalidInput(f"'{speaks[:40]}' is nothing to speak.", hint="Choose from the list.", field="speaks")
    if not most.isdecimal() or len(most) > 9:
        raise InvalidInput("That is no number of calls.", hint="Give one, or nothing.", field="max_concurrency")
    dialect, _slash, flavour = speaks.partition("/")
    visit.platform.gateway.save_provider(
        visit.caller,
        form.get("name"),
        url=form.get("url") or None,
        dialect=dialect or None,  # type: ignore[arg-type]  # one of its words
        flavour=flavour if speaks else None,
        region=form.get("region"),
        api_version=form.get("api_version"),
        max_concurrency=int(most),
        credential=Secret(credential) if credential else None,
        allow_private=form.flag("allow_private"),
        replace=form.flag("replace"),
        expected=int(version) if version.isdecimal() and len(version) < 10 else None,
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
            (
                "name",
                "url",
                "dialect",
                "flavour",
                "region",
                "max_concurrency",
                "credential",
                "allow_private",
                "routes",
                "changed_ns",
            ),
            [
                (
                    p.name,
                    p.url,
                    p.dialect,
                    p.flavour,
                    p.region,
                    p.max_concurrency,
                    p.credential,
                    p.allow_private,
                    " ".join(p.routes),
                    p.changed,
                )
                for p in view.providers
            ],
        )
    }


PAGE = Page("/providers", Permission.PROVIDERS_READ, "providers.html", view, tables)
ACTIONS = (
    Action("/providers", Permission.PROVIDERS_WRITE, PAGE, save),
    Action("/providers/{name}/remove", Permission.PROVIDERS_WRITE, PAGE, remove),
)

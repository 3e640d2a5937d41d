"""Where providers are: default addresses by dialect and flavour, and which addresses may be given at all."""

from __future__ import annotations

import re
from typing import Final

from detent.gateway.dialects.quirks import FLAVOURS
from detent.gateway.model import Dialect
from detent.guard.addresses import judge, read_endpoint
from detent.kernel.errors import InvalidInput
from detent.kernel.secret import Secret

_REGION: Final = re.compile(r"[a-z][a-z0-9-]{1,39}")
_API_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")

DEFAULT_URLS: Final[dict[tuple[Dialect, str], str]] = {
    ("openai", ""): "https://api.openai.com/v1",
    ("openai", "openai"): "https://api.openai.com/v1",
    ("openai", "cerebras"): "https://api.cerebras.ai/v1",
    ("openai", "cohere"): "https://api.cohere.ai/compatibility/v1",
    ("openai", "deepseek"): "https://api.deepseek.com/v1",
    ("openai", "fireworks"): "https://api.fireworks.ai/inference/v1",
    ("openai", "gemini"): "https://generativelanguage.googleapis.com/v1beta/openai",
    ("openai", "groq"): "https://api.groq.com/openai/v1",
    ("openai", "mistral"): "https://api.mistral.ai/v1",
    ("openai", "nvidia"): "https://integrate.api.nvidia.com/v1",
    ("openai", "openrouter"): "https://openrouter.ai/api/v1",
    ("openai", "perplexity"): "https://api.perplexity.ai",
    ("openai", "together"): "https://api.together.xyz/v1",
    ("openai", "xai"): "https://api.x.ai/v1",
    ("openai", "llamacpp"): "http://127.0.0.1:8080/v1",
    ("openai", "lmstudio"): "http://127.0.0.1:1234/v1",
    ("openai", "ollama"): "http://127.0.0.1:11434/v1",
    ("openai", "sglang"): "http://127.0.0.1:30000/v1",
    ("openai", "vllm"): "http://127.0.0.1:8000/v1",
    ("anthropic", ""): "https://api.anthropic.com",
    ("gemini", ""): "https://generativelanguage.googleapis.com/v1beta",
    ("bedrock", ""): "https://bedrock-runtime.{region}.amazonaws.com",
}
"""Base URLs as the providers' API references give them. Servers of one's own are looked for on this machine."""

_TAILS: Final[dict[Dialect, tuple[str, ...]]] = {
    "openai": ("/chat/completions",),
    "anthropic": ("/messages", "/v1"),
    "gemini": ("/models",),
    "bedrock": (),
}
"""What people copy along with the base URL and the dialect adds by itself."""


def flavours(dialect: Dialect) -> tuple[str, ...]:
    """The flavours that a provider of this dialect may have, by name."""
    return tuple(sorted(FLAVOURS)) if dialect == "openai" else ()


def check_flavour(dialect: Dialect, flavour: str) -> str:
    """Give the flavour back if there is one of that name.

    Raises:
        InvalidInput: there is none; lists those that there are.
    """
    known = flavours(dialect)
    if flavour and flavour not in known:
        raise InvalidInput(
            f"The dialect '{dialect}' has no flavour '{flavour[:40]}'.",
            hint=f"Leave it out, or choose one of: {', '.join(known)}." if known else "Leave it out.",
            field="flavour",
        )
    return flavour


def check_region(dialect: Dialect, region: str) -> str:
    """Give the region back; Bedrock cannot be signed for without one.

    Raises:
        InvalidInput: it is missing or is none.
    """
    if region and not _REGION.fullmatch(region):
        raise InvalidInput(f"'{region[:40]}' is no region.", hint="Use e.g. eu-central-1.", field="region")
    if dialect == "bedrock" and not region:
        raise InvalidInput("Calls to Bedrock are signed for a region.", hint="Give --region.", field="region")
    return region


def check_api_version(api_version: str) -> str:
    """Give the version back if a URL or header may hold it.

    Raises:
        InvalidInput: it may not.
    """
    if api_version and not _API_VERSION.fullmatch(api_version):
        raise InvalidInput(
            f"'{api_version[:40]}' is no version of an API.", hint="Use e.g. 2024-10-21.", field="api_version"
        )
    return api_version


def default_url(dialect: Dialect, flavour: str, region: str) -> str:
    """The provider's own address.

    Raises:
        InvalidInput: it has none that everybody shares, so the caller must give it.
    """
    found = DEFAULT_URLS.get((dialect, flavour), "")
    if not found:
        raise InvalidInput(
            f"A provider of flavour '{flavour}' has an address of its own.",
            hint="Give its base URL, for Azure https://NAME.openai.azure.com/openai/v1.",
            field="url",
        )
    return found.replace("{region}", region)


def check_url(url: str, dialect: Dialect = "openai", *, allow_private: bool) -> str:
    """The base URL in its plain form; what could never be called is refused here rather than at the first call."""
    cleaned = url.strip().rstrip("/")
    for tail in _TAILS[dialect]:
        cleaned = cleaned.removesuffix(tail)
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


def check_credential(credential: Secret) -> Secret:
    """Without the white space that pasting adds; it is going to be a header's value."""
    plain = credential.reveal().strip()
    if not plain or not plain.isascii() or not plain.isprintable() or " " in plain:
        raise InvalidInput(
            "The credential holds characters that no header may.", hint="Copy it anew.", field="credential"
        )
    return Secret(plain)

"""Dialects: how clients ask and providers answer, and the way between any two of them through the neutral chat type.

`CLIENTS` and `PROVIDERS` know them by name; a dialect's modules are loaded when it is first asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final, Generic, TypeVar, cast

if TYPE_CHECKING:
    from detent.gateway.dialects.port import ClientDialect, ProviderDialect

__all__ = ["CLIENTS", "PROVIDERS"]

D = TypeVar("D")


class _Known(Mapping[str, D], Generic[D]):
    """Dialects by name: each module says its own in a constant."""

    def __init__(self, constant: str, modules: dict[str, str]) -> None:
        self._constant = constant
        self._modules = modules
        self._loaded: dict[str, D] = {}

    def __getitem__(self, name: str) -> D:
        found = self._loaded.get(name)
        if found is None:
            module = importlib.import_module(f"{__name__}.{self._modules[name]}")
            found = self._loaded[name] = cast("D", getattr(module, self._constant))
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


CLIENTS: Final[Mapping[str, ClientDialect]] = _Known(
    "CLIENT",
    {
        "openai": "openai",
        "anthropic": "anthropic",
        "responses": "responses",
    },
)
"""What clients may speak."""

PROVIDERS: Final[Mapping[str, ProviderDialect]] = _Known(
    "PROVIDER",
    {
        "openai": "openai",
        "anthropic": "anthropic",
        "responses": "responses_provider",
        "gemini": "gemini",
        "bedrock": "bedrock",
    },
)
"""What providers may speak."""

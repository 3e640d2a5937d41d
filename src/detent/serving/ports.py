"""What serving needs from the adapters in `engines`: each describes the engine it knows, and starts nothing itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from detent.serving.model import Engine


class EngineKind(Protocol):
    """One kind of engine: `detent-tiny`, later vLLM, SGLang, Ollama, llama.cpp."""

    def describe(self, options: Mapping[str, str]) -> Engine:
        """The engine for these options.

        Raises:
            InvalidInput: an option is unknown or has no use.
            MissingExtra: what it runs on is not installed; the hint is the install command.
        """
        ...

"""Detent: LLMOps with one history. A change moves forward only when it has earned it.

import detent

@detent.trace
def answer(question: str) -> str: ...

with detent.Client() as client:
    print(client.traces.list(limit=5))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detent.sdk import Client, trace

__version__ = "0.1.0"
__all__ = ["Client", "__version__", "trace"]


def __getattr__(name: str) -> Any:
    """`Client` and `trace` are loaded when they are first asked for, so that `import detent` costs nothing."""
    if name in {"Client", "trace"}:
        from detent import sdk

        globals()[name] = getattr(sdk, name)
        return globals()[name]
    raise AttributeError(f"module 'detent' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), "Client", "trace"])

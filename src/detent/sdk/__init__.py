"""The SDK: `detent.Client` and `@detent.trace`; standard library and kernel only, no-op when unconfigured.

Both read `DETENT_URL` (the control plane, e.g. `http://127.0.0.1:7401`) and `DETENT_KEY` (a key that may do what is
asked). Tracing needs `traces:write`; without the two variables it does nothing and costs almost nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from detent.sdk.span import ActiveSpan
from detent.sdk.tracing import configure, current_span, flush, propagation_headers, shutdown, trace

if TYPE_CHECKING:
    from detent.sdk.client import Client

__all__ = [
    "ActiveSpan",
    "Client",
    "configure",
    "current_span",
    "flush",
    "propagation_headers",
    "shutdown",
    "trace",
]


def __getattr__(name: str) -> Any:
    """The client is loaded when it is asked for, so that tracing alone stays light."""
    if name == "Client":
        from detent.sdk.client import Client

        globals()["Client"] = Client
        return Client
    raise AttributeError(f"module 'detent.sdk' has no attribute '{name}'")

"""A span while it lasts."""

from __future__ import annotations

import re
import time
from typing import Any, Final, Self

from detent.kernel.ids import new_span_id, new_trace_id

UNSET: Final = object()
"""Stands for content that was not recorded; None is a value like any other."""

_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?")


class ActiveSpan:
    """A span that has begun. Everything on it may be called when tracing is off; it then does nothing.

    Attributes:
        trace_id, span_id, parent_id: W3C ids, hex; empty when tracing is off.
    """

    __slots__ = (
        "_began", "attributes", "content", "duration", "error", "error_type", "input", "name", "operation", "output",
        "parent", "parent_id", "recorded", "span_id", "start", "trace_id",
    )  # fmt: skip

    def __init__(
        self, name: str, *, operation: str = "", content: bool = True, parent: ActiveSpan | None, remote: str = ""
    ) -> None:
        self.name = name
        self.operation = operation
        self.content = content
        self.parent = parent
        self.recorded = True
        self.attributes: dict[str, Any] = {}
        self.input: Any = UNSET
        self.output: Any = UNSET
        self.error = ""
        self.error_type = ""
        self.duration = 0
        self.trace_id, self.parent_id = _lineage(parent, remote)
        self.span_id = new_span_id()
        self.start = time.time_ns()
        self._began = time.perf_counter_ns()

    def set(self, **attributes: Any) -> Self:
        """Add attributes: text, numbers, booleans, or lists of them."""
        if self.recorded:
            self.attributes.update(attributes)
        return self

    def record(self, *, input: Any = UNSET, output: Any = UNSET) -> Self:
        """Set what went in and what came out, when it isn't a function's arguments and result."""
        if self.recorded and self.content:
            self.input = self.input if input is UNSET else input
            self.output = self.output if output is UNSET else output
        return self

    def fail(self, error: BaseException) -> None:
        """End as an error; an exception that leaves the block does it by itself."""
        self.error_type = type(error).__name__
        self.error = str(error)[:500] if self.content else ""

    @property
    def traceparent(self) -> str:
        """The W3C header that continues this trace elsewhere; empty when tracing is off."""
        return f"00-{self.trace_id}-{self.span_id}-01" if self.recorded else ""

    def has(self, side: str) -> bool:
        """Whether `input` or `output` was recorded."""
        return getattr(self, side) is not UNSET

    def finish(self) -> None:
        """Stop the clock."""
        self.duration = time.perf_counter_ns() - self._began


class Nothing(ActiveSpan):
    """What stands in for a span when tracing is off."""

    def __init__(self) -> None:
        self.name = self.operation = self.trace_id = self.span_id = self.parent_id = self.error = self.error_type = ""
        self.parent = None
        self.recorded = self.content = False
        self.attributes = {}
        self.input = self.output = UNSET
        self.start = self.duration = 0

    def fail(self, error: BaseException) -> None:
        pass


def _lineage(parent: ActiveSpan | None, remote: str) -> tuple[str, str]:
    """Trace and parent id: the span around, else the caller's header, else a new trace."""
    if parent is not None:
        return parent.trace_id, parent.span_id
    found = _TRACEPARENT.fullmatch(remote)
    if found and set(found[1]) != {"0"} and set(found[2]) != {"0"}:
        return found[1], found[2]
    return new_trace_id(), ""

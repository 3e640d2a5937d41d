"""A trace as text: its spans as a tree, each with a bar where it lies in time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from detent.cli.text import cost, count, duration, number, shorten, table
from detent.kernel.telemetry import Span

_BAR: Final = 32
_DEEPEST: Final = 50


def waterfall(spans: Sequence[Span]) -> str:
    """The table of a trace's spans in tree order."""
    begin = min(span.start for span in spans)
    whole = max(max(span.end for span in spans) - begin, 1)
    rows = [
        (
            shorten("  " * min(depth, 10) + span.name, 48),
            span.status,
            _bar(span, begin, whole),
            duration(span.start - begin),
            duration(span.duration),
            count(span.input_tokens + span.output_tokens) if span.input_tokens or span.output_tokens else "-",
            cost(span.cost) if span.operation == "chat" or span.cost is not None else "-",
            span.span_id,
        )
        for depth, span in in_tree_order(spans)
    ]
    return table(
        ("SPAN", "STATUS", "TIME", number("AT"), number("DURATION"), number("TOKENS"), number("COST"), "ID"), rows
    )


def _bar(span: Span, begin: int, whole: int) -> str:
    left = min((span.start - begin) * _BAR // whole, _BAR - 1)
    long = max(round(span.duration * _BAR / whole), 1)
    return ("." * left + "=" * long)[:_BAR].ljust(_BAR, ".")


def in_tree_order(spans: Sequence[Span]) -> Iterator[tuple[int, Span]]:
    """Depth and span, parents before children, siblings by time. A span whose parent is not there is a root."""
    known = {span.span_id for span in spans}
    below: dict[str, list[Span]] = {}
    for span in sorted(spans, key=lambda s: s.start):
        parent = span.parent_id if span.parent_id in known and span.parent_id != span.span_id else ""
        below.setdefault(parent, []).append(span)
    seen: set[str] = set()
    stack = [(0, span) for span in reversed(below.get("", []))]
    while stack:
        depth, span = stack.pop()
        if span.span_id in seen:
            continue
        seen.add(span.span_id)
        yield depth, span
        stack.extend((min(depth + 1, _DEEPEST), child) for child in reversed(below.get(span.span_id, [])))
    # Spans that are each other's parents hang on no root; they are shown all the same.
    yield from ((0, span) for span in spans if span.span_id not in seen)

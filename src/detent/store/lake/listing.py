"""Lists of traces: over days, page by page, with what a trace has on other days added in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import date, timedelta

from detent.kernel.clock import DAY
from detent.kernel.errors import InvalidInput
from detent.kernel.telemetry import MetricQuery, SpanFilter, TracePage, TraceRow
from detent.store.lake.files import Files
from detent.store.lake.reading import Day, Part
from detent.store.lake.sealed import SealedContent
from detent.store.lake.text import Question


class Listing:
    """One list of traces.

    Days are asked one after the other, the newest first. A trace with spans on several days in a row stands where its
    part of the newest day with a match begins, and its totals are over all these days.
    """

    def __init__(self, files: Files, sealed: SealedContent, where: SpanFilter) -> None:
        self._files = files
        self._sealed = sealed
        self._where = where
        self._question = Question(where)
        self._paths = files.days(where.project)
        self._days: dict[str, Day] = {}

    def page(self, limit: int, before: tuple[int, bytes]) -> TracePage:
        with ExitStack() as self._stack:
            found: list[TraceRow] = []
            last = before
            for day in self._paths:
                if not overlaps(day, self._where) or start_of(day) > before[0]:
                    continue
                for part in self._day(day).matches(self._question, before):
                    if self._stands_in_newer(day, part.trace_id):
                        continue
                    if len(found) == limit:
                        return TracePage(tuple(found), f"{last[0]}-{last[1].hex()}")
                    found.append(self._row(day, part))
                    last = (part.start, part.trace_id)
            return TracePage(tuple(found))

    def _day(self, day: str) -> Day:
        known = self._days.get(day)
        if known is None:
            database = self._stack.enter_context(self._files.reading(self._paths[day]))
            known = self._days[day] = Day(database, self._where.project, self._sealed)
        return known

    def _next_to(self, day: str, step: int) -> Iterator[Day]:
        """The days that follow each other without a gap from the one after (or before) `day`."""
        while (day := (date.fromisoformat(day) + timedelta(step)).isoformat()) in self._paths:
            yield self._day(day)

    def _stands_in_newer(self, day: str, trace_id: bytes) -> bool:
        for newer in self._next_to(day, 1):
            if trace_id not in newer.parts([trace_id]):
                return False
            if newer.holds(self._question, trace_id):
                return True
        return False

    def _row(self, day: str, part: Part) -> TraceRow:
        parts = [part]
        for step in (1, -1):
            for other in self._next_to(day, step):
                found = other.parts([part.trace_id])
                if not found:
                    break
                parts += found.values()
        first = min(parts, key=lambda each: each.rank)
        costs = [each.cost for each in parts if each.cost is not None]
        return TraceRow(
            trace_id=part.trace_id.hex(),
            root=first.root,
            spans=sum(each.spans for each in parts),
            errors=sum(each.errors for each in parts),
            input_tokens=sum(each.input_tokens for each in parts),
            output_tokens=sum(each.output_tokens for each in parts),
            cost=sum(costs) if costs else None,
            unpriced=sum(each.unpriced for each in parts),
            end=max(each.end for each in parts),
            snippet=(self._question.snippet(part.hit) if part.hit is not None else "") or first.preview,
        )


def position_of(after: str) -> tuple[int, bytes]:
    """Where a page begins: behind this start and trace id; at the newest when there is no marker."""
    if not after:
        return 2**63 - 1, b"\xff" * 16
    start, _, trace_id = after.partition("-")
    try:
        return int(start), bytes.fromhex(trace_id)
    except ValueError:
        raise InvalidInput("The page marker is not one of ours.", field="after") from None


def start_of(day: str) -> int:
    """When a day begins, in ns since the epoch."""
    return (date.fromisoformat(day) - date(1970, 1, 1)).days * DAY


def overlaps(day: str, where: SpanFilter | MetricQuery) -> bool:
    """Whether a day has anything of the time that is asked for."""
    start = start_of(day)
    return start + DAY > where.since and (not where.until or start < where.until)

"""Questions to one day."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import orjson

from detent.kernel.telemetry import Span, SpanFilter
from detent.store.lake import content, rows
from detent.store.lake.content import Content
from detent.store.lake.files import Database
from detent.store.lake.sealed import SealedContent
from detent.store.lake.text import Question

_FEW: Final = 4000
"""Candidates that are all looked at at once; when the index gives more, traces are walked from the newest on."""

_KEPT_BLOCKS: Final = 8
_MAX: Final = 2**63 - 1


class Part(msgspec.Struct):
    """A trace as one day knows it: totals over the spans of that day, its root, and the span that answered.

    Attributes:
        preview: the beginning of what the root was asked.
        rank: orders roots; the least of a trace's parts has the true root.
        hit: the matching span with its content when text was asked for.
    """

    trace_id: bytes
    start: int
    end: int
    spans: int
    errors: int
    input_tokens: int
    output_tokens: int
    cost: int | None
    unpriced: int
    preview: str
    root: Span
    rank: tuple[bool, int, str]
    hit: Span | None = None


class Day:
    """One day's file inside a read transaction."""

    def __init__(self, database: Database, project: str, sealed: SealedContent) -> None:
        self._database = database
        self._run = database.connection.execute
        self._project = project
        self._sealed = sealed
        self._blocks: dict[int, list[Content]] = {}
        self._sealed_spans, folder = self._run("SELECT sealed_spans, sealed_folder FROM meta").fetchone()
        self._sealed_folder = database.path.parent / folder

    # Traces

    def matches(self, question: Question, before: tuple[int, bytes]) -> Iterator[Part]:
        """Traces with a matching span, by start, newest first, those that stand behind `before`."""
        if not question.match:
            yield from self._walk(question, before)
            return
        limit = _FEW + 1
        found = self._run("SELECT rowid FROM word WHERE word MATCH ? LIMIT ?", (question.match, limit)).fetchall()
        if len(found) > _FEW:
            yield from self._walk_candidates(question, before)
            return
        spans = self._candidates(question.where, [number for (number,) in found])
        traces = self._traces_by_number({row[1] for row in spans})
        for trace in sorted(traces, key=lambda row: (row[2], row[1]), reverse=True):
            if (trace[2], trace[1]) < before:
                yield from self._check(question, trace, [row for row in spans if row[1] == trace[0]])

    def _walk(self, question: Question, before: tuple[int, bytes]) -> Iterator[Part]:
        """Without the help of the index: traces by start, and whether one of their spans holds."""
        where = question.where
        plain = not (where.since or where.until or where.status or where.min_duration or where.min_cost)
        size = 64
        while True:
            if plain:
                found = self._run(
                    """
                    SELECT t.* FROM trace t WHERE (t.start, t.trace_id) < (?, ?)
                    ORDER BY t.start DESC, t.trace_id DESC LIMIT ?
                    """,
                    (*before, size),
                ).fetchall()
            else:
                found = self._run(
                    """
                    SELECT t.* FROM trace t
                    WHERE (t.start, t.trace_id) < (:start, :trace_id) AND t.start < :until AND t.end >= :since
                        AND EXISTS (
                            SELECT 1 FROM span s WHERE s.trace = t.id AND s.start >= :since AND s.start < :until
                            AND max(s.duration, 0) >= :min_duration AND coalesce(s.cost, -1) >= :min_cost
                            AND (:status = '' OR s.flags & 3 = :status_bits)
                        )
                    ORDER BY t.start DESC, t.trace_id DESC LIMIT :size
                    """,
                    {**_numbers(where), "start": before[0], "trace_id": before[1], "size": size},
                ).fetchall()
            for trace in found:
                yield self.part(trace)
            if len(found) < size:
                return
            before, size = (found[-1][2], found[-1][1]), min(size * 2, 1024)

    def _walk_candidates(self, question: Question, before: tuple[int, bytes]) -> Iterator[Part]:
        """Many candidates: traces by start, and which of their spans are among them."""
        where, size = question.where, 128
        while True:
            traces = self._run(
                """
                SELECT t.* FROM trace t
                WHERE (t.start, t.trace_id) < (?, ?) AND t.start < ? AND t.end >= ?
                ORDER BY t.start DESC, t.trace_id DESC LIMIT ?
                """,
                (*before, where.until or _MAX, where.since, size),
            ).fetchall()
            if not traces:
                return
            spans = self._spans_of([trace[0] for trace in traces], where)
            if spans:
                numbers = [row[0] for row in spans]
                found = self._run(
                    "SELECT rowid FROM word WHERE word MATCH ? AND rowid BETWEEN ? AND ?",
                    (question.match, min(numbers), max(numbers)),
                )
                candidates = {number for (number,) in found}
                by_trace: dict[int, list[tuple[Any, ...]]] = {}
                for row in spans:
                    if row[0] in candidates:
                        by_trace.setdefault(row[1], []).append(row)
                for trace in traces:
                    if trace[0] in by_trace:
                        yield from self._check(question, trace, by_trace[trace[0]])
            if len(traces) < size:
                return
            before, size = (traces[-1][2], traces[-1][1]), min(size * 2, 4096)

    def _check(self, question: Question, trace: tuple[Any, ...], spans: Iterable[tuple[Any, ...]]) -> Iterator[Part]:
        """The trace's part if one of the candidate spans really holds."""
        for row in spans:
            span = rows.span_of(self._database, self._project, trace[1].hex(), row)
            if not question.fields_hold(span):
                continue
            if question.needs_content:
                span = self._filled(row[0], span)
                if not question.content_holds(span):
                    continue
            part = self.part(trace)
            part.hit = span
            yield part
            return

    def holds(self, question: Question, trace_id: bytes) -> bool:
        """Whether this day has a matching span of the trace."""
        trace = self._run("SELECT t.* FROM trace t WHERE t.trace_id = ?", (trace_id,)).fetchone()
        return trace is not None and any(self._check(question, trace, self._spans_of([trace[0]], question.where)))

    def parts(self, trace_ids: Iterable[bytes]) -> dict[bytes, Part]:
        """What this day knows of the given traces."""
        found = (
            self._run("SELECT t.* FROM trace t WHERE t.trace_id = ?", (trace_id,)).fetchone() for trace_id in trace_ids
        )
        return {trace[1]: self.part(trace) for trace in found if trace is not None}

    def part(self, trace: tuple[Any, ...]) -> Part:
        """A trace's row with its root span."""
        row = self._run("SELECT s.* FROM span s WHERE s.id = ?", (trace[4],)).fetchone()
        root = rows.span_of(self._database, self._project, trace[1].hex(), row)
        _, trace_id, start, end, _, spans, errors, input_tokens, output_tokens, cost, unpriced, preview = trace
        return Part(
            trace_id,
            start,
            end,
            spans,
            errors,
            input_tokens,
            output_tokens,
            cost,
            unpriced,
            preview,
            root,
            (row[3] is not None, root.start, root.span_id),
        )

    def trace(self, trace_id: bytes) -> list[Span]:
        """All spans of a trace with their content."""
        found = self._run(
            "SELECT s.* FROM trace t JOIN span s ON s.trace = t.id WHERE t.trace_id = ?", (trace_id,)
        ).fetchall()
        text = trace_id.hex()
        return [self._filled(row[0], rows.span_of(self._database, self._project, text, row)) for row in found]

    def _candidates(self, where: SpanFilter, numbers: list[int]) -> list[tuple[Any, ...]]:
        return self._run(
            """
            SELECT s.* FROM json_each(:numbers) j JOIN span s ON s.id = j.value
            WHERE s.start >= :since AND s.start < :until AND max(s.duration, 0) >= :min_duration
                AND coalesce(s.cost, -1) >= :min_cost
            """,
            {**_numbers(where), "numbers": orjson.dumps(numbers).decode()},
        ).fetchall()

    def _spans_of(self, traces: list[int], where: SpanFilter) -> list[tuple[Any, ...]]:
        return self._run(
            """
            SELECT s.* FROM json_each(:traces) j JOIN span s ON s.trace = j.value
            WHERE s.start >= :since AND s.start < :until AND max(s.duration, 0) >= :min_duration
                AND coalesce(s.cost, -1) >= :min_cost
            """,
            {**_numbers(where), "traces": orjson.dumps(traces).decode()},
        ).fetchall()

    def _traces_by_number(self, numbers: Iterable[int]) -> list[tuple[Any, ...]]:
        return self._run(
            "SELECT t.* FROM json_each(?) j JOIN trace t ON t.id = j.value",
            (orjson.dumps(list(numbers)).decode(),),
        ).fetchall()

    # Content

    def _filled(self, number: int, span: Span) -> Span:
        found = self.content(number)
        return msgspec.structs.replace(span, input=found.input, output=found.output, attributes=found.attributes)

    def content(self, number: int) -> Content:
        """The content of a span by its row id."""
        if number <= self._sealed_spans:
            return self._sealed.content(self._sealed_folder, number)
        first: int = self._run(
            "SELECT first FROM block WHERE first <= ? ORDER BY first DESC LIMIT 1", (number,)
        ).fetchone()[0]
        contents = self._blocks.get(first)
        if contents is None:
            if len(self._blocks) >= _KEPT_BLOCKS:
                self._blocks.clear()
            (data,) = self._run("SELECT data FROM block WHERE first = ?", (first,)).fetchone()
            contents = self._blocks[first] = content.unpack(data)
        return contents[int(number - first)]

    # Keeping

    @property
    def path(self) -> Path:
        """The day's file."""
        return self._database.path

    @property
    def sealed_spans(self) -> int:
        """Row id of the last span whose content is in Parquet; 0 when the day is not sealed."""
        return int(self._sealed_spans)

    @property
    def sealed_folder(self) -> Path:
        """Where the parts are."""
        return Path(self._sealed_folder)

    def calls(self, since: int, until: int) -> Iterator[tuple[int, Span]]:
        """The model calls that started in `[since, until)` with their row ids and content, by row id."""
        first = 0
        while True:
            found = self._run(
                """
                SELECT s.*, t.trace_id FROM span s JOIN trace t ON t.id = s.trace
                WHERE s.id > ? AND s.start >= ? AND s.start < ?
                    AND s.operation IN (SELECT id FROM name WHERE text IN (SELECT value FROM json_each(?)))
                ORDER BY s.id LIMIT 1000
                """,
                (first, since, until or _MAX, rows.CALLS_JSON),
            ).fetchall()
            for row in found:
                span = rows.span_of(self._database, self._project, row[-1].hex(), row[:-1])
                yield row[0], self._filled(row[0], span)
            if len(found) < 1000:
                return
            first = found[-1][0]

    def all_spans(self, begin: int, end: int) -> list[Span]:
        """Spans by row id, from `begin` up to and with `end`, with their content."""
        found = self._run(
            "SELECT s.*, t.trace_id FROM span s JOIN trace t ON t.id = s.trace WHERE s.id BETWEEN ? AND ? "
            "ORDER BY s.id",
            (begin, end),
        ).fetchall()
        return [
            self._filled(row[0], rows.span_of(self._database, self._project, row[-1].hex(), row[:-1])) for row in found
        ]


def _numbers(where: SpanFilter) -> dict[str, Any]:
    return {
        "since": where.since,
        "until": where.until or _MAX,
        "min_duration": where.min_duration,
        "min_cost": where.min_cost or -1,
        "status": where.status,
        "status_bits": {"ok": 0, "error": 1, "cancelled": 2}.get(where.status, -1),
    }

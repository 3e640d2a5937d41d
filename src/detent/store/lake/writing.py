"""One transaction: spans into their day, with traces, roll-ups, tallies and words kept in step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, get_args

import msgspec
import orjson

from detent.kernel.clock import HOUR
from detent.kernel.ports import GroupField
from detent.kernel.telemetry import Score, Span, Written
from detent.store.lake import content, histogram, rows
from detent.store.lake.files import Database, Vanished
from detent.store.lake.prepare import Chunk, Ready
from detent.store.lake.text import preview

FIELDS: Final[tuple[str, ...]] = get_args(GroupField)
"""What is tallied; the position is the number of the field in the table."""

_MAX_SUM: Final = 2**62
_GroupKey = tuple[int, str, str, str, str, str]


class _Trace:
    """A trace's row while a batch is added to it."""

    __slots__ = (
        "changed",
        "cost",
        "end",
        "errors",
        "id",
        "input",
        "new",
        "output",
        "preview",
        "rank",
        "root",
        "spans",
        "start",
        "trace_id",
        "unpriced",
    )

    def __init__(self, id: int, trace_id: bytes) -> None:
        self.id = id
        self.trace_id = trace_id
        self.new = True
        self.changed = False
        self.start = _MAX_SUM
        self.end = 0
        self.root = 0
        self.rank: tuple[bool, int, bytes] = (True, _MAX_SUM, b"\xff")
        self.preview = ""
        self.spans = self.errors = self.input = self.output = self.unpriced = 0
        self.cost: int | None = None

    def add(self, number: int, ready: Ready) -> None:
        span = ready.span
        self.changed = True
        self.spans += 1
        self.start = min(self.start, span.start)
        self.end = max(self.end, span.end)
        rank = (ready.parent_id is not None, span.start, ready.span_id)
        if rank < self.rank:
            self.rank, self.root, self.preview = rank, number, preview(span)
        self.errors += span.status == "error"
        self.input = min(self.input + span.input_tokens, _MAX_SUM)
        self.output = min(self.output + span.output_tokens, _MAX_SUM)
        if span.cost is not None:
            self.cost = min((self.cost or 0) + span.cost, _MAX_SUM)
        elif span.operation in rows.CALLS:
            self.unpriced += 1

    def row(self) -> tuple[Any, ...]:
        return (
            self.id,
            self.trace_id,
            self.start,
            self.end,
            self.root,
            self.spans,
            self.errors,
            self.input,
            self.output,
            self.cost,
            self.unpriced,
            self.preview,
        )


class _Group:
    """What a batch adds to one roll-up row."""

    __slots__ = ("cost", "duration", "errors", "input", "output", "requests", "ttft", "unpriced")

    def __init__(self) -> None:
        self.requests = self.errors = self.input = self.output = self.cost = self.unpriced = 0
        self.duration: histogram.Histogram = {}
        self.ttft: histogram.Histogram = {}

    def add(self, span: Span) -> None:
        self.requests += 1
        self.errors += span.status == "error"
        self.input += span.input_tokens
        self.output += span.output_tokens
        if span.cost is None:
            self.unpriced += 1
        else:
            self.cost += span.cost
        bucket = histogram.bucket_of(span.duration)
        self.duration[bucket] = self.duration.get(bucket, 0) + 1
        if span.ttft is not None:
            bucket = histogram.bucket_of(span.ttft)
            self.ttft[bucket] = self.ttft.get(bucket, 0) + 1


def add_spans(database: Database, chunks: Sequence[Chunk]) -> list[Written]:
    """Add chunks in one durable transaction; what was done with each.

    Raises:
        Vanished: the day was dropped meanwhile by somebody else.
    """
    run = database.connection.execute
    run("BEGIN IMMEDIATE")
    try:
        (dropped,) = run("SELECT dropped FROM meta").fetchone()
        if dropped or not database.is_current():
            raise Vanished(database.path)
        written = _Addition(database).run(chunks)
        run("COMMIT")
    except BaseException:
        database.connection.rollback()
        database.numbers.clear()
        database.numbers[""] = 0
        raise
    return written


class _Addition:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._run = database.connection.execute
        (self._next_span,) = self._run("SELECT coalesce(max(id), 0) + 1 FROM span").fetchone()
        (self._next_trace,) = self._run("SELECT coalesce(max(id), 0) + 1 FROM trace").fetchone()
        self._traces: dict[bytes, _Trace] = {}
        self._seen: set[bytes] = set()
        self._groups: dict[_GroupKey, _Group] = {}
        self._tally: dict[tuple[int, str], int] = {}
        self._spans: list[tuple[Any, ...]] = []
        self._words: list[tuple[int, str]] = []
        self._blocks: list[tuple[int, bytes]] = []

    def run(self, chunks: Sequence[Chunk]) -> list[Written]:
        written = [self._add_chunk(chunk) for chunk in chunks]
        many = self._database.connection.executemany
        many(rows.INSERT_SPAN, self._spans)
        many("INSERT INTO word (rowid, words) VALUES (?, ?)", self._words)
        many("INSERT INTO block (first, data) VALUES (?, ?)", self._blocks)
        many(
            """
            INSERT INTO trace VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (id) DO UPDATE SET start = excluded.start, end = excluded.end, root = excluded.root,
                spans = excluded.spans, errors = excluded.errors, input_tokens = excluded.input_tokens,
                output_tokens = excluded.output_tokens, cost = excluded.cost, unpriced = excluded.unpriced,
                preview = excluded.preview
            """,
            [trace.row() for trace in self._traces.values() if trace.changed],
        )
        for key, group in self._groups.items():
            self._roll_up(key, group)
        many(
            "INSERT INTO tally VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count",
            [(field, rows.number_of(self._database, text), count) for (field, text), count in self._tally.items()],
        )
        return written

    def _add_chunk(self, chunk: Chunk) -> Written:
        first = self._next_span
        fresh = [ready for ready in chunk.spans if self._add(ready)]
        if fresh:
            whole = len(fresh) == len(chunk.spans)
            block = chunk.block if whole else content.pack([content.content_of(ready.span) for ready in fresh])
            self._blocks.append((first, block))
        return Written(len(fresh), len(chunk.spans) - len(fresh))

    def _add(self, ready: Ready) -> bool:
        identity = ready.trace_id + ready.span_id
        if identity in self._seen:
            return False
        self._seen.add(identity)
        trace = self._traces.get(ready.trace_id) or self._trace(ready.trace_id)
        if not trace.new and self._is_stored(trace.id, ready.span_id):
            return False
        number = self._next_span
        self._next_span += 1
        trace.add(number, ready)
        self._spans.append(self._row(number, trace.id, ready))
        self._words.append((number, ready.words))
        self._count(ready.span)
        return True

    def _is_stored(self, trace: int, span_id: bytes) -> bool:
        found = self._run("SELECT 1 FROM span WHERE trace = ? AND span_id = ?", (trace, span_id)).fetchone()
        return found is not None

    def _trace(self, trace_id: bytes) -> _Trace:
        row = self._run(
            """
            SELECT t.id, t.start, t.end, t.root, t.spans, t.errors, t.input_tokens, t.output_tokens, t.cost,
                t.unpriced, t.preview, s.parent_id IS NOT NULL, s.start, s.span_id
            FROM trace t JOIN span s ON s.id = t.root WHERE t.trace_id = ?
            """,
            (trace_id,),
        ).fetchone()
        if row is None:
            trace = _Trace(self._next_trace, trace_id)
            self._next_trace += 1
        else:
            trace = _Trace(row[0], trace_id)
            trace.new = False
            trace.start, trace.end, trace.root, trace.spans, trace.errors, trace.input, trace.output = row[1:8]
            trace.cost, trace.unpriced, trace.preview = row[8:11]
            trace.rank = (bool(row[11]), row[12], row[13])
        self._traces[trace_id] = trace
        return trace

    def _row(self, number: int, trace: int, ready: Ready) -> tuple[Any, ...]:
        span = ready.span
        known = self._database.numbers
        name, *others = (known[text] if text in known else rows.number_of(self._database, text) for text in ready.names)
        return (
            number,
            trace,
            ready.span_id,
            ready.parent_id,
            name,
            span.start,
            span.end - span.start,
            ready.flags,
            *others,
            span.input_tokens,
            span.output_tokens,
            span.cached_input_tokens,
            span.reasoning_tokens,
            span.http_status,
            span.attempts,
            span.cost,
            span.ttft,
        )

    def _count(self, span: Span) -> None:
        model = rows.model_of(span)
        tally = self._tally
        for field, text in enumerate(
            (
                model,
                span.provider,
                span.route,
                span.key_id,
                span.release,
                span.operation,
                span.error_type,
                span.session_id,
                span.user_id,
            )
        ):
            if text:
                tally[field, text] = tally.get((field, text), 0) + 1
        if span.operation in rows.CALLS:
            key = (span.start // HOUR, model, span.provider, span.route, span.key_id, span.release)
            group = self._groups.get(key)
            if group is None:
                group = self._groups[key] = _Group()
            group.add(span)

    def _roll_up(self, key: _GroupKey, group: _Group) -> None:
        numbers = (key[0], *(rows.number_of(self._database, text) for text in key[1:]))
        row = self._run(
            """
            SELECT duration, ttft FROM rollup
            WHERE hour = ? AND model = ? AND provider = ? AND route = ? AND key = ? AND release = ?
            """,
            numbers,
        ).fetchone()
        if row is not None:
            histogram.merge(group.duration, row[0])
            histogram.merge(group.ttft, row[1])
        self._run(
            """
            INSERT INTO rollup VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT DO UPDATE SET requests = requests + excluded.requests, errors = errors + excluded.errors,
                input_tokens = input_tokens + excluded.input_tokens,
                output_tokens = output_tokens + excluded.output_tokens, cost = cost + excluded.cost,
                unpriced = unpriced + excluded.unpriced, duration = excluded.duration, ttft = excluded.ttft
            """,
            (
                *numbers,
                group.requests,
                group.errors,
                group.input,
                group.output,
                group.cost,
                group.unpriced,
                histogram.pack(group.duration),
                histogram.pack(group.ttft),
            ),
        )


# Scores


class _Value(msgspec.Struct, frozen=True):
    value: bool | int | float | str


def add_scores(database: Database, scores: Iterable[Score]) -> Written:
    """Add or replace scores in one durable transaction. One with the same id replaces it unless it is older."""
    run = database.connection.execute
    inserted = duplicates = 0
    run("BEGIN IMMEDIATE")
    try:
        for score in scores:
            row = (
                score.id,
                score.trace_id,
                score.span_id,
                score.session_id,
                score.name,
                orjson.dumps(score.value).decode(),
                score.source,
                score.author,
                score.comment,
                score.time,
            )
            old = run("SELECT * FROM score WHERE id = ?", (score.id,)).fetchone()
            if old is not None and (old == row or old[-1] > score.time):
                duplicates += 1
                continue
            run("INSERT OR REPLACE INTO score VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            inserted += 1
        run("COMMIT")
    except BaseException:
        database.connection.rollback()
        raise
    return Written(inserted, duplicates)

"""The part of a write that needs no database: checks, words, compression. Done in the caller's thread."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import msgspec

from detent.kernel.clock import day_of
from detent.kernel.errors import InvalidInput
from detent.kernel.telemetry import Batch, Score, Span
from detent.store.lake import content, rows
from detent.store.lake.files import folder_name
from detent.store.lake.text import index_words


class Ready(msgspec.Struct, frozen=True, gc=False):
    """A span with everything made of it that the tables need."""

    span: Span
    trace_id: bytes
    span_id: bytes
    parent_id: bytes | None
    names: tuple[str, ...]
    flags: int
    words: str


class Chunk(msgspec.Struct, frozen=True):
    """Spans of one day that share a block."""

    spans: tuple[Ready, ...]
    block: bytes


class Order(msgspec.Struct, frozen=True):
    """A batch made ready: chunks by project and day, scores by project."""

    chunks: dict[tuple[str, str], list[Chunk]]
    scores: dict[str, list[Score]]
    spans: int


def prepare(batch: Batch) -> Order:
    """Make a batch ready.

    Raises:
        InvalidInput: a span or score cannot be stored; nothing of the batch is.
    """
    chunks: dict[tuple[str, str], list[Chunk]] = {}
    places = [(span.project, day_of(span.start) if span.start > 0 else "", span) for span in batch.spans]
    if len({place[:2] for place in places}) > 1:
        places.sort(key=lambda place: place[:2])
    for (project, day), group in groupby(places, key=lambda place: place[:2]):
        if not day:
            raise InvalidInput("A span starts after 1970.", field="start")
        folder_name(project)
        spans = [span for _, _, span in group]
        chunks[project, day] = [_chunk(part) for part in content.chunks(spans)]
    scores: dict[str, list[Score]] = {}
    for score in batch.scores:
        folder_name(score.project)
        scores.setdefault(score.project, []).append(_check_score(score))
    return Order(chunks, scores, len(batch.spans))


def _chunk(spans: Sequence[Span]) -> Chunk:
    try:
        return Chunk(tuple(map(_ready, spans)), content.pack([content.content_of(span) for span in spans]))
    except (UnicodeEncodeError, OverflowError, TypeError) as error:
        raise InvalidInput(f"A span holds text or a number that has no stored form: {error}.") from None


def _ready(span: Span) -> Ready:
    trace_id, span_id, parent_id = rows.check(span)
    names = rows.names_of(span)
    for name in names:
        if not name.isascii():
            name.encode()  # a lone surrogate is found here, before the transaction
    return Ready(span, trace_id, span_id, parent_id, names, rows.flags_of(span), index_words(span))


def _check_score(score: Score) -> Score:
    if not score.id or not score.name:
        raise InvalidInput("A score has an id and a name.", field="id" if score.name else "name")
    if not (score.trace_id or score.span_id or score.session_id):
        raise InvalidInput("A score names a trace, a span or a session.", field="trace_id")
    if not 0 <= score.time < 2**63:
        raise InvalidInput("A score's time is nanoseconds since 1970.", field="time")
    for text in (score.id, score.name, score.trace_id, score.span_id, score.session_id, score.author, score.comment):
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                raise InvalidInput("A score holds a lone surrogate.", hint="Send valid Unicode.") from None
    return score

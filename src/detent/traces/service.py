"""What people and programs do with telemetry: list, read, measure, write, score. Rights are checked here."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from detent.kernel.clock import Clock
from detent.kernel.errors import Forbidden, InvalidInput, NotFound, TooLarge
from detent.kernel.identity import Permission, Principal
from detent.kernel.ids import Ids
from detent.kernel.ports import GroupField, Lake
from detent.kernel.telemetry import (
    Batch,
    MetricQuery,
    MetricRow,
    Score,
    Span,
    SpanFilter,
    TracePage,
    Written,
)

MAX_BATCH = 10_000
"""Spans and scores that one call may write."""

_MAX_NAME = 200
_MAX_COMMENT = 10_000
_MAX_PLAIN = 256


class Traces:
    """The verbs of the room. A caller sees its own project and nothing else.

    Content (input, output, a score's comment, snippets) is for those who may read it; to all others it is empty, and
    asking for text, or for an attribute that carries it, would tell it bit by bit and is refused.
    """

    def __init__(self, lake: Lake, *, clock: Clock, ids: Ids) -> None:
        self._lake = lake
        self._clock = clock
        self._ids = ids

    def list(self, caller: Principal, where: SpanFilter, *, limit: int = 50, after: str = "") -> TracePage:
        """Traces with a matching span, newest first.

        Raises:
            Forbidden: the caller may not read traces, or asks for content without the right to it.
        """
        caller.require(Permission.TRACES_READ)
        where = msgspec.structs.replace(where, project=caller.project)
        if caller.may(Permission.CONTENT_READ):
            return self._lake.traces(where, limit=limit, after=after)
        if where.text or any(_is_content(key, value) for key, value in where.attributes.items()):
            raise Forbidden(
                "Searching content needs the permission 'content:read'.", hint="Filter by other fields instead."
            )
        page = self._lake.traces(where, limit=limit, after=after)
        rows = tuple(msgspec.structs.replace(row, root=_bare(row.root), snippet="") for row in page.rows)
        return TracePage(rows, page.after)

    def get(self, caller: Principal, trace_id: str) -> tuple[Span, ...]:
        """All spans of a trace, by start time.

        Raises:
            NotFound: there is none in the caller's project.
        """
        caller.require(Permission.TRACES_READ)
        spans = self._lake.trace(caller.project, trace_id)
        if not spans:
            raise NotFound("There is no such trace.", hint="See `detent traces list`.", field="trace_id")
        return spans if caller.may(Permission.CONTENT_READ) else tuple(map(_bare, spans))

    def metrics(self, caller: Principal, query: MetricQuery) -> tuple[MetricRow, ...]:
        """Totals and percentiles of model calls."""
        caller.require(Permission.TRACES_READ)
        return self._lake.metrics(msgspec.structs.replace(query, project=caller.project))

    def values(self, caller: Principal, field: GroupField) -> tuple[str, ...]:
        """What a field was lately, most frequent first."""
        caller.require(Permission.TRACES_READ)
        return self._lake.values(caller.project, field)

    def write(self, caller: Principal, batch: Batch) -> Written:
        """Store spans and scores in the caller's project, whatever project they name. Durable when it returns.

        Raises:
            TooLarge: more than 10,000 at once.
            TooMany: the lake is behind.
        """
        caller.require(Permission.TRACES_WRITE)
        if batch.scores:
            caller.require(Permission.SCORES_WRITE)
        if len(batch.spans) + len(batch.scores) > MAX_BATCH:
            raise TooLarge(f"A write holds at most {MAX_BATCH} spans and scores.", hint="Send several.")
        project, author = caller.project, str(caller.actor)
        return self._lake.write(
            Batch(
                tuple(s if s.project == project else msgspec.structs.replace(s, project=project) for s in batch.spans),
                tuple(
                    msgspec.structs.replace(_checked(score), project=project, author=score.author or author)
                    for score in batch.scores
                ),
            )
        )

    def score(
        self,
        caller: Principal,
        *,
        trace_id: str,
        span_id: str = "",
        name: str,
        value: bool | float | str,
        comment: str = "",
        source: Literal["user", "reviewer", "code", "judge"] = "user",
        id: str = "",
    ) -> Score:
        """Judge a trace or one of its spans. The same `id` again replaces the earlier judgement.

        Raises:
            NotFound: the caller's project has no such trace or span.
        """
        caller.require(Permission.SCORES_WRITE)
        spans = self._lake.trace(caller.project, trace_id)
        if not spans:
            raise NotFound("There is no such trace.", hint="A call is seen a moment after it ends.", field="trace_id")
        if span_id and all(span.span_id != span_id for span in spans):
            raise NotFound("The trace has no such span.", field="span_id")
        score = _checked(
            Score(
                id=id or self._ids.new(),
                project=caller.project,
                trace_id=trace_id,
                span_id=span_id,
                session_id=next((span.session_id for span in spans if span.session_id), ""),
                name=name,
                value=value,
                comment=comment,
                source=source,
                author=str(caller.actor),
                time=self._clock.now(),
            )
        )
        self._lake.write(Batch(scores=(score,)))
        return score

    def scores(self, caller: Principal, trace_id: str = "", name: str = "", limit: int = 100) -> tuple[Score, ...]:
        """Scores, newest first."""
        caller.require(Permission.TRACES_READ)
        scores = self._lake.scores(caller.project, trace_id=trace_id, name=name, limit=min(max(limit, 1), 1000))
        if caller.may(Permission.CONTENT_READ):
            return scores
        return tuple(msgspec.structs.replace(score, comment="") for score in scores)


def _bare(span: Span) -> Span:
    """Without content. Attributes go too unless they are short and plain and no convention puts content there."""
    attributes = {key: value for key, value in span.attributes.items() if not _is_content(key, value)}
    return msgspec.structs.replace(span, input="", output="", attributes=attributes)


_CONTENT_KEYS = (
    "content",
    "message",
    "prompt",
    "completion",
    "input",
    "output",
    "arguments",
    "result",
    "instructions",
    "query",
    "document",
    "text",
    "body",
    "description",
    "stacktrace",
)


def _is_content(key: str, value: object) -> bool:
    if value is None or isinstance(value, bool | int | float):
        return False
    if not isinstance(value, str) or len(value) > _MAX_PLAIN:
        return True
    name = key.lower()
    return any(word in name for word in _CONTENT_KEYS)


def _checked(score: Score) -> Score:
    if not score.name or len(score.name) > _MAX_NAME:
        raise InvalidInput(f"A score's name has 1 to {_MAX_NAME} letters.", field="name")
    if len(score.id) > _MAX_NAME:
        raise InvalidInput(f"A score's id has at most {_MAX_NAME} letters.", field="id")
    if isinstance(score.value, float) and not math.isfinite(score.value):
        raise InvalidInput("A score's value is finite.", field="value")
    if isinstance(score.value, int) and abs(score.value) >= 2**53:
        raise InvalidInput("A score's value is a number below 2^53.", field="value")
    if len(score.comment) > _MAX_COMMENT or (isinstance(score.value, str) and len(score.value) > _MAX_COMMENT):
        raise TooLarge(f"A score's text has at most {_MAX_COMMENT} letters.", field="comment")
    return score

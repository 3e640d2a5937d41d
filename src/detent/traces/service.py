"""What people and programs do with telemetry: list, read, measure, write, score. Rights are checked here."""

from __future__ import annotations

from typing import Literal

from detent.kernel.clock import Clock
from detent.kernel.identity import Principal
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


class Traces:
    """The verbs of the room. A caller sees its own project and nothing else."""

    def __init__(self, lake: Lake, *, clock: Clock, ids: Ids) -> None:
        self._lake = lake
        self._clock = clock
        self._ids = ids

    def list(self, caller: Principal, where: SpanFilter, *, limit: int = 50, after: str = "") -> TracePage:
        raise NotImplementedError

    def get(self, caller: Principal, trace_id: str) -> tuple[Span, ...]:
        raise NotImplementedError

    def metrics(self, caller: Principal, query: MetricQuery) -> tuple[MetricRow, ...]:
        raise NotImplementedError

    def values(self, caller: Principal, field: GroupField) -> tuple[str, ...]:
        raise NotImplementedError

    def write(self, caller: Principal, batch: Batch) -> Written:
        raise NotImplementedError

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
        raise NotImplementedError

    def scores(self, caller: Principal, trace_id: str = "", name: str = "", limit: int = 100) -> tuple[Score, ...]:
        raise NotImplementedError

"""The Lake port on SQLite day files."""

from __future__ import annotations

from pathlib import Path

from detent.kernel.clock import Clock
from detent.kernel.ports import GroupField
from detent.kernel.telemetry import (
    Batch,
    MetricQuery,
    MetricRow,
    Partition,
    Score,
    Span,
    SpanFilter,
    TracePage,
    Written,
)


class SqliteLake:
    """Telemetry in one folder."""

    def write(self, batch: Batch) -> Written:
        raise NotImplementedError

    def traces(self, where: SpanFilter, *, limit: int = 50, after: str = "") -> TracePage:
        raise NotImplementedError

    def trace(self, project: str, trace_id: str) -> tuple[Span, ...]:
        raise NotImplementedError

    def metrics(self, query: MetricQuery) -> tuple[MetricRow, ...]:
        raise NotImplementedError

    def scores(self, project: str, *, trace_id: str = "", name: str = "", limit: int = 100) -> tuple[Score, ...]:
        raise NotImplementedError

    def values(self, project: str, field: GroupField, *, limit: int = 100) -> tuple[str, ...]:
        raise NotImplementedError

    def partitions(self) -> tuple[Partition, ...]:
        raise NotImplementedError

    def seal(self, project: str, day: str) -> Partition:
        raise NotImplementedError

    def retain(self, project: str, *, before: str) -> int:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


def open_lake(folder: Path, *, clock: Clock) -> SqliteLake:
    """Open the lake in a folder, made if need be."""
    raise NotImplementedError(folder, clock)

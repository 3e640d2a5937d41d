"""Totals and percentiles out of the hourly roll-ups."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from detent.kernel.clock import HOUR
from detent.kernel.errors import InvalidInput
from detent.kernel.telemetry import MetricQuery, MetricRow
from detent.store.lake import histogram, rows
from detent.store.lake.files import Files

_PERCENTILES: Final = (0.5, 0.95, 0.99)
_COLUMNS: Final = {"model": 1, "provider": 2, "route": 3, "key": 4, "release": 5}


class _Sum:
    __slots__ = ("counts", "durations", "ttfts")

    def __init__(self) -> None:
        self.counts = [0] * 6
        self.durations: histogram.Histogram = {}
        self.ttfts: histogram.Histogram = {}


def measure(files: Files, query: MetricQuery, days: Iterable[Path]) -> tuple[MetricRow, ...]:
    """Add up the hours of the given days, by bucket and group; ordered by both."""
    try:
        columns = [_COLUMNS[name] for name in query.group_by]
    except KeyError as unknown:
        raise InvalidInput(f"Metrics cannot be grouped by {unknown}.", field="group_by") from None
    first, end = query.since // HOUR, -(-query.until // HOUR)
    sums: dict[tuple[int, tuple[str, ...]], _Sum] = {}
    for path in days:
        with files.reading(path) as database:
            text: dict[int, str] = {}
            for row in database.connection.execute("SELECT * FROM rollup WHERE hour >= ? AND hour < ?", (first, end)):
                group = []
                for column in columns:
                    number = row[column]
                    if number not in text:
                        text[number] = rows.text_of(database, number)
                    group.append(text[number])
                start = row[0] * HOUR // query.bucket * query.bucket if query.bucket else query.since
                _add(sums, (start, tuple(group)), row)
    return tuple(_row(start, query, group, sums[start, group]) for start, group in sorted(sums))


def _add(sums: dict[tuple[int, tuple[str, ...]], _Sum], key: tuple[int, tuple[str, ...]], row: tuple[Any, ...]) -> None:
    total = sums.get(key)
    if total is None:
        total = sums[key] = _Sum()
    total.counts = [have + more for have, more in zip(total.counts, row[6:12], strict=True)]
    histogram.merge(total.durations, row[12])
    histogram.merge(total.ttfts, row[13])


def _row(start: int, query: MetricQuery, group: tuple[str, ...], total: _Sum) -> MetricRow:
    requests, errors, input_tokens, output_tokens, cost, unpriced = total.counts
    return MetricRow(
        start=start,
        group=dict(zip(query.group_by, group, strict=True)),
        requests=requests,
        errors=errors,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cost=cost,
        unpriced=unpriced,
        duration=_three(total.durations),
        ttft=_three(total.ttfts),
    )


def _three(counted: histogram.Histogram) -> tuple[int, int, int] | None:
    found = histogram.percentiles(counted, _PERCENTILES)
    return (found[0], found[1], found[2]) if found else None

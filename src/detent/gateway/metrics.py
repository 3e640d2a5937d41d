"""Counters of the data plane, in Prometheus' text form.

Workers share one port, so a scrape reaches any of them: each keeps its counters in a file, and whoever is asked adds
up all files. A worker that starts again goes on from its own file, and a worker writes its file before it answers, so
no counter that was ever shown goes back.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from detent.kernel.clock import SECOND
from detent.kernel.telemetry import Span

_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

COUNTERS: Final = {
    "detent_gateway_requests_total": "Calls by route and status as answered.",
    "detent_gateway_refused_total": "Calls refused before any provider was asked, by error code.",
    "detent_gateway_attempts_failed_total": "Attempts at a provider that failed, by provider and error code.",
    "detent_gateway_tokens_total": "Tokens by route and kind (input, output, cached_input, reasoning).",
    "detent_gateway_cost_nanodollars_total": "Cost of priced calls by route, in 1e-9 USD.",
    "detent_gateway_unpriced_total": "Calls by route whose cost is unknown.",
    "detent_gateway_spans_shed_total": "Spans that were not recorded because the spool was full.",
    "detent_gateway_limits_degraded_total": "Calls let through by what this worker last knew of their limits.",
    "detent_gateway_limits_unreachable_total": "Failures to reach the shared counters of limits and budgets.",
    "detent_gateway_shadows_skipped_total": "Shadow copies that were not made for want of room or money, by route.",
    "detent_gateway_cache_hits_total": "Calls answered from the cache, by route and kind (exact, semantic).",
    "detent_gateway_responses_unsaved_total": "Responses whose state could not be kept.",
    "detent_gateway_snapshot_refused_total": "New snapshots that could not be read; the old one stayed.",
}
HISTOGRAMS: Final = {
    "detent_gateway_duration_seconds": "Time from request to the end of the answer, by route.",
    "detent_gateway_first_token_seconds": "Time from request to the first output of a stream, by route.",
}
GAUGES: Final = {
    "detent_gateway_inflight": "Calls in flight.",
    "detent_gateway_snapshot_position": "Ledger position of the snapshot in use; the oldest of all workers.",
    "detent_gateway_workers": "Workers that keep counters.",
}


class Sample(msgspec.Struct):
    """A histogram of one label set: how many fell in each bucket (the last one is open), and their sum."""

    buckets: list[int]
    total: float = 0.0


class Sheet(msgspec.Struct):
    """All figures of one worker; labels are part of the name, as Prometheus writes them."""

    counters: dict[str, dict[str, int]] = {}
    histograms: dict[str, dict[str, Sample]] = {}
    gauges: dict[str, float] = {}


class Metrics:
    """One worker's figures.

    Args:
        folder: where all workers keep their files.
        worker: this one's name.
    """

    def __init__(self, folder: Path, worker: str) -> None:
        self._folder = folder
        self._path = folder / f"metrics-{worker}.json"
        self._sheet = Sheet({name: {} for name in COUNTERS}, {name: {} for name in HISTOGRAMS}, {})
        self._written = b""
        self._labels: dict[tuple[str, int], tuple[str, ...]] = {}
        before = _read(self._path)
        for name, values in self._sheet.counters.items():
            values.update(before.counters.get(name, {}))
        for name, samples in self._sheet.histograms.items():
            samples.update(
                (labels, sample)
                for labels, sample in before.histograms.get(name, {}).items()
                if len(sample.buckets) == len(_BUCKETS) + 1
            )

    @property
    def gauges(self) -> dict[str, float]:
        """Figures that go up and down."""
        return self._sheet.gauges

    def count(self, name: str, labels: str = "", amount: int = 1) -> None:
        """Add to a counter."""
        values = self._sheet.counters[name]
        values[labels] = values.get(labels, 0) + amount

    def observe(self, name: str, labels: str, seconds: float) -> None:
        """Add a value to a histogram."""
        samples = self._sheet.histograms[name]
        sample = samples.get(labels)
        if sample is None:
            sample = samples[labels] = Sample([0] * (len(_BUCKETS) + 1))
        sample.buckets[bisect_left(_BUCKETS, seconds)] += 1
        sample.total += seconds

    def count_call(self, span: Span) -> None:
        """Count what a call's span says."""
        labels = self._labels.get((span.route, span.http_status))
        if labels is None:
            route = label(route=span.route)
            labels = (
                label(route=span.route, status=str(span.http_status)),
                route,
                *(f'{route},kind="{kind}"' for kind in ("input", "output", "cached_input", "reasoning")),
            )
            self._labels[span.route, span.http_status] = labels
        answered, route, *kinds = labels
        self.count("detent_gateway_requests_total", answered)
        self.observe("detent_gateway_duration_seconds", route, (span.end - span.start) / SECOND)
        if span.ttft is not None:
            self.observe("detent_gateway_first_token_seconds", route, span.ttft / SECOND)
        amounts = (span.input_tokens, span.output_tokens, span.cached_input_tokens, span.reasoning_tokens)
        for kind, amount in zip(kinds, amounts, strict=True):
            if amount:
                self.count("detent_gateway_tokens_total", kind, amount)
        if span.cost is None:
            self.count("detent_gateway_unpriced_total", route)
        elif span.cost:
            self.count("detent_gateway_cost_nanodollars_total", route, span.cost)

    def save(self) -> None:
        """Write this worker's file if anything changed. A disk that is full costs figures, never calls."""
        data = msgspec.json.encode(self._sheet)
        if data == self._written:
            return
        fresh = self._path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh.write_bytes(data)
            fresh.replace(self._path)
        except OSError:
            return
        self._written = data

    def text(self) -> str:
        """All workers' figures together, in text exposition format 0.0.4."""
        self.save()
        others = (_read(path) for path in sorted(self._folder.glob("metrics-*.json")) if path != self._path)
        return expose([self._sheet, *others])


def expose(sheets: Iterable[Sheet]) -> str:
    """Add sheets up and write them."""
    sheets = list(sheets)
    lines: list[str] = []
    for name, meaning in COUNTERS.items():
        lines += [f"# HELP {name} {meaning}", f"# TYPE {name} counter"]
        totals: defaultdict[str, int] = defaultdict(int)
        for sheet in sheets:
            for labels, value in sheet.counters.get(name, {}).items():
                totals[labels] += value
        lines += [f"{name}{_braces(labels)} {totals[labels]}" for labels in sorted(totals)]
    for name, meaning in HISTOGRAMS.items():
        lines += [f"# HELP {name} {meaning}", f"# TYPE {name} histogram"]
        lines += _histogram(name, [sheet.histograms.get(name, {}) for sheet in sheets])
    for name, meaning in GAUGES.items():
        values = [sheet.gauges[name] for sheet in sheets if name in sheet.gauges]
        figure = min(values, default=0.0) if name.endswith("position") else sum(values, 0.0)
        lines += [f"# HELP {name} {meaning}", f"# TYPE {name} gauge", f"{name} {figure:g}"]
    return "\n".join(lines) + "\n"


def label(**values: str) -> str:
    """Labels as Prometheus writes them."""
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in values.items())


def _histogram(name: str, parts: list[Mapping[str, Sample]]) -> list[str]:
    lines = []
    for labels in sorted({labels for part in parts for labels in part}):
        samples = [part[labels] for part in parts if labels in part and len(part[labels].buckets) == len(_BUCKETS) + 1]
        running = 0
        comma = "," if labels else ""
        for index, bound in enumerate((*_BUCKETS, float("inf"))):
            running += sum(sample.buckets[index] for sample in samples)
            edge = "+Inf" if bound == float("inf") else f"{bound:g}"
            lines.append(f'{name}_bucket{{{labels}{comma}le="{edge}"}} {running}')
        lines.append(f"{name}_sum{_braces(labels)} {sum(sample.total for sample in samples):.6f}")
        lines.append(f"{name}_count{_braces(labels)} {running}")
    return lines


def _braces(labels: str) -> str:
    return f"{{{labels}}}" if labels else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _read(path: Path) -> Sheet:
    """A worker's file; an empty sheet where there is none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Sheet)
    except (OSError, msgspec.MsgspecError):
        return Sheet()

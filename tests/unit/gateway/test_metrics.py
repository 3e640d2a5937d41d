"""Figures: added up over workers, never going back, in a form that Prometheus reads."""

from __future__ import annotations

from pathlib import Path

from detent.gateway.metrics import Metrics, label
from detent.kernel.telemetry import Span

REQUESTS = "detent_gateway_requests_total"


def lines(text: str, name: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(name)]


def test_workers_are_added_up(tmp_path: Path) -> None:
    one, two = Metrics(tmp_path, "0"), Metrics(tmp_path, "1")
    for metrics, amount in ((one, 3), (two, 4)):
        metrics.count(REQUESTS, label(route="a", status="200"), amount)
        metrics.observe("detent_gateway_duration_seconds", label(route="a"), 0.02)
        metrics.gauges["detent_gateway_inflight"] = amount
        metrics.gauges["detent_gateway_snapshot_position"] = amount * 10
        metrics.save()
    text = one.text()
    assert text == two.text()
    assert lines(text, REQUESTS) == [f'{REQUESTS}{{route="a",status="200"}} 7']
    assert lines(text, "detent_gateway_inflight") == ["detent_gateway_inflight 7"]
    assert lines(text, "detent_gateway_snapshot_position") == ["detent_gateway_snapshot_position 30"]
    buckets = lines(text, "detent_gateway_duration_seconds_bucket")
    assert 'le="0.01"} 0' in buckets[1]
    assert 'le="0.025"} 2' in buckets[2]
    assert 'le="+Inf"} 2' in buckets[-1]
    assert lines(text, "detent_gateway_duration_seconds_count") == [
        'detent_gateway_duration_seconds_count{route="a"} 2'
    ]


def test_a_restarted_worker_goes_on(tmp_path: Path) -> None:
    before = Metrics(tmp_path, "0")
    before.count(REQUESTS, amount=5)
    shown = before.text()  # whatever was shown was written first
    after = Metrics(tmp_path, "0")
    after.count(REQUESTS)
    assert lines(shown, REQUESTS) == [f"{REQUESTS} 5"]
    assert lines(after.text(), REQUESTS) == [f"{REQUESTS} 6"]


def test_damaged_and_old_files_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "metrics-0.json").write_bytes(b"{broken")
    (tmp_path / "metrics-7.json").write_bytes(
        b'{"histograms": {"detent_gateway_duration_seconds": {"": {"buckets": [1, 2], "total": 1}}}}'
    )
    metrics = Metrics(tmp_path, "0")
    metrics.count(REQUESTS)
    assert lines(metrics.text(), REQUESTS) == [f"{REQUESTS} 1"]


def test_a_full_disk_costs_figures_only(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    metrics = Metrics(tmp_path / "run", "0")
    metrics.count(REQUESTS)
    metrics.save()
    assert lines(metrics.text(), REQUESTS) == [f"{REQUESTS} 1"]


def test_a_call_is_counted_by_its_span(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, "0")
    span = Span(
        trace_id="t",
        span_id="s",
        name="chat a",
        start=0,
        end=2_000_000_000,
        route="a",
        http_status=200,
        input_tokens=7,
        output_tokens=3,
        cost=11,
        ttft=1_000_000,
    )
    metrics.count_call(span)
    metrics.count_call(Span(trace_id="t", span_id="r", name="chat a", start=0, end=1, route="a", http_status=200))
    text = metrics.text()
    assert lines(text, "detent_gateway_tokens_total") == [
        'detent_gateway_tokens_total{route="a",kind="input"} 7',
        'detent_gateway_tokens_total{route="a",kind="output"} 3',
    ]
    assert lines(text, "detent_gateway_cost_nanodollars_total") == [
        'detent_gateway_cost_nanodollars_total{route="a"} 11'
    ]
    assert lines(text, "detent_gateway_unpriced_total") == ['detent_gateway_unpriced_total{route="a"} 1']
    assert 'detent_gateway_first_token_seconds_count{route="a"} 1' in text


def test_labels_are_escaped() -> None:
    assert label(route='a"b\\c\nd') == 'route="a\\"b\\\\c\\nd"'

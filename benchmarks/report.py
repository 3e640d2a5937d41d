"""Run every benchmark and write docs/benchmarks.md: each figure beside its bar, and the machine it was measured on.

Usage: `make bench`, or `python benchmarks/report.py [NAME ...]`. With names, only those run; the others' last figures
stay. Results are kept in benchmarks/results.json. A benchmark is a script that prints one JSON object to stdout.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results.json"
PAGE = ROOT / "docs" / "benchmarks.md"


INTRODUCTION = """\
What is claimed about speed and size, measured by `make bench`. [How it is measured](../benchmarks/README.md). Absolute
times depend on the machine and on what else it does; CPU times and ratios carry over best.
"""
MORE = {
    "gateway.md": "The gateway beside others",
    "soak.md": "An hour under load",
    "resilience.md": "Outages, swaps and kills under load",
}
"""Pages of measurements that take longer, under docs/benchmarks/."""


class Figure(NamedTuple):
    """One line of the report.

    Attributes:
        what: measured, in words.
        path: where the figure stands in the benchmark's JSON, keys joined by slashes.
        unit: behind the number.
        bar: the bound; None when there is none.
        most: whether the bar is an upper bound (else a lower one).
    """

    what: str
    path: str
    unit: str
    bar: float | None = None
    most: bool = True


class Bench(NamedTuple):
    """A script with its figures; what it says about itself is its docstring."""

    title: str
    script: str
    arguments: tuple[str, ...]
    figures: tuple[Figure, ...]
    note: str = ""


BENCHES: dict[str, Bench] = {
    "gateway": Bench(
        "Gateway",
        "gateway.py",
        (),
        (
            Figure("answer in one piece", "cpu_ms/whole", "ms CPU", 0.15),
            Figure("stream of 67 events at once", "cpu_ms/burst", "ms CPU", 0.45),
            Figure("stream of 67 events, 5 ms apart", "cpu_ms/paced", "ms CPU", 2.2),
            Figure("answer in one piece, provider over TLS", "cpu_ms/whole_tls", "ms CPU"),
            Figure("stream at once, provider over TLS", "cpu_ms/burst_tls", "ms CPU"),
            Figure("added to an answer at 200 requests/s, p50", "added_ms/total/p50", "ms", 1),
            Figure("added to an answer at 200 requests/s, p99", "added_ms/total/p99", "ms", 5),
            Figure("added to the first token, p50", "added_ms/first_token/p50", "ms", 1),
            Figure("a worker's memory after load", "megabytes_after_load", "MB", 120),
            Figure("start to ready", "ready_seconds", "s", 2),
        ),
        "One worker with everything on: key, route, price, metrics, and a span with its content spooled for each call.",
    ),
    "overload": Bench(
        "Overload",
        "overload.py",
        (),
        (
            Figure("at twice the capacity: no control", "loads/2/none/goodput", "good/s"),
            Figure("the best cap, in order of arrival", "loads/2/fifo/goodput", "good/s"),
            Figure("the best fixed cap, newest first, shed by deadline", "loads/2/static/goodput", "good/s"),
            Figure("Detent", "loads/2/detent/goodput", "good/s"),
            *(
                Figure(
                    f"Detent, of the best of all, at {load} of capacity", f"loads/{load}/of_best", "", 0.95, most=False
                )
                for load in ("0.5", "1", "1.5", "2", "3")
            ),
            *(
                Figure(
                    f"time to first token of who was served, p99, at {load}", f"loads/{load}/detent/first_p99", "s", 1
                )
                for load in ("0.5", "1", "1.5", "2", "3")
            ),
        ),
        "Requests per second that meet the objective: first token within 1 s, 60 ms per token. A simulated engine with "
        "continuous batching and a capacity of 4.3 requests/s; Poisson arrivals; the gate is the product's own. Its "
        "constants were chosen on other seeds than those reported.",
    ),
    "overload_live": Bench(
        "Overload, through the gateway",
        "overload.py",
        ("--through-gateway",),
        (
            Figure("at twice the capacity: the engine without a gateway", "loads/2/direct/goodput", "good/s"),
            Figure("seven at most, in order of arrival", "loads/2/fifo/goodput", "good/s"),
            Figure("the best fixed cap, newest first, shed by deadline", "loads/2/static/goodput", "good/s"),
            Figure("Detent", "loads/2/detent/goodput", "good/s"),
            *(
                Figure(
                    f"Detent, of the best of all, at {load} of capacity", f"loads/{load}/of_best", "", 0.95, most=False
                )
                for load in ("0.5", "1", "1.5", "2", "3")
            ),
            *(
                Figure(
                    f"time to first token of who was served, p99, at {load}", f"loads/{load}/detent/first_p99", "s", 1
                )
                for load in ("0.5", "1", "1.5", "2", "3")
            ),
            Figure("how late the client was, p99: beyond, figures mean nothing", "client_late_p99_ms", "ms", 20),
        ),
        "The same in real time, as the client sees it: a gateway worker, and for each load and way an engine that is a "
        "server on loopback, all at once. The best of all is one of three fixed caps or order of arrival, found "
        "afterwards. At half the capacity a minute has too few bursts for the limit to be found: Detent is then as "
        "good as the engine without it, which a cap that was right from the start betters.",
    ),
    "spool": Bench(
        "Spool",
        "spool.py",
        (),
        (
            Figure("encoding a span of 3 kB", "write/encode_cpu_us", "us CPU"),
            Figure("appending it", "write/append_cpu_us", "us CPU"),
            Figure("appending it, p99", "write/append_p99_us", "us"),
            Figure("from the spool into the lake", "ingest/spans_per_cpu_second", "spans per CPU-s", 6000, most=False),
        ),
    ),
    "lake": Bench(
        "Lake",
        "lake.py",
        (),
        (
            Figure("stored and queryable", "load/spans_per_second", "spans/s", 3000, most=False),
            Figure("stored and queryable, by CPU", "load/spans_per_cpu_second", "spans per CPU-s", 6000, most=False),
            Figure("a request of 200 spans, four senders, p99", "load/request_p99_ms", "ms", 500),
            Figure("a span on the disk", "load/bytes_per_span", "bytes", 3000),
            Figure("a span on the disk, sealed", "seal/bytes_per_span", "bytes", 1200),
            Figure("latest 50 traces, cold", "hot/latest_50/cold_ms", "ms", 20),
            Figure("latest 50 traces, warm", "hot/latest_50/warm_ms", "ms", 2),
            Figure("full text, rare word, cold", "hot/text_rare/cold_ms", "ms", 100),
            Figure("full text, rare word, warm", "hot/text_rare/warm_ms", "ms"),
            Figure("full text, frequent word, warm", "hot/text_common/warm_ms", "ms"),
            Figure("p50, p95 and cost by model and hour, 7 days", "hot/metrics_model_hour/cold_cpu_ms", "ms CPU", 50),
            Figure("a trace of a sealed day, cold", "sealed/trace/cold_ms", "ms"),
        ),
        "OTLP requests of 200 spans of 3.3 kB, decoded and written by one process. `--spans 1000000` is the big one.",
    ),
    "ledger": Bench(
        "Ledger",
        "ledger.py",
        (),
        (
            Figure("a fact over a plain insert, batches of 100", "append/batch_100/cpu_us_over_plain", "us CPU", 5),
            Figure("verification", "verify/facts_per_cpu_second", "facts per CPU-s", 400_000, most=False),
            Figure("verification, all views folded too", "verify/facts_per_cpu_second_with_views", "facts per CPU-s"),
        ),
    ),
    "tiny": Bench(
        "Embedded model",
        "tiny.py",
        (),
        (
            Figure("an answer, in process, p50", "in_process/answer_cpu_ms/p50", "ms CPU", 6),
            Figure("an answer, in process, p95", "in_process/answer_cpu_ms/p95", "ms CPU"),
            Figure("tokens", "in_process/tokens_per_cpu_second", "per CPU-s"),
            Figure("an answer over HTTP", "http/whole/cpu_ms", "ms CPU"),
            Figure("engine ready", "http/ready_seconds", "s"),
            Figure("engine's memory", "http/megabytes", "MB"),
        ),
    ),
    "footprint": Bench(
        "Footprint",
        "footprint.py",
        (),
        (
            Figure("packages of a default installation", "install/packages", "", 45),
            Figure("installed size", "install/megabytes", "MB", 250),
            Figure("`detent --help`", "help_cpu_seconds", "s CPU", 0.2),
            Figure("console assets", "assets_megabytes", "MB", 0.5),
            Figure("`detent up`, empty folder to ready", "up/ready_seconds", "s", 6),
            Figure("memory of all processes without the engine, idle", "up/megabytes_without_engine", "MB", 350),
        ),
    ),
}


def figure_of(result: Any, path: str) -> float | None:
    """The number at a path; None where there is none."""
    for key in path.split("/"):
        if not isinstance(result, dict) or key not in result:
            return None
        result = result[key]
    return result if isinstance(result, int | float) and not isinstance(result, bool) else None


def machine() -> dict[str, str]:
    """The machine, without its name."""
    cpu = memory = ""
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemTotal"):
            memory = f"{int(line.split()[1]) / 1_048_576:.0f} GiB"
    return {
        "processor": f"{cpu or platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "memory": memory,
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
    }


def _lines(path: str) -> Iterator[str]:
    if Path(path).exists():
        yield from Path(path).read_text().splitlines()


def run(bench: Bench) -> dict[str, Any]:
    """Run one benchmark; what it printed, or why it did not."""
    script = ROOT / "benchmarks" / bench.script
    if not script.exists():
        return {"failed": "there is no such script"}
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(script), *bench.arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        return {"failed": f"exited with {done.returncode}"}
    try:
        result = json.loads(done.stdout[done.stdout.index("{") :])
    except ValueError:
        return {"failed": "printed no JSON"}
    return {"result": result, "seconds": round(time.monotonic() - begun, 1)}


def shown(value: float) -> str:
    """A number for people."""
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def page(results: dict[str, Any], benches: dict[str, Bench], folder: Path = PAGE.parent) -> str:
    """The report, as it stands in a folder."""
    parts = [
        "<!-- Written by benchmarks/report.py. -->\n# Benchmarks\n",
        INTRODUCTION,
    ]
    longer = [
        f"- [{title}](benchmarks/{name})" for name, title in MORE.items() if (folder / "benchmarks" / name).exists()
    ]
    if longer:
        parts.append("On pages of their own:\n\n" + "\n".join(longer) + "\n")
    for name, bench in benches.items():
        last = results.get(name, {})
        parts.append(f"## {bench.title}\n")
        if "result" not in last:
            parts.append(f"Not measured: {last.get('failed', 'not run yet')}.\n")
            continue
        lines = ["| what | measured | bar | |", "| --- | ---: | ---: | --- |"]
        for figure in bench.figures:
            value = figure_of(last["result"], figure.path)
            bar = "" if figure.bar is None else f"{'<=' if figure.most else '>='} {shown(figure.bar)}"
            met = ""
            if value is not None and figure.bar is not None:
                met = "met" if (value <= figure.bar if figure.most else value >= figure.bar) else "**missed**"
            measured = "-" if value is None else f"{shown(value)} {figure.unit}".rstrip()
            lines.append(f"| {figure.what} | {measured} | {bar} | {met} |")
        parts.append("\n".join(lines) + "\n")
        if bench.note:
            parts.append(bench.note + "\n")
        at = last["machine"]
        parts.append(
            f"`benchmarks/{bench.script}`, {last['date']}, {last['seconds']:.0f} s, on {at['processor']}, "
            f"{at['memory']}, {at['system']}, Python {at['python']}.\n"
        )
    return "\n".join(parts)


def kept(root: Path = ROOT) -> dict[str, Any]:
    """The last results of a tree."""
    path = root / RESULTS.relative_to(ROOT)
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def write(root: Path = ROOT) -> None:
    """A tree's page, from its last results."""
    path = root / PAGE.relative_to(ROOT)
    path.write_text(page(kept(root), BENCHES, path.parent))


def main(arguments: list[str]) -> int:
    """Run, keep, write."""
    results = kept()
    failed = False
    for name in [n for n in arguments if n in BENCHES] or ([] if "--write" in arguments else list(BENCHES)):
        print(f"--- {name}", file=sys.stderr, flush=True)
        found = run(BENCHES[name])
        failed |= "failed" in found
        if "result" in found or "result" not in results.get(name, {}):
            results[name] = {**found, "date": dt.datetime.now(dt.UTC).date().isoformat(), "machine": machine()}
        if "failed" in found:
            print(f"{name}: {found['failed']}", file=sys.stderr)
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    write()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

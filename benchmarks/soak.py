"""An hour of mixed traffic: memory flat, nothing leaked, every call answered as it should be and recorded once.

    python benchmarks/soak.py [--minutes 60] [--rate 50] [--only worker|whole] [--root TREE]

Two stages at the same time, each at the rate given: `worker`, one gateway worker with everything on whose spool is read
off by this script, and `whole`, a `detent up` with all its parts, whose spans are counted in the lake. Both swap their
configuration all the while. Results go to benchmarks/soak.json and docs/benchmarks/soak.md of this tree or of `--root`
(so that it can run from a frozen copy); a run of less than 30 minutes is a trial and goes to build/bench/. Exit status
1 when a bound was broken:

- every call came out as its kind should: answers whole, failures told as errors;
- spans recorded = calls made, each exactly once, also of clients that left;
- memory: the growth after the warm-up, by a robust line through all samples (Theil-Sen), is at most 4 MB over the run
  for a gateway worker, which has at most 120 MB, and 10 MB for the other processes;
- file descriptors when all is quiet again: no more than before the traffic (for the other processes, whose pools open
  at their first use, no more than after the warm-up), by a tolerance of 4; threads: no more in the second half than in
  the first;
- no call is in flight at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import datetime as dt
import http.client
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import uvloop

import charts
import detent
import report
from detent.gateway.keys import hash_token
from detent.gateway.model import Route, Target, Unit
from detent.gateway.snapshot import KeyEntry, ProviderEntry, RouteEntry, Snapshot, TargetEntry, publish
from detent.kernel.identity import Permission
from detent.kernel.money import Price
from detent.traces.spool import SpoolReader, decode
from peers.subjects import everything_on, spawn
from processes import Sampler, descriptors, free_port, megabytes, threads
from traffic import Kind, Tally, Traffic

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
GROWTH_MB: Final = 4.0
OTHERS_GROWTH_MB: Final = 10.0
WORKER_MB: Final = 120.0
MORE_DESCRIPTORS: Final = 4
WARM_UP: Final = 0.15
"""Share of the run before memory is judged."""
TRIAL_MINUTES: Final = 30
QUIET_SECONDS: Final = 75.0
"""How long idle connections may take to be given back."""
WARM_SECONDS: Final = 4.0
SETTLE_SECONDS: Final = 2.0
SWAP_SECONDS: Final = 5.0
PRICE: Final = Price(150_000, 600_000)
ROUTES: Final = {
    "chat": ("good/mock-model",),
    "flaky": ("bad/fail-500", "good/mock-model"),
    "broken": ("bad/fail-500",),
    "limited": ("bad/fail-429",),
    "cut": ("bad/fail-cut",),
}
KINDS: Final = (
    Kind("whole", 45, "chat"),
    Kind("stream", 25, "chat", stream=True),
    Kind("client leaves within a stream", 8, "chat", stream=True, leave_ms=120),
    Kind("client leaves before the answer", 4, "chat", leave_ms=15),
    Kind("first provider fails", 8, "flaky"),
    Kind("all providers fail", 4, "broken", fails=True),
    Kind("provider limits", 3, "limited", fails=True),
    Kind("provider cuts the stream", 3, "cut", stream=True, fails=True),
)

INTRODUCTION: Final = """\
{minutes:g} minutes of mixed traffic at {rate:g} calls/s on each stage: whole answers, streams, clients that leave,
providers that fail, cut and limit, several keys and routes, and a new configuration every {swap:g} seconds. The bounds
are stated in `benchmarks/soak.py`; breaking one fails the run.
"""


class Stage(ABC):
    """Something under load.

    Attributes:
        port: of its gateway.
        keys: that its callers send.
    """

    name: str
    port: int
    keys: Sequence[str]

    @abstractmethod
    def processes(self) -> dict[str, int]:
        """Its processes by name."""

    @abstractmethod
    def swap(self) -> None:
        """Give it a new configuration."""

    @abstractmethod
    def recorded(self, calls: int) -> collections.Counter[str]:
        """How often each trace was recorded, when as many spans as there were calls have come, or after a while."""

    @abstractmethod
    def spool_megabytes(self) -> float:
        """What lies in its spool."""

    @abstractmethod
    def stop(self) -> None:
        """End it."""


class WorkerStage(Stage):
    """One gateway worker; this script is its control plane and reads its spool."""

    name = "worker"

    def __init__(
        self,
        home: Path,
        providers: Mapping[str, str],
        *,
        routes: Mapping[str, Sequence[str]] = ROUTES,
        rules: Route | None = None,
        **settings: str,
    ) -> None:
        self.keys = [f"dtk_{letter * 43}" for letter in "abc"]
        self._home = home
        self._providers = providers
        self._routes = routes
        self._rules = rules or Route(name="", project="", targets=())
        self._position = 0
        self.swap()
        self.port = free_port()
        environment = {"DETENT_HOME": str(home), "DETENT_GATEWAY_PORT": str(self.port), **own_tree(), **settings}
        self._process = spawn([sys.executable, "-m", "detent.gateway"], home / "log", environment)
        self._reader = SpoolReader(home / "spool")
        self._counts: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read_often, daemon=True)
        self._thread.start()
        until(lambda: answers(self.port, "/readyz"), 30, "the worker is ready")

    def processes(self) -> dict[str, int]:
        return {"gateway": self._process.pid}

    def swap(self) -> None:
        self._position += 1
        base = everything_on("")
        tokens = [*self.keys, f"dtk_{self._position:043d}"]
        rights = (Permission.GATEWAY_CALL,)
        routes = {}
        for name, targets in self._routes.items():
            split = [target.partition("/") for target in targets]
            found = tuple(TargetEntry(f"default/{provider}", model, 1, PRICE) for provider, _, model in split)
            routes[f"default/{name}"] = RouteEntry(name, "default", 0, found, self._rules)
        snapshot = Snapshot(
            base.format,
            self._position,
            time.time_ns(),
            {str(hash_token(token)): KeyEntry(f"key{n}", "default", (), 0, rights) for n, token in enumerate(tokens)},
            {f"default/{n}": ProviderEntry(n, "openai", url, "", True) for n, url in self._providers.items()},
            routes,
            limits=base.limits,
            budgets=base.budgets,
        )
        publish(snapshot, self._home / "snapshot")

    def recorded(self, calls: int) -> collections.Counter[str]:
        with contextlib.suppress(TimeoutError):
            until(lambda: self._counts.total() >= calls, 30, "all spans are there")
        time.sleep(1)  # one too many would come late
        return self._counts

    def spool_megabytes(self) -> float:
        return spool_megabytes(self._home)

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        self._process.terminate()
        self._process.wait(30)
        self._reader.close()

    def _read_often(self) -> None:
        while not self._over.wait(0.5):
            while records := self._reader.read(5000):
                self._counts.update(decode(record).trace_id for record in records)
                self._reader.commit()


class WholeStage(Stage):
    """`detent up` with all its parts."""

    name = "whole"

    def __init__(
        self, home: Path, providers: Mapping[str, str], *, routes: Mapping[str, Sequence[str]] = ROUTES
    ) -> None:
        from detent.kernel.settings import load_settings

        ports = {name: str(free_port()) for name in ("DETENT_GATEWAY_PORT", "DETENT_PORT", "DETENT_ENGINE_PORT")}
        self.port = int(ports["DETENT_GATEWAY_PORT"])
        self._home = home
        environment = {"DETENT_HOME": str(home), **ports, **own_tree()}
        self._settings = load_settings(environment)
        self._process = spawn([sys.executable, "-m", "detent", "up"], home.parent / "up.log", environment)
        until(lambda: answers(self.port, "/readyz"), 60, "detent up is ready")
        with self._platform() as platform:
            operator = platform.access.operator()
            for name, url in providers.items():
                platform.gateway.save_provider(operator, name, url=url, allow_private=True)
            for name, targets in routes.items():
                found = tuple(Target(t.partition("/")[0], t.partition("/")[2]) for t in targets)
                platform.gateway.save_route(operator, name, found)
                for target in found:
                    platform.gateway.set_price(operator, target, PRICE)
            limits: tuple[tuple[Unit, int], ...] = (("requests", 60), ("tokens", 60), ("concurrency", 0))
            for unit, window in limits:
                platform.gateway.set_limit(
                    operator, unit, scope="key", unit=unit, amount=1_000_000_000, window_seconds=window
                )
            platform.gateway.set_budget(operator, "month", scope="project", amount=10**15)
            self.keys = [platform.gateway.mint_key(operator, f"soak {n}").token.reveal() for n in range(3)]

    def processes(self) -> dict[str, int]:
        from detent.app.state import read_state

        state = read_state(self._home / "run")
        return {part.name: part.pid for part in state.parts if part.pid} if state else {}

    def swap(self) -> None:
        with self._platform() as platform:
            operator = platform.access.operator()
            minted = platform.gateway.mint_key(operator, "for a moment")
            platform.gateway.revoke_key(operator, minted.key.id)

    def recorded(self, calls: int) -> collections.Counter[str]:
        """Spans are counted in the lake; which traces they are of is asked for page by page."""
        from detent.kernel.telemetry import SpanFilter

        with self._platform() as platform:

            def spans() -> int:
                return sum(part.spans for part in platform.lake.partitions())

            with contextlib.suppress(TimeoutError):
                until(lambda: spans() >= calls, 60, "all spans are in the lake")
            time.sleep(1)
            counts: collections.Counter[str] = collections.Counter()
            after = ""
            while True:
                found = platform.lake.traces(SpanFilter(project="default"), limit=500, after=after)
                counts.update({trace.trace_id: trace.spans for trace in found.rows})
                after = found.after
                if not after:
                    return counts

    def spool_megabytes(self) -> float:
        return spool_megabytes(self._home)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)

    @contextlib.contextmanager
    def _platform(self) -> Iterator[Any]:
        from detent.app.platform import open_platform

        with open_platform(self._settings) as platform:
            yield platform


def spool_megabytes(home: Path) -> float:
    """Segments in a spool; one may go while it is looked at."""
    total = 0
    for path in (home / "spool").glob("*.seg"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return round(total / 1_000_000, 2)


def own_tree() -> dict[str, str]:
    """What makes a process run this tree's code."""
    return {"PYTHONPATH": str(ROOT / "src")}


def answers(port: int, path: str) -> bool:
    """Whether 200 comes from there."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def until(true: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for something.

    Raises:
        TimeoutError: it did not come.
    """
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.05)


def growth(times: Sequence[float], values: Sequence[float | None]) -> float:
    """The slope of the line through points by Theil and Sen: the median of the slopes between all pairs.

    A few outliers, or a step that goes back, do not move it. Points are thinned to 300 by medians first.
    """
    points = [(at, value) for at, value in zip(times, values, strict=False) if value is not None]
    size = -(-len(points) // 300)
    bins = [points[start : start + size] for start in range(0, len(points), size)] if size else []
    middles = [(statistics.median(p[0] for p in some), statistics.median(p[1] for p in some)) for some in bins]
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for number, earlier in enumerate(middles)
        for later in middles[number + 1 :]
        if later[0] > earlier[0]
    ]
    return statistics.median(slopes) if slopes else 0.0


async def drive(stage: Stage, seconds: float, rate: float, tally: Tally) -> None:
    """Traffic, and new configurations beside it."""
    swapping = asyncio.create_task(_swap_often(stage))
    try:
        await Traffic(stage.port, KINDS, stage.keys, rate=rate, heard=tally).run(seconds)
    finally:
        swapping.cancel()


async def _swap_often(stage: Stage) -> None:
    while True:
        await asyncio.sleep(SWAP_SECONDS)
        await asyncio.to_thread(stage.swap)


def run(stages: Sequence[Stage], seconds: float, rate: float) -> dict[str, Any]:
    """All stages under load at once; what was found, by stage."""
    tallies = {stage.name: Tally() for stage in stages}
    for stage in stages:  # so that what is opened once, at the first use, is open
        uvloop.run(Traffic(stage.port, KINDS, stage.keys, rate=20, seed=1, heard=tallies[stage.name]).run(WARM_SECONDS))
        stage.recorded(tallies[stage.name].calls)
        time.sleep(SETTLE_SECONDS)
    before = {
        stage.name: {part: {**figures(pid), "pid": pid} for part, pid in stage.processes().items()} for stage in stages
    }
    sources: dict[str, Callable[[], float]] = {}
    for stage in stages:
        sources[f"{stage.name}/spool/megabytes"] = stage.spool_megabytes
        for part, pid in stage.processes().items():
            sources[f"{stage.name}/{part}/megabytes"] = partial(own_megabytes, pid)
            sources[f"{stage.name}/{part}/descriptors"] = partial(descriptors, pid)
            sources[f"{stage.name}/{part}/threads"] = partial(threads, pid)

    async def all_stages() -> None:
        await asyncio.gather(*(drive(stage, seconds, rate, tallies[stage.name]) for stage in stages))

    with Sampler(sources, max(seconds / 720, 0.5)) as sampler:
        uvloop.run(all_stages())
    found = {}
    for stage in stages:
        series = {
            name.removeprefix(f"{stage.name}/"): values
            for name, values in sampler.series.items()
            if name.startswith(f"{stage.name}/")
        }
        found[stage.name] = settle(stage, tallies[stage.name], before[stage.name], sampler.times, series)
    return found


def settle(
    stage: Stage,
    tally: Tally,
    before: Mapping[str, Mapping[str, float]],
    times: Sequence[float],
    series: Mapping[str, Sequence[float | None]],
) -> dict[str, Any]:
    """Wait until it is quiet, count, and judge."""
    with contextlib.suppress(TimeoutError):
        until(
            lambda: all(
                figures(pid)["descriptors"] <= before[part]["descriptors"] + MORE_DESCRIPTORS
                for part, pid in stage.processes().items()
                if part in before
            ),
            QUIET_SECONDS,
            "descriptors are given back",
        )
    inflight = gauge(stage.port, "detent_gateway_inflight")
    recorded = stage.recorded(tally.calls)
    broken = [
        f"{count} calls of '{kind}': {problem}"
        for kind, problems in tally.problems.items()
        for problem, count in problems.items()
    ]
    missing = collections.Counter(kind for trace, kind in tally.traces.items() if trace not in recorded)
    twice = sum(1 for count in recorded.values() if count > 1)
    strange = sum(1 for trace in recorded if trace not in tally.traces)
    broken += [f"{count} calls of '{kind}' have no span" for kind, count in missing.items()]
    broken += [f"{twice} calls have more than one span"] if twice else []
    broken += [f"{strange} spans are of no call"] if strange else []
    broken += [f"{inflight:g} calls are said to be in flight at the end"] if inflight else []
    parts = {}
    for part, pid in stage.processes().items():
        if part not in before:
            continue
        parts[part], complaints = judge_part(part, pid, before[part], times, series)
        broken += complaints
    return {
        "calls": tally.calls,
        "spans": recorded.total(),
        "kinds": tally.rows(),
        "parts": parts,
        "broken": broken,
        "seconds": list(times),
        "series": dict(series),
    }


def judge_part(
    part: str,
    pid: int,
    before: Mapping[str, float],
    times: Sequence[float],
    series: Mapping[str, Sequence[float | None]],
) -> tuple[dict[str, float], list[str]]:
    """A process's figures, and which bounds it broke."""
    warm = int(len(times) * WARM_UP)
    memory = series[f"{part}/megabytes"]
    slope = growth(times[warm:], memory[warm:])
    over_run = slope * (times[-1] - times[warm])
    most = max(value for value in memory if value is not None)
    counts = [value or 0 for value in series[f"{part}/threads"]]
    half = len(counts) // 2
    after = figures(pid)
    # Pools open what they keep when they are first used, so what was there when the warm-up was over counts too.
    open_then = [value for value in series.get(f"{part}/descriptors", ())[warm:] if value is not None]
    usual = max(before["descriptors"], open_then[0] if open_then and not part.startswith("gateway") else 0)
    found = {
        "megabytes_start": before["megabytes"],
        "megabytes_most": most,
        "megabytes_end": after["megabytes"],
        "megabytes_per_hour": round(slope * 3600, 2),
        "megabytes_growth": round(over_run, 2),
        "descriptors_start": before["descriptors"],
        "descriptors_end": after["descriptors"],
        "threads_most": max(counts),
    }
    broken = []
    if pid != before["pid"]:
        broken.append(f"{part} died and was started again")
    if over_run > (GROWTH_MB if part.startswith("gateway") else OTHERS_GROWTH_MB):
        broken.append(f"{part} grew by {over_run:.1f} MB")
    if part.startswith("gateway") and most > WORKER_MB:
        broken.append(f"{part} had {most:.0f} MB")
    if after["descriptors"] > usual + MORE_DESCRIPTORS:
        broken.append(f"{part} kept {after['descriptors'] - usual:g} file descriptors")
    if max(counts[half:]) > max(counts[:half] or [0]) and times[-1] > 60:
        broken.append(f"{part} had more threads in the second half: {max(counts[half:]):g}")
    return found, broken


def figures(pid: int) -> dict[str, float]:
    """What a process has now."""
    return {"megabytes": own_megabytes(pid), "descriptors": descriptors(pid), "threads": threads(pid)}


def own_megabytes(pid: int) -> float:
    """Resident memory of one process."""
    return megabytes(pid, children=False)


def gauge(port: int, name: str) -> float:
    """A figure of the gateway's own metrics."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/metrics")
        for line in connection.getresponse().read().decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
    finally:
        connection.close()
    return 0.0


# The page


def page(kept: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """The page, and its charts by file name."""
    at, result = kept["machine"], kept["result"]
    minutes, rate = kept["minutes"], kept["rate"]
    parts = [
        "<!-- Written by benchmarks/soak.py. -->\n# An hour under load\n",
        INTRODUCTION.format(minutes=minutes, rate=rate, swap=SWAP_SECONDS),
    ]
    drawings = {}
    about = {"worker": "One gateway worker with everything on", "whole": "All of `detent up`"}
    for name, stage in result.items():
        parts.append(f"## {about[name]}\n")
        verdict = (
            "Every bound was held."
            if not stage["broken"]
            else "**Bounds were broken:**\n\n" + "\n".join(f"- {line}" for line in stage["broken"])
        )
        parts.append(f"{stage['calls']:,} calls, {stage['spans']:,} spans. {verdict}\n")
        lines = ["| calls | number | not as due | p50 | p99 |", "| --- | ---: | ---: | ---: | ---: |"]
        for kind, row in stage["kinds"].items():
            ms = row["ms"]
            wrong = sum(row["problems"].values())
            lines.append(f"| {kind} | {row['calls']:,} | {wrong} | {ms['p50']:.1f} ms | {ms['p99']:.1f} ms |")
        parts.append("\n".join(lines) + "\n")
        lines = [
            "| process | memory at start | at most | at the end | slope | descriptors before, after | threads |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for part, row in stage["parts"].items():
            lines.append(
                f"| {part} | {row['megabytes_start']:.0f} MB | {row['megabytes_most']:.0f} MB | "
                f"{row['megabytes_end']:.0f} MB | {row['megabytes_per_hour']:+.2f} MB/h | "
                f"{row['descriptors_start']:g}, {row['descriptors_end']:g} | {row['threads_most']:g} |"
            )
        parts.append("\n".join(lines) + "\n")
        for figure, title, unit in (("megabytes", "Resident memory", "MB"), ("descriptors", "File descriptors", "")):
            series = {
                part: [(s / 60, v) for s, v in zip(stage["seconds"], stage["series"][f"{part}/{figure}"], strict=False)]
                for part in stage["parts"]
            }
            file = f"soak-{name}-{figure}.svg"
            drawings[file] = charts.lines(f"{title}, {name}", series, x="minutes", y=unit)
            parts.append(f"![{title}]({file})\n")
    parts.append(f"Measured {kept['date']} on {at['processor']}, Python {at['python']}.\n")
    return "\n".join(parts), drawings


def write(kept: Mapping[str, Any], folder: Path) -> None:
    """The page and its charts."""
    folder.mkdir(parents=True, exist_ok=True)
    text, drawings = page(kept)
    (folder / "soak.md").write_text(text)
    for name, drawing in drawings.items():
        (folder / name).write_text(drawing)


def main() -> int:
    """Run, keep, write, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=50, help="calls a second on each stage")
    parser.add_argument("--only", choices=("worker", "whole"))
    parser.add_argument("--root", type=Path, default=ROOT, help="the tree that gets the results")
    given = parser.parse_args()
    if not Path(detent.__file__).is_relative_to(ROOT):
        raise SystemExit(f"this would measure {detent.__file__}: set PYTHONPATH={ROOT / 'src'}")
    provider = subprocess.Popen(
        [sys.executable, str(HERE / "mock_provider.py"), "--latency", "30", "--gap", "4"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert provider.stdout is not None
    url = f"http://127.0.0.1:{int(provider.stdout.readline())}/v1"
    stages: list[Stage] = []
    with tempfile.TemporaryDirectory(prefix="detent-soak-") as folder, contextlib.ExitStack() as stack:
        stack.callback(provider.kill)
        for kind in (WorkerStage, WholeStage):
            if given.only in {None, kind.name}:
                home = Path(folder) / kind.name / "home"
                home.mkdir(parents=True)
                stages.append(kind(home, {"good": url, "bad": url}))
                stack.callback(stages[-1].stop)
        result = run(stages, given.minutes * 60, given.rate)
    kept = {
        "result": result,
        "minutes": given.minutes,
        "rate": given.rate,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": report.machine(),
    }
    trial = given.minutes < TRIAL_MINUTES
    results = given.root / ("build/bench" if trial else "benchmarks") / "soak.json"
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(thinned(kept)) + "\n")
    write(kept, results.parent if trial else given.root / "docs" / "benchmarks")
    if not trial:
        report.write(given.root)
    for name, stage in result.items():
        print(f"{name}: {stage['calls']} calls, {stage['spans']} spans, {len(stage['broken'])} bounds broken")
        for line in stage["broken"]:
            print(f"  {line}")
    return 1 if any(stage["broken"] for stage in result.values()) else 0


def thinned(kept: dict[str, Any]) -> dict[str, Any]:
    """The same with about a hundred samples, which is what is kept in the repository."""
    result = {}
    for name, stage in kept["result"].items():
        every = max(len(stage["seconds"]) // 100, 1)
        series = {part: values[::every] for part, values in stage["series"].items()}
        result[name] = {**stage, "seconds": stage["seconds"][::every], "series": series}
    return {**kept, "result": result}


if __name__ == "__main__":
    sys.exit(main())

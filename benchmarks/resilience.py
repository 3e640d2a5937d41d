"""What callers notice while things break: swaps of the configuration, a provider's outage, a dead control plane.

    python benchmarks/resilience.py [--rate 50] [--only NAME,...] [--root TREE] [--quick]

Each scenario is a load in an open loop through a real gateway, with something that begins after 5 seconds and lasts 10,
and 10 seconds to come back. A call counts as good when it was answered in full, with all its tokens. Written to
benchmarks/resilience.json and docs/benchmarks/resilience.md with a chart of the success rate and of latency; `--quick`
shortens all and writes to build/bench/. Exit status 1 when a bound was broken:

- `swaps`, `control`, `ledger`: every call is good, and each has its span;
- an outage of the first of two providers: at least 98 % of the calls are good while it lasts (a stream that was cut in
  its middle cannot be saved), and all of them from 2 seconds after it.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import datetime as dt
import itertools
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import uvloop

import charts
import detent
import report
from detent.gateway.model import Route, Timeouts
from gateway_peers import Provider
from soak import Stage, WholeStage, WorkerStage
from traffic import Kind, Outcome, Traffic

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BEFORE, LASTS, AFTER = 5.0, 10.0, 10.0
BIN: Final = 0.5
SWAPS_A_SECOND: Final = 5
KINDS: Final = (Kind("whole", 4, "two"), Kind("stream", 1, "two", stream=True))
ROUTES: Final = {"two": ("first/mock-model", "second/mock-model")}
UPSTREAM: Final = ("--latency", "30", "--gap", "4")
LIMITS: Final = {"DETENT_GATEWAY_FIRST_TOKEN_TIMEOUT": "1", "DETENT_GATEWAY_CONNECT_TIMEOUT": "1"}
RULES: Final = Route(name="", project="", targets=(), timeouts=Timeouts(connect=1, first_token=1))
GOOD_IN_OUTAGE: Final = 0.98
BACK_SECONDS: Final = 2.0

INTRODUCTION: Final = """\
Calls at {rate:g}/s through a real gateway, four in one piece to one stream, in an open loop, while something breaks.
Good is a call that was answered in full. Latency is to the end of good answers in one piece; the upstream's own is
30 ms. A call counts at its scheduled start, so a stream that is cut by an outage stands just before it.
"""


class Times(NamedTuple):
    """Seconds of each phase."""

    before: float = BEFORE
    lasts: float = LASTS
    after: float = AFTER

    @property
    def total(self) -> float:
        """All of it."""
        return self.before + self.lasts + self.after


class Scenario(NamedTuple):
    """Something that breaks.

    Attributes:
        title: for people.
        about: what happens, in a sentence.
        word: for the charts.
        outage: whether calls may fail while it lasts.
        run: does it, and gives the outcomes and how many spans there are.
    """

    title: str
    about: str
    word: str
    outage: bool
    run: Callable[[Times, float, Path], tuple[list[Outcome], int]]


def under_load(stage: Stage, times: Times, rate: float, breaks: Callable[[], Awaitable[None]]) -> list[Outcome]:
    """All calls of the scenario; `breaks` begins after the first phase and should last as long as the second."""
    outcomes: list[Outcome] = []

    async def later() -> None:
        await asyncio.sleep(times.before)
        await breaks()

    async def both() -> None:
        traffic = Traffic(stage.port, KINDS, stage.keys, rate=rate, heard=outcomes.append)
        breaking = asyncio.create_task(later())
        await traffic.run(times.total)
        await breaking

    uvloop.run(Traffic(stage.port, KINDS, stage.keys, rate=rate, seed=1, heard=lambda _outcome: None).run(2))
    uvloop.run(both())
    return outcomes


@contextlib.contextmanager
def providers() -> Iterator[tuple[Provider, Provider]]:
    """Two of them."""
    first, second = Provider(*UPSTREAM), Provider(*UPSTREAM)
    try:
        yield first, second
    finally:
        first.stop()
        second.stop()


def urls(first: Provider, second: Provider) -> dict[str, str]:
    """As a configuration names them."""
    return {"first": f"http://127.0.0.1:{first.port}/v1", "second": f"http://127.0.0.1:{second.port}/v1"}


def counted(stage: Stage, outcomes: Sequence[Outcome]) -> int:
    """How many of the calls have a span, exactly one."""
    found = stage.recorded(len(outcomes))
    return sum(1 for outcome in outcomes if found[outcome.trace] == 1)


def swaps(times: Times, rate: float, folder: Path) -> tuple[list[Outcome], int]:
    """A new snapshot, several times a second."""
    with providers() as (first, second), stopping(WorkerStage(folder, urls(first, second), routes=ROUTES)) as stage:

        async def breaks() -> None:
            until = time.monotonic() + times.lasts
            while time.monotonic() < until:
                await asyncio.to_thread(stage.swap)
                await asyncio.sleep(1 / SWAPS_A_SECOND)

        outcomes = under_load(stage, times, rate, breaks)
        return outcomes, counted(stage, outcomes)


def outage(mode: str) -> Callable[[Times, float, Path], tuple[list[Outcome], int]]:
    """The first provider goes out in one way; the second stays."""

    def run(times: Times, rate: float, folder: Path) -> tuple[list[Outcome], int]:
        with providers() as (first, second):
            stage = WorkerStage(folder, urls(first, second), routes=ROUTES, rules=RULES, **LIMITS)
            with stopping(stage):

                async def breaks() -> None:
                    if mode == "down":
                        first.stop()
                        await asyncio.sleep(times.lasts)
                        first.start(*UPSTREAM)
                    else:
                        await asyncio.to_thread(first.tell, mode=mode)
                        await asyncio.sleep(times.lasts)
                        await asyncio.to_thread(first.tell, mode="")

                outcomes = under_load(stage, times, rate, breaks)
                return outcomes, counted(stage, outcomes)

    return run


def control_killed(times: Times, rate: float, folder: Path) -> tuple[list[Outcome], int]:
    """kill -9 for the control plane, again each time it comes back."""
    with providers() as (first, second), stopping(WholeStage(folder, urls(first, second), routes=ROUTES)) as stage:

        async def breaks() -> None:
            await _kill_for(stage, times.lasts, "control")

        outcomes = under_load(stage, times, rate, breaks)
        return outcomes, counted(stage, outcomes)


def ledger_gone(times: Times, rate: float, folder: Path) -> tuple[list[Outcome], int]:
    """The ledger's database is moved away, and what had it open is killed as often as it comes."""
    with providers() as (first, second), stopping(WholeStage(folder, urls(first, second), routes=ROUTES)) as stage:

        async def breaks() -> None:
            for part in ("control", "worker"):
                _kill(stage, part)
            _take_away(folder)
            await _kill_for(stage, times.lasts, "control", "worker")
            _bring_back(folder)

        outcomes = under_load(stage, times, rate, breaks)
        return outcomes, counted(stage, outcomes)


def _take_away(folder: Path) -> None:
    away = folder.parent / "away"
    away.mkdir()
    for file in folder.glob("ledger.db*"):
        file.rename(away / file.name)
    (folder / "ledger.db").mkdir()  # so that nobody makes a new one


def _bring_back(folder: Path) -> None:
    (folder / "ledger.db").rmdir()
    for file in (folder.parent / "away").iterdir():
        file.rename(folder / file.name)


async def _kill_for(stage: Stage, seconds: float, *parts: str) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for part in parts:
            _kill(stage, part)
        await asyncio.sleep(0.25)


def _kill(stage: Stage, part: str) -> None:
    pid = stage.processes().get(part)
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def stopping(stage: Stage) -> Iterator[Stage]:
    """A stage until left."""
    try:
        yield stage
    finally:
        stage.stop()


SCENARIOS: Final = {
    "swaps": Scenario(
        "The configuration is swapped",
        f"A new snapshot is published {SWAPS_A_SECOND} times a second; the worker swaps each in under load.",
        "swaps",
        False,
        swaps,
    ),
    "down": Scenario(
        "The first provider is down", "It is killed: connections are refused.", "down", True, outage("down")
    ),
    "hang": Scenario(
        "The first provider hangs",
        "It takes requests and never answers; a target is given up after 1 s without a first token.",
        "hangs",
        True,
        outage("hang"),
    ),
    "errors": Scenario("The first provider answers 500", "To each request, at once.", "500s", True, outage("500")),
    "limits": Scenario(
        "The first provider answers 429", "To each request, at once, with Retry-After.", "429s", True, outage("429")
    ),
    "control": Scenario(
        "The control plane is killed",
        "`detent up`; its control plane gets kill -9, again each time it is back.",
        "no control plane",
        False,
        control_killed,
    ),
    "ledger": Scenario(
        "The ledger's database is gone",
        "`detent up`; the database is moved away, control plane and worker are killed as often as they come.",
        "no ledger",
        False,
        ledger_gone,
    ),
}


def summed_up(scenario: Scenario, times: Times, outcomes: Sequence[Outcome], spans: int) -> dict[str, Any]:
    """The figures, and which bounds were broken."""
    end = times.before + times.lasts
    phases = {"before": (0.0, times.before), "during": (times.before, end), "after": (end, times.total)}
    good = sorted(o.at + o.seconds for o in outcomes if o.good)
    gaps = [later - earlier for earlier, later in itertools.pairwise(good)]
    found: dict[str, Any] = {
        "title": scenario.title,
        "about": scenario.about,
        "word": scenario.word,
        "mark": [times.before, end],
        "calls": len(outcomes),
        "spans": spans,
        "problems": dict(collections.Counter(o.problem for o in outcomes if o.problem)),
        "longest_silence": round(max(gaps, default=times.total), 3),
        "phases": {name: _figures(_between(outcomes, *span)) for name, span in phases.items()},
        "bins": [_figures(_between(outcomes, n * BIN, (n + 1) * BIN)) for n in range(int(times.total / BIN))],
        "bin": BIN,
    }
    broken = []
    bad = len(outcomes) - len(good)
    if not scenario.outage and bad:
        broken.append(f"{bad} calls were not good")
    if scenario.outage and found["phases"]["during"]["good"] < GOOD_IN_OUTAGE:
        broken.append(f"{found['phases']['during']['good']:.1%} good while it lasted")
    late = [o for o in outcomes if o.at > end + BACK_SECONDS and not o.good]
    if scenario.outage and late:
        broken.append(f"{len(late)} calls were not good after it was over")
    if spans != len(outcomes):
        broken.append(f"{len(outcomes)} calls, but {spans} have their span")
    return {**found, "broken": broken}


def _between(outcomes: Sequence[Outcome], begin: float, end: float) -> list[Outcome]:
    return [o for o in outcomes if begin <= o.at < end]


def _figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    took = sorted(o.seconds * 1000 for o in outcomes if o.good and o.kind == "whole")
    return {
        "calls": len(outcomes),
        "good": round(sum(o.good for o in outcomes) / len(outcomes), 5) if outcomes else None,
        "p50": round(statistics.median(took), 1) if took else None,
        "p99": round(took[min(len(took) - 1, len(took) * 99 // 100)], 1) if took else None,
    }


# The page


def page(kept: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """The page, and its charts by file name."""
    at = kept["machine"]
    parts = [
        "<!-- Written by benchmarks/resilience.py. -->\n# Outages, swaps and kills under load\n",
        INTRODUCTION.format(rate=kept["rate"]),
        _table(kept["result"]),
    ]
    drawings = {}
    for name, found in kept["result"].items():
        parts.append(f"## {found['title']}\n")
        parts.append(found["about"] + _verdict(found) + "\n")
        for figure, drawing in _charts(found).items():
            file = f"resilience-{name}-{figure}.svg"
            drawings[file] = drawing
            parts.append(f"![{found['title']}: {figure}]({file})\n")
    parts.append(
        f"`benchmarks/resilience.py`, {kept['date']}, on {at['processor']}, Python {at['python']}.\n"
        "Its bounds are stated in the script.\n"
    )
    return "\n".join(parts), drawings


def _table(result: Mapping[str, Any]) -> str:
    lines = [
        "| | calls | good before | during | after | p99 before | during | after | longest silence | spans |",
        "| --- |" + " ---: |" * 9,
    ]
    for found in result.values():
        phases = [found["phases"][name] for name in ("before", "during", "after")]
        shares = " | ".join(f"{p['good']:.1%}" for p in phases)
        slow = " | ".join("-" if p["p99"] is None else f"{p['p99']:.0f} ms" for p in phases)
        lines.append(
            f"| {found['title']} | {found['calls']:,} | {shares} | {slow} | {found['longest_silence']:.2f} s | "
            f"{found['spans']:,} |"
        )
    return "\n".join(lines) + "\n"


def _verdict(found: Mapping[str, Any]) -> str:
    told = "".join(f" {count} calls: {problem}." for problem, count in found["problems"].items())
    return told + "".join(f" **Broken: {line}.**" for line in found["broken"])


def _charts(found: Mapping[str, Any]) -> dict[str, str]:
    middles = [(number + 0.5) * found["bin"] for number in range(len(found["bins"]))]
    marks = [(*found["mark"], found["word"])]

    def series(figure: str, factor: float = 1) -> list[tuple[float, float | None]]:
        values = [one[figure] for one in found["bins"]]
        return [(at, None if value is None else value * factor) for at, value in zip(middles, values, strict=True)]

    return {
        "success": charts.lines(
            f"Good calls: {found['title']}", {"good": series("good", 100)}, x="seconds", y="%", high=100, marks=marks
        ),
        "latency": charts.lines(
            f"Latency: {found['title']}",
            {"p50": series("p50"), "p99": series("p99")},
            x="seconds",
            y="ms",
            marks=marks,
        ),
    }


def main() -> int:
    """Break things, keep, write, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=50)
    parser.add_argument("--only", default="", help=f"some of {','.join(SCENARIOS)}; the others' last results stay")
    parser.add_argument("--root", type=Path, default=ROOT, help="the tree that gets the results")
    parser.add_argument("--quick", action="store_true", help="short phases; written to build/bench/")
    given = parser.parse_args()
    if not Path(detent.__file__).is_relative_to(ROOT):
        raise SystemExit(f"this would measure {detent.__file__}: set PYTHONPATH={ROOT / 'src'}")
    results = given.root / ("build/bench" if given.quick else "benchmarks") / "resilience.json"
    results.parent.mkdir(parents=True, exist_ok=True)
    times = Times(2, 3, 4) if given.quick else Times()
    result: dict[str, Any] = json.loads(results.read_text())["result"] if given.only and results.exists() else {}
    for name in [n for n in SCENARIOS if n in given.only.split(",")] or list(SCENARIOS):
        print(f"--- {name}", file=sys.stderr, flush=True)
        scenario = SCENARIOS[name]
        with tempfile.TemporaryDirectory(prefix="detent-resilience-") as folder:
            home = Path(folder) / "home"
            home.mkdir()
            outcomes, spans = scenario.run(times, given.rate, home)
        result[name] = summed_up(scenario, times, outcomes, spans)
        for line in result[name]["broken"]:
            print(f"{name}: {line}", file=sys.stderr)
    kept = {
        "result": {name: result[name] for name in SCENARIOS if name in result},
        "rate": given.rate,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": report.machine(),
    }
    results.write_text(json.dumps(kept) + "\n")
    folder = results.parent if given.quick else given.root / "docs" / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    text, drawings = page(kept)
    (folder / "resilience.md").write_text(text)
    for name, drawing in drawings.items():
        (folder / name).write_text(drawing)
    if not given.quick:
        report.write(given.root)
    return 1 if any(found["broken"] for found in result.values()) else 0


if __name__ == "__main__":
    sys.exit(main())

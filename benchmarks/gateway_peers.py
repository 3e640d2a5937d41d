"""Detent beside other gateways behind the same upstream, and docs/benchmarks/gateway.md from it.

    make bench-gateway                                     all of it, about half an hour on an idle machine
    python benchmarks/gateway_peers.py --quick             seconds each, to see that it works; written to build/bench/
    python benchmarks/gateway_peers.py --only detent,nginx
    python benchmarks/gateway_peers.py --write             the page anew from the last results

Everything runs at the same time and is measured in turn, round by round (A B C A B C), so that what else the machine
does meets all alike. CPU is user and system time of a gateway's process tree over the requests it answered. Added
latency is the difference to the same load past the gateways in the same rounds. Every answer must have status 200, all
64 tokens and, as a stream, its end; what has not is counted, and a figure with such answers is marked. A peer that
cannot be installed or started is listed with the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import http.client
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import charts
import report
from gateway import certificates
from peers.subjects import PEERS, Place, Running, Unusable, last_words
from processes import Sampler

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = ROOT / "build" / "peers"
TRIAL = ROOT / "build" / "bench"
RESULTS = HERE / "gateway_peers.json"
PAGES = ROOT / "docs" / "benchmarks"
TOKENS = 64
RATES = (200.0, 100.0, 50.0, 25.0, 10.0, 5.0)
SHARE = 0.5
"""Of one core that a peer may need at the rate it is asked at; above it, it is asked at a lower one."""

INTRODUCTION = """\
Detent, other open gateways and nginx behind the same mock upstream on loopback, one worker each, measured by
`make bench-gateway`. [How we measure](../../benchmarks/README.md). Ratios carry over to other machines better than
times do. Read what each has switched on before comparing: Detent alone enforces limits, keeps a budget, prices and
records every call here.
"""
LATENCY = """\
Milliseconds over the upstream's own: to the end of an answer in one piece (upstream 50 ms), and to the first token of a
stream paced at 5 ms. The best round, the median in brackets; a little below zero is noise.
"""
METHOD = """\
{rounds} rounds of {seconds:g} s each, all gateways running, measured in turn. CPU is user and system time of the
process tree over the requests answered, closed loop with 16 connections; the best round stands in the table, the
median in brackets. Latency is measured in an open loop, from the scheduled start of each request, at 200/s or, where
that would take more than {share:.0%} of a core, at a lower rate. The versions are pinned in `benchmarks/peers/`, the
figures are in `benchmarks/gateway_peers.json`.
"""


class Case(NamedTuple):
    """A load.

    Attributes:
        upstream: what the mock provider is told: milliseconds before the answer and between events.
        options: of the load generator.
        longer: factor on the length of a round.
    """

    title: str
    upstream: dict[str, float]
    options: tuple[str, ...]
    longer: float = 1


CASES = {
    "whole": Case("answer in one piece", {"latency": 0, "gap": 0}, ()),
    "burst": Case("stream of 67 events at once", {"latency": 0, "gap": 0}, ("--stream",)),
    "paced": Case("stream of 67 events, 5 ms apart", {"latency": 5, "gap": 5}, ("--stream",), 2),
}
TLS_CASES = {
    "whole_tls": CASES["whole"]._replace(title="answer in one piece, upstream over TLS"),
    "burst_tls": CASES["burst"]._replace(title="stream at once, upstream over TLS"),
}


class Provider:
    """The mock provider, and how it is told to behave."""

    def __init__(self, *options: str) -> None:
        self.port = 0
        self.start(*options)

    def start(self, *options: str) -> None:
        """Start it, after a `stop` on the same port again."""
        command = [sys.executable, str(HERE / "mock_provider.py"), "--port", str(self.port), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def tell(self, **options: float | str) -> None:
        """Change what it does. Only over plain HTTP."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("POST", "/mock", json.dumps(options))
        assert connection.getresponse().status == 204
        connection.close()

    def stop(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Subject(NamedTuple):
    """Something that is asked: a gateway, or the upstream itself."""

    url: str
    key: str = "none"
    model: str = "mock-model"
    headers: tuple[str, ...] = ()


def load(subject: Subject, seconds: float, *options: str) -> dict[str, Any]:
    """Run the load generator; what it found."""
    command = [sys.executable, str(HERE / "load.py"), "--url", subject.url, "--key", subject.key]
    command += ["--model", subject.model, "--seconds", str(seconds), "--tokens", str(TOKENS), *options]
    for header in subject.headers:
        command += ["--header", header]
    found: dict[str, Any] = json.loads(subprocess.check_output(command, text=True))
    return found


def bad(found: Mapping[str, Any]) -> int:
    """How many of the requests were not answered rightly."""
    refused = sum(count for status, count in found["statuses"].items() if status != "200")
    return int(refused + sum(found["errors"].values()) + max(found["unfinished"], found["wrong"]))


def good_answer(subject: Subject) -> bool:
    """Whether it answers a call rightly now."""
    where = urlsplit(subject.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=20)
    headers = {"content-type": "application/json", "authorization": f"Bearer {subject.key}"}
    headers |= dict(header.split(": ", 1) for header in subject.headers)
    body = json.dumps({"model": subject.model, "messages": [{"role": "user", "content": "Are you there?"}]})
    try:
        connection.request("POST", where.path, body, headers)
        answer = connection.getresponse()
        return answer.read().count(b"tok ") == TOKENS - 1 and answer.status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class Bench:
    """One run: what was started, and what was found.

    Attributes:
        found: the results, by peer.
    """

    def __init__(self, names: Sequence[str], *, seconds: float, rounds: int) -> None:
        self.names = names
        self.seconds = seconds
        self.rounds = rounds
        self.found: dict[str, dict[str, Any]] = {}
        self.running: dict[str, Running] = {}

    def install(self) -> None:
        """Install all; who cannot be is out."""
        for name in self.names:
            say(f"install {name}")
            peer = PEERS[name]
            self.found[name] = {"name": peer.name, "on": peer.on, "bad": {}, "cpu_ms": {}, "requests": 0}
            try:
                self.found[name]["version"] = peer.install(BUILD)
            except (Unusable, OSError, subprocess.SubprocessError) as error:
                self.found[name]["missing"] = f"cannot be installed: {error}"

    @contextlib.contextmanager
    def started(self, upstream: str, authority: Path | None = None, *, note: str = "") -> Iterator[None]:
        """All gateways, until left; who does not get ready is left out of this part, with the reason."""
        with tempfile.TemporaryDirectory(prefix="detent-peers-") as folder:
            place = Place(BUILD, Path(folder), upstream, authority)
            try:
                for name in self.names:
                    if "missing" not in self.found[name]:
                        say(f"start {name}")
                        self._start(name, place, note)
                yield
            finally:
                for running in self.running.values():
                    running.stop()
                self.running.clear()

    def _start(self, name: str, place: Place, note: str) -> None:
        begun = time.monotonic()
        try:
            running = PEERS[name].start(place)
        except Unusable as error:
            self.found[name]["missing" + note] = str(error)
            return
        self.running[name] = running
        deadline = begun + PEERS[name].start_seconds
        while not good_answer(self.subject(name)):
            if running.process.poll() is not None or time.monotonic() > deadline:
                logs = [last_words(log) for log in place.folder.rglob(f"*{name}*.log")]
                self.found[name]["missing" + note] = f"gave no right answer: {' '.join(logs)}".strip()
                self.running.pop(name).stop()
                return
            time.sleep(0.02)
        if not note:
            self.found[name]["ready_seconds"] = round(time.monotonic() - begun, 2)

    def subject(self, name: str) -> Subject:
        """How it is asked."""
        running = self.running[name]
        return Subject(running.url, running.key, running.model, running.headers)

    def cost(self, case: str, what: Case) -> None:
        """CPU milliseconds a request, in rounds over all."""
        rounds: dict[str, list[float]] = {name: [] for name in self.running}
        for name in self.running:
            load(self.subject(name), min(self.seconds, 2), *what.options)
        for number in range(self.rounds):
            for name, running in self.running.items():
                say(f"{case} {number + 1}/{self.rounds} {name}")
                before = running.cpu()
                got = load(self.subject(name), self.seconds * what.longer, *what.options)
                used = running.cpu() - before
                self._count(name, case, got)
                if got["requests"]:
                    rounds[name].append(used * 1000 / got["requests"])
        for name, values in rounds.items():
            if values:
                self.found[name]["cpu_ms"][case] = {
                    "best": round(min(values), 4),
                    "median": round(statistics.median(values), 4),
                    "rounds": [round(value, 4) for value in values],
                }

    def latency(self, what: str, key: str, options: Sequence[str], rates: Mapping[str, float], upstream: str) -> None:
        """Milliseconds added at a rate, against the same load past the gateways in the same rounds."""
        straight: dict[float, list[dict[str, float]]] = {rate: [] for rate in rates.values()}
        through: dict[str, list[dict[str, float]]] = {name: [] for name in rates}
        for name in rates:
            load(self.subject(name), min(self.seconds, 1), *options, "--rate", str(rates[name]))
        for number in range(self.rounds):
            for rate, values in straight.items():
                values.append(load(Subject(upstream), self.seconds, *options, "--rate", str(rate))[key])
            for name, rate in rates.items():
                say(f"{what} {number + 1}/{self.rounds} {name} at {rate:g}/s")
                got = load(self.subject(name), self.seconds, *options, "--rate", str(rate))
                self._count(name, what, got)
                through[name].append(got[key])
        for name, values in through.items():
            past = straight[rates[name]]
            self.found[name][what] = {
                "rate": rates[name],
                **{
                    p: {
                        "best": round(min(v[p] for v in values) - min(s[p] for s in past), 3),
                        "median": round(
                            statistics.median(v[p] for v in values) - statistics.median(s[p] for s in past), 3
                        ),
                    }
                    for p in ("p50", "p99")
                },
            }

    def _count(self, name: str, case: str, got: Mapping[str, Any]) -> None:
        wrong = bad(got)
        self.found[name]["requests"] += got["requests"]
        if wrong:
            self.found[name]["bad"][case] = self.found[name]["bad"].get(case, 0) + wrong

    def rates(self, case: str) -> dict[str, float]:
        """For each the highest rate that it can be expected to bear."""
        found = {}
        for name in self.running:
            cost = self.found[name]["cpu_ms"].get(case, {}).get("median", 1000.0)
            found[name] = next((rate for rate in RATES if rate * cost / 1000 <= SHARE), RATES[-1])
        return found


def measure(names: Sequence[str], *, seconds: float, rounds: int, tls: bool) -> dict[str, Any]:
    """All of it."""
    bench = Bench(names, seconds=seconds, rounds=rounds)
    bench.install()
    memory: dict[str, Any] = {}
    phases: list[tuple[str, float]] = []
    provider = Provider()
    upstream = f"http://127.0.0.1:{provider.port}/v1"
    try:
        with bench.started(upstream):
            sources: dict[str, Callable[[], float]] = {n: r.megabytes for n, r in bench.running.items()}
            with Sampler(sources, 1.0) as sampler:
                time.sleep(min(seconds, 3))
                for case, what in CASES.items():
                    phases.append((case, sampler.times[-1]))
                    provider.tell(**what.upstream)
                    bench.cost(case, what)
                direct = f"{upstream}/chat/completions"
                phases.append(("latency", sampler.times[-1]))
                provider.tell(latency=50, gap=0)
                bench.latency("added_ms", "total_ms", (), bench.rates("whole"), direct)
                provider.tell(latency=5, gap=5)
                gentle = {name: min(rate, 10.0) for name, rate in bench.rates("paced").items()}
                bench.latency("first_token_ms", "token_ms", ("--stream",), gentle, direct)
                phases.append(("end", sampler.times[-1]))
            for name in bench.running:
                values = [value for value in sampler.series[name] if value is not None]
                bench.found[name]["megabytes"] = {"start": values[0], "most": max(values), "end": values[-1]}
            memory = {"seconds": sampler.times, "megabytes": sampler.series, "phases": phases}
    finally:
        provider.stop()
    if tls:
        measure_tls(bench)
    return {"peers": bench.found, "memory": memory, "seconds": seconds, "rounds": rounds}


def measure_tls(bench: Bench) -> None:
    """The same CPU costs where the upstream speaks TLS."""
    with tempfile.TemporaryDirectory() as folder:
        made = certificates(Path(folder))
        provider = Provider("--certificate", str(made.localhost))
        try:
            with bench.started(f"https://localhost:{provider.port}/v1", made.authority, note="_tls"):
                for case, what in TLS_CASES.items():
                    bench.cost(case, what)
        finally:
            provider.stop()


def say(words: str) -> None:
    """Tell how far it is."""
    print(f"{dt.datetime.now(dt.UTC):%H:%M:%S} {words}", file=sys.stderr, flush=True)


# The page


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def page(found: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """The page, and its charts by file name."""
    result, at = found["result"], found["machine"]
    peers: dict[str, Any] = result["peers"]
    there = {name: peer for name, peer in peers.items() if "missing" not in peer}
    parts = [
        "<!-- Written by benchmarks/gateway_peers.py. -->\n# The gateway beside others\n",
        INTRODUCTION,
        "## Who\n",
        table(
            ("gateway", "version", "switched on"),
            [(p["name"], p.get("version", "-"), p["on"]) for p in peers.values()],
        ).replace("---: |", "--- |"),
    ]
    gone = [f"- **{p['name']}** was not measured: {p['missing']}." for p in peers.values() if "missing" in p]
    gone += [
        f"- **{p['name']}** was not measured with a TLS upstream: {p['missing_tls']}."
        for p in there.values()
        if "missing_tls" in p
    ]
    if gone:
        parts.append("\n".join(gone) + "\n")
    parts += cost_section(there)
    parts += latency_section(there)
    parts += memory_section(there)
    wrong = [
        f"- {p['name']}: " + ", ".join(f"{count} in `{case}`" for case, count in p["bad"].items())
        for p in there.values()
        if p["bad"]
    ]
    total = sum(p["requests"] for p in there.values())
    parts.append("## Correctness\n")
    parts.append(
        f"{total:,} answers were checked: status 200, all {TOKENS} tokens, and a stream's end. "
        + ("These were not right:\n\n" + "\n".join(wrong) if wrong else "All were right.")
        + "\n"
    )
    parts.append("## Method\n")
    parts.append(METHOD.format(rounds=result["rounds"], seconds=result["seconds"], share=SHARE))
    parts.append(
        f"Measured {found['date']} on {at['processor']}, Python {at['python']}, in {found['minutes']:.0f} min.\n"
    )
    return "\n".join(parts), figures(result, there)


def cost_section(there: Mapping[str, Any]) -> list[str]:
    """CPU a request, and its ratio to Detent's."""
    rows = []
    for case, what in {**CASES, **TLS_CASES}.items():
        own = there.get("detent", {}).get("cpu_ms", {}).get(case, {}).get("best")
        row = [what.title]
        for peer in there.values():
            cost = peer["cpu_ms"].get(case)
            if cost is None:
                row.append("-")
                continue
            ratio = f", x{cost['best'] / own:.3g}" if own and peer is not there.get("detent") else ""
            mark = " (!)" if peer["bad"].get(case) else ""
            row.append(f"**{cost['best']:.3g}** ({cost['median']:.3g}){ratio}{mark}")
        rows.append(row)
    head = ("ms CPU a request", *(peer["name"] for peer in there.values()))
    return [
        "## CPU a request\n",
        table(head, rows),
        "The ratio is to Detent's best. A figure marked (!) had wrong answers, see below.\n",
        "![CPU a request](gateway-cpu.svg)\n",
    ]


def latency_section(there: Mapping[str, Any]) -> list[str]:
    """What each adds."""
    rows = []
    for peer in there.values():
        row = [peer["name"]]
        for what in ("added_ms", "first_token_ms"):
            found = peer.get(what)
            if found is None:
                row += ["-", "-", "-"]
                continue
            row += [
                f"{found['rate']:g}/s",
                *(f"{found[p]['best']:.2f} ({found[p]['median']:.2f})" for p in ("p50", "p99")),
            ]
        rows.append(row)
    head = ("gateway", "rate", "whole answer p50", "p99", "rate", "first token p50", "p99")
    return [
        "## Added latency\n",
        LATENCY,
        table(head, rows),
    ]


def memory_section(there: Mapping[str, Any]) -> list[str]:
    """Memory and start."""
    rows = [
        (
            peer["name"],
            f"{peer.get('ready_seconds', 0):.2f} s",
            *(f"{peer['megabytes'][when]:.0f} MB" for when in ("start", "most", "end")),
        )
        for peer in there.values()
        if "megabytes" in peer
    ]
    return [
        "## Start and memory\n",
        table(("gateway", "start to first answer", "memory at start", "at most", "at the end"), rows),
        "![Memory over the run](gateway-memory.svg)\n",
    ]


def figures(result: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, str]:
    """The charts."""
    memory = result["memory"]
    series = {
        there[name]["name"]: list(zip(memory["seconds"], values, strict=False))
        for name, values in memory.get("megabytes", {}).items()
        if name in there
    }
    starts = [tuple(phase) for phase in memory.get("phases", [])]
    marks = [
        (begin, end, word)
        for number, ((word, begin), (_, end)) in enumerate(itertools.pairwise(starts))
        if number % 2 == 0
    ]
    rows = []
    for case in CASES:
        for peer in there.values():
            if case in peer["cpu_ms"]:
                best = peer["cpu_ms"][case]["best"]
                rows.append((f"{peer['name']}, {case}", best, f"{best:.3g} ms"))
    return {
        "gateway-memory.svg": charts.lines("Resident memory over the run", series, x="seconds", y="MB", marks=marks),
        "gateway-cpu.svg": charts.bars("CPU a request", rows, unit="ms"),
    }


def write(found: Mapping[str, Any], folder: Path) -> None:
    """The page and its charts."""
    folder.mkdir(parents=True, exist_ok=True)
    text, drawings = page(found)
    (folder / "gateway.md").write_text(text)
    for name, drawing in drawings.items():
        (folder / name).write_text(drawing)
    if folder == PAGES:
        report.write()


def main() -> int:
    """Measure, keep, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4, help="length of one round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help=f"some of {','.join(PEERS)}; the page is written to build/bench/")
    parser.add_argument(
        "--quick", action="store_true", help="one short round each; the page is written to build/bench/"
    )
    parser.add_argument("--no-tls", action="store_true", help="leave the TLS upstream out")
    parser.add_argument("--write", action="store_true", help="only write the page from the last results")
    given = parser.parse_args()
    if given.write:
        write(json.loads(RESULTS.read_text()), PAGES)
        return 0
    names = [name for name in PEERS if name in given.only.split(",")] or list(PEERS)
    seconds, rounds = (1.0, 1) if given.quick else (given.seconds, given.rounds)
    begun = time.monotonic()
    found: dict[str, Any] = {
        "result": measure(names, seconds=seconds, rounds=rounds, tls=not given.no_tls),
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": report.machine(),
        "minutes": round((time.monotonic() - begun) / 60, 1),
    }
    trial = given.quick or given.only
    results = TRIAL / RESULTS.name if trial else RESULTS
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(found, indent=1) + "\n")
    write(found, TRIAL if trial else PAGES)
    print(f"{(TRIAL if trial else PAGES) / 'gateway.md'} is written, the figures are in {results}")
    return 1 if "missing" in found["result"]["peers"].get("detent", {}) else 0


if __name__ == "__main__":
    sys.exit(main())

"""What Detent weighs: packages and bytes installed, CPU of `--help`, time to ready, memory of all processes.

    python benchmarks/footprint.py [--seconds N]

prints JSON. Memory is the proportional set size (PSS), which counts shared pages once, summed over the process tree.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import importlib.metadata
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement

from processes import tree

ROOT = Path(__file__).resolve().parent.parent
MB = 1_000_000


def installed() -> dict[str, float]:
    """The packages that a default installation brings, and their bytes on disk."""
    seen: dict[str, importlib.metadata.Distribution] = {}
    waiting = [(requirement, "") for requirement in importlib.metadata.requires("detent") or ()]
    while waiting:
        text, extra = waiting.pop()
        wanted = Requirement(text)
        if wanted.marker and not wanted.marker.evaluate({"extra": extra}):
            continue
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if name not in seen:
            seen[name] = importlib.metadata.distribution(name)
            waiting += [(t, e) for t in seen[name].requires or () for e in ("", *wanted.extras)]
    paths = {Path(str(found.locate_file(file))) for found in seen.values() for file in found.files or ()}
    size = sum(path.stat().st_size for path in paths if path.is_file())
    own = sum(path.stat().st_size for path in (ROOT / "src").rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {"packages": len(seen) + 1, "megabytes": round((size + own) / MB, 1), "own_megabytes": round(own / MB, 2)}


def help_cpu(rounds: int = 7) -> float:
    """CPU seconds of `detent --help`, the best of several."""
    best = 1e9
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "detent", "--help"], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return round(best, 3)


def memory(pid: int) -> float:
    """PSS of one process in megabytes."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return int(next(line for line in text.splitlines() if line.startswith("Pss:")).split()[1]) / 1000
    return 0.0


def part(pid: int) -> str:
    """Which part a process is, by its command line."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        for name in ("engines.tiny", "gateway", "control", "worker"):
            if any(name in word for word in words[1:6]):
                return {"engines.tiny": "engine"}.get(name, name)
    return "supervisor"


def ready(port: int, path: str) -> bool:
    """Whether something answers 200 there."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def running(seconds: float) -> dict[str, object]:
    """Start everything in an empty folder; time to ready, and memory after standing idle."""
    ports = []
    for _ in range(3):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    with tempfile.TemporaryDirectory() as home:
        named = zip(("DETENT_GATEWAY_PORT", "DETENT_PORT", "DETENT_ENGINE_PORT"), map(str, ports), strict=True)
        environment = {**os.environ, "DETENT_HOME": home, **dict(named)}
        begun = time.monotonic()
        command = [sys.executable, "-m", "detent", "up"]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            while not (ready(ports[0], "/readyz") and ready(ports[1], "/healthz")):
                if process.poll() is not None or time.monotonic() > begun + 60:
                    raise SystemExit("detent up was not ready in 60 s")
                time.sleep(0.02)
            took = time.monotonic() - begun
            time.sleep(seconds)
            parts: dict[str, float] = {}
            for pid in tree(process.pid):
                parts[part(pid)] = parts.get(part(pid), 0) + memory(pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
    total = sum(parts.values())
    return {
        "ready_seconds": round(took, 2),
        "megabytes": round(total, 1),
        "megabytes_without_engine": round(total - parts.get("engine", 0), 1),
        "megabytes_by_part": {name: round(size, 1) for name, size in sorted(parts.items())},
    }


def assets() -> float:
    """Bundled scripts and styles of the console, in megabytes."""
    folder = ROOT / "src" / "detent" / "web" / "static"
    return round(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and p.suffix != ".map") / MB, 3)


def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=10, help="how long to stand idle before memory is read")
    seconds = parser.parse_args(arguments).seconds
    result = {
        "install": installed(),
        "help_cpu_seconds": help_cpu(),
        "assets_megabytes": assets(),
        "up": running(seconds),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])

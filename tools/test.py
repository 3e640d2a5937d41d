"""Run every test, in groups that suit a small machine, and end with one line that counts them all.

Usage: `make test`, or `python tools/test.py [GROUP] [pytest options]`. The groups:

    quick      rooms, contracts, properties, gates: two processes, random order
    processes  end to end, documentation, browser: they start whole platforms, so one file stays in one process
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROCESSES = ("tests/e2e", "tests/docs")
NOTHING_COLLECTED = 5
_OUTCOME = re.compile(r"(\d+) (passed|failed|errors?|skipped|deselected|xfailed|xpassed|warnings?|rerun)")


def groups() -> dict[str, list[str]]:
    """Folders under tests/ by group; a new folder is quick until told otherwise."""
    folders = sorted(f"tests/{p.name}" for p in (ROOT / "tests").iterdir() if p.is_dir() and p.name[0] not in "._")
    return {
        "quick": [f for f in folders if f not in PROCESSES],
        "processes": [f for f in folders if f in PROCESSES],
    }


def run(paths: list[str], options: list[str]) -> tuple[int, Counter[str]]:
    """One pytest run; its exit status and what its closing line counted."""
    workers = os.environ.get("TEST_WORKERS", "2")
    command = [sys.executable, "-m", "pytest", "-n", workers, "--dist", "loadfile", "-q", *options, *paths]
    closing = ""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, errors="replace") as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if " in " in line and _OUTCOME.search(line):
                closing = line
    counts: Counter[str] = Counter()
    for number, outcome in _OUTCOME.findall(closing):
        counts[outcome.rstrip("s") if outcome in {"errors", "warnings"} else outcome] += int(number)
    status = process.returncode
    return (0 if status == NOTHING_COLLECTED else status), counts


def main(arguments: list[str]) -> int:
    """Run the groups asked for (all without a name) and print the closing line."""
    every = groups()
    wanted = [name for name in arguments if name in every] or list(every)
    options = [argument for argument in arguments if argument not in every]
    begun = time.monotonic()
    worst, total = 0, Counter[str]()
    for name in wanted:
        if every[name]:
            print(f"--- {name}: {' '.join(every[name])}", flush=True)
            status, counts = run(every[name], options)
            worst = worst or status
            total += counts
    if not worst and not total["passed"]:
        worst = 1
    told = ", ".join(f"{total[word]} {word}" for word in ("failed", "error", "passed", "skipped") if total[word])
    print(f"==== {told or 'no tests ran'} in {time.monotonic() - begun:.2f}s ====")
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

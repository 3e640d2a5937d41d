"""Real processes over the same counters, some of them killed with -9 in the middle of what they do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.contract.quota_caller import COST_EACH, MONEY, REQUESTS, SLOTS, TOKENS, TOKENS_EACH, quotas_of

from detent.gateway.limits.rules import counter_of
from detent.kernel.clock import SystemClock
from detent.kernel.ports import Quotas
from detent.kernel.quotas import LEASE, Level, Move

CALLER = Path(__file__).with_name("quota_caller.py")
ROOT = Path(__file__).resolve().parents[2]
WORKERS = 3
SECONDS = 2.5


@pytest.fixture(params=["host", pytest.param("postgres", marks=pytest.mark.postgres), "redis"])
def url(request: pytest.FixtureRequest) -> str:
    """Where the counters are; empty for the host's file."""
    if request.param == "host":
        return ""
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


def start(url: str, home: Path, name: str, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(CALLER), url, str(home), str(seconds), name],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
    )


def levels(quotas: Quotas) -> dict[str, Level]:
    """By the rule's name."""
    return {level.key.split("\x1f")[2]: level for level in quotas.levels("p")}


def test_workers_together_keep_the_limits_and_the_killed_leak_nothing(url: str, tmp_path: Path) -> None:
    workers = [start(url, tmp_path, f"w{number}", SECONDS) for number in range(WORKERS)]
    victims = [start(url, tmp_path, f"v{number}", 60) for number in range(2)]
    time.sleep(SECONDS / 3)
    for victim in victims:
        victim.send_signal(signal.SIGKILL)
    said = [worker.communicate(timeout=60)[0].split("\n") for worker in [*workers, *victims]]
    assert [worker.returncode for worker in workers] == [0] * WORKERS
    granted = [sum(line.startswith("+") for line in lines) for lines in said]
    settled = [sum(line.startswith("-") for line in lines) for lines in said]
    refused = sum(int(line.split()[1]) for lines in said for line in lines if line.startswith("refused"))
    quotas = quotas_of(url, str(tmp_path))
    found = levels(quotas)

    # Never more than the limit, and all of it is to be had: only what the killed held of it may be missing.
    slack = 0 if not url else len(victims) * REQUESTS.amount // 10
    assert sum(granted) <= REQUESTS.amount
    assert sum(granted) >= REQUESTS.amount - slack - 2 * len(victims)
    assert refused > 0
    # What the living settled is counted once; of the killed at most what they had no time to tell is missing.
    least = sum(settled[:WORKERS]) if url else sum(settled)
    assert least * TOKENS_EACH <= found["tokens"].used <= sum(granted) * TOKENS_EACH
    assert least * COST_EACH <= found["money"].used <= sum(granted) * COST_EACH
    assert sum(granted[:WORKERS]) <= found["requests"].used <= REQUESTS.amount

    # The living hold nothing any more; what the killed held lapses.
    assert found["slots"].held <= SLOTS.amount
    deadline = time.monotonic() + LEASE / 1e9 + 2
    while any(level.held for level in levels(quotas).values()):
        assert time.monotonic() < deadline
        time.sleep(0.25)
    now = SystemClock().now()
    moves = [Move(counter_of(rule, subject, now)) for rule, subject in ((SLOTS, ""), (MONEY, ""), (TOKENS, "k"))]
    assert quotas.exchange(moves)[0].free == SLOTS.amount
    quotas.close()

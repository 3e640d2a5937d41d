"""A gateway worker as far as limits go, in a process of its own: calls as fast as it may, and says what passed.

Usage: quota_caller.py URL HOME SECONDS NAME. Prints a line for each call that was granted, before it is settled.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from detent.gateway.errors import BudgetSpent, LimitExceeded
from detent.gateway.limits.host import HostQuotas
from detent.gateway.limits.meter import Meter
from detent.gateway.limits.rules import Asked
from detent.gateway.model import Budget, Limit
from detent.kernel.clock import SystemClock
from detent.kernel.ports import Quotas
from detent.store.quotas.postgres import PostgresQuotas
from detent.store.quotas.redis import RedisQuotas

REQUESTS = Limit(name="requests", project="p", scope="project", unit="requests", amount=400, window_seconds=3600)
TOKENS = Limit(name="tokens", project="p", scope="key", unit="tokens", amount=1_000_000, window_seconds=3600)
SLOTS = Limit(name="slots", project="p", scope="project", unit="concurrency", amount=3)
MONEY = Budget(name="money", project="p", scope="project", amount=1_000_000)
TOKENS_EACH, COST_EACH = 7, 11


def quotas_of(url: str, home: str) -> Quotas:
    """The adapter for a URL."""
    if url.startswith("postgresql"):
        return PostgresQuotas(url)
    if url.startswith("redis"):
        return RedisQuotas(url)
    return HostQuotas(Path(home) / "quotas", clock=SystemClock())


async def main(url: str, home: str, seconds: float, name: str) -> None:
    """Call until the time is over."""
    meter = Meter(quotas_of(url, home), clock=SystemClock(), sender=f"{name}-{os.getpid()}")
    meter.configure({"p": (REQUESTS, TOKENS, SLOTS)}, {"p": (MONEY,)})
    ticking = asyncio.create_task(meter.run())
    over = time.monotonic() + seconds
    number = refused = 0

    async def call() -> None:
        nonlocal number, refused
        while time.monotonic() < over:
            number += 1
            asked = Asked(id=f"{name}-{number}", project="p", key="k", tokens=2 * TOKENS_EACH, cost=2 * COST_EACH)
            try:
                grant = await meter.reserve(asked)
            except (LimitExceeded, BudgetSpent):
                refused += 1
                await asyncio.sleep(0.01)
                continue
            sys.stdout.write(f"+ {asked.id}\n")
            sys.stdout.flush()
            await asyncio.sleep(0.001)
            grant.settle(TOKENS_EACH, COST_EACH)
            grant.settle(TOKENS_EACH, COST_EACH)
            sys.stdout.write(f"- {asked.id}\n")
            sys.stdout.flush()

    await asyncio.gather(call(), call())
    ticking.cancel()
    await meter.stop()
    sys.stdout.write(f"refused {refused}\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]))

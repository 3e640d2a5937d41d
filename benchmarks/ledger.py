"""What the ledger costs: recording a fact over inserting the same row plainly, and verifying the chain.

    python benchmarks/ledger.py [--facts N] [--json-only]

prints JSON. CPU time is this process's, by `time.process_time`; the best of several rounds. "Plain" is what one would
write without a ledger: the same data in ordinary columns with the same four indexes and the body as JSON, through
SQLAlchemy in transactions of the same size; "plain_driver" hands the rows to the driver uncompiled, as the ledger does
inside. "Bare" is the ledger without views; "with views" folds each fact into a
row of current state too, which the plain insert does not do.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite.pysqlite import dialect as sqlite_dialect

from detent.gateway.facts import FACTS, KeyMinted
from detent.gateway.views import VIEWS
from detent.kernel.clock import SystemClock
from detent.kernel.facts import Draft, FactCatalog
from detent.kernel.identity import Actor, Permission
from detent.kernel.ids import UuidV7
from detent.store.database import open_database, writing
from detent.store.ledger import SqlLedger, open_ledger

ROUNDS = 3
ACTOR = Actor("user", "0190c0de-0000-7000-8000-000000000001")

PLAIN = sa.Table(
    "plain",
    sa.MetaData(),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("id", sa.Text),
    sa.Column("stream", sa.Text),
    sa.Column("version", sa.Integer),
    sa.Column("kind", sa.Text, index=True),
    sa.Column("project", sa.Text, index=True),
    sa.Column("actor", sa.Text, index=True),
    sa.Column("time", sa.BigInteger),
    sa.Column("reason", sa.Text),
    sa.Column("body", sa.Text),
    sa.Index("plain_stream", "stream", "version", unique=True),
)


def body(number: int) -> KeyMinted:
    """A fact of usual size."""
    return KeyMinted(
        name=f"service {number}", hash="ab" * 32, hint="dtk_abcd", permissions=(Permission.GATEWAY_CALL,), expires=0
    )


def cpu(work: Callable[[], None]) -> tuple[float, float]:
    """CPU and wall seconds of one run."""
    gc.collect()
    wall, start = time.perf_counter(), time.process_time()
    work()
    return time.process_time() - start, time.perf_counter() - wall


def plain_insert(folder: Path, bodies: Sequence[KeyMinted], batch: int, *, driver: bool = False) -> tuple[float, float]:
    """Rows in ordinary columns."""
    statement = str(sa.insert(PLAIN).compile(dialect=sqlite_dialect()))
    engine = open_database(f"sqlite:///{folder / 'plain.db'}")
    PLAIN.metadata.create_all(engine)
    ids, clock = UuidV7(), SystemClock()
    streams = [f"key/{ids.new()}" for _ in bodies]

    def work() -> None:
        for start in range(0, len(bodies), batch):
            now = clock.now()
            rows = []
            for number, said in enumerate(bodies[start : start + batch], start):
                rows.append(
                    {
                        "position": number + 1,
                        "id": ids.new(),
                        "stream": streams[number],
                        "version": 1,
                        "kind": said.kind,
                        "project": "default",
                        "actor": str(ACTOR),
                        "time": now,
                        "reason": "",
                        "body": msgspec.json.encode(said).decode(),
                    }
                )
            with writing(engine) as connection:
                if driver:
                    connection.exec_driver_sql(statement, [tuple(row.values()) for row in rows])
                else:
                    connection.execute(sa.insert(PLAIN), rows)

    try:
        return cpu(work)
    finally:
        engine.dispose()


def ledger_append(folder: Path, bodies: Sequence[KeyMinted], batch: int, catalog: FactCatalog) -> tuple[float, float]:
    """The same through the ledger."""
    ledger = opened(folder, catalog)
    ids = UuidV7()
    drafts = [Draft(f"key/{ids.new()}", said) for said in bodies]

    def work() -> None:
        for start in range(0, len(drafts), batch):
            ledger.append(drafts[start : start + batch], actor=ACTOR, project="default")

    try:
        return cpu(work)
    finally:
        ledger.close()


def opened(folder: Path, catalog: FactCatalog) -> SqlLedger:
    """A ledger in a folder."""
    return open_ledger(
        f"sqlite:///{folder / 'ledger.db'}",
        catalog,
        checkpoints=folder / "checkpoints.jsonl",
        key_file=folder / "ledger.key",
        clock=SystemClock(),
        ids=UuidV7(),
    )


def measure_append(count: int, batch: int) -> dict[str, Any]:
    """CPU microseconds per fact, and facts per second of wall time."""
    bodies = [body(number) for number in range(count)]
    best: dict[str, tuple[float, float]] = {}
    for _ in range(ROUNDS):
        # Side by side within a round, so that what else the machine does meets all of them.
        for name, work in (
            ("plain", lambda folder: plain_insert(folder, bodies, batch)),
            ("plain_driver", lambda folder: plain_insert(folder, bodies, batch, driver=True)),
            ("bare", lambda folder: ledger_append(folder, bodies, batch, FactCatalog(FACTS))),
            ("with_views", lambda folder: ledger_append(folder, bodies, batch, FactCatalog(FACTS, VIEWS))),
        ):
            with tempfile.TemporaryDirectory() as folder:
                seen = work(Path(folder))
            best[name] = min(seen, best.get(name, seen))
    each = {name: seconds / count * 1e6 for name, (seconds, _) in best.items()}
    return {
        "facts": count,
        "facts_per_transaction": batch,
        "cpu_us_per_fact": {name: round(value, 2) for name, value in each.items()},
        "cpu_us_over_plain": round(each["bare"] - each["plain"], 2),
        "cpu_us_over_plain_driver": round(each["bare"] - each["plain_driver"], 2),
        "cpu_us_over_plain_with_views": round(each["with_views"] - each["plain"], 2),
        "facts_per_second": {name: round(count / wall) for name, (_, wall) in best.items()},
    }


def measure_verify(count: int) -> dict[str, Any]:
    """Facts per second through `verify`, and the same with all views folded anew."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = opened(Path(folder), FactCatalog(FACTS, VIEWS))
        ids = UuidV7()
        for start in range(0, count, 5000):
            drafts = [Draft(f"key/{ids.new()}", body(number)) for number in range(start, min(start + 5000, count))]
            ledger.append(drafts, actor=ACTOR, project="default")
            if start % 50_000 == 0:
                ledger.checkpoint()
        size = (Path(folder) / "ledger.db").stat().st_size
        best: dict[bool, float] = {}
        for views in (False, True):
            for _ in range(ROUNDS):
                seconds, _ = cpu(lambda views=views: check(ledger, count, views=views))  # type: ignore[misc]
                best[views] = min(seconds, best.get(views, seconds))
        ledger.close()
    return {
        "facts": count,
        "facts_per_cpu_second": round(count / best[False]),
        "facts_per_cpu_second_with_views": round(count / best[True]),
        "bytes_per_fact_with_views": round(size / count),
    }


def check(ledger: SqlLedger, count: int, *, views: bool) -> None:
    """Verify, and see that it did."""
    seen = ledger.verify(views=views)
    if not seen.ok or seen.facts != count:
        raise SystemExit(f"verification failed: {seen.findings[:3]}")


def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--facts", type=int, default=50_000, help="facts to record per round; verify takes four times")
    count = parser.parse_args(arguments).facts
    append = {f"batch_{batch}": measure_append(count if batch > 1 else count // 20, batch) for batch in (1, 100)}
    verify = measure_verify(count * 4)
    over = append["batch_100"]["cpu_us_over_plain"]
    result = {
        "machine": {
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "processor": platform.machine(),
        },
        "append": append,
        "verify": verify,
        "bars": {
            "cpu_us_over_plain <= 5": over <= 5,
            "verify facts/s >= 400,000": verify["facts_per_cpu_second"] >= 400_000,
        },
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])

"""The ledger under several processes, and under kill -9."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from detent.gateway.facts import FACTS
from detent.gateway.views import ROUTES, VIEWS
from detent.kernel.clock import SystemClock
from detent.kernel.facts import FactCatalog
from detent.kernel.ids import UuidV7
from detent.store.ledger import SqlLedger, open_ledger, read_checkpoints

WRITER = Path(__file__).with_name("ledger_writer.py")
KILLS = 10
CATALOG = FactCatalog(FACTS, VIEWS)


def start(url: str, folder: Path, name: str, count: int = 0) -> subprocess.Popen[str]:
    """A writing process."""
    return subprocess.Popen(
        [sys.executable, str(WRITER), url, str(folder), name, str(count)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def acknowledged(lines: str) -> list[str]:
    """The ids in a writer's whole lines."""
    whole = lines[: lines.rfind("\n") + 1]
    return [id_ for line in whole.splitlines() if line != "ready" for id_ in line.split()]


@pytest.fixture
def opened(database_url: str, tmp_path: Path) -> Iterator[SqlLedger]:
    """The ledger as this process sees it."""
    ledger = open_ledger(
        database_url,
        CATALOG,
        checkpoints=tmp_path / "checkpoints.jsonl",
        key_file=tmp_path / "keys" / "ledger.key",
        clock=SystemClock(),
        ids=UuidV7(),
    )
    yield ledger
    ledger.close()


def all_ids(ledger: SqlLedger) -> list[str]:
    return [fact.id for fact in ledger.read(limit=1_000_000)]


@pytest.mark.e2e
def test_a_killed_writer_loses_nothing_acknowledged(opened: SqlLedger, database_url: str, tmp_path: Path) -> None:
    rng = random.Random(7)
    kept: list[str] = []
    for kill in range(KILLS):
        writer = start(database_url, tmp_path, f"w{kill}")
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n", writer.communicate()[1]
        # Every other one is killed wherever it happens to be, also before its first change; the others after one.
        first = writer.stdout.readline() if kill % 2 else ""
        time.sleep(rng.uniform(0.0, 0.12))
        writer.kill()
        kept += acknowledged(first + writer.stdout.read())
        writer.communicate(timeout=20)
        seen = opened.verify()
        assert seen.findings == ()
        stored = all_ids(opened)
        assert set(kept) <= set(stored)
        assert len(stored) == len(set(stored))
        # At most the one change that was under way is there without having been acknowledged, and it is there whole.
        assert seen.facts - len(kept) <= 3 * (kill + 1)
    assert len(kept) >= KILLS // 2
    assert opened.rebuild() == dict.fromkeys(opened.rebuild(), 0)


@pytest.mark.e2e
def test_processes_write_at_once(opened: SqlLedger, database_url: str, tmp_path: Path) -> None:
    count = 40
    writers = [start(database_url, tmp_path, f"w{number}", count) for number in range(4)]
    said = [writer.communicate(timeout=120) for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 4, said
    ids = [id_ for out, _ in said for id_ in acknowledged(out)]
    assert len(ids) == len(set(ids)) == 4 * (2 * count + count // 3)
    assert sorted(all_ids(opened)) == sorted(ids)
    assert opened.stream_version("route/default/shared") == 4 * count
    routes = opened.rows(ROUTES)
    assert [routes[f"route/default/w{n}"].targets[0].model for n in range(4)] == [str(count)] * 4
    seen = opened.verify(checkpoints=read_checkpoints(tmp_path / "checkpoints.jsonl"))
    assert seen.findings == ()
    assert seen.checkpoint is not None


@pytest.mark.e2e
def test_first_starts_at_once(database_url: str, tmp_path: Path) -> None:
    writers = [start(database_url, tmp_path, f"w{number}", 3) for number in range(3)]
    said = [writer.communicate(timeout=60) for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 3, said
    ledger = open_ledger(
        database_url,
        CATALOG,
        checkpoints=tmp_path / "checkpoints.jsonl",
        key_file=tmp_path / "keys" / "ledger.key",
        clock=SystemClock(),
        ids=UuidV7(),
    )
    assert ledger.checkpoint().size == 3 * 7
    assert ledger.verify().findings == ()
    ledger.close()

"""What runs beside the server, and the workflows that keep the stores in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from detent.app.control import check_exposure, keep_published, keep_signed, loops, told
from detent.app.platform import Platform, engine_url, open_platform
from detent.app.workflows import MAINTENANCE, SCHEDULES, workflows
from detent.gateway.snapshot import load
from detent.kernel.clock import DAY, FixedClock, day_of
from detent.kernel.errors import BadSettings
from detent.kernel.settings import ControlSettings, EngineSettings, Settings, StorageSettings
from detent.kernel.telemetry import Batch, Span
from detent.store.ledger import read_checkpoints
from detent.traces.spool import Spool, encode_span


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings(home=str(home), storage=StorageSettings(retention_days=30, seal_after_days=2))


@pytest.fixture
def platform(settings: Settings, clock: FixedClock) -> Iterator[Platform]:
    with open_platform(settings, clock=clock) as opened:
        yield opened


def span(number: int, start: int) -> Span:
    return Span(trace_id=f"{number:032x}", span_id=f"{number:016x}", name="chat x", start=start, end=start + 5)


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Inline:
    """A job's context that runs each step at once and remembers it."""

    id = "job"

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.notes: list[str] = []

    def step(self, name: str, work: Callable[[], Any]) -> Any:
        self.steps.append(name)
        return work()

    def progress(self, fraction: float, note: str = "") -> None:
        assert 0 <= fraction <= 1
        self.notes.append(note)


def run(platform: Platform, name: str, **arguments: Any) -> tuple[dict[str, Any], Inline]:
    known = workflows(
        platform.settings, ledger=platform.ledger, lake=platform.lake, blobs=platform.blobs, clock=platform.clock
    )
    context = Inline()
    return known[name](context, arguments), context


# Loops


def test_another_process_that_moved_the_ledger_is_noticed(
    settings: Settings, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=keep_published, args=(platform, stop))
    thread.start()
    with open_platform(settings) as other:
        monkeypatch.setattr(other.gateway, "_changed", lambda: None)  # it died before it could publish
        other.gateway.mint_key(other.access.operator(), "app")
    try:
        until(lambda: (found := load(settings.folder / "snapshot")) is not None and len(found.keys) == 1)
    finally:
        stop.set()
        thread.join()


def test_a_checkpoint_is_signed_at_the_start_and_at_the_stop(settings: Settings, platform: Platform) -> None:
    platform.gateway.mint_key(platform.access.operator(), "first")
    stop = threading.Event()
    thread = threading.Thread(target=keep_signed, args=(platform, stop))
    thread.start()
    until(lambda: [c.size for c in read_checkpoints(settings.checkpoints)] == [1])
    platform.gateway.mint_key(platform.access.operator(), "second")
    stop.set()
    thread.join()
    assert [c.size for c in read_checkpoints(settings.checkpoints)] == [1, 2]
    assert platform.ledger.verify(checkpoints=read_checkpoints(settings.checkpoints)).ok


def test_the_spool_is_ingested_also_at_the_last_moment(platform: Platform, home: Path, clock: FixedClock) -> None:
    spool = Spool(home / "spool", writer="gateway0")
    with loops(platform):
        spool.append(encode_span(span(1, clock.now())))
        until(lambda: platform.lake.trace("default", f"{1:032x}"))
        spool.append(encode_span(span(2, clock.now())))
        spool.close()
    assert platform.lake.trace("default", f"{2:032x}")
    assert platform.spool_status().lag == 0


def test_a_loop_that_fails_is_run_again(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detent.app.control._RETRY_SECONDS", 0.01)
    calls = []

    def fails(*_: object) -> None:
        calls.append(1)
        raise RuntimeError("a bug")

    monkeypatch.setattr("detent.app.control.keep_published", fails)
    with loops(platform):
        until(lambda: len(calls) > 2)


# What is told


def test_the_link_is_told_until_somebody_holds_the_installation(platform: Platform) -> None:
    said = told(platform)
    assert said.sign_in.startswith("http://127.0.0.1:7401/login?token=dtl_")
    token = said.sign_in.partition("token=")[2]
    admin = platform.people.sign_in_link(token).account
    platform.people.set_password(platform.access.operator(), admin.id, "correct horse battery")
    assert told(platform).sign_in == ""


def test_the_network_is_refused_until_then(settings: Settings, home: Path) -> None:
    with open_platform(Settings(home=str(home), control=ControlSettings(host="0.0.0.0"))) as platform:
        with pytest.raises(BadSettings, match="no admin has a password"):
            check_exposure(platform)
        admin = platform.people.sign_in_link(platform.people.first_link().reveal()).account
        platform.people.set_password(platform.access.operator(), admin.id, "correct horse battery")
        check_exposure(platform)
    with open_platform(settings) as platform:
        check_exposure(platform)


def test_the_engine_is_where_it_will_be(home: Path) -> None:
    assert engine_url(Settings(home=str(home))) == "http://127.0.0.1:7402/v1"
    assert engine_url(Settings(home=str(home), engine=EngineSettings(port=0))) == ""
    assert engine_url(Settings(home=str(home), engine=EngineSettings(enabled=False))) == ""


def test_a_platform_in_memory_leaves_nothing() -> None:
    with open_platform(Settings(home="/nowhere"), memory=True) as platform:
        platform.gateway.mint_key(platform.access.operator(), "app")
        folder = platform.settings.folder
        assert platform.status().ledger.position == 1
    assert not folder.exists()


# Workflows


def test_maintenance_signs_seals_and_drops(platform: Platform, clock: FixedClock) -> None:
    now = clock.now()
    ages = (0, 1, 3, 40)
    platform.lake.write(Batch(tuple(span(number, now - age * DAY) for number, age in enumerate(ages, 1))))
    platform.gateway.mint_key(platform.access.operator(), "app")
    result, context = run(platform, MAINTENANCE)
    assert (result["checkpoint"]["size"], result["partitions_dropped"]) == (1, 1)
    assert [part["day"] for part in result["sealed"]] == [day_of(now - 3 * DAY)]
    assert sorted((part.day, part.sealed) for part in platform.lake.partitions()) == [
        (day_of(now - 3 * DAY), True),
        (day_of(now - DAY), False),
        (day_of(now), False),
    ]
    assert context.steps == ["checkpoint", "retention", "choose", f"seal default {day_of(now - 3 * DAY)}", "cache"]
    assert platform.lake.trace("default", f"{3:032x}")
    assert set(SCHEDULES) == {MAINTENANCE}


def test_days_are_sealed_when_asked_for(platform: Platform, clock: FixedClock) -> None:
    day = day_of(clock.now() - DAY)
    platform.lake.write(Batch((span(1, clock.now() - DAY),)))
    assert run(platform, "lake.seal")[0] == {"sealed": []}
    assert [part["day"] for part in run(platform, "lake.seal", days=[day])[0]["sealed"]] == [day]


def test_stores_are_checked(platform: Platform, home: Path) -> None:
    platform.gateway.mint_key(platform.access.operator(), "app")
    platform.audit.checkpoint()
    verified, _ = run(platform, "ledger.verify")
    assert (verified["ok"], verified["facts"], verified["findings"]) == (True, 1, [])
    digest = platform.files.store(platform.access.operator(), "a", "batch", b"prompt", 6).digest
    assert run(platform, "blobs.fsck")[0] == {"ok": True, "damage": []}
    place = home / "blobs" / digest[7:9] / digest[9:]
    place.chmod(0o600)
    place.write_bytes(b"other")
    damaged, _ = run(platform, "blobs.fsck")
    assert (damaged["ok"], damaged["damage"][0]["problem"]) == (False, "damaged")

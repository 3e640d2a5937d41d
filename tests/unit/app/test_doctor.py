"""`detent doctor`: everything that can be wrong is named, with why and how to put it right."""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from detent.app import doctor
from detent.app.doctor import Check, examine
from detent.app.platform import open_platform
from detent.app.state import State, take_lock, write_state
from detent.app.status import Part
from detent.kernel.clock import DAY, HOUR, SECOND, FixedClock, SystemClock
from detent.kernel.errors import StorageFailed
from detent.kernel.secret import Secret
from detent.kernel.settings import ControlSettings, EngineSettings, GatewaySettings, Settings


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings(
        home=str(home),
        control=ControlSettings(port=0),
        gateway=GatewaySettings(port=0),
        engine=EngineSettings(port=0),
    )


@pytest.fixture
def used(settings: Settings) -> Settings:
    """An installation with a few facts and a credential."""
    with open_platform(settings) as platform:
        caller = platform.access.operator()
        platform.gateway.mint_key(caller, "app")
        platform.gateway.save_provider(caller, "p", url="https://api.example.org/v1", credential=Secret("sk-x"))
        platform.audit.checkpoint()
    return settings


def found(settings: Settings, name: str, clock: FixedClock | None = None) -> Check:
    checks = [check for check in examine(settings, clock=clock) if check.name == name]
    for check in checks:
        assert check.what
        assert (check.state == "ok") == (check.why == "") == (check.fix == "")
    return next((check for check in checks if check.state != "ok"), checks[0])


def test_a_fresh_home_fails_nothing_and_is_left_alone(settings: Settings, home: Path) -> None:
    assert {check.state for check in examine(settings)} <= {"ok", "warning"}
    assert list(home.iterdir()) == []
    missing = Settings(home=str(home / "missing"))
    assert found(missing, "home").fix == "`detent up` makes it."
    assert not (home / "missing").exists()


def test_a_used_home_is_verified(used: Settings) -> None:
    states = {check.name: check.state for check in examine(used)}
    assert states == {
        **dict.fromkeys(["python", "hooks", "home", "disk", "keys", "ports", "ledger", "clock"], "ok"),
        **dict.fromkeys(["lake", "spool", "snapshot"], "ok"),
        "processes": "warning",
    }
    assert "1 signed checkpoints agree" in found(used, "ledger").what


def _chmod(path: str, mode: int) -> Callable[[Path], None]:
    return lambda home: (home / path).chmod(mode)


@pytest.mark.parametrize(
    ("harm", "name", "state", "words"),
    [
        (_chmod(".", 0o755), "home", "warning", "chmod 700"),
        (_chmod("keys/root.key", 0o644), "keys", "failed", "chmod 600"),
        (_chmod("keys/ledger.key", 0o640), "keys", "failed", "chmod 600"),
        (lambda home: (home / "keys/root.key").write_bytes(b"short"), "keys", "failed", "backup"),
        (lambda home: (home / "snapshot/current.json").write_text("{"), "snapshot", "failed", "control plane"),
    ],
)
def test_harm_is_found(
    used: Settings, home: Path, harm: Callable[[Path], None], name: str, state: str, words: str
) -> None:
    harm(home)
    check = found(used, name)
    assert check.state == state
    assert words in check.fix


def test_a_changed_fact_is_found(used: Settings, home: Path) -> None:
    with sqlite3.connect(home / "ledger.db") as database:
        names = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")]
        for name in names:
            database.execute(f'DROP TRIGGER "{name}"')
        database.execute("UPDATE facts SET content = replace(content, 'api.example.org', 'evil.example.org')")
    database.close()
    check = found(used, "ledger")
    assert check.state == "failed"
    assert "edited" in check.what


def test_a_clock_that_went_back_is_found(settings: Settings, clock: FixedClock) -> None:
    with open_platform(settings, clock=clock) as platform:
        platform.gateway.mint_key(platform.access.operator(), "app")
        assert platform.clock_behind() == 0
        clock.advance(-HOUR)
        assert platform.clock_behind() == HOUR
        assert any("3600 s behind" in sentence for sentence in platform.security())
        with pytest.raises(StorageFailed, match="The clock went back"):
            platform.gateway.mint_key(platform.access.operator(), "later")
    check = found(settings, "clock", clock)
    assert (check.state, "3600 s behind" in check.what) == ("failed", True)


def test_a_taken_port_is_found(settings: Settings, home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        taken = Settings(
            home=str(home),
            control=ControlSettings(port=port),
            gateway=GatewaySettings(port=0),
            engine=EngineSettings(enabled=False),
        )
        check = found(taken, "ports")
    assert check.state == "failed"
    assert str(port) in check.what
    assert "control.port" in check.fix


def test_being_open_to_the_network_is_told(settings: Settings, home: Path) -> None:
    open_ = Settings(home=str(home), gateway=GatewaySettings(host="0.0.0.0", port=0))
    assert "gateway" in found(open_, "exposure").what


def test_little_disk_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_LOW_DISK", 1 << 62)
    assert found(settings, "disk").state == "warning"
    monkeypatch.setattr(doctor, "LEAST_FREE", 1 << 62)
    assert found(settings, "disk").state == "failed"


def test_code_that_runs_at_every_start_is_told(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("site.getsitepackages", lambda: [str(tmp_path)])
    (tmp_path / "paths.pth").write_text("# a comment\n/somewhere\n")
    assert found(settings, "hooks").state == "ok"
    (tmp_path / "sneaky.pth").write_text("import os; os.system('true')\n")
    (tmp_path / "sitecustomize.py").write_text("")
    check = found(settings, "hooks")
    assert check.state == "warning"
    assert "sneaky.pth" in check.what
    assert "sitecustomize.py" in check.what


def test_processes_that_do_not_run_are_told(settings: Settings, home: Path) -> None:
    held = take_lock(home / "run")
    assert held is not None
    now = SystemClock().now()
    parts = (
        Part(name="control", kind="control", state="running", pid=1, since=now),
        Part(name="worker", kind="worker", state="restarting", restarts=7, since=now - 60 * SECOND, detail="It died."),
        Part(name="gateway-0", kind="gateway", state="starting", since=now),
    )
    state = State(pid=1, started=now - DAY, gateway_url="http://g", console_url="http://c", engine_url="", parts=parts)
    write_state(home / "run", state)
    checks = [check for check in examine(settings) if check.name in {"processes", "restarts"}]
    assert [(check.name, check.state) for check in checks] == [
        ("processes", "failed"),
        ("processes", "warning"),
        ("restarts", "warning"),
    ]
    assert "worker (7)" in checks[2].what
    os.close(held)

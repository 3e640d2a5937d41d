"""The supervisor's parts: sockets, the lock, the state file, children and their back-off."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from detent.app.children import Child, Recipe, delay_after
from detent.app.home import prepare_home
from detent.app.sockets import listen, url_of
from detent.app.state import State, holder, read_state, take_lock, write_state
from detent.app.status import Part
from detent.app.supervisor import Probe, environment, main
from detent.kernel.clock import SECOND, SystemClock
from detent.kernel.errors import BadSettings, Conflict, StorageFailed
from detent.kernel.settings import ControlSettings, GatewaySettings, Settings, load_settings

STATE = State(
    pid=1,
    started=2,
    gateway_url="http://127.0.0.1:7400",
    console_url="http://127.0.0.1:7401",
    engine_url="",
    parts=(Part(name="control", kind="control", state="running", pid=3),),
)


def until(true: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Sockets


def test_a_taken_port_is_named_with_the_way_out(free_port: int) -> None:
    with listen("127.0.0.1", free_port, setting="control.port"), pytest.raises(BadSettings) as refused:
        listen("127.0.0.1", free_port, setting="control.port")
    assert str(free_port) in refused.value.message
    assert "DETENT_PORT" in refused.value.hint
    assert refused.value.field == "control.port"
    with (
        listen("127.0.0.1", free_port, setting="gateway.port"),
        pytest.raises(BadSettings, match="DETENT_GATEWAY_PORT"),
    ):
        listen("127.0.0.1", free_port, setting="gateway.port")


@pytest.mark.parametrize("host", ["192.0.2.1", "not an address"])
def test_an_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(BadSettings):
        listen(host, 0, setting="gateway.port")


def test_a_listening_socket_is_handed_down() -> None:
    with listen("127.0.0.1", 0, setting="gateway.port") as bound:
        assert bound.get_inheritable()
        assert url_of(*bound.getsockname()[:2]) == f"http://127.0.0.1:{bound.getsockname()[1]}"
    assert [url_of(host, 1) for host in ("0.0.0.0", "::", "::1", "example.org")] == [
        "http://127.0.0.1:1",
        "http://[::1]:1",
        "http://[::1]:1",
        "http://example.org:1",
    ]


# Lock and state


def test_one_supervisor_holds_the_home(tmp_path: Path) -> None:
    held = take_lock(tmp_path / "run")
    assert held is not None
    assert (holder(tmp_path / "run"), take_lock(tmp_path / "run")) == (os.getpid(), None)
    write_state(tmp_path / "run", STATE)
    assert read_state(tmp_path / "run") == STATE
    os.close(held)
    assert (holder(tmp_path / "run"), read_state(tmp_path / "run")) == (0, None)
    assert holder(tmp_path / "elsewhere") == 0


def test_a_dead_supervisors_lock_is_free(tmp_path: Path) -> None:
    code = "import sys,time; from pathlib import Path; from detent.app.state import take_lock\n"
    code += "assert take_lock(Path(sys.argv[1])) is not None; print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert holder(tmp_path) == other.pid
        other.kill()
    assert holder(tmp_path) == 0


def test_a_second_up_is_refused(home: Path) -> None:
    held = take_lock(home / "run")
    assert held is not None
    with pytest.raises(Conflict, match=rf"already up .*process {os.getpid()}"):
        main(Settings(home=str(home)))
    os.close(held)


def test_up_says_which_port_is_taken_and_starts_nothing(home: Path, free_port: int) -> None:
    settings = Settings(home=str(home), gateway=GatewaySettings(port=free_port), control=ControlSettings(port=0))
    with listen("127.0.0.1", free_port, setting="gateway.port"), pytest.raises(BadSettings, match=str(free_port)):
        main(settings)
    assert holder(home / "run") == 0
    assert not (home / "ledger.db").exists()


# Home


def test_a_home_that_cannot_be_used_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed, match="is a file"):
        prepare_home(tmp_path / "file")
    with pytest.raises(StorageFailed, match="is a file"):
        prepare_home(tmp_path / "file" / "below")
    if os.getuid() == 0:
        with pytest.raises(StorageFailed, match=r"cannot be written|is a file"):
            prepare_home(Path("/proc/detent"))
    monkeypatch.setattr("detent.app.home.LEAST_FREE", 1 << 62)
    with pytest.raises(StorageFailed, match=r"disk of .* is full"):
        prepare_home(tmp_path / "home")


@pytest.mark.parametrize(
    ("number", "words", "way_out"),
    [
        (errno.EACCES, "cannot be written: Permission denied", "chown"),
        (errno.EROFS, "cannot be written: Read-only file system", "DETENT_HOME"),
        (errno.ENOSPC, "is full", "Free space"),
        (errno.EDQUOT, "is full", "Free space"),
    ],
)
def test_what_the_disk_says_is_put_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str, way_out: str
) -> None:
    def refuse(path: Path, _data: bytes) -> int:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(StorageFailed, match=words) as refused:
        prepare_home(tmp_path / "home")
    assert way_out in refused.value.hint


def test_a_home_is_private(tmp_path: Path) -> None:
    prepare_home(tmp_path / "a" / "home")
    assert (tmp_path / "a" / "home").stat().st_mode & 0o777 == 0o700
    assert {p.name for p in (tmp_path / "a" / "home").iterdir()} >= {"lake", "spool", "keys", "run"}


# Children


def child(code: str, ready: Callable[[], bool] = lambda: True, *, heard: bool = False) -> Child:
    recipe = Recipe("sleeper", "test", ["-c", code], env=dict(os.environ), heard=heard)
    return Child(recipe, clock=SystemClock(), ready=ready)


def test_a_child_runs_dies_and_is_started_again() -> None:
    found = child("import time; time.sleep(60)")
    found.start()
    assert found.part().state == "starting"
    found.look()
    assert (found.state, found.ready_once) == ("running", True)
    first = found.pid
    os.kill(first, signal.SIGKILL)
    said = ""
    while not said:
        said = found.look()
    assert "was ended by SIGKILL" in said
    until(lambda: (found.look(), found.state == "running" and found.pid not in {0, first})[1])
    assert found.restarts == 1
    found.ask_to_stop()
    until(lambda: not found.alive)
    found.settle()
    assert found.part().state == "stopped"


def test_a_child_that_keeps_dying_is_started_ever_more_rarely() -> None:
    delays = [delay_after(failures) / SECOND for failures in range(1, 12)]
    assert delays == [0, 0.25, 0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert [delay_after(failures, served=True) / SECOND for failures in range(1, 7)] == [0, 0.25, 0.5, 1, 1, 1]
    found = child("raise SystemExit(3)", ready=lambda: False)
    found.start()
    until(lambda: "left with status 3" in found.look())
    until(lambda: (found.look(), found.restarts == 2)[1])
    assert not found.ready_once
    found.kill()
    found.settle()


def test_a_child_that_served_is_back_soon_however_often_it_died() -> None:
    found = child("import time; time.sleep(60)")
    found.start()
    for turn in range(5):
        until(lambda: (found.look(), found.state == "running")[1])
        os.kill(found.pid, signal.SIGKILL)
        said: list[str] = []
        until(lambda heard=said: (heard.append(found.look()), heard[-1])[1])
        waits = float(said[-1].rpartition("again in ")[2].removesuffix(" s"))
        assert waits == (0, 0.25, 0.5, 1, 1)[turn]
    until(lambda: (found.look(), found.state == "running")[1])
    found.kill()
    until(lambda: not found.alive)
    found.settle()


def test_a_child_is_heard() -> None:
    found = child('import time; print(\'{"sign_in": "x"}\', flush=True); time.sleep(60)', heard=True)
    found.start()
    until(lambda: found.said() == b'{"sign_in": "x"}')
    found.kill()
    until(lambda: not found.alive)
    found.settle()


def test_children_die_with_their_parent(tmp_path: Path) -> None:
    code = """
import os, sys, time
from detent.app.children import Child, Recipe
from detent.kernel.clock import SystemClock
recipe = Recipe("x", "test", ["-c", "import time; time.sleep(60)"], env=dict(os.environ))
child = Child(recipe, clock=SystemClock(), ready=lambda: True)
child.start()
print(child.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.kill()
    until(lambda: not _runs(pid))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_probe_never_waits() -> None:
    with listen("127.0.0.1", 0, setting="gateway.port") as bound:
        probe = Probe(bound, "/healthz")
        began = time.monotonic()
        assert not any(probe() for _ in range(100))
        assert time.monotonic() - began < 1
        found = []
        for answer in (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\n\r\n"):
            probe()
            connection, _ = bound.accept()
            connection.recv(1000)
            connection.sendall(answer)
            connection.close()
            time.sleep(0.02)
            found.append(probe())
        probe.reset()
        assert found == [False, False, True]


def test_children_get_exactly_the_settings(home: Path) -> None:
    settings = load_settings(
        {"DETENT_HOME": str(home), "DETENT_GATEWAY_PORT": "1234", "DETENT_ENGINE_ENABLED": "false", "OTHER": "x"}
    )
    env = environment(settings, {"DETENT_PORT": "9", "OTHER": "x"})
    assert load_settings(env) == settings
    assert env["OTHER"] == "x"

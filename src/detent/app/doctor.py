"""`detent doctor`: what is wrong with an installation, why it matters, and how to put it right."""

from __future__ import annotations

import os
import shutil
import site
import socket
import stat
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

from detent.app.home import LEAST_FREE
from detent.app.sockets import LOOPBACK
from detent.app.state import State, read_state
from detent.kernel.clock import MINUTE, SECOND, Clock, SystemClock, iso
from detent.kernel.errors import DetentError
from detent.kernel.settings import Settings

_NEWEST_PYTHON: Final = (3, 13)
_OLDEST_PYTHON: Final = (3, 11)
_LOW_DISK: Final = 1024 * 1024 * 1024
_LONG_LAG: Final = 10_000
_KNOWN_HOOKS: Final = frozenset({"distutils-precedence.pth", "_virtualenv.pth"})
"""Start-up files that setuptools and virtualenv bring themselves."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at.

    Attributes:
        name: stable, e.g. `home`.
        state: `ok`, `warning` (works, but look at it) or `failed`.
        what: a sentence on what was found.
        why: why it matters; empty when ok.
        fix: what to do, as a sentence or a command; empty when ok.
    """

    name: str
    state: Literal["ok", "warning", "failed"]
    what: str
    why: str = ""
    fix: str = ""


def examine(settings: Settings, *, clock: Clock | None = None) -> tuple[Check, ...]:
    """Look at everything."""
    clock = clock or SystemClock()
    state = read_state(settings.folder / "run")
    looks: list[tuple[str, Callable[[], Iterator[Check]]]] = [
        ("python", _python),
        ("hooks", _hooks),
        ("home", lambda: _home(settings)),
        ("disk", lambda: _disk(settings)),
        ("keys", lambda: _keys(settings)),
        ("ports", lambda: _ports(settings, state)),
        ("processes", lambda: _processes(state, clock)),
        ("ledger", lambda: _ledger(settings, clock)),
        ("lake", lambda: _lake(settings, clock)),
        ("spool", lambda: _spool(settings, clock)),
        ("snapshot", lambda: _snapshot(settings)),
    ]
    found: list[Check] = []
    for name, look in looks:
        try:
            found += look()
        except DetentError as error:
            found.append(_failed(name, error.message, "What depends on it does not work.", error.hint))
        except OSError as error:
            what = f"{error.filename or 'Something'} cannot be read: {error.strerror}."
            found.append(_failed(name, what, "What depends on it does not work.", _own(settings)))
    return tuple(found)


# What was looked at


def _python() -> Iterator[Check]:
    version = sys.version_info[:2]
    said = f"Python {sys.version.split()[0]} at {sys.executable}."
    if _OLDEST_PYTHON <= version <= _NEWEST_PYTHON:
        yield _ok("python", said)
    else:
        yield _failed("python", said, "Detent is tested on Python 3.11 to 3.13.", "Install it into one of those.")


def _hooks() -> Iterator[Check]:
    """Code that runs whenever Python starts: the usual place for malware that came with a package."""
    folders = {
        Path(path) for path in (*site.getsitepackages(), site.getusersitepackages(), sysconfig.get_path("purelib"))
    }
    suspicious = []
    for folder in sorted(folders):
        if not folder.is_dir():
            continue
        for file in sorted(folder.glob("*.pth")):
            lines = file.read_text(errors="replace").splitlines()
            if file.name not in _KNOWN_HOOKS and any(line.startswith(("import ", "import\t")) for line in lines):
                suspicious.append(str(file))
        suspicious += [str(p) for name in ("sitecustomize.py", "usercustomize.py") if (p := folder / name).exists()]
    if suspicious:
        yield Check(
            name="hooks",
            state="warning",
            what="Code runs at every start of Python: " + ", ".join(suspicious) + ".",
            why="Such files run before Detent and see its keys; malicious packages hide in them.",
            fix="Read each file; remove what you did not put there.",
        )
    else:
        yield _ok("hooks", "Nothing unexpected runs when Python starts.")


def _home(settings: Settings) -> Iterator[Check]:
    home = settings.folder
    if not home.exists():
        yield Check(
            name="home",
            state="warning",
            what=f"The data folder {home} does not exist yet.",
            why="Nothing is stored.",
            fix="`detent up` makes it.",
        )
        return
    if not home.is_dir() or not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        yield _failed("home", f"The data folder {home} cannot be written.", "Nothing can be stored.", _own(settings))
        return
    mode = stat.S_IMODE(home.stat().st_mode)
    if mode & 0o077:
        yield Check(
            name="home",
            state="warning",
            what=f"The data folder {home} can be entered by others (mode {mode:04o}).",
            why="It holds prompts, answers and keys.",
            fix=f"chmod 700 {home}",
        )
    else:
        yield _ok("home", f"The data folder is {home}.")


def _disk(settings: Settings) -> Iterator[Check]:
    place = settings.folder
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    said = f"{free / 2**30:.1f} GiB are free on the disk of {place}."
    fix = "Free space, lower storage.retention_days, or set DETENT_HOME to another disk."
    if free < LEAST_FREE:
        yield _failed("disk", said, "Detent does not start, and calls are no longer recorded.", fix)
    elif free < _LOW_DISK:
        yield Check(name="disk", state="warning", what=said, why="Traces of a few days may fill it.", fix=fix)
    else:
        yield _ok("disk", said)


def _keys(settings: Settings) -> Iterator[Check]:
    wrong, there = [], []
    for name, length in (("root.key", 32), ("ledger.key", 32)):
        path = settings.folder / "keys" / name
        if not path.exists():
            continue
        there.append(name)
        mode, size = stat.S_IMODE(path.stat().st_mode), path.stat().st_size
        if mode & 0o077:
            wrong.append((f"{path} can be read by others (mode {mode:04o}).", f"chmod 600 {path}"))
        if size != length:
            wrong.append((f"{path} has {size} bytes instead of {length}.", "Restore it from a backup."))
    for what, fix in wrong:
        yield _failed("keys", what, "The root key opens every stored credential; the ledger key signs history.", fix)
    if not wrong:
        yield _ok("keys", f"Private to their owner: {', '.join(there)}." if there else "No key is made yet.")


def _ports(settings: Settings, state: State | None) -> Iterator[Check]:
    wanted = [
        ("gateway.port", settings.gateway.host, settings.gateway.port),
        ("control.port", settings.control.host, settings.control.port),
    ]
    if settings.engine.enabled:
        wanted.append(("engine.port", "127.0.0.1", settings.engine.port))
    if state is not None:
        yield _ok("ports", f"Detent listens: gateway {state.gateway_url}, console {state.console_url}.")
    else:
        taken = [(name, host, port) for name, host, port in wanted if port and not _free(host, port)]
        for name, host, port in taken:
            yield _failed(
                "ports",
                f"Port {port} on {host} is taken by another program.",
                "`detent up` cannot start.",
                f"Stop what listens there (`ss -ltnp 'sport = :{port}'` names it), or set {name}.",
            )
        if not taken:
            yield _ok("ports", "Free: " + ", ".join(str(port) for _name, _host, port in wanted) + ".")
    open_ = [name for name, host, _port in wanted if host not in LOOPBACK]
    if open_:
        yield Check(
            name="exposure",
            state="warning",
            what="Reachable from the network: " + ", ".join(name.partition(".")[0] for name in open_) + ".",
            why="Keys and sign-ins cross the network in clear text unless a proxy speaks TLS before them.",
            fix="Put a TLS proxy before it and set control.public_url, or listen on 127.0.0.1.",
        )


def _processes(state: State | None, clock: Clock) -> Iterator[Check]:
    if state is None:
        yield Check(
            name="processes", state="warning", what="Detent is not up.", why="Calls are not answered.", fix="detent up"
        )
        return
    bad = [part for part in state.parts if part.state != "running"]
    for part in bad:
        seconds = (clock.now() - part.since) / SECOND
        yield Check(
            name="processes",
            state="failed" if seconds > 30 else "warning",
            what=f"{part.name} is {part.state} for {seconds:.0f} s. {part.detail}".strip(),
            why=f"Without it there is no {part.kind}.",
            fix="Read what it said on standard error of `detent up`.",
        )
    restarted = [f"{part.name} ({part.restarts})" for part in state.parts if part.restarts]
    if restarted:
        yield Check(
            name="restarts",
            state="warning",
            what="Started again since `detent up`: " + ", ".join(restarted) + ".",
            why="A process that dies is a fault in it or in what it needs; nothing recorded is lost by it.",
            fix="Read what it said on standard error of `detent up`.",
        )
    if not bad:
        yield _ok("processes", f"{len(state.parts)} run under process {state.pid}.")


def _ledger(settings: Settings, clock: Clock) -> Iterator[Check]:
    from detent.app.catalog import catalog
    from detent.app.offline import read_checkpoints, verify_copy
    from detent.kernel.ids import UuidV7
    from detent.store.ledger import open_ledger

    checkpoints = read_checkpoints(settings.checkpoints, required=False)
    if settings.ledger_url.startswith("sqlite"):
        path = settings.folder / "ledger.db"
        if not path.exists():
            yield _ok("ledger", "No fact is recorded yet.")
            return
        found = verify_copy(path, checkpoints)
    else:
        found = None
    if found is None:
        key_file = settings.folder / "keys" / "ledger.key"
        if not key_file.exists():
            yield _ok("ledger", "No fact is recorded from here yet.")
            return
    ledger = open_ledger(
        settings.ledger_url,
        catalog(),
        checkpoints=settings.checkpoints,
        key_file=settings.folder / "keys" / "ledger.key",
        clock=clock,
        ids=UuidV7(clock),
    )
    try:
        found = found or ledger.verify(checkpoints=checkpoints)
        newest = ledger.read(limit=1, newest_first=True)
    finally:
        ledger.close()
    if found.ok:
        signed = f"; {len(checkpoints)} signed checkpoints agree" if checkpoints else "; no checkpoint is signed yet"
        yield _ok("ledger", f"{found.facts} facts verified{signed}.")
    else:
        first = found.findings[0]
        yield _failed(
            "ledger",
            f"{len(found.findings)} findings, the first at fact {first.position}: {first.problem} ({first.detail}).",
            "History was changed or damaged after it was recorded.",
            "Keep a copy of the file; see `detent audit verify`; restore a backup.",
        )
    behind = newest[0].time - clock.now() if newest else 0
    if behind > MINUTE:
        yield _failed(
            "clock",
            f"The clock is {behind // SECOND} s behind the newest fact, which is of {iso(newest[0].time)}.",
            "Nothing is recorded until it is right again; keys expire late, and traces stand at the wrong time.",
            "Set the clock (`timedatectl set-ntp true`).",
        )
    else:
        yield _ok("clock", f"It is {iso(clock.now())}.")


def _lake(settings: Settings, clock: Clock) -> Iterator[Check]:
    from detent.store.lake import open_lake

    folder = settings.folder / "lake"
    if not folder.is_dir():
        yield _ok("lake", "No span is stored yet.")
        return
    lake = open_lake(folder, clock=clock)
    try:
        partitions = lake.partitions()
    finally:
        lake.close()
    spans, size = sum(part.spans for part in partitions), sum(part.bytes for part in partitions)
    yield _ok("lake", f"{spans} spans of {len(partitions)} project days in {size / 1e6:.1f} MB.")


def _spool(settings: Settings, clock: Clock) -> Iterator[Check]:
    from detent.store.lake import open_lake
    from detent.traces.ingest import Ingester

    folder = settings.folder / "spool"
    if not folder.is_dir():
        yield _ok("spool", "Nothing waits.")
        return
    lake = open_lake(settings.folder / "lake", clock=clock)
    try:
        backlog = Ingester(folder, lake, clock=clock).backlog()
    finally:
        lake.close()
    if backlog.shed:
        yield Check(
            name="spool",
            state="warning",
            what=f"{backlog.shed} records found the spool full and were not kept.",
            why="Traces and costs of those calls are missing.",
            fix="Raise telemetry.spool_max_bytes, free disk space, or see why the control process was behind.",
        )
    if backlog.records_lag > _LONG_LAG:
        yield Check(
            name="spool",
            state="warning",
            what=f"{backlog.records_lag} records ({backlog.bytes / 1e6:.1f} MB) wait to be ingested.",
            why="They are safe on disk but not visible yet.",
            fix="Start `detent up`; if it is up, look at the control process.",
        )
    elif not backlog.shed:
        yield _ok("spool", f"{backlog.records_lag} records wait.")


def _snapshot(settings: Settings) -> Iterator[Check]:
    from detent.gateway.snapshot import load

    snapshot = load(settings.folder / "snapshot")
    if snapshot is None:
        yield _ok("snapshot", "The gateway's configuration is not compiled yet.")
    else:
        yield _ok("snapshot", f"The gateway's configuration is of fact {snapshot.position}, {iso(snapshot.made)}.")


# Words


def _ok(name: str, what: str) -> Check:
    return Check(name=name, state="ok", what=what)


def _failed(name: str, what: str, why: str, fix: str) -> Check:
    return Check(name=name, state="failed", what=what, why=why, fix=fix)


def _own(settings: Settings) -> str:
    return f"Make it yours with `chown -R {os.getuid()} {settings.home}`, or set DETENT_HOME to a folder that is."


def _free(host: str, port: int) -> bool:
    try:
        family, kind, protocol, _name, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError:
        return False
    return True

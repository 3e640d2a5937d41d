"""`detent up`: starts, watches, restarts and stops all processes of an installation.

Ports are bound here before anything starts and handed down, so a taken port is told at once, and a connection made
while a server is being restarted waits instead of being refused. The supervisor itself opens no store.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

import msgspec

from detent.app.children import Child, Recipe
from detent.app.home import prepare_home
from detent.app.sockets import listen, url_of
from detent.app.state import State, holder, take_lock, write_state
from detent.app.status import Part, Ready, version
from detent.kernel.clock import SECOND, Clock, SystemClock
from detent.kernel.errors import Conflict
from detent.kernel.log import set_up_log
from detent.kernel.settings import Settings, every_field

_log = logging.getLogger("detent.up")

_TICK_SECONDS: Final = 0.05
_QUIET_TICK_SECONDS: Final = 0.5
"""Once all runs; a death wakes the loop by its signal in any case."""

_SHOW_AFTER_SECONDS: Final = 15.0
"""The banner is shown by then, also when a part still does not run."""

_CONTROL_STOP_SECONDS: Final = 20
_PROBE: Final = b"GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def main(settings: Settings, *, json: bool = False, clock: Clock | None = None) -> int:
    """Run the whole platform until told to stop; the exit status.

    Args:
        json: tell the addresses as one JSON line instead of the banner.

    Raises:
        BadSettings: a port is taken or an address is not this machine's.
        StorageFailed: the data folder cannot be used.
        Conflict: a supervisor already runs on this home.
    """
    set_up_log(settings.log)
    prepare_home(settings.folder)
    run = settings.folder / "run"
    lock = take_lock(run)
    if lock is None:
        raise Conflict(
            f"Detent is already up on {settings.home} (process {holder(run)}).",
            hint="Look with `detent status`; stop it with SIGTERM, or set DETENT_HOME to another folder.",
        )
    try:
        with contextlib.ExitStack() as sockets:
            return Supervisor(settings, sockets, clock=clock or SystemClock(), json=json).run()
    finally:
        (run / "state.json").unlink(missing_ok=True)
        os.close(lock)


class Supervisor:
    """One run of `detent up`."""

    def __init__(self, settings: Settings, sockets: contextlib.ExitStack, *, clock: Clock, json: bool) -> None:
        self._clock = clock
        self._json = json
        self._began = clock.monotonic()
        self._started = clock.now()
        self._run = settings.folder / "run"
        gateway = sockets.enter_context(listen(settings.gateway.host, settings.gateway.port, setting="gateway.port"))
        control = sockets.enter_context(listen(settings.control.host, settings.control.port, setting="control.port"))
        engine = (
            sockets.enter_context(listen("127.0.0.1", settings.engine.port, setting="engine.port"))
            if settings.engine.enabled
            else None
        )
        self._gateway_url, self._console_url = _bound(gateway), _bound(control)
        self._engine_url = _bound(engine) if engine else ""
        self._settings = settings = _with_ports(settings, gateway, control, engine)
        self._env = environment(settings)
        self._control = self._control_child(control)
        self._gateways = [self._gateway_child(number, gateway) for number in range(settings.gateway.workers)]
        self._engine = self._engine_child(engine) if engine else None
        self._worker = self._worker_child()
        # With the embedded model there is a route from the start, so `up` can mean that a call is answered.
        self._serves: Callable[[], bool] = Probe(gateway, "/readyz") if engine else lambda: True
        self._state: bytes = b""
        self._signals = 0

    @property
    def children(self) -> list[Child]:
        """All processes."""
        return [*self._gateways, self._control, self._worker, *([self._engine] if self._engine else [])]

    def run(self) -> int:
        """Start everything, keep it running, and stop it in order when told to."""
        with _wakeup(self._told_to_stop) as wakeup:
            self._control.start()
            if self._engine:
                self._engine.start()
            for child in self._gateways:
                child.start()
            status = self._watch(wakeup)
            self._stop(wakeup)
        return status

    # Running

    def _watch(self, wakeup: int) -> int:
        shown = False
        while not self._signals:
            for child in self.children:
                said = child.look()
                if said:
                    _log.warning("%s", said)
            self._tell()
            if not self._control.ready_once:
                if self._control.state == "restarting":
                    # It has said why on standard error: a newer schema, a full disk. Trying again would not help.
                    return 1
            elif self._worker.state == "stopped":
                self._worker.start()
            elif not shown and ((self._all_runs() and self._serves()) or self._seconds() > _SHOW_AFTER_SECONDS):
                self._show()
                shown = True
            _wait(wakeup, _QUIET_TICK_SECONDS if shown and self._all_runs() else _TICK_SECONDS)
        return 0

    def _all_runs(self) -> bool:
        return all(child.state == "running" for child in self.children)

    def _seconds(self) -> float:
        return (self._clock.monotonic() - self._began) / SECOND

    def _told_to_stop(self) -> None:
        self._signals += 1

    def _stop(self, wakeup: int) -> None:
        """The gateways drain first; what they spooled is ingested by the control process before it leaves."""
        _log.info("stopping: calls in flight finish first")
        self._worker.ask_to_stop()
        self._settle(self._gateways, wakeup)
        self._settle([self._worker, self._control, *([self._engine] if self._engine else [])], wakeup)
        _log.info("stopped")

    def _settle(self, children: list[Child], wakeup: int) -> None:
        """Ask all to stop and wait for each; a second signal from the user cuts the waiting short."""
        before = self._signals
        begun = self._clock.monotonic()
        for child in children:
            child.ask_to_stop()
        while any(child.alive for child in children):
            waited = (self._clock.monotonic() - begun) / SECOND
            hurried = self._signals > max(before, 1)
            late = [child for child in children if child.alive and (hurried or waited > child.recipe.stop_seconds)]
            for child in late:
                child.kill()
            self._tell()
            _wait(wakeup)
        for child in children:
            child.settle()
        self._tell()

    # Telling

    def _tell(self) -> None:
        state = self._state_now()
        data = msgspec.json.encode(state)
        if data != self._state:
            try:
                write_state(self._run, state)
                self._state = data
            except OSError as error:
                _log.error("The state file cannot be written: %s.", error.strerror)

    def _state_now(self) -> State:
        return State(
            pid=os.getpid(),
            started=self._started,
            gateway_url=self._gateway_url,
            console_url=self._console_url,
            engine_url=self._engine_url,
            parts=tuple(child.part() for child in self.children),
        )

    def _show(self) -> None:
        seconds = self._seconds()
        said = self._control.said()
        ready = msgspec.json.decode(said, type=Ready) if said else Ready()
        if self._json:
            told: dict[str, Any] = {
                "gateway_url": self._gateway_url,
                "console_url": self._console_url,
                "sign_in": ready.sign_in,
                "home": self._settings.home,
                "seconds": round(seconds, 2),
            }
            print(msgspec.json.encode(told).decode(), flush=True)
        else:
            missing = [child.part() for child in self.children if child.state != "running"]
            command = _command(self._settings)
            text = banner(self._settings, self._state_now(), ready, missing, seconds=seconds, command=command)
            print(text, flush=True)

    # Recipes

    def _control_child(self, listening: socket.socket) -> Child:
        recipe = Recipe(
            "control",
            "control",
            ["-m", "detent", "control", "--fd", str(listening.fileno())],
            env=self._env,
            descriptors=[listening.fileno()],
            address=self._console_url,
            stop_seconds=_CONTROL_STOP_SECONDS,
            heard=True,
        )
        return Child(recipe, clock=self._clock, ready=Probe(listening, "/healthz"))

    def _gateway_child(self, number: int, listening: socket.socket) -> Child:
        descriptor = str(listening.fileno())
        home = self._settings.home
        recipe = Recipe(
            f"gateway-{number}",
            "gateway",
            ["-m", "detent.gateway", "--home", home, "--worker", str(number), "--fd", descriptor],
            env=self._env,
            descriptors=[listening.fileno()],
            address=self._gateway_url,
            stop_seconds=self._settings.gateway.drain_seconds + 5,
        )
        return Child(recipe, clock=self._clock, ready=Probe(listening, "/healthz"))

    def _engine_child(self, listening: socket.socket) -> Child:
        port, descriptor = str(listening.getsockname()[1]), str(listening.fileno())
        recipe = Recipe(
            "engine-detent-tiny",
            "engine",
            ["-m", "detent.serving.engines.tiny", "--port", port, "--fd", descriptor],
            env=self._env,
            descriptors=[listening.fileno()],
            address=self._engine_url,
        )
        return Child(recipe, clock=self._clock, ready=Probe(listening, "/healthz"))

    def _worker_child(self) -> Child:
        ready = self._run / "worker.ready"
        recipe = Recipe("worker", "worker", ["-m", "detent", "worker"], env=self._env)
        child = Child(recipe, clock=self._clock, ready=lambda: _reads(ready, str(child.pid)))
        return child


class Probe:
    """Asks a server on a listening socket whether it is ready, without ever waiting for it.

    The socket listens before its server runs, so a question may be answered late or never: it is asked once, looked
    after at each call, and asked again when the answer was no.
    """

    def __init__(self, listening: socket.socket, path: str) -> None:
        self._address = listening.getsockname()
        self._family = listening.family
        self._request = _PROBE % path.encode()
        self._asked: socket.socket | None = None
        self._heard = b""

    def __call__(self) -> bool:
        try:
            if self._asked is None:
                self._ask()
            assert self._asked is not None
            heard = self._asked.recv(4096)
            if not heard:
                raise ConnectionResetError
            self._heard += heard
        except BlockingIOError:
            return False
        except OSError:
            self.reset()
            return False
        if not self._heard.partition(b"\r\n")[1]:
            return False
        status = self._heard.split(b" ", 2)[1:2]
        self.reset()
        return status == [b"200"]

    def reset(self) -> None:
        """Forget the question, as when the process died."""
        if self._asked is not None:
            self._asked.close()
        self._asked = None
        self._heard = b""

    def _ask(self) -> None:
        asked = socket.socket(self._family, socket.SOCK_STREAM)
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._address[0], self._address[0])  # noqa: S104
        try:
            asked.settimeout(1)
            asked.connect((host, *self._address[1:]))
            asked.sendall(self._request)
            asked.setblocking(False)
        except OSError:
            asked.close()
            raise
        self._asked = asked


def banner(
    settings: Settings, state: State, ready: Ready, missing: Sequence[Part], *, seconds: float, command: str
) -> str:
    """What `detent up` prints once it is up: where everything is, how safe it is, how to get in, and a first call."""
    console = settings.control.public_url or state.console_url
    width = max(len(state.gateway_url) + 3, len(console), len(settings.home))
    lines = [
        f"Detent {version()} is up (ready in {seconds:.1f} s). Stop it with Ctrl-C.",
        "",
        f"  gateway   {state.gateway_url + '/v1':{width}}   what applications call (OpenAI's dialect)",
        f"  console   {console:{width}}   pages, API (/api/v1), OTLP (/v1/traces)",
        f"  data      {settings.home:{width}}   {ready.storage}".rstrip(),
        *(f"  {'security' if number == 0 else '        '}  {line}" for number, line in enumerate(ready.security)),
        *(f"  waiting   {part.name} is {part.state}. {part.detail}".rstrip() for part in missing),
        "",
    ]
    if ready.sign_in:
        lines += [f"  sign in   {ready.sign_in}", "            (once, within the hour; then set a password)", ""]
    lines += [
        "First call, in another terminal:",
        "",
        f"  KEY=$({command} keys create --name first)",
        f'  curl {state.gateway_url}/v1/chat/completions -H "Authorization: Bearer $KEY" \\',
        "    -H 'Content-Type: application/json' \\",
        '    -d \'{"model": "detent-tiny", "messages": [{"role": "user", "content": "Where is my order 1234?"}]}\'',
        "",
    ]
    return "\n".join(lines)


def environment(settings: Settings, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment that gives a child exactly these settings."""
    inherited = {name: value for name, value in (env or os.environ).items() if not name.startswith("DETENT_")}
    told = {"DETENT_HOME": settings.home}
    if "DETENT_CONFIG" in (env or os.environ):
        told["DETENT_CONFIG"] = (env or os.environ)["DETENT_CONFIG"]
    for field in every_field():
        if field.section:
            value = getattr(getattr(settings, field.section), field.name)
            if value != "":
                told[field.env] = str(value).lower() if isinstance(value, bool) else str(value)
    # Few arenas and one BLAS thread: many small processes share the machine.
    tuned = {"MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return {**tuned, **inherited, **told}


def _with_ports(
    settings: Settings, gateway: socket.socket, control: socket.socket, engine: socket.socket | None
) -> Settings:
    """The settings with the ports that were really bound (0 asked for free ones)."""
    replace = msgspec.structs.replace
    return replace(
        settings,
        gateway=replace(settings.gateway, port=gateway.getsockname()[1]),
        control=replace(settings.control, port=control.getsockname()[1]),
        engine=replace(settings.engine, port=engine.getsockname()[1]) if engine else settings.engine,
    )


def _bound(listening: socket.socket) -> str:
    return url_of(*listening.getsockname()[:2])


def _reads(path: Path, text: str) -> bool:
    try:
        return path.read_text() == text
    except OSError:
        return False


def _command(settings: Settings) -> str:
    """How `detent` is called on this machine, with the home when it is not the usual one."""
    typed = sys.argv[0]
    found = shutil.which("detent")
    same = found is not None and Path(found).resolve() == Path(typed).resolve()
    name = "detent" if same or Path(typed).name != "detent" else shlex.quote(typed)
    usual = Path(settings.home) == Path(os.environ.get("HOME", "~")).expanduser() / ".detent"
    return name if usual or "DETENT_HOME" in os.environ else f"{name} --home {shlex.quote(settings.home)}"


@contextlib.contextmanager
def _wakeup(stop: Callable[[], None]) -> Iterator[int]:
    """A descriptor that becomes readable when a signal came; SIGTERM, SIGINT and SIGHUP ask to stop."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
    old = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(old)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)


def _wait(wakeup: int, seconds: float = _TICK_SECONDS) -> None:
    """Until the next tick, or until a signal comes."""
    if select.select([wakeup], [], [], seconds)[0]:
        with contextlib.suppress(BlockingIOError):
            os.read(wakeup, 512)

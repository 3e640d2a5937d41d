"""The control process: API, console and OTLP on one port, and the loops that keep the stores together beside them."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

import msgspec

from detent.app.platform import Platform, open_platform
from detent.app.sockets import LOOPBACK, listen, url_of
from detent.app.status import Ready
from detent.gateway.facts import BudgetAlerted
from detent.gateway.snapshot import load
from detent.kernel.clock import MINUTE, SECOND
from detent.kernel.errors import BadSettings, DetentError
from detent.kernel.log import set_up_log
from detent.kernel.settings import Settings
from detent.traces.ingest import Ingester

_log = logging.getLogger("detent.control")

_LOOK_SECONDS: Final = 0.25
_SEAL_SECONDS: Final = 0.1
_ALERT_SECONDS: Final = 5.0
_COMPILE_AT_LEAST: Final = MINUTE
_RETRY_SECONDS: Final = 0.5
_LONGEST_RETRY_SECONDS: Final = 30.0
_DRAIN_SECONDS: Final = 10


def main(settings: Settings, *, fd: int = -1) -> int:
    """Serve until told to stop; the exit status.

    Args:
        fd: a listening socket that was handed down; -1 to bind one.

    Raises:
        BadSettings: the address is taken, or it is open to the network while no admin has a password.
    """
    from uvicorn.config import Config
    from uvicorn.server import Server

    from detent.app.web import build

    set_up_log(settings.log)
    with open_platform(settings) as platform:
        check_exposure(platform)
        bound = (
            socket.socket(fileno=fd)
            if fd >= 0
            else listen(settings.control.host, settings.control.port, setting="control.port")
        )
        app = build(platform)
        platform.publish()
        config = Config(
            app,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_DRAIN_SECONDS,
        )

        class Leaving(Server):
            """A server that leaves by itself after a signal, rather than by dying of it."""

            def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
                self.force_exit = self.should_exit and sig == signal.SIGINT
                self.should_exit = True

        print(msgspec.json.encode(told(platform)).decode(), flush=True)
        with loops(platform):
            _log.info("console, API and OTLP on %s", url_of(*bound.getsockname()[:2]))
            Leaving(config).run(sockets=[bound])
    _log.info("stopped")
    return 0


def check_exposure(platform: Platform) -> None:
    """Refuse to be open to the network before somebody holds the installation.

    Raises:
        BadSettings: the address is not loopback and no admin has a password.
    """
    host = platform.settings.control.host
    if host not in LOOPBACK and not platform.people.signed_up():
        raise BadSettings(
            f"Console and API would be open to the network on {host}, but no admin has a password.",
            hint="Start on 127.0.0.1 first, sign in by the printed link, set a password; then set control.host.",
            field="control.host",
        )


def told(platform: Platform) -> Ready:
    """What is worth telling whoever started this process."""
    status = platform.status()
    ledger = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}[status.ledger.kind]
    return Ready(
        sign_in="" if platform.people.signed_up() else platform.sign_in_url(platform.people.first_link()),
        storage=f"{ledger} ledger, {status.ledger.position} facts; lake, {status.lake.spans} spans",
        security=status.security,
    )


# Loops


@contextlib.contextmanager
def loops(platform: Platform) -> Iterator[None]:
    """The work beside the server, each in a thread: ingest the spool, compile the snapshot, chain and sign facts,
    notice budgets that are nearly spent."""
    stop = threading.Event()
    ingester = Ingester(platform.settings.folder / "spool", platform.lake, clock=platform.clock)
    work: list[tuple[str, Callable[[], None]]] = [
        ("ingest", lambda: ingester.run(stop)),
        ("compile", lambda: keep_published(platform, stop)),
        ("checkpoint", lambda: keep_signed(platform, stop)),
        ("alert", lambda: keep_alerted(platform, stop)),
    ]
    if not platform.settings.ledger_url.startswith("sqlite"):
        work.append(("seal", lambda: keep_sealed(platform, stop)))
    threads = [threading.Thread(target=_again, args=(name, run, stop), name=name) for name, run in work]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        # What the gateway spooled before it left is in the lake before we leave.
        with contextlib.suppress(DetentError):
            while ingester.poll():
                pass


def _again(name: str, run: Callable[[], None], stop: threading.Event) -> None:
    """Run a loop until told to stop; a failure of the world is said and tried again, ever more rarely."""
    wait = _RETRY_SECONDS
    while not stop.is_set():
        began = time.monotonic()
        try:
            run()
        except DetentError as error:
            _log.error("%s: %s", name, error)
        except Exception:  # noqa: BLE001  (a bug in one loop must not end it for good; it is said, and tried again)
            _log.exception("%s failed", name)
        wait = _RETRY_SECONDS if time.monotonic() - began > _LONGEST_RETRY_SECONDS else wait * 2
        stop.wait(min(wait, _LONGEST_RETRY_SECONDS))


def keep_published(platform: Platform, stop: threading.Event) -> None:
    """Publish the snapshot when another process moved the ledger on, and now and then because keys expire."""
    seen: tuple[int, str] | None = None
    last = platform.clock.monotonic()
    while not stop.wait(_LOOK_SECONDS):
        head, now = platform.ledger.head(), platform.clock.monotonic()
        if head != seen or now - last > _COMPILE_AT_LEAST:
            # Whoever moved it has most often published it as well.
            if not _is_published(platform, head[0]) or now - last > _COMPILE_AT_LEAST:
                platform.publish()
                last = now
            seen = head


def _is_published(platform: Platform, position: int) -> bool:
    """Whether the snapshot was compiled from this position; on PostgreSQL facts may count before they are chained."""
    if not platform.settings.ledger_url.startswith("sqlite"):
        return False
    current = load(platform.settings.folder / "snapshot")
    return current is not None and current.position >= position


def keep_alerted(platform: Platform, stop: threading.Event) -> None:
    """Record budgets whose thresholds were crossed."""
    while not stop.wait(_ALERT_SECONDS):
        for fact in platform.alerts.check():
            body = fact.body
            if isinstance(body, BudgetAlerted):
                _log.warning("budget '%s' of %s: %d %% are spent", body.name, fact.project, body.percent)


def keep_sealed(platform: Platform, stop: threading.Event) -> None:
    """Chain what writers left to be chained, in commit order (PostgreSQL)."""
    while not stop.wait(_SEAL_SECONDS):
        platform.ledger.seal()


def keep_signed(platform: Platform, stop: threading.Event) -> None:
    """Sign the head when it has moved: at the start, at intervals, and at the stop."""
    seconds = platform.settings.storage.checkpoint_minutes * MINUTE / SECOND
    signed = platform.status().ledger.checkpoint_size
    while True:
        if platform.ledger.head()[0] > signed:
            signed = platform.audit.checkpoint().size
        if stop.is_set():
            return
        stop.wait(seconds)

"""A gateway worker: the process that serves the data plane on one socket."""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from functools import cache
from types import FrameType

from detent.gateway.limits.meter import Meter
from detent.gateway.limits.opening import open_quotas
from detent.gateway.metrics import Metrics
from detent.gateway.plane import Plane
from detent.gateway.upstream import Client, Timeouts
from detent.guard.vault import Vault, open_vault
from detent.kernel.clock import SECOND, SystemClock
from detent.kernel.errors import BadSettings, DetentError, StorageFailed
from detent.kernel.log import set_up_log
from detent.kernel.settings import Settings, load_settings
from detent.kernel.telemetry import Span
from detent.traces.spool import Spool, encode_span

_KEEP_ALIVE_SECONDS = 75
_BACKLOG = 2048
_SYNC_SECONDS = 1.0
"""How often the spool is put on the disk: what a power loss may take at most. A killed process loses nothing."""

_log = logging.getLogger("detent.gateway")


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m detent.gateway --home H --worker N [--fd F]`: serve until SIGTERM, then drain and leave."""
    parser = argparse.ArgumentParser(prog="detent.gateway", description="A worker of Detent's gateway.")
    parser.add_argument("--home", help="data folder; DETENT_HOME by default")
    parser.add_argument("--worker", default="0", help="this worker's number, unique among those that share the port")
    parser.add_argument("--fd", type=int, help="listening socket that was handed down; without it one is bound")
    given = parser.parse_args(arguments)
    try:
        settings = load_settings(os.environ, overrides={"home": given.home})
        set_up_log(settings.log)
        listening = _listening(settings, given.fd)
        _serve(settings, listening, worker=given.worker)
    except DetentError as error:
        print(f"detent gateway: {error}", file=sys.stderr)
        return 1
    return 0


def _serve(settings: Settings, listening: socket.socket, *, worker: str) -> None:
    from uvicorn.config import Config
    from uvicorn.server import Server

    from detent.gateway.listener import ClientConnection

    home = settings.folder
    limits = settings.gateway
    spool = Spool(
        home / "spool",
        writer=f"gateway{worker}",
        max_bytes=settings.telemetry.spool_max_bytes,
        segment_bytes=settings.telemetry.spool_segment_bytes,
    )

    def put(span: Span) -> bool:
        return spool.append(encode_span(span))

    @cache
    def vault() -> Vault:
        return open_vault(home / "keys" / "root.key", create=False)

    metrics = Metrics(home / "run", worker)
    clock = SystemClock()
    meter = Meter(
        open_quotas(limits.quotas_url, home, clock=clock),
        clock=clock,
        sender=f"{socket.gethostname()}-{worker}-{os.getpid()}-{secrets.token_hex(4)}",
        unreachable=limits.quotas_unreachable,
        longest=round(limits.total_timeout * 2 * SECOND),
        count=lambda what: metrics.count(f"detent_gateway_limits_{what}_total"),
    )
    plane = Plane(
        home,
        limits,
        settings.telemetry,
        worker=worker,
        client=Client(
            Timeouts(limits.connect_timeout, limits.first_token_timeout, limits.idle_timeout, limits.total_timeout)
        ),
        meter=meter,
        metrics=metrics,
        spool=put,
        vault=vault,
        clock=clock,
    )

    class Draining(Server):
        """A server that leaves by itself after a signal, rather than by dying of it."""

        def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
            plane.draining = True
            self.force_exit = self.should_exit and sig == signal.SIGINT
            self.should_exit = True

    config = Config(
        plane,
        http=ClientConnection,
        ws="none",
        loop="uvloop",
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(round(limits.drain_seconds), 1),
        backlog=_BACKLOG,
    )
    host, port = listening.getsockname()[:2]
    _log.info("gateway worker %s listens on http://%s:%d", worker, host, port)
    over = threading.Event()
    syncing = threading.Thread(target=sync_often, args=(spool, over, _SYNC_SECONDS), name="spool-sync", daemon=True)
    syncing.start()
    try:
        Draining(config).run(sockets=[listening])
    finally:
        over.set()
        syncing.join()
        spool.close()
    _log.info("gateway worker %s has stopped", worker)


def sync_often(spool: Spool, over: threading.Event, seconds: float) -> None:
    """Put the spool on the disk at intervals until `over`; a disk that refuses is told once, and tried again."""
    failing = False
    while not over.wait(seconds):
        try:
            spool.sync()
            failing = False
        except StorageFailed as error:
            if not failing:
                _log.error("%s", error)
            failing = True


def _listening(settings: Settings, fd: int | None) -> socket.socket:
    if fd is not None:
        return socket.socket(fileno=fd)
    host, port = settings.gateway.host, settings.gateway.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise BadSettings(
            f"The gateway cannot listen on {host} port {port}: {error.strerror}.",
            hint="Stop what uses the port, or set DETENT_GATEWAY_PORT.",
            field="gateway.port",
        ) from None
    return bound

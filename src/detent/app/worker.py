"""The worker process: runs durable workflows, and goes on with those that a dead worker left."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import threading
from pathlib import Path

from detent.app.platform import open_platform
from detent.kernel.errors import Conflict
from detent.kernel.log import set_up_log
from detent.kernel.settings import Settings

_log = logging.getLogger("detent.worker")


def main(settings: Settings) -> int:
    """Run jobs until told to stop; the exit status.

    Raises:
        Conflict: another worker runs on this home; both would go on with the same jobs.
    """
    set_up_log(settings.log)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run = settings.folder / "run"
    run.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock, ready = _only_worker(run / "worker.lock"), run / "worker.ready"
    try:
        with open_platform(settings, worker=True):
            ready.write_text(str(os.getpid()))
            _log.info("ready for jobs")
            stop.wait()
    finally:
        ready.unlink(missing_ok=True)
        os.close(lock)
    _log.info("stopped")
    return 0


def _only_worker(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Conflict("A worker already runs on this home.", hint="`detent status` names it.") from None
    return descriptor

"""Sends finished spans in batches from a thread of its own. The application never waits for it."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from detent.kernel.errors import CallerError, DetentError
from detent.kernel.secret import Secret
from detent.sdk.otlp import encode
from detent.sdk.transport import Transport

if TYPE_CHECKING:
    from detent.sdk.span import ActiveSpan

_MOST_WAITING: Final = 4096
_BATCH: Final = 256
_INTERVAL: Final = 1.0
_TIMEOUT: Final = 10.0
_LONGEST_PAUSE: Final = 30.0


class Exporter:
    """A bounded queue and the thread that empties it.

    Attributes:
        sent: spans that were delivered.
        dropped: spans that found no room, or that the server refused.
        lost: spans that could not even be finished or encoded.
    """

    def __init__(self, transport: Transport, *, service: str = "", most_waiting: int = _MOST_WAITING) -> None:
        self._transport = transport
        self._service = service
        self._most = most_waiting
        self._waiting: deque[ActiveSpan] = deque()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._stopping = False
        self._deadline = float("inf")
        self._thread: threading.Thread | None = None
        self.sent = 0
        self.dropped = 0
        self.lost = 0

    def put(self, span: ActiveSpan) -> None:
        """Queue a span; drops it and counts that when the queue is full."""
        with self._lock:
            if self._stopping or len(self._waiting) >= self._most:
                self.dropped += 1
                return
            self._waiting.append(span)
            self._idle.clear()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="detent-traces", daemon=True)
                self._thread.start()
        if len(self._waiting) >= _BATCH:
            self._wake.set()

    def flush(self, timeout: float) -> bool:
        """Send what waits; whether the queue was empty in time."""
        self._wake.set()
        return self._idle.wait(timeout)

    def close(self, timeout: float) -> None:
        """Send what waits, for so long at most, and stop."""
        with self._lock:
            self._stopping = True
            self._deadline = time.monotonic() + timeout
            thread = self._thread
        self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _run(self) -> None:
        pause = 0.0
        while True:
            self._wake.wait(pause or _INTERVAL)
            if pause and not self._stopping:
                # Woken while the server wants to be left alone: wait the pause out, but hear a stop.
                time.sleep(min(pause, 0.1))
                pause = max(pause - 0.1, 0.0)
                if pause:
                    continue
            self._wake.clear()
            pause = self._send_all()
            with self._lock:
                if not self._waiting:
                    self._idle.set()
                over = self._stopping and (not self._waiting or time.monotonic() >= self._deadline)
            if over:
                self._transport.close()
                return

    def _send_all(self) -> float:
        """Send batch after batch; seconds to wait before the next try when the server could not take one."""
        while True:
            with self._lock:
                batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            if not batch:
                return 0.0
            try:
                body = encode(batch, service=self._service)
            except Exception:  # noqa: BLE001  # a value of the application that cannot be encoded costs its batch only
                self.lost += len(batch)
                continue
            try:
                self._transport.call("POST", "/v1/traces", body=body, repeatable=True)
                self.sent += len(batch)
            except CallerError as error:
                if error.status != 429:
                    self.dropped += len(batch)
                    continue
                return self._put_back(batch, error)
            except DetentError as error:
                return self._put_back(batch, error)

    def _put_back(self, batch: list[ActiveSpan], error: DetentError) -> float:
        with self._lock:
            room = max(self._most - len(self._waiting), 0)
            if self._stopping and time.monotonic() >= self._deadline:
                room = 0
            self.dropped += max(len(batch) - room, 0)
            self._waiting.extendleft(reversed(batch[:room]))
        return min(error.retry_after or 2 * _INTERVAL, _LONGEST_PAUSE)


def open_exporter(url: str, key: str, *, service: str) -> Exporter | None:
    """An exporter for this address; None when it cannot be one, for tracing never stops an application."""
    try:
        return Exporter(Transport(url, Secret(key), timeout=_TIMEOUT, retries=1), service=service)
    except DetentError:
        import warnings

        warnings.warn("Tracing is off: DETENT_URL is no address.", RuntimeWarning, stacklevel=4)
        return None

"""The gateway's side of a client's connection: uvicorn's httptools protocol with limits on heads and on patience."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from detent.gateway.errors import HeadTooLarge, SlowRequest, openai_body
from detent.kernel.errors import DetentError, InvalidInput

CONNECTION: Final = "detent.connection"
"""Where the application finds its connection in the ASGI scope."""

CYCLE: Final = "detent.cycle"
"""Where the application finds what answers its request, for `write_whole`."""

_MAX_HEAD: Final = 64 * 1024
_MAX_FIELDS: Final = 100
_HEAD_SECONDS: Final = 10.0
_BODY_SECONDS: Final = 120.0
_MAX_UNWANTED: Final = 64 * 1024 * 1024


class ClientConnection(HttpToolsProtocol):
    """One client.

    A head must be small and come within 10 seconds, a body within 120. A body that nobody wants (its request was
    refused) is read off and forgotten, so that the client gets to read the answer; beyond 64 MiB it is cut off.

    Attributes:
        on_gone: called once when the client has gone away before its answer was finished.
    """

    on_gone: Callable[[], None] | None
    cycle: RequestResponseCycle | None  # type: ignore[assignment]  # there is none before the first head

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.on_gone = None
        self._open = False  # a request has begun and not arrived in full
        self._in_body = False
        self._head = 0
        self._unwanted = 0
        self._patience: asyncio.TimerHandle | None = None

    @property
    def stalled(self) -> bool:
        """Whether the client reads slower than we write."""
        return bool(self.flow.write_paused)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._patience = self.loop.call_later(_HEAD_SECONDS, self._out_of_patience)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        gone, self.on_gone = self.on_gone, None
        if gone is not None:
            gone()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # The usual request comes in one piece and needs no timer.
        if self._open:
            if self._patience is None and not self.transport.is_closing():
                self._patience = self.loop.call_later(
                    _BODY_SECONDS if self._in_body else _HEAD_SECONDS, self._out_of_patience
                )
        elif self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[CONNECTION] = self  # type: ignore[typeddict-unknown-key]
        self._open = True
        self._in_body = False
        self._head = 0
        self._unwanted = 0

    def on_url(self, url: bytes) -> None:
        self._head += len(url)
        if self._head <= _MAX_HEAD:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head += len(name) + len(value) + 4
        if self._head <= _MAX_HEAD and len(self.headers) < _MAX_FIELDS:
            super().on_header(name, value)
        elif not self.transport.is_closing():
            self._refuse(
                HeadTooLarge(
                    f"Request line and headers are larger than {_MAX_HEAD} bytes or {_MAX_FIELDS} fields.",
                    hint="Send fewer or shorter headers.",
                )
            )

    def on_headers_complete(self) -> None:
        if self.transport.is_closing():
            return
        if self._head > _MAX_HEAD:  # the URL alone
            self._refuse(HeadTooLarge(f"The request line is longer than {_MAX_HEAD} bytes.", hint="Shorten it."))
            return
        self._in_body = True
        if self._patience is not None:  # from now on the body's patience counts
            self._patience.cancel()
            self._patience = None
        super().on_headers_complete()
        self.scope[CYCLE] = self.cycle  # type: ignore[typeddict-unknown-key]

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if cycle is None or self.transport.is_closing():
            return
        if cycle.response_complete:
            self._unwanted += len(body)
            if self._unwanted > _MAX_UNWANTED:
                self.transport.close()
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._open = False
        if self.cycle is not None:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """uvicorn calls this for what is no HTTP."""
        self._refuse(InvalidInput(msg, hint="Speak HTTP/1.1."))

    def _out_of_patience(self) -> None:
        self._patience = None
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self._refuse(SlowRequest("The request did not arrive in time.", hint="Send it without pauses."))
        else:  # an answer may be under way; the application learns of it by `on_gone`
            self.transport.close()

    def _refuse(self, error: DetentError) -> None:
        """Answer outside of ASGI, and hang up."""
        if self.transport.is_closing():
            return
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.close()  # an earlier answer is under way on this connection; nothing may stand within it
            return
        body = openai_body(error)
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[error.status] + head + body)
        self.transport.close()


def write_whole(cycle: RequestResponseCycle, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bool:
    """Answer in one piece and one write, when nothing stands in the way; False leaves it to ASGI's `send`.

    The headers are our own, so nothing is checked, and hold `content-length`.
    """
    if cycle.flow.write_paused or cycle.disconnected or cycle.response_started or not cycle.keep_alive:
        return False
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    parts = [STATUS_LINE[status]]
    for name, value in (*cycle.default_headers, *headers):
        parts += (name, b": ", value, b"\r\n")
    parts += (b"\r\n", body)
    cycle.transport.write(b"".join(parts))
    cycle.message_event.set()
    cycle.on_response()
    return True

"""The one outbound client: HTTP/1.1 over asyncio and httptools, to addresses that were checked.

A `Lane` leads to one origin. To connect, its name is resolved once, every address found is judged, and the connection
is made to a judged address itself, with the name kept for TLS. Redirects are answers like any other, proxies of the
environment are not looked at, and answers are bounded in head and body. Connections are kept alive and reused; one that
turns out to be dead before it gave a single byte is replaced by a fresh one, once.

Time is watched by one sweep over all connections in use, a few times a second, so that a chunk costs no timer.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import httptools
import msgspec

from detent.gateway.errors import (
    AddressRefused,
    BadAnswer,
    ConnectFailed,
    ConnectTimedOut,
    FirstTokenTimedOut,
    IdleTimedOut,
    TotalTimedOut,
    UpstreamCut,
)
from detent.guard.addresses import Endpoint, allowed
from detent.kernel.errors import WorldError

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]

_HIGH_WATER: Final = 256 * 1024
_KEPT_PER_LANE: Final = 256
_KEPT_SECONDS: Final = 30.0


class Timeouts(msgspec.Struct, frozen=True):
    """Seconds a call may take in its phases."""

    connect: float = 5.0
    first_token: float = 120.0
    idle: float = 60.0
    total: float = 600.0


class Caps(msgspec.Struct, frozen=True):
    """How much of an answer is taken: bytes of its head, and of a body that is not streamed."""

    head: int = 64 * 1024
    body: int = 64 * 1024 * 1024


async def resolve(host: str, port: int) -> Sequence[str]:
    """All addresses of a name, in the order that the system prefers."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


class Client:
    """All lanes, and the sweep that keeps time.

    Args:
        resolver: how a name becomes addresses.
        tls: makes the context for https, at the first use; the default verifies against the system's authorities.
    """

    def __init__(
        self,
        timeouts: Timeouts,
        caps: Caps | None = None,
        *,
        resolver: Resolver = resolve,
        tls: Callable[[], ssl.SSLContext] = ssl.create_default_context,
    ) -> None:
        self.timeouts = timeouts
        self.caps = caps or Caps()
        self.resolver = resolver
        self.active: set[Connection] = set()
        self._make_tls = tls
        self._tls: ssl.SSLContext | None = None
        self._lanes: dict[tuple[str, str, int, bool], Lane] = {}
        self._tick = min(0.25, min(timeouts.first_token, timeouts.idle, timeouts.total) / 4)
        self._sweeper: asyncio.TimerHandle | None = None

    def lane(self, endpoint: Endpoint, *, allow_private: bool) -> Lane:
        """The lane to an endpoint's origin; the same one each time."""
        key = (endpoint.scheme, endpoint.host, endpoint.port, allow_private)
        found = self._lanes.get(key)
        if found is None:
            found = self._lanes[key] = Lane(self, endpoint, allow_private=allow_private)
        return found

    def tls(self) -> ssl.SSLContext:
        """The context that verifies providers; loading the authorities takes a while, so it is done when needed."""
        if self._tls is None:
            context = self._make_tls()
            context.set_alpn_protocols(["http/1.1"])
            self._tls = context
        return self._tls

    def watch(self, connection: Connection) -> None:
        """Keep time for a connection that is in use."""
        self.active.add(connection)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(self._tick, self._sweep)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in tuple(self.active):
            connection.check_time(now)
        for lane in self._lanes.values():
            lane.forget_old(now)
        busy = self.active or any(lane.idle for lane in self._lanes.values())
        self._sweeper = loop.call_later(self._tick if self.active else 1.0, self._sweep) if busy else None

    def close(self) -> None:
        """Give all connections back."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for connection in tuple(self.active):
            connection.close()
        for lane in self._lanes.values():
            lane.forget_old(float("inf"))


class Lane:
    """The way to one origin, and the connections kept open to it."""

    __slots__ = ("allow_private", "client", "endpoint", "idle")

    def __init__(self, client: Client, endpoint: Endpoint, *, allow_private: bool) -> None:
        self.client = client
        self.endpoint = endpoint
        self.allow_private = allow_private
        self.idle: list[Connection] = []

    async def send(
        self,
        payload: bytes,
        *,
        hold: bool,
        total_deadline: float,
        timeouts: Timeouts | None = None,
        sending: Callable[[], None] = lambda: None,
    ) -> Connection:
        """Send one request and wait for the head of its answer.

        Args:
            payload: the whole request.
            hold: the first-token time-out runs until `Connection.begin()` is called, rather than to the first byte.
            total_deadline: the loop's time at which everything must be over.
            timeouts: of this exchange; the client's own by default.
            sending: called when there is a connection and the request is about to leave.

        Raises:
            WorldError: no connection, no answer in time, or a broken one. The connection is closed then.
        """
        limits = timeouts or self.client.timeouts
        reused = bool(self.idle)
        connection = self.idle.pop() if reused else await self.connect(total_deadline, limits.connect)
        sending()
        try:
            await connection.exchange(payload, hold=hold, total_deadline=total_deadline, timeouts=limits)
        except UpstreamCut:
            connection.close()
            if not reused or connection.answered:
                raise
        except BaseException:
            connection.close()
            raise
        else:
            return connection
        # It was closed at the other end while it lay idle. Nothing was answered, so the call is made anew.
        connection = await self.connect(total_deadline, limits.connect)
        try:
            await connection.exchange(payload, hold=hold, total_deadline=total_deadline, timeouts=limits)
        except BaseException:
            connection.close()
            raise
        return connection

    async def connect(self, total_deadline: float = float("inf"), seconds: float = 0.0) -> Connection:
        """Open a connection to a judged address.

        Raises:
            AddressRefused: the name leads nowhere that may be called.
            ConnectFailed, ConnectTimedOut: nobody answers.
        """
        loop = asyncio.get_running_loop()
        limit = min(seconds or self.client.timeouts.connect, max(total_deadline - loop.time(), 0.001))
        try:
            async with asyncio.timeout(limit):
                return await self._connect(await self._addresses())
        except TimeoutError:
            raise ConnectTimedOut(
                f"No connection to {self.endpoint.host} within {limit:g} s.", hint="Is the provider up?"
            ) from None

    async def probe(self, path: str) -> bool:
        """Whether the origin can be reached; with a path, whether a GET of it answers 200.

        Raises:
            WorldError: as in `send`.
        """
        if not path:
            if not self.idle:
                (await self.connect()).close()
            return True
        request = f"GET {path} HTTP/1.1\r\nhost: {self.endpoint.authority}\r\nuser-agent: detent\r\n\r\n"
        connection = await self.send(request.encode(), hold=False, total_deadline=float("inf"))
        try:
            await connection.read_all()
            return connection.status == 200
        finally:
            connection.release()

    async def _addresses(self) -> list[str]:
        endpoint = self.endpoint
        if endpoint.literal:
            found: Sequence[str] = (endpoint.host,)
        else:
            try:
                found = await self.client.resolver(endpoint.host, endpoint.port)
            except OSError as error:
                raise ConnectFailed(f"The name {endpoint.host} does not resolve: {error.strerror}.") from None
        # One bad address condemns the name: who mixes good and bad ones is probing.
        if not found or not all(allowed(address, allow_private=self.allow_private) for address in found):
            raise AddressRefused(
                f"{endpoint.host} leads to an address that may not be called.",
                hint="Private and loopback addresses need --allow-private on the provider.",
            )
        return list(found)

    async def _connect(self, addresses: list[str]) -> Connection:
        loop = asyncio.get_running_loop()
        endpoint = self.endpoint
        context = self.client.tls() if endpoint.tls else None
        failure: Exception | None = None
        for address in addresses:
            try:
                _, connection = await loop.create_connection(
                    lambda: Connection(self),
                    address,
                    endpoint.port,
                    ssl=context,
                    server_hostname=endpoint.host if context else None,
                )
            except OSError as error:  # ssl.SSLError is one
                failure = error
            else:
                return connection
        if isinstance(failure, ssl.SSLError):
            reason = failure.verify_message if isinstance(failure, ssl.SSLCertVerificationError) else failure.reason
            raise ConnectFailed(
                f"The TLS connection to {endpoint.host} failed: {reason}.", hint="Check its certificate and the clock."
            )
        reason = failure.strerror if isinstance(failure, OSError) and failure.strerror else "no answer"
        raise ConnectFailed(
            f"No connection to {endpoint.host} port {endpoint.port}: {reason}.", hint="Is the provider up?"
        )

    def keep(self, connection: Connection) -> None:
        """Take a connection back for the next call."""
        if len(self.idle) < _KEPT_PER_LANE:
            self.idle.append(connection)
        else:
            connection.close()

    def forget_old(self, now: float) -> None:
        """Close what has lain idle for too long."""
        if self.idle and now - self.idle[0].since > _KEPT_SECONDS:
            old = [connection for connection in self.idle if now - connection.since > _KEPT_SECONDS]
            self.idle = [connection for connection in self.idle if now - connection.since <= _KEPT_SECONDS]
            for connection in old:
                connection.close()


class Connection(asyncio.Protocol):
    """One connection, which carries one exchange at a time.

    Attributes:
        status: of the answer, once its head is there.
        headers: of the answer, names in lower case; the last one wins (the parser refuses two lengths).
        answered: whether a single byte of the answer has come.
        since: loop time at which it was put aside.
    """

    __slots__ = (
        "_buffered",
        "_busy",
        "_closed",
        "_complete",
        "_deadline",
        "_error",
        "_framed",
        "_head_bytes",
        "_head_done",
        "_hold",
        "_keep",
        "_loop",
        "_parser",
        "_paused",
        "_pieces",
        "_timeouts",
        "_total_deadline",
        "_transport",
        "_waiter",
        "_writing_paused",
        "answered",
        "headers",
        "lane",
        "since",
        "status",
    )

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._pieces: list[bytes] = []
        self._closed = False
        self._paused = False
        self._writing_paused = False
        self._busy = False
        self.since = 0.0
        self._reset(hold=False, total_deadline=float("inf"), timeouts=lane.client.timeouts)

    def _reset(self, *, hold: bool, total_deadline: float, timeouts: Timeouts) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.answered = False
        self._head_bytes = 0
        self._head_done = False
        self._framed = False
        self._complete = False
        self._keep = False
        self._error: WorldError | None = None
        self._buffered = 0
        self._hold = hold
        self._total_deadline = total_deadline
        self._timeouts = timeouts
        self._deadline = self._loop.time() + timeouts.first_token

    # The exchange

    async def exchange(self, payload: bytes, *, hold: bool, total_deadline: float, timeouts: Timeouts) -> None:
        """Write a request and wait until the head of its answer is there."""
        self._reset(hold=hold, total_deadline=total_deadline, timeouts=timeouts)
        if self._closed or self._transport is None:
            raise self._cut()
        self._busy = True
        self.lane.client.watch(self)
        self._transport.write(payload)
        while not self._head_done and self._error is None:
            await self._wait()
        if self._error is not None:
            raise self._error

    def begin_writing(self, head: bytes, *, total_deadline: float, timeouts: Timeouts) -> None:
        """Begin a request whose body follows by `write`; the answer is waited for with `head`."""
        self._reset(hold=False, total_deadline=total_deadline, timeouts=timeouts)
        self._busy = True
        self.lane.client.watch(self)
        if self._transport is not None:
            self._transport.write(head)

    async def write(self, data: bytes) -> None:
        """Send more of a request's body, as fast as the other side takes it; nothing once it has answered.

        Raises:
            WorldError: the exchange has failed meanwhile.
        """
        while self._writing_paused and self._error is None and not self._head_done:
            await self._wait()
        if self._error is not None:
            raise self._error
        if self._head_done:
            return
        if self._closed or self._transport is None:
            raise self._cut()
        self._deadline = self._loop.time() + self._timeouts.first_token
        self._transport.write(data)

    async def head(self) -> None:
        """Wait until the head of the answer is there."""
        while not self._head_done and self._error is None:
            await self._wait()
        if self._error is not None:
            raise self._error

    async def read(self) -> bytes:
        """What has come of the body since the last call, at least one byte; nothing at its end.

        Raises:
            WorldError: it broke off, stood still for too long, or cannot be parsed. What came before is given first.
        """
        while not self._pieces:
            if self._complete:
                return b""
            if self._error is not None:
                raise self._error
            await self._wait()
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._pieces = []
        self._buffered = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._deadline = self._loop.time() + self._timeouts.idle
            self._transport.resume_reading()
        return data

    async def read_all(self) -> bytes:
        """The whole body.

        Raises:
            BadAnswer: it is larger than allowed.
            WorldError: as in `read`.
        """
        data = await self.read()
        if self._complete and not self._pieces:
            return data
        parts = [data]
        size = len(data)
        while data := await self.read():
            size += len(data)
            if size > self.lane.client.caps.body:
                raise BadAnswer(f"The provider's answer is larger than {self.lane.client.caps.body} bytes.")
            parts.append(data)
        return b"".join(parts)

    def begin(self) -> None:
        """The first real output is there: from now on the idle time-out counts."""
        self._hold = False
        self._deadline = self._loop.time() + self._timeouts.idle

    def release(self) -> None:
        """The exchange is over: keep the connection if it is in good order, else close it."""
        if self._keep and not self._closed and self._error is None:
            self._busy = False
            self.lane.client.active.discard(self)
            self._pieces = []
            self.since = self._loop.time()
            self.lane.keep(self)
        else:
            self.close()

    async def finish(self, seconds: float) -> None:
        """After the last event that matters: give the body's end a moment to come, so that the connection is kept."""
        if not self._complete and self._error is None:
            self._total_deadline = min(self._total_deadline, self._loop.time() + seconds)
            try:
                while await self.read():
                    pass
            except WorldError:
                pass
        self.release()

    def close(self) -> None:
        """Drop the connection, and with it whatever it was doing."""
        self._busy = False
        self.lane.client.active.discard(self)
        if not self._closed:
            self._closed = True
            if self._transport is not None:
                self._transport.abort()

    def check_time(self, now: float) -> None:
        """Called by the sweep while in use."""
        if now >= self._total_deadline:
            limit = self._timeouts.total
            self._fail(TotalTimedOut(f"The call was not over within {limit:g} s.", hint="Ask for a shorter answer."))
        elif now >= self._deadline and not self._paused and not self._complete:
            limits = self._timeouts
            if self._hold or not self.answered:
                self._fail(FirstTokenTimedOut(f"No first output within {limits.first_token:g} s."))
            else:
                self._fail(IdleTimedOut(f"The answer stood still for {limits.idle:g} s."))

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _fail(self, error: WorldError) -> None:
        if self._error is None:
            self._error = error
        if not self._closed:
            self._closed = True
            if self._transport is not None:
                self._transport.abort()
        self._wake()

    def _cut(self) -> UpstreamCut:
        return UpstreamCut("The provider closed the connection before the answer was finished.")

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._wake()

    def data_received(self, data: bytes) -> None:
        if not self._busy:  # nobody asked for anything
            self._drop_idle()
            return
        self.answered = True
        if not self._hold:
            self._deadline = self._loop.time() + self._timeouts.idle
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(BadAnswer("The provider's answer is no valid HTTP."))
            return
        if self._buffered > _HIGH_WATER and not self._paused and not self._complete and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        if not self._busy:
            self._drop_idle()
            return
        if self._complete or self._error is not None:
            return
        if exc is None and self._head_done and not self._framed:
            self._complete = True  # a body without a length ends with the connection
            self._wake()
        else:
            self._fail(self._cut())

    def _drop_idle(self) -> None:
        if self in self.lane.idle:
            self.lane.idle.remove(self)
        self.close()

    # httptools

    def on_message_begin(self) -> None:
        if self._complete:
            self._fail(BadAnswer("The provider answered twice."))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self.lane.client.caps.head:
            self._fail(BadAnswer("The head of the provider's answer is too large."))
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return
        self.status = status
        headers = self.headers
        self._framed = b"content-length" in headers or b"transfer-encoding" in headers
        self._head_done = True

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)
        self._buffered += len(body)

    def on_message_complete(self) -> None:
        if self.status:
            self._complete = True
            self._keep = self._parser.should_keep_alive()  # the parser forgets it after this
        else:
            self.headers = {}  # it was an interim answer

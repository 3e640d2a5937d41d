"""Files and batches: kept by the control plane, reached through the gateway's address.

Applications know one base URL. What they send to `/v1/files` and `/v1/batches` is handed on to the control plane as it
is, their key included, and so is the answer; neither is held in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from detent.gateway.errors import ControlAway
from detent.gateway.listener import CONNECTION, ClientConnection
from detent.gateway.upstream import Client, Connection, Lane, Timeouts
from detent.guard.addresses import read_endpoint
from detent.kernel.errors import MethodNotAllowed, WorldError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_THERE: Final = frozenset({b"authorization", b"content-type", b"accept", b"traceparent"})
_METHODS: Final = frozenset({"GET", "POST", "DELETE"})
_BACK: Final = frozenset({b"content-type", b"content-length", b"content-disposition", b"retry-after"})
_TIMEOUTS: Final = Timeouts(connect=2.0, first_token=60.0, idle=60.0, total=3600.0)


def is_forwarded(path: str) -> bool:
    """Whether a path belongs to the control plane; one that climbs belongs to nobody."""
    parts = path.split("/")
    return parts[:2] == ["", "v1"] and parts[2:3] in (["files"], ["batches"]) and not {".", ".."} & set(parts)


async def forward(client: Client, control_url: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Hand a request on, and its answer back.

    A client that goes away ends it; an answer that breaks off breaks off for the client too.

    Raises:
        MethodNotAllowed: these paths have no such method.
        ControlAway: the control plane cannot be reached; nothing was sent to the client.
    """
    if scope["method"] not in _METHODS:
        raise MethodNotAllowed(f"This path does not take {scope['method'][:20]}.", hint="Use GET, POST, DELETE.")
    if not control_url:
        raise ControlAway("The control plane's address is not known.", hint="Start it with `detent up`.")
    lane = client.lane(read_endpoint(control_url), allow_private=True)
    try:
        connection = await lane.connect(seconds=_TIMEOUTS.connect)
    except WorldError:
        raise ControlAway(
            "The control plane, which keeps files and batches, cannot be reached.",
            hint="Calls to models go on; look at `detent status`.",
            retry_after=2.0,
        ) from None
    task = asyncio.current_task()
    assert task is not None
    client_side: ClientConnection | None = scope.get(CONNECTION)
    gone = False

    def go() -> None:
        nonlocal gone
        gone = True
        task.cancel()

    if client_side is not None:
        client_side.on_gone = go
    try:
        await _exchange(lane, connection, scope, receive, send)
    except asyncio.CancelledError:
        if not gone:
            raise
        task.uncancel()
    finally:
        if client_side is not None and client_side.on_gone is go:
            client_side.on_gone = None
        connection.close()


async def _exchange(lane: Lane, connection: Connection, scope: Scope, receive: Receive, send: Send) -> None:
    started = False
    given = dict(scope["headers"])
    chunked = b"transfer-encoding" in given
    deadline = asyncio.get_running_loop().time() + _TIMEOUTS.total
    try:
        length = b"" if chunked else given.get(b"content-length", b"")
        connection.begin_writing(
            _head(lane, scope, length, chunked=chunked), total_deadline=deadline, timeouts=_TIMEOUTS
        )
        more = chunked or bool(length)
        while more and not connection.status:  # who has answered already reads no more
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            more = bool(message.get("more_body"))
            body: bytes = message.get("body", b"")
            if body:
                await connection.write(b"%x\r\n%b\r\n" % (len(body), body) if chunked else body)
        if chunked:
            await connection.write(b"0\r\n\r\n")
        await connection.head()
        headers = [(name, value) for name, value in connection.headers.items() if name in _BACK]
        started = True
        await send({"type": "http.response.start", "status": connection.status, "headers": headers})
        while data := await connection.read():
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    except WorldError as error:
        if started:
            if (client := scope.get(CONNECTION)) is not None:
                client.on_gone = None
                client.transport.abort()
            return
        raise ControlAway(
            f"The control plane did not answer: {error.message}", hint="Send it again.", retry_after=2.0
        ) from None


def _head(lane: Lane, scope: Scope, length: bytes, *, chunked: bool) -> bytes:
    """The request's head; how its body is framed is said once, by us, whatever the client said how often."""
    query: bytes = scope.get("query_string", b"")
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    target = path + (b"?" + query if query else b"")
    lines = [scope["method"].encode() + b" " + target + b" HTTP/1.1", b"host: " + lane.endpoint.authority.encode()]
    lines += [name + b": " + value for name, value in scope["headers"] if name in _THERE]
    if chunked:
        lines.append(b"transfer-encoding: chunked")
    elif length:
        lines.append(b"content-length: " + length)
    lines += [b"connection: close", b"", b""]
    return b"\r\n".join(lines)

"""Files and batches: kept by the control plane, reached through the gateway's address.

Applications know one base URL. What they send to `/v1/files` and `/v1/batches` is handed on to the control plane as it
is, their key included, and so is the answer; neither is held in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from detent.gateway.errors import ControlAway
from detent.gateway.upstream import Client, Connection, Lane, Timeouts
from detent.guard.addresses import read_endpoint
from detent.kernel.errors import WorldError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_THERE: Final = frozenset(
    {b"authorization", b"content-type", b"content-length", b"transfer-encoding", b"accept", b"traceparent"}
)
_BACK: Final = frozenset({b"content-type", b"content-length", b"content-disposition", b"retry-after"})
_TIMEOUTS: Final = Timeouts(connect=2.0, first_token=60.0, idle=60.0, total=3600.0)


def is_forwarded(path: str) -> bool:
    """Whether a path belongs to the control plane."""
    return path.startswith(("/v1/files", "/v1/batches")) and path[3:].split("/")[1] in {"files", "batches"}


async def forward(client: Client, control_url: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Hand a request on, and its answer back.

    Raises:
        ControlAway: the control plane cannot be reached; nothing was sent to the client.
    """
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
    try:
        await _exchange(lane, connection, scope, receive, send)
    finally:
        connection.close()


async def _exchange(lane: Lane, connection: Connection, scope: Scope, receive: Receive, send: Send) -> None:
    started = False
    names = {name for name, _ in scope["headers"]}
    chunked = b"transfer-encoding" in names
    deadline = asyncio.get_running_loop().time() + _TIMEOUTS.total
    try:
        connection.begin_writing(_head(lane, scope), total_deadline=deadline, timeouts=_TIMEOUTS)
        more = chunked or b"content-length" in names
        while more:
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
            raise
        raise ControlAway(
            f"The control plane did not answer: {error.message}", hint="Send it again.", retry_after=2.0
        ) from None


def _head(lane: Lane, scope: Scope) -> bytes:
    query: bytes = scope.get("query_string", b"")
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    target = path + (b"?" + query if query else b"")
    lines = [scope["method"].encode() + b" " + target + b" HTTP/1.1", b"host: " + lane.endpoint.authority.encode()]
    lines += [name + b": " + value for name, value in scope["headers"] if name in _THERE]
    lines += [b"connection: close", b"", b""]
    return b"\r\n".join(lines)

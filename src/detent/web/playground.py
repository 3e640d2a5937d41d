"""What the playground's island talks to: a call that is handed on to the gateway, and its answer as it comes.

The call is made on the visitor's behalf by a delegation, so it meets the same limits, budgets and rules as any other,
and leaves the same span. The answer is framed, one JSON object a line: `head` (status and headers), `body` (text as it
came, whatever the pieces), then `end` or `error`. Nothing is held back, and when the visitor goes, the call ends.
"""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from detent.app.http import needs, router
from detent.app.platform import Platform, gateway_url
from detent.gateway.delegation import Delegation, issue
from detent.gateway.upstream import Client, Connection, Timeouts
from detent.guard.addresses import read_endpoint
from detent.guard.vault import open_vault
from detent.kernel.clock import MINUTE
from detent.kernel.errors import InvalidInput, Unavailable, WorldError
from detent.kernel.identity import Permission
from detent.web.page import Console
from detent.web.security import secured
from detent.web.views.playground import outcome
from detent.web.visit import Form, Visit, check_csrf

PATH: Final = "/v1/chat/completions"
_LIVES: Final = 15 * MINUTE
_TIMEOUTS: Final = Timeouts(connect=2.0, first_token=900.0, idle=900.0, total=900.0)
_HIDDEN: Final = frozenset({"set-cookie", "connection", "transfer-encoding", "date"})


def routes(console: Console, platform: Platform) -> Any:
    """The routes behind the page."""
    made = router()

    @needs(Permission.GATEWAY_CALL)
    async def run(request: Request) -> Response:
        visit = console.visit(request)
        check_csrf(visit, Form(), request)
        body = await request.body()
        _check(body)
        head = await run_in_threadpool(_head, platform, visit, len(body))
        answer = StreamingResponse(_frames(gateway_url(platform.settings), head + body))
        answer.headers["content-type"] = "application/x-ndjson"
        return secured(answer)

    @needs(Permission.GATEWAY_CALL)
    async def found(request: Request) -> Response:
        seen = await run_in_threadpool(outcome, console.visit(request))
        return secured(Response(msgspec.json.encode(seen), media_type="application/json"))

    made.add_api_route("/playground/run", run, methods=["POST"], include_in_schema=False, response_model=None)
    made.add_api_route("/playground/outcome.json", found, methods=["GET"], include_in_schema=False, response_model=None)
    return made


def _check(body: bytes) -> None:
    """A body that is an object; what stands in it is the gateway's to judge.

    Raises:
        InvalidInput: it is something else.
    """
    try:
        msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise InvalidInput("The call is no JSON object.", hint="Send the request's body as JSON.") from None


def _head(platform: Platform, visit: Visit, length: int) -> bytes:
    """The head of the request to the gateway, with a delegation for whoever is signed in."""
    actor = visit.caller.actor
    given = Delegation(
        project=visit.caller.project, user_id=str(actor), expires=platform.clock.now() + _LIVES, priority="interactive"
    )
    token = issue(open_vault(platform.settings.folder / "keys" / "root.key"), given)
    authority = read_endpoint(gateway_url(platform.settings)).authority
    lines = (
        f"POST {PATH} HTTP/1.1",
        f"host: {authority}",
        "content-type: application/json",
        f"authorization: Bearer {token.reveal()}",
        f"content-length: {length}",
        "connection: close",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _frames(url: str, request: bytes) -> AsyncIterator[bytes]:
    """The gateway's answer, framed. Whoever stops reading ends the call."""
    client = Client(_TIMEOUTS)
    connection: Connection | None = None
    try:
        lane = client.lane(read_endpoint(url), allow_private=True)
        deadline = asyncio.get_running_loop().time() + _TIMEOUTS.total
        try:
            connection = await lane.connect(deadline)
        except WorldError:
            gone = Unavailable(
                "The gateway cannot be reached.", hint="Look at `detent status`, or start it with `detent up`."
            )
            yield _line({"error": gone.as_dict()["error"]})
            return
        await connection.exchange(request, hold=False, total_deadline=deadline, timeouts=_TIMEOUTS)
        yield _line({"head": {"status": connection.status, "headers": _headers(connection)}})
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while data := await connection.read():
            if text := decoder.decode(data):
                yield _line({"body": text})
        yield _line({"end": {}})
    except WorldError as error:
        yield _line({"error": error.as_dict()["error"]})
    finally:
        if connection is not None:
            connection.close()
        client.close()


def _headers(connection: Connection) -> list[tuple[str, str]]:
    named = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in connection.headers.items())
    return sorted((name, value) for name, value in named if name not in _HIDDEN)


def _line(frame: dict[str, Any]) -> bytes:
    return msgspec.json.encode(frame) + b"\n"

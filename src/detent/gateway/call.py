"""One chat completion, from the request to the span.

The route's targets are tried in order. Until the first real output has come, a target that cannot be reached, breaks
off, is too slow or answers with 429 or 5xx is given up for the next. From then on the answer is the client's: if it
breaks off, the client is told so in the stream, and no `[DONE]` follows. The last target's stream is passed on from its
first event: there is nobody left to take over, so holding it would only cost time.

The span is spooled before the last byte of the answer leaves, so whoever saw an answer end will find its span.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, Protocol

import msgspec

from detent.gateway.answer import failure, holds_error, is_passed_on, read_answer
from detent.gateway.body import ChatBody, read_body
from detent.gateway.errors import (
    CLIENT_GONE,
    BadAnswer,
    BodyTooLarge,
    CredentialUnusable,
    Draining,
    MayNotCall,
    TotalTimedOut,
    UnknownModel,
    UnsupportedEncoding,
    UpstreamCut,
    UpstreamRejected,
    openai_body,
    openai_event,
)
from detent.gateway.listener import CONNECTION, ClientConnection
from detent.gateway.metrics import Metrics, label
from detent.gateway.snapshot import KeyEntry
from detent.gateway.sse import ChatStream
from detent.gateway.upstream import Connection
from detent.gateway.usage import settle
from detent.gateway.world import Deployment, Way, World
from detent.kernel.chat import Usage
from detent.kernel.clock import Clock
from detent.kernel.errors import DetentError, TooMany, WorldError
from detent.kernel.ids import new_span_id, new_trace_id
from detent.kernel.settings import GatewaySettings
from detent.kernel.telemetry import Span, Status

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_TRACEPARENT: Final = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?"
)
_LABEL: Final = re.compile(r"[\x20-\x7e]{1,200}")
_MAX_CONTENT: Final = 1024 * 1024
_LAST_BYTES_SECONDS: Final = 0.2
_DONE: Final = b"data: [DONE]\n\n"
_STREAM_HEADERS: Final = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class Host(Protocol):
    """What a call needs of the worker that it runs in."""

    settings: GatewaySettings
    metrics: Metrics
    clock: Clock

    def admit(self) -> None:
        """Let one more call begin, or raise."""
        ...

    def keeps_content(self, project: str) -> bool:
        """Whether texts of this project's calls are kept."""
        ...

    def record(self, span: Span) -> None:
        """Spool a call's span and count it."""
        ...


class Call:
    """The state of one call."""

    __slots__ = (
        "_attempts",
        "_body",
        "_committed",
        "_connection",
        "_deployment",
        "_error",
        "_failed",
        "_finish",
        "_first",
        "_gone",
        "_headers",
        "_http_status",
        "_input_spent",
        "_key",
        "_output",
        "_output_size",
        "_parent_id",
        "_plane",
        "_recorded",
        "_response_id",
        "_response_model",
        "_scope",
        "_send",
        "_span_id",
        "_start",
        "_started",
        "_stream",
        "_trace_id",
        "_usage",
        "_way",
    )

    def __init__(self, plane: Host, scope: Scope, send: Send, key: KeyEntry, headers: dict[bytes, bytes]) -> None:
        self._plane = plane
        self._scope = scope
        self._send = send
        self._key = key
        self._headers = headers
        self._start = plane.clock.now()
        self._started = plane.clock.monotonic()
        parent = headers.get(b"traceparent")
        found = _TRACEPARENT.fullmatch(parent) if parent else None
        self._trace_id = found[1].decode() if found else new_trace_id()
        self._parent_id = found[2].decode() if found else ""
        self._span_id = new_span_id()
        self._body: ChatBody | None = None
        self._way: Way | None = None
        self._deployment: Deployment | None = None
        self._connection: Connection | None = None
        self._stream: ChatStream | None = None
        self._usage: Usage | None = None
        self._error = ""
        self._failed: list[str] = []
        self._attempts = 0
        self._committed = False
        self._recorded = False
        self._gone = False
        self._input_spent = False
        self._first: int | None = None
        self._http_status = 200
        self._output = ""
        self._output_size = 0
        self._response_id = ""
        self._response_model = ""
        self._finish = ""

    async def run(self, world: World, receive: Receive) -> None:
        """Serve it, whatever happens."""
        task = asyncio.current_task()
        client: ClientConnection | None = self._scope.get(CONNECTION)
        if client is not None and task is not None:

            def gone() -> None:
                self._gone = True
                task.cancel()

            client.on_gone = gone
        try:
            await self._serve(world, receive)
        except DetentError as error:
            await self._refuse(error)
        except asyncio.CancelledError:
            if task is not None:
                task.uncancel()
            await self._broken_off()
        finally:
            if client is not None:
                client.on_gone = None
            if self._connection is not None:
                self._connection.close()

    async def _serve(self, world: World, receive: Receive) -> None:
        if not world.callable_by(self._key):
            raise MayNotCall("This key may not call models.", hint="Mint a key with the permission gateway:call.")
        self._plane.admit()
        raw = await self._read(receive)
        body = self._body = read_body(raw, max_depth=self._plane.settings.max_depth)
        way = self._way = world.find(self._key, body.head.model)
        if way is None:
            raise UnknownModel(
                f"There is no model '{body.head.model[:100]}' for this key.",
                hint="List what there is with GET /v1/models.",
                field="model",
            )
        deadline = asyncio.get_running_loop().time() + self._plane.settings.total_timeout
        last: DetentError | None = None
        for deployment in way.deployments:
            self._attempts += 1
            self._deployment = deployment
            self._input_spent = True  # if the client goes away from here on, the provider has its prompt
            try:
                await self._attempt(deployment, body, deadline)
            except (WorldError, TooMany) as error:
                self._input_spent = False
                self._failed.append(f"{deployment.provider}/{deployment.model}: {error.code}")
                self._plane.metrics.count(
                    "detent_gateway_attempts_failed_total", label(provider=deployment.provider, code=error.code)
                )
                last = error
                if self._committed or isinstance(error, TotalTimedOut):
                    raise
            else:
                return
            finally:
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
        raise last or UnknownModel(
            f"The route '{way.name}' has no target.", hint="Add one with `detent routes add`.", field="model"
        )

    async def _read(self, receive: Receive) -> bytes:
        if self._headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise UnsupportedEncoding("The body is compressed.", hint="Send it as it is.")
        limit = self._plane.settings.max_body_bytes
        length = self._headers.get(b"content-length", b"")
        if length.isdigit() and int(length[:20]) > limit:
            raise _too_large(limit)
        message = await receive()
        if not message.get("more_body"):
            body: bytes = message.get("body", b"")
            if len(body) > limit:
                raise _too_large(limit)
            return body
        parts = [message["body"]]
        size = len(parts[0])
        while message.get("more_body"):
            message = await receive()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise _too_large(limit)
        return b"".join(parts)

    # Attempts

    async def _attempt(self, deployment: Deployment, body: ChatBody, deadline: float) -> None:
        """Ask one provider. Returns when the client has its answer; raises when another may be asked."""
        if deployment.lane is None:
            raise CredentialUnusable(deployment.problem, hint="Enter it again with `detent providers add --replace`.")
        stream = bool(body.head.stream)
        payload = deployment.request(
            body.for_model(deployment.model, deployment.model_json),
            traceparent=f"00-{self._trace_id}-{self._span_id}-01",
            stream=stream,
        )
        connection = self._connection = await deployment.lane.send(payload, hold=stream, total_deadline=deadline)
        if connection.status != 200:
            await self._not_ok(connection)
        elif connection.headers.get(b"content-encoding", b"identity") != b"identity":
            raise BadAnswer("The provider's answer is compressed, though it was asked not to be.")
        elif stream:
            await self._relay(connection, deployment, body)
        else:
            await self._whole(connection)

    async def _not_ok(self, connection: Connection) -> None:
        data = await connection.read_all()
        connection.release()
        self._connection = None
        if not is_passed_on(connection.status):
            raise failure(connection.status, connection.headers, data)
        error = UpstreamRejected(f"The provider answered {connection.status}.", hint="Correct the request.")
        self._error = error.code
        self._http_status = connection.status
        self._input_spent = False
        self._record()
        await self._answer(connection.status, data if holds_error(data) else openai_body(error))

    async def _whole(self, connection: Connection) -> None:
        """An answer in one piece: it is read in full before the client gets any of it."""
        data = await connection.read_all()
        connection.release()
        self._connection = None
        answer = read_answer(data)
        self._output_size = answer.size
        if self._keeps_content():
            self._output = answer.message.decode(errors="replace") if answer.size <= _MAX_CONTENT else ""
        self._usage = answer.usage
        self._finish = answer.finish_reason
        self._response_id = answer.id
        self._response_model = answer.model
        self._record()
        await self._answer(200, data)

    async def _relay(self, connection: Connection, deployment: Deployment, body: ChatBody) -> None:
        """A stream: held while another target could still take over, then passed on event by event."""
        kind = connection.headers.get(b"content-type", b"text/event-stream")
        if not kind.lower().startswith(b"text/event-stream"):
            read_answer(await connection.read_all())  # an error says what it is
            raise BadAnswer("The provider answered a streamed call without a stream.")
        stream = ChatStream(hide_usage=body.hide_usage, keep=_MAX_CONTENT if self._keeps_content() else 0)
        last = self._way is not None and deployment is self._way.deployments[-1]
        block = b""
        while not (stream.begun or stream.done or (last and stream.opened)):
            data = await connection.read()
            if not data:
                raise UpstreamCut("The provider's stream ended before any output.")
            block += stream.feed(data)
            if stream.failure is not None and not stream.begun:
                raise stream.failure
        self._committed = True
        self._stream = stream
        await self._send({"type": "http.response.start", "status": 200, "headers": [*_STREAM_HEADERS, *self._ids()]})
        fault = await self._pump(connection, stream, block)
        if fault is None:
            await connection.finish(_LAST_BYTES_SECONDS)
            self._connection = None

    async def _pump(self, connection: Connection, stream: ChatStream, block: bytes) -> WorldError | None:
        """Pass on what comes until the end; the fault, if it is not a good one."""
        fault: WorldError | None = None
        while not stream.done:
            if self._first is None and stream.begun:
                self._first = self._plane.clock.monotonic() - self._started
                connection.begin()
            if stream.failure is not None:
                fault = stream.failure
                break
            if block:
                await self._pass_on(block, more=True)
            block = b""
            try:
                data = await connection.read()
            except WorldError as error:
                fault = error
                break
            if not data:
                if stream.finish_reason:  # finished in good order, only that it was not said
                    block = _DONE
                else:
                    fault = UpstreamCut("The provider's stream ended before the answer was finished.")
                break
            block = stream.feed(data)
        if self._first is None and stream.begun:
            self._first = self._plane.clock.monotonic() - self._started
        if fault is not None:
            self._error = fault.code
            self._input_spent = stream.begun
            self._plane.metrics.count(
                "detent_gateway_attempts_failed_total",
                label(provider=self._deployment.provider if self._deployment else "", code=fault.code),
            )
            block += openai_event(fault)
        self._record()
        await self._pass_on(block, more=False)
        return fault

    async def _pass_on(self, block: bytes, *, more: bool) -> None:
        message = {"type": "http.response.body", "body": block, "more_body": more}
        client: ClientConnection | None = self._scope.get(CONNECTION)
        if client is None or not client.stalled:
            await self._send(message)
            return
        try:
            async with asyncio.timeout(self._plane.settings.idle_timeout):
                await self._send(message)
        except TimeoutError:  # it reads nothing any more: that is as good as gone
            client.transport.abort()
            await asyncio.sleep(self._plane.settings.idle_timeout)  # until `on_gone` cancels

    # Ends

    async def _refuse(self, error: DetentError) -> None:
        """Nothing was sent yet: the whole answer is an error."""
        self._error = error.code
        self._http_status = error.status
        if self._attempts == 0:
            self._plane.metrics.count("detent_gateway_refused_total", label(code=error.code))
        self._input_spent = False
        self._record()
        await self._answer(error.status, openai_body(error), retry_after=error.retry_after)

    async def _broken_off(self) -> None:
        """The client went away, or the gateway's time to drain is over."""
        if self._recorded:  # the answer was complete but for the last bytes
            return
        self._error = CLIENT_GONE if self._gone else Draining.code
        self._http_status = 499 if self._gone else 503
        self._record()
        if self._gone:
            return
        error = Draining("The gateway is stopping.", hint="Send the call again.", retry_after=1.0)
        if self._committed:
            await self._pass_on(openai_event(error), more=False)
        else:
            await self._answer(error.status, openai_body(error), retry_after=error.retry_after)

    async def _answer(self, status: int, body: bytes, *, retry_after: float | None = None) -> None:
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            *self._ids(),
        ]
        if retry_after is not None:
            headers.append((b"retry-after", b"%d" % max(round(retry_after), 1)))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    def _ids(self) -> tuple[tuple[bytes, bytes], tuple[bytes, bytes]]:
        return (b"x-request-id", self._span_id.encode()), (b"x-detent-trace-id", self._trace_id.encode())

    # The record

    def _keeps_content(self) -> bool:
        return self._plane.keeps_content(self._key.project)

    def _record(self) -> None:
        """Write the span and count. The first call counts."""
        if self._recorded:
            return
        self._recorded = True
        elapsed = self._plane.clock.monotonic() - self._started
        stream = self._stream
        if stream is not None:
            self._usage = stream.usage
            self._output_size = stream.characters
            self._finish = stream.finish_reason
            self._response_id = stream.id
            self._response_model = stream.model
            if self._keeps_content():
                self._output = msgspec.json.encode(stream.message()).decode()
        usage = self._settled()
        deployment = self._deployment
        cost: int | None = 0
        if usage.total_tokens and deployment is not None:
            cost = None if deployment.price is None else deployment.price.cost(usage)
        self._plane.record(self._span(elapsed, usage, cost))

    def _settled(self) -> Usage:
        if not self._input_spent or self._body is None:
            return Usage()
        return settle(self._usage, messages=self._body.messages, output_size=self._output_size)

    def _span(self, elapsed: int, usage: Usage, cost: int | None) -> Span:
        body, deployment, way = self._body, self._deployment, self._way
        head = body.head if body is not None else None
        status: Status = "ok" if not self._error else "cancelled" if self._error == CLIENT_GONE else "error"
        attributes: dict[str, Any] = {}
        content = ""
        if head is not None and body is not None:
            for name in ("temperature", "top_p"):
                if (value := getattr(head, name)) is not None:
                    attributes[f"gen_ai.request.{name}"] = value
            limit = head.max_completion_tokens or head.max_tokens
            if limit is not None:
                attributes["gen_ai.request.max_tokens"] = limit
            if head.n is not None:
                attributes["gen_ai.request.choice.count"] = head.n
            if self._keeps_content():
                messages = body.messages
                if len(messages) <= _MAX_CONTENT:
                    content = messages.decode()
                else:
                    attributes["detent.content_omitted_bytes"] = len(messages)
        if self._response_id:
            attributes["gen_ai.response.id"] = self._response_id
        if usage.cache_write_tokens:
            attributes["gen_ai.usage.cache_creation.input_tokens"] = usage.cache_write_tokens
        if self._failed:
            attributes["detent.failed_attempts"] = self._failed
        return Span(
            trace_id=self._trace_id,
            span_id=self._span_id,
            parent_id=self._parent_id,
            name=f"chat {way.name}" if way is not None else "chat",
            start=self._start,
            end=self._start + elapsed,
            project=self._key.project,
            operation="chat",
            status=status,
            error_type=self._error,
            provider=deployment.provider if deployment is not None else "",
            request_model=deployment.model if deployment is not None else head.model if head is not None else "",
            response_model=self._response_model,
            route=way.name if way is not None else "",
            key_id=self._key.id,
            session_id=self._sent(b"x-detent-session"),
            user_id=self._sent(b"x-detent-user") or (head.user or "" if head is not None else "")[:200],
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            usage_estimated=usage.estimated,
            cost=cost,
            ttft=self._first,
            finish_reason=self._finish,
            stream=bool(head.stream) if head is not None else False,
            http_status=self._http_status,
            attempts=self._attempts,
            attributes=attributes,
            input=content,
            output=self._output,
        )

    def _sent(self, name: bytes) -> str:
        value = self._headers.get(name)
        if value is None:
            return ""
        text = value.decode("latin-1")
        return text if _LABEL.fullmatch(text) else ""


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"The body is larger than {limit} bytes.", hint="Send less, or raise DETENT_GATEWAY_MAX_BODY_BYTES."
    )

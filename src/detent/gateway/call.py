"""One call, from the request to the span.

The route's deployments are tried in the order that its policy gives. Until the first real output has come, one that
cannot be reached, breaks off, is too slow or answers with 429 or 5xx is given up for the next; when all are, for the
route's fallbacks. From then on the answer is the client's: if it breaks off, the client is told so in the stream, and
nothing says that it is complete. When nobody is left to take over, a stream is passed on from its first event: holding
it would only cost time.

The span is spooled before the last byte of the answer leaves, so whoever saw an answer end will find its span.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any, Final, Protocol

import msgspec

from detent.gateway.answer import holds_error
from detent.gateway.asking import Asker, Asking
from detent.gateway.attempt import Attempt
from detent.gateway.body import check_parts
from detent.gateway.cache import AnswerCache, Looked, Question, Recorder, hit_attributes, hit_headers, wish_of
from detent.gateway.carriers import Stream
from detent.gateway.conversations import Conversations
from detent.gateway.dialects import CLIENTS
from detent.gateway.dialects.anthropic import read_count, write_count
from detent.gateway.dialects.counting import estimate_tokens
from detent.gateway.dialects.port import Asked
from detent.gateway.dialects.responses import ResponsesAsked
from detent.gateway.errors import (
    CLIENT_GONE,
    BodyTooLarge,
    BudgetSpent,
    Draining,
    LimitExceeded,
    MayNotCall,
    Shed,
    TotalTimedOut,
    UnknownModel,
    UnsupportedEncoding,
    UpstreamCut,
    UpstreamRejected,
)
from detent.gateway.limits.estimate import Typical
from detent.gateway.limits.headers import Headers
from detent.gateway.limits.meter import FREE, Grant, Meter
from detent.gateway.limits.rules import Asked as Wanted
from detent.gateway.listener import CONNECTION, CYCLE, ClientConnection, write_whole
from detent.gateway.metrics import Metrics, label
from detent.gateway.model import Band
from detent.gateway.operations import Operation
from detent.gateway.proxied import read_proxied
from detent.gateway.recording import Origin, Outcome, bill, span_of
from detent.gateway.shadowing import Shadows
from detent.gateway.snapshot import KeyEntry, price_at
from detent.gateway.usage import estimate
from detent.gateway.watched import WatchedStream
from detent.gateway.world import Deployment, Way, World
from detent.kernel.chat import Usage
from detent.kernel.clock import SECOND, Clock
from detent.kernel.errors import BugError, DetentError, StorageFailed, WorldError
from detent.kernel.ids import new_span_id, new_trace_id
from detent.kernel.settings import GatewaySettings
from detent.kernel.telemetry import Span

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_TRACEPARENT: Final = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?"
)
_log = logging.getLogger("detent.gateway")
_LABEL: Final = re.compile(r"[\x20-\x7e]{1,200}")
_PASSED: Final = re.compile(rb"[\x20-\x7e]{1,4096}")
"""A header that goes along; lists of betas are long, and one that was left out would be missed."""

_BANDS: Final = {"interactive": 0, "default": 1, "batch": 2}
_STREAM_HEADERS: Final = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class Host(Protocol):
    """What a call needs of the worker that it runs in."""

    settings: GatewaySettings
    metrics: Metrics
    clock: Clock

    meter: Meter
    typical: Typical
    shadows: Shadows
    cache: AnswerCache
    conversations: Conversations

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
        "_asked",
        "_asking",
        "_committed",
        "_deadline",
        "_error",
        "_failed",
        "_first",
        "_gone",
        "_grant",
        "_headers",
        "_http_status",
        "_key",
        "_looked",
        "_lost_cost",
        "_lost_tokens",
        "_operation",
        "_parent_id",
        "_plane",
        "_recorded",
        "_recorder",
        "_scope",
        "_send",
        "_span_id",
        "_start",
        "_started",
        "_trace_id",
        "_way",
        "_world",
    )

    def __init__(
        self,
        plane: Host,
        operation: Operation,
        scope: Scope,
        send: Send,
        key: KeyEntry,
        headers: dict[bytes, bytes],
    ) -> None:
        self._plane = plane
        self._operation = operation
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
        self._asked: Asked | None = None
        self._world: World | None = None
        self._way: Way | None = None
        self._asking: Asking | None = None
        self._lost_tokens = self._lost_cost = 0
        self._looked: Looked | None = None
        self._recorder: Recorder | None = None
        self._grant = FREE
        self._deadline = float("inf")
        self._error = ""
        self._failed: list[str] = []
        self._committed = False
        self._recorded = False
        self._gone = False
        self._first: int | None = None
        self._http_status = 200

    async def run(self, world: World, receive: Receive) -> None:
        """Serve it, whatever happens."""
        task = asyncio.current_task()
        assert task is not None
        client: ClientConnection | None = self._scope.get(CONNECTION)

        def gone() -> None:
            self._gone = True
            task.cancel()

        if client is not None:
            client.on_gone = gone
        try:
            try:
                await self._serve(world, receive)
            except DetentError as error:
                await self._refuse(error)
        except asyncio.CancelledError:
            task.uncancel()
            await self._broken_off()
        finally:
            if client is not None and client.on_gone is gone:  # the connection's next call may have begun
                client.on_gone = None
            if self._asking is not None:
                self._asking.close()
            if not self._recorded:  # a bug of ours, which is answered and logged where it arrives
                self._error, self._http_status = BugError.code, BugError.status
                self._record()
            self._asking = None  # it knows us too: without the ring nothing waits for the collector

    async def _serve(self, world: World, receive: Receive) -> None:
        if not world.callable_by(self._key):
            raise MayNotCall("This key may not call models.", hint="Mint a key with the permission gateway:call.")
        self._plane.admit()
        self._world = world
        raw = await self._read(receive)
        asked = self._asked = self._ask(raw)
        if isinstance(asked, ResponsesAsked):
            await self._expand(asked)
        way = world.find(self._key, asked.model)
        if way is None:
            raise UnknownModel(
                f"There is no model '{asked.model[:100]}' for this key.",
                hint="List what there is with GET /v1/models.",
                field="model",
            )
        self._way = way
        self._deadline = asyncio.get_running_loop().time() + way.timeouts.total
        if self._operation.kind == "count":
            await self._count(way, asked)
            return
        if way.rules.cache.mode != "off" and await self._kept(way, raw, asked):
            return
        if self._plane.meter.concerns(self._key.project):
            self._grant = await self._plane.meter.reserve(self._wanted(way, asked))
        asking = self._asking = self._begin(way, asked)
        if way.rules.shadow is not None:
            self._plane.shadows.offer(world, self._operation, asked, way, self._origin(), self._asker(way, asked))
        await self._deliver(await asking.open())

    def _ask(self, raw: bytes) -> Asked:
        depth = self._plane.settings.max_depth
        check_parts(raw, self._plane.settings.max_parts)
        if self._operation.kind == "proxy":
            return read_proxied(raw, self._headers.get(b"content-type", b"").decode("latin-1"), max_depth=depth)
        if self._operation.kind == "count":
            return read_count(raw, max_depth=depth)
        return CLIENTS[self._operation.dialect].read(raw, max_depth=depth)

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

    async def _count(self, way: Way, asked: Asked) -> None:
        """Tokens of a request: as its provider counts them where it can, else as we estimate them."""
        if way.deployments and all(d.dialect == self._operation.dialect for d in way.deployments):
            asking = self._asking = self._begin(way, asked)
            attempt = await asking.open()
            assert attempt.said is not None
            attempt.sent = False  # counting is free
            data = attempt.said.data
        else:
            data = write_count(estimate_tokens(asked.neutral()))
        self._record()
        await self._answer(200, data)

    def _begin(self, way: Way, asked: Asked) -> Asking:
        assert self._world is not None
        return Asking(
            self._world,
            self._operation,
            asked,
            way,
            self._asker(way, asked),
            self,
            clock=self._plane.clock,
            draw=random.random,
            deadline=self._deadline,
        )

    # The Responses API's state

    async def _expand(self, asked: ResponsesAsked) -> None:
        """Put the conversation so far before the input; the answer gets an id of ours."""
        now = self._start / SECOND
        asked.response_id = f"resp_{self._trace_id}{self._span_id}"
        asked.created = int(now)
        if asked.previous or b"item_reference" in asked.messages:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(
                None, partial(self._plane.conversations.expand, self._key.project, asked, now=now)
            )

    async def _save(self, response: bytes) -> None:
        """Keep a finished response. A disk that is full costs the state, not the answer."""
        asked = self._asked
        if not isinstance(asked, ResponsesAsked) or not asked.stores or not response:
            return
        now = self._plane.clock.now() / SECOND
        save = partial(self._plane.conversations.save, self._key.project, asked, response, now=now)
        try:
            await asyncio.get_running_loop().run_in_executor(None, save)
        except StorageFailed as error:
            self._plane.metrics.count("detent_gateway_responses_unsaved_total")
            _log.error("%s", error)

    # The cache

    async def _kept(self, way: Way, raw: bytes, asked: Asked) -> bool:
        """Give an answer from before, if there is one; else remember under what this one is kept."""
        if self._operation.kind == "count" or (isinstance(asked, ResponsesAsked) and (asked.stores or asked.previous)):
            return False
        question = Question(
            project=self._key.project,
            route=way.name,
            version=way.created,
            dialect=self._operation.dialect,
            body=raw,
            headers=self._headers.get(b"anthropic-beta", b""),
        )
        looked = self._looked = self._plane.cache.look(question, way.rules.cache, wish_of(self._headers), self._start)
        if looked.hit is None:
            if looked.key:
                self._recorder = Recorder()
            return False
        answer = looked.hit.answer
        self._plane.metrics.count("detent_gateway_cache_hits_total", label(route=way.name, kind=looked.hit.kind))
        if len(answer.chunks) == 1 and not asked.stream:
            self._record()
            await self._answer(200, answer.chunks[0])
            return True
        self._committed = True
        headers = [*_STREAM_HEADERS, *self._ids()]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        for chunk in answer.chunks[:-1]:
            await self._pass_on(chunk, more=True)
        self._record()
        await self._pass_on(answer.chunks[-1], more=False)
        return True

    def _keep(self, billed: tuple[Usage, int | None], attempt: Attempt) -> None:
        """Keep a complete answer for the next who asks the same."""
        recorder, looked = self._recorder, self._looked
        found = attempt.stream or attempt.said
        if recorder is None or looked is None or found is None or self._error:
            return
        answer = recorder.answer(
            status=200,
            content_type="text/event-stream" if attempt.stream is not None else "application/json",
            finish_reason=found.finish_reason or ("stop" if self._operation.kind == "proxy" else ""),
            usage=billed[0],
            cost=billed[1],
            provider=attempt.deployment.provider,
            model=attempt.deployment.model,
            response_model=found.model,
            response_id=found.id,
            output=attempt.output(),
        )
        self._plane.cache.keep(looked, answer, self._plane.clock.now())

    # Limits and budgets

    def _wanted(self, way: Way, asked: Asked, deployment: Deployment | None = None) -> Wanted:
        """What the call may take, of the route's dearest deployment, or of one of them."""
        typical = self._plane.typical.expect(way.path, asked.max_tokens, answers=asked.answers)
        writes = self._operation.kind == "chat" or self._operation.name == "text_completion"
        usage = Usage(estimate(len(asked.messages)), typical if writes else 0)
        cost: int | None = 0
        for candidate in way.deployments if deployment is None else (deployment,):
            price = price_at(candidate.target, self._start)
            if price is None:
                cost = None
                break
            cost = max(cost or 0, price.cost(usage))
        return Wanted(
            id=self._span_id if deployment is None else f"{self._span_id}/{self._attempts}",
            project=self._key.project,
            key=self._key.id,
            user=self._user(),
            route=way.name,
            model="" if deployment is None else f"{deployment.provider}/{deployment.model}",
            only_model=deployment is not None,
            tokens=usage.total_tokens,
            cost=cost,
        )

    def _user(self) -> str:
        """Whose call it is, as the application says; or a person, when one of our own parts calls for them."""
        return self._key.user or self._sent(b"x-detent-user") or (self._asked.user[:200] if self._asked else "")

    # Attempts

    def _expects(self, way: Way) -> bool:
        """Whether anything depends on how long this route's answers usually are."""
        rules = way.rules
        return rules.policy == "cheapest" or rules.shadow is not None or self._plane.meter.concerns(self._key.project)

    def _asker(self, way: Way, asked: Asked) -> Asker:
        key, rules, world = self._key, way.rules, self._world
        assert world is not None
        known = bool(rules.sticky or rules.shadow or rules.fallbacks)  # else nobody asks
        return Asker(
            project=key.project,
            traceparent=f"00-{self._trace_id}-{self._span_id}-01",
            session=self._sent(b"x-detent-session") if known else "",
            user=self._user() if known else "",
            weight=world.weights.get(key.project, 1),
            band=self._band(way),
            queue_seconds=self._queue_seconds(),
            tokens=(estimate(len(asked.messages)), self._plane.typical.expect(way.path, asked.max_tokens))
            if rules.policy == "cheapest" or rules.shadow is not None
            else (1000, 250),
            keep=self._keeps_content(),
            headers=self._passed_headers(),
        )

    def _passed_headers(self) -> tuple[tuple[str, str], ...]:
        """What a client of Anthropic's says in headers and its provider must know."""
        if self._operation.dialect != "anthropic":
            return ()
        names = (b"anthropic-version", b"anthropic-beta")
        said = ((name, self._headers.get(name, b"")) for name in names)
        return tuple((name.decode(), value.decode()) for name, value in said if _PASSED.fullmatch(value))

    def _band(self, way: Way) -> Band:
        """The route's priority, or a lower one that key or client ask for."""
        asked = self._key.priority or self._sent(b"x-detent-priority")
        usual = way.rules.priority
        if not asked:
            return usual
        return asked if asked in _BANDS and _BANDS[asked] > _BANDS[usual] else usual  # type: ignore[return-value]

    def _queue_seconds(self) -> float:
        """How long the client is ready to wait for its turn; 0 when it does not say."""
        text = self._sent(b"x-detent-deadline-ms")
        return min(int(text), 3_600_000) / 1000 if text.isdecimal() and len(text) < 9 else 0.0

    async def reserve(self, way: Way, deployment: Deployment) -> Grant:
        """Hold what limits and budgets of a deployment's model want."""
        assert self._asked is not None
        return await self._plane.meter.reserve(self._wanted(way, self._asked, deployment))

    def failed(self, attempt: Attempt, error: DetentError) -> None:
        """Count an attempt that came to nothing."""
        deployment = attempt.deployment
        attempt.grant.settle(0, 0)
        self._failed.append(f"{deployment.provider}/{deployment.model}: {error.code}")
        self._plane.metrics.count(
            "detent_gateway_attempts_failed_total", label(provider=deployment.provider, code=error.code)
        )

    def lost(self, attempt: Attempt) -> None:
        """Record an attempt that was overtaken; what it took is part of what the call cost."""
        billed = bill(self._operation, self._asked, attempt, self._start)
        usage, cost = billed
        attempt.grant.settle(usage.total_tokens, cost)
        self._lost_tokens += usage.total_tokens
        self._lost_cost += cost or 0
        origin = msgspec.structs.replace(self._origin(), span_id=new_span_id(), parent_id=self._span_id)
        outcome = Outcome(
            elapsed=self._plane.clock.monotonic() - self._started,
            status="cancelled",
            error="overtaken",
            attributes={"detent.hedge": "lost"},
        )
        self._plane.record(span_of(origin, self._operation, self._asked, self._way, attempt, billed, outcome))

    # The answer

    @property
    def _attempt(self) -> Attempt | None:
        """The attempt that is under way, or has the answer; the last one when all failed."""
        return self._asking.current if self._asking is not None else None

    @property
    def _attempts(self) -> int:
        return self._asking.attempts if self._asking is not None else 0

    async def _deliver(self, attempt: Attempt) -> None:
        if attempt.said is not None:
            await self._save(attempt.said.data)
            if self._recorder is not None:
                self._recorder.add(attempt.said.data)
            self._record()
            await self._answer(200, attempt.said.data)
            return
        stream = attempt.stream
        assert stream is not None
        self._committed = True
        headers = [*_STREAM_HEADERS, *self._ids()]
        if self._operation.kind == "proxy":
            headers[0] = (b"content-type", attempt.content_type or b"application/octet-stream")
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        if await self._pump(attempt, stream) is None:
            await attempt.finish()

    async def _pump(self, attempt: Attempt, stream: Stream) -> DetentError | None:
        """Pass on what comes until the end; the fault, if it is not a good one."""
        connection = attempt.connection
        assert connection is not None
        fault: DetentError | None = None
        block = attempt.block
        while not stream.done:
            if self._first is None and stream.begun:
                self._first = self._plane.clock.monotonic() - self._started
                attempt.first_output()
                connection.begin()
            if stream.failure is not None:
                fault = stream.failure
                break
            if block:
                if self._recorder is not None:
                    self._recorder.add(block)
                await self._pass_on(block, more=True)
            block = b""
            try:
                data = await connection.read()
            except WorldError as error:
                fault = error
                break
            if not data:
                if stream.finish_reason:  # finished in good order, only that it was not said
                    block = stream.closing()
                else:
                    fault = UpstreamCut("The provider's stream ended before the answer was finished.")
                break
            block = stream.feed(data)
        if self._first is None and stream.begun:
            self._first = self._plane.clock.monotonic() - self._started
        if attempt.slowed and isinstance(fault, TotalTimedOut):
            attempt.left()  # it was the client that took so long
        attempt.ended(fault)
        if fault is not None:
            self._error = fault.code
            attempt.sent = stream.begun
            self._plane.metrics.count(
                "detent_gateway_attempts_failed_total",
                label(provider=attempt.deployment.provider, code=fault.code),
            )
            told = attempt.carrier.error_event(fault)
            if told is None:
                self._record()
                self._cut_off()
                return fault
            block += told
        elif isinstance(stream, WatchedStream):
            await self._save(stream.response)
        if self._recorder is not None:
            self._recorder.add(block)
        self._record()
        await self._pass_on(block, more=False)
        return fault

    def _cut_off(self) -> None:
        """Close the client's connection within an answer, which is then plainly not complete."""
        client: ClientConnection | None = self._scope.get(CONNECTION)
        if client is not None:
            client.on_gone = None
            client.transport.abort()

    async def _pass_on(self, block: bytes, *, more: bool) -> None:
        message = {"type": "http.response.body", "body": block, "more_body": more}
        client: ClientConnection | None = self._scope.get(CONNECTION)
        if client is None or not client.stalled:
            await self._send(message)
            return
        if self._attempt is not None:
            self._attempt.slowed = True
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
        if self._committed:  # too late for words
            self._record()
            self._cut_off()
            return
        self._http_status = error.status
        body = b""
        if isinstance(error, UpstreamRejected):
            self._http_status = error.answered
            if self._attempt is not None and self._attempt.carrier.same and holds_error(error.said):
                body = error.said
        if self._attempts == 0:
            self._plane.metrics.count("detent_gateway_refused_total", label(code=error.code))
        if self._attempt is not None:
            self._attempt.sent = False
        self._record()
        headers: Headers = ()
        if isinstance(error, LimitExceeded | BudgetSpent):
            headers = error.headers
        elif isinstance(error, Shed):
            headers = ((b"x-detent-queue-position", b"%d" % error.position),)
        await self._answer(
            self._http_status, body or self._error_body(error), retry_after=error.retry_after, headers=headers
        )

    async def _broken_off(self) -> None:
        """The client went away, or the gateway's time to drain is over."""
        if self._recorded:  # the answer was complete but for the last bytes
            return
        if self._attempt is not None:
            self._attempt.left()
        self._error = CLIENT_GONE if self._gone else Draining.code
        self._http_status = 499 if self._gone else 503
        self._record()
        if self._gone:
            return
        error = Draining("The gateway is stopping.", hint="Send the call again.", retry_after=1.0)
        if self._committed:
            told = self._attempt.carrier.error_event(error) if self._attempt is not None else None
            if told is None:
                self._cut_off()
            else:
                await self._pass_on(told, more=False)
        else:
            await self._answer(error.status, self._error_body(error), retry_after=error.retry_after)

    def _error_body(self, error: DetentError) -> bytes:
        return CLIENTS[self._operation.dialect].error_body(error)

    async def _answer(
        self, status: int, body: bytes, *, retry_after: float | None = None, headers: Headers = ()
    ) -> None:
        found = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            *self._ids(),
            *headers,
        ]
        if retry_after is not None:
            found.append((b"retry-after", b"%d" % max(round(retry_after), 1)))
        cycle = self._scope.get(CYCLE)
        if cycle is not None and write_whole(cycle, status, found, body):
            return
        await self._send({"type": "http.response.start", "status": status, "headers": found})
        await self._send({"type": "http.response.body", "body": body})

    def _ids(self) -> Headers:
        return (
            (b"x-request-id", self._span_id.encode()),
            (b"x-detent-trace-id", self._trace_id.encode()),
            *self._grant.headers(),
            *(hit_headers(self._looked, self._start) if self._looked is not None else ()),
        )

    # The record

    def _keeps_content(self) -> bool:
        return self._plane.keeps_content(self._key.project)

    def _record(self) -> None:
        """Write the span and count. The first call counts."""
        if self._recorded:
            return
        self._recorded = True
        elapsed = self._plane.clock.monotonic() - self._started
        attempt, asked = self._attempt, self._asked
        billed = bill(self._operation, asked, attempt, self._start)
        usage, cost = billed
        known = None if cost is None else cost + self._lost_cost
        self._grant.settle(usage.total_tokens + self._lost_tokens, known)
        if attempt is not None:
            attempt.grant.settle(usage.total_tokens, cost)
            way = self._way
            if way is not None and asked is not None and usage.output_tokens and not self._error and self._expects(way):
                self._plane.typical.learn(way.path, usage.output_tokens // asked.answers)
            if self._recorder is not None:
                self._keep(billed, attempt)
        origin, outcome = self._origin(), self._outcome(elapsed)
        hit = self._looked.hit if self._looked is not None else None
        kept = hit.answer if hit is not None else None
        self._plane.record(span_of(origin, self._operation, asked, self._way, attempt, billed, outcome, kept))

    def _origin(self) -> Origin:
        return Origin(
            trace_id=self._trace_id,
            span_id=self._span_id,
            parent_id=self._parent_id,
            start=self._start,
            project=self._key.project,
            key_id=self._key.id,
            session=self._sent(b"x-detent-session"),
            user=self._key.user or self._sent(b"x-detent-user"),
            keep=self._keeps_content(),
        )

    def _outcome(self, elapsed: int) -> Outcome:
        attributes: dict[str, Any] = {}
        if self._failed:
            attributes["detent.failed_attempts"] = self._failed
        if self._looked is not None:
            attributes.update(hit_attributes(self._looked))
        asking = self._asking
        if asking is not None:
            if asking.hedged:
                attributes["detent.hedged"] = True
            if asking.waited:
                attributes["detent.queue_seconds"] = round(asking.waited, 3)
            if asking.way is not self._way:
                attributes["detent.fallback_route"] = asking.way.name
        return Outcome(
            elapsed=elapsed,
            status="ok" if not self._error else "cancelled" if self._error == CLIENT_GONE else "error",
            error=self._error,
            http_status=self._http_status,
            attempts=asking.attempts if asking is not None else 0,
            first=self._first,
            attributes=attributes,
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

"""The data plane: a raw ASGI application that serves calls from the snapshot."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final, Literal
from urllib.parse import parse_qsl

import msgspec

from detent.gateway import snapshot as snapshots
from detent.gateway.cache import AnswerCache
from detent.gateway.call import Call, Receive, Scope, Send
from detent.gateway.conversations import Conversations
from detent.gateway.delegation import PREFIX as DELEGATED
from detent.gateway.delegation import accept
from detent.gateway.dialects import CLIENTS
from detent.gateway.errors import (
    Draining,
    InvalidKey,
    MayNotCall,
    MisdirectedScrape,
    NotReady,
    NoUpstream,
    Overloaded,
    SpoolFull,
    UnknownModel,
    UnknownPath,
)
from detent.gateway.forwarded import forward, is_forwarded
from detent.gateway.keys import hash_token
from detent.gateway.limits.estimate import Typical
from detent.gateway.limits.meter import Meter
from detent.gateway.metrics import Metrics, label
from detent.gateway.operations import OPERATIONS, Operation, dialect_of
from detent.gateway.shadowing import Shadows
from detent.gateway.snapshot import KeyEntry
from detent.gateway.standing import WorkerStanding, write_standing
from detent.gateway.upstream import Client, Lane
from detent.gateway.world import Deployment, Way, World, Yard, build_world
from detent.guard.vault import Vault
from detent.kernel.clock import SECOND, Clock
from detent.kernel.errors import DetentError, InvalidInput, MethodNotAllowed, StorageFailed
from detent.kernel.identity import Permission
from detent.kernel.settings import GatewaySettings, TelemetrySettings
from detent.kernel.telemetry import Span

_WATCH_SECONDS: Final = 0.2
_SAVE_TICKS: Final = 5
_SWEEP_TICKS: Final = 1500
_PROBE_SECONDS: Final = 1.5
_LAST_TURNS: Final = 100
_LAST_TURN_SECONDS: Final = 0.01
_PROBE_KEPT: Final = SECOND // 2
_FULL_KEPT: Final = SECOND
_ADDRESS: Final = re.compile(r"\d+\.\d+\.\d+\.\d+|\[[0-9a-f:.%]+\]")
_log = logging.getLogger("detent.gateway")


class Plane:
    """Everything that one worker holds.

    Args:
        home: the data folder.
        worker: this one's name among those that share the port.
        meter: holds the limits and budgets; run while the worker lives.
        spool: takes a span; False when it is full.
        vault: opens providers' credentials; asked for only when there are any.
    """

    def __init__(
        self,
        home: Path,
        settings: GatewaySettings,
        telemetry: TelemetrySettings,
        *,
        worker: str = "0",
        client: Client,
        meter: Meter,
        metrics: Metrics,
        spool: Callable[[Span], bool],
        vault: Callable[[], Vault],
        clock: Clock,
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.clock = clock
        self.meter = meter
        self.typical = Typical()
        self.yard = Yard(random.random, clock)
        self._writer = ThreadPoolExecutor(1, "cache")
        self.cache = AnswerCache(home / "cache", background=self._writer.submit)
        self.conversations = Conversations(home / "responses")
        self.shadows = Shadows(
            clock=clock, metrics=metrics, record=self.record, draw=random.random, workers=settings.workers
        )
        self.world: World | None = None
        self.draining = False
        self._folder = home / "snapshot"
        self._run = home / "run"
        self._worker = worker
        self._telemetry = telemetry
        self._client = client
        self._spool = spool
        self._vault = vault
        self._mark = (0, 0, 0)
        self._swapping = asyncio.Lock()
        self._inflight = 0
        self._full_since: int | None = None
        self._probes: dict[Lane, tuple[int, bool]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    # ASGI

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the process' life."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        path: str = scope["path"]
        method: str = scope["method"]
        try:
            operation = OPERATIONS.get(path)
            if operation is not None and operation.dialect in CLIENTS:
                _need(method, "POST")
                await self._call(operation, scope, receive, send)
            elif path.startswith("/v1/responses/"):
                await self._stored(path, method, scope, send)
            elif path == "/v1/models" or path.startswith("/v1/models/"):
                _need(method, "GET")
                name = path.removeprefix("/v1/models").removeprefix("/")
                await _respond(send, 200, await self._models(scope, name))
            elif is_forwarded(path):
                world = await self._present()
                await forward(self._client, world.control_url, scope, receive, send)
            elif path == "/healthz":
                _need(method, "GET")
                await _respond(send, 200, b'{"status":"ok"}')
            elif path == "/readyz":
                _need(method, "GET")
                await self._check_ready()
                await _respond(send, 200, b'{"status":"ready"}')
            elif path == "/metrics":
                _need(method, "GET")
                self._check_host(dict(scope["headers"]).get(b"host", b""))
                self._set_gauges()
                await _respond(send, 200, self.metrics.text().encode(), b"text/plain; version=0.0.4; charset=utf-8")
            else:
                raise UnknownPath(
                    "The gateway serves no such path.",
                    hint="It serves /v1/chat/completions, /v1/responses, /v1/messages, /v1/models and more.",
                )
        except DetentError as error:
            self.metrics.count("detent_gateway_refused_total", label(code=error.code))
            body = CLIENTS[dialect_of(path)].error_body(error)
            await _respond(send, error.status, body, retry_after=error.retry_after, error=error)

    async def _call(self, operation: Operation, scope: Scope, receive: Receive, send: Send) -> None:
        world = await self._present()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        call = Call(self, operation, scope, send, self._authenticate(world, headers), headers)
        self._inflight += 1
        try:
            await call.run(world, receive)
        finally:
            self._inflight -= 1

    async def _present(self) -> World:
        """The configuration as it was published last.

        Asked anew by every call (it costs one stat): a key works from the moment its maker is told, and a revoked one
        no longer than until its revoker is.
        """
        await self.refresh()
        if self.world is None:
            raise NotReady(
                "The gateway has no configuration yet.",
                hint="Start the control plane with `detent up`.",
                retry_after=1.0,
            )
        return self.world

    def _authenticate(self, world: World, headers: dict[bytes, bytes]) -> KeyEntry:
        """Whose call it is, by `Authorization: Bearer` or, as Anthropic's clients send it, `x-api-key`."""
        scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            token = headers.get(b"x-api-key", b"").decode("latin-1")
        token = token.strip()
        if token.startswith(DELEGATED):
            return self._delegated(world, token)
        hashed = hash_token(token)
        key = world.keys.get(hashed) if hashed is not None else None
        if key is None or (key.expires and self.clock.now() >= key.expires):
            raise _invalid_key(token)
        return key

    def _delegated(self, world: World, token: str) -> KeyEntry:
        """The entry for a call that another part of Detent makes for a key or a person."""
        now = self.clock.now()
        found = accept(self._vault(), token, now)
        if found is None:
            raise _invalid_key(token)
        if found.key_id:
            key = world.keys_by_id.get(found.key_id)
            if key is None or key.project != found.project or (key.expires and now >= key.expires):
                raise _invalid_key(token)
            routes = tuple(r for r in found.routes if not key.routes or r in key.routes) if found.routes else key.routes
            if found.routes and not routes:  # none is left, and no routes would mean all
                raise _invalid_key(token)
            return msgspec.structs.replace(key, routes=routes, priority=found.priority)
        may = (Permission.GATEWAY_CALL,)
        return KeyEntry("", found.project, found.routes, found.expires, may, found.priority, found.user_id)

    def admit(self) -> None:
        """Whether one more call may begin.

        Raises:
            Overloaded, SpoolFull: not now.
        """
        if self._inflight > self.settings.max_inflight:
            raise Overloaded(
                f"{self.settings.max_inflight} calls are in flight.", hint="Come back in a moment.", retry_after=1.0
            )
        if self._spool_refuses():
            raise SpoolFull(
                "Calls cannot be recorded: the spool is full.", hint="See `detent status`.", retry_after=5.0
            )

    def _spool_refuses(self) -> bool:
        """Full when the last span was shed; after a second one more call is let through to see if there is room."""
        if self._full_since is None or self._telemetry.when_full == "shed":
            return False
        return self.clock.monotonic() - self._full_since < _FULL_KEPT

    def _check_host(self, host: bytes) -> None:
        """Let nobody's page read our figures by having its own name lead here (DNS rebinding)."""
        name = host.decode("latin-1").lower()
        name = name[: name.find("]") + 1] if name.startswith("[") else name.partition(":")[0]
        known = {
            "localhost",
            self.settings.host.lower(),
            *self.settings.metrics_hosts.lower().replace(" ", "").split(","),
        }
        if not name or not (name in known or _ADDRESS.fullmatch(name)):
            raise MisdirectedScrape(
                "This name does not belong to this gateway.",
                hint="Use its address, or set DETENT_GATEWAY_METRICS_HOSTS.",
            )

    # Models

    async def _models(self, scope: Scope, name: str) -> bytes:
        world = await self._present()
        key = self._authenticate(world, dict(scope["headers"]))
        if not name:
            return msgspec.json.encode({"object": "list", "data": [_model(way) for way in world.visible(key)]})
        way = world.find(key, name)
        if way is None:
            raise UnknownModel(
                f"There is no model '{name[:100]}' for this key.",
                hint="List what there is with GET /v1/models.",
                field="model",
            )
        return msgspec.json.encode(_model(way))

    # Stored responses

    async def _stored(self, path: str, method: str, scope: Scope, send: Send) -> None:
        """`/v1/responses/{id}` and `/v1/responses/{id}/input_items`."""
        world = await self._present()
        key = self._authenticate(world, dict(scope["headers"]))
        if not world.callable_by(key):
            raise MayNotCall("This key may not call models.", hint="Mint a key with the permission gateway:call.")
        name, _, rest = path.removeprefix("/v1/responses/").partition("/")
        now = self.clock.now() / SECOND
        if rest == "input_items":
            _need(method, "GET")
            limit, order, after = _page(scope.get("query_string", b""))
            work = partial(
                self.conversations.input_items, key.project, name, now=now, limit=limit, order=order, after=after
            )
        elif not rest and method == "DELETE":
            work = partial(self.conversations.delete, key.project, name, now=now)
        elif not rest:
            _need(method, "GET")
            work = partial(self.conversations.get, key.project, name, now=now)
        else:
            raise UnknownPath("The gateway serves no such path.", hint="See the guide for what it serves.")
        await _respond(send, 200, await asyncio.get_running_loop().run_in_executor(None, work))

    # Readiness

    async def _check_ready(self) -> None:
        """Pass exactly when a call with a good key would be served.

        Raises:
            Unavailable: says what is missing.
        """
        world = await self._present()
        if self.draining:
            raise Draining("The gateway is stopping.", retry_after=1.0)
        if self._inflight >= self.settings.max_inflight:
            raise Overloaded("The gateway takes no further call now.", retry_after=1.0)
        if self._spool_refuses():
            raise SpoolFull("Calls cannot be recorded: the spool is full.", retry_after=5.0)
        deployments = {
            deployment.lane: deployment
            for ways in world.ways.values()
            for way in ways.values()
            for deployment in way.deployments
            if deployment.lane is not None
        }
        if not await self._any_reached(deployments):
            raise NoUpstream(
                "No route leads to a provider that can be reached.",
                hint="Check `detent providers list`, or whether the embedded engine runs.",
                retry_after=1.0,
            )

    async def _any_reached(self, deployments: dict[Lane, Deployment]) -> bool:
        now = self.clock.monotonic()
        fresh = {lane: found for lane, found in self._probes.items() if now - found[0] < _PROBE_KEPT}
        self._probes = fresh
        if any(fresh[lane][1] for lane in deployments if lane in fresh):
            return True
        asked = {asyncio.ensure_future(self._reach(d)): lane for lane, d in deployments.items() if lane not in fresh}
        for done in asyncio.as_completed(asked):
            if await done:
                for task in asked:
                    task.cancel()
                return True
        return False

    async def _reach(self, deployment: Deployment) -> bool:
        lane = deployment.lane
        assert lane is not None
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                good = await lane.probe("/healthz" if deployment.probe else "")
        except (DetentError, TimeoutError):
            good = False
        self._probes[lane] = (self.clock.monotonic(), good)
        return good

    # Recording

    def keeps_content(self, project: str) -> bool:
        """Whether texts of this project's calls are kept."""
        world = self.world
        found = world.keep_content.get(project) if world is not None else None
        return self._telemetry.content == "keep" if found is None else found

    def record(self, span: Span) -> None:
        """Spool a call's span and count it."""
        if span.error_type == SpoolFull.code:
            pass  # there is no room, and a small span that finds some says nothing about the next call
        elif self._spool(span):
            self._full_since = None
        else:
            self._full_since = self.clock.monotonic()
            self.metrics.count("detent_gateway_spans_shed_total")
        if span.http_status:  # else nobody was answered: a lost hedge, a shadow copy
            self.metrics.count_call(span)

    # Life

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def start(self) -> None:
        """Take the snapshot that is there, and watch for the next."""
        await self.refresh()
        # What is there now stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        self._tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self.meter.run())]

    async def stop(self) -> None:
        """Let go of everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _ in range(_LAST_TURNS):  # calls that were told to end do so and are recorded
            if not self._inflight:
                break
            await asyncio.sleep(_LAST_TURN_SECONDS)
        await self.shadows.stop()
        self._writer.shutdown(wait=True)
        await self.meter.stop()
        self._client.close()
        self._set_gauges()
        self.metrics.save()

    async def _watch(self) -> None:
        ticks = 0
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            await self.refresh()
            ticks += 1
            if ticks % _SWEEP_TICKS == 0:
                self._writer.submit(self.cache.sweep, self.clock.now())
                self._writer.submit(partial(self.conversations.sweep, now=self.clock.now() / SECOND))
            if ticks % _SAVE_TICKS == 0:
                self._set_gauges()
                self.metrics.save()
                self._write_standing()

    def _write_standing(self) -> None:
        standing = WorkerStanding(
            worker=self._worker,
            at=self.clock.now(),
            inflight=self._inflight,
            deployments=self.yard.fleet.status(monotonic()),
            gates={name: gate.status() for name, gate in self.yard.gates.items()},
            shadow_spent=self.shadows.spent(),
        )
        write_standing(self._run, standing)

    async def refresh(self) -> None:
        """Swap in the published snapshot if it is another; a damaged one is reported and the old one stays."""
        if snapshots.mark(self._folder) == self._mark:
            return
        async with self._swapping:
            mark = snapshots.mark(self._folder)
            if mark != self._mark:
                await self._swap()
                self._mark = mark

    async def _swap(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(None, snapshots.load, self._folder)
        except (StorageFailed, OSError) as error:
            self.metrics.count("detent_gateway_snapshot_refused_total")
            _log.error("snapshot refused: %s The one before stays in use.", error)
            return
        if found is None:
            return
        self.world, problems = build_world(found, self._vault, self._client, self.yard)
        longest = max((way.timeouts.total for ways in self.world.ways.values() for way in ways.values()), default=0.0)
        self.meter.configure(found.limits, found.budgets, longest=round(longest * 2 * SECOND))
        for problem in problems:
            _log.warning("%s", problem)
        _log.info(
            "snapshot in use: position %d, %d routes, %d keys", found.position, len(found.routes), len(found.keys)
        )

    def _set_gauges(self) -> None:
        gauges = self.metrics.gauges
        gauges["detent_gateway_inflight"] = self._inflight
        gauges["detent_gateway_workers"] = 1
        if self.world is not None:
            gauges["detent_gateway_snapshot_position"] = self.world.position


def _invalid_key(token: str) -> InvalidKey:
    return InvalidKey(
        "The key is unknown, expired or revoked." if token else "No key was sent.",
        hint="Send 'Authorization: Bearer dtk_...'; make a key with `detent keys create`.",
    )


def _page(query: bytes) -> tuple[int, Literal["asc", "desc"], str]:
    """What a page of a list is asked to be."""
    given = dict(parse_qsl(query.decode("latin-1"), max_num_fields=16))
    limit, order = given.get("limit", "20"), given.get("order", "desc")
    if not limit.isdecimal() or not 1 <= int(limit[:5]) <= 100:
        raise InvalidInput("'limit' cannot be used.", hint="Give 1 to 100.", field="limit")
    if order not in {"asc", "desc"}:
        raise InvalidInput("'order' cannot be used.", hint="Give asc or desc.", field="order")
    return int(limit), "asc" if order == "asc" else "desc", given.get("after", "")


def _need(method: str, wanted: str) -> None:
    if method != wanted:
        raise MethodNotAllowed(f"This path does not take {method[:20]}.", hint=f"Use {wanted}.")


def _model(way: Way) -> dict[str, Any]:
    owner = way.deployments[0].provider if way.deployments else "detent"
    return {"id": way.name, "object": "model", "created": way.created // SECOND, "owned_by": owner}


async def _respond(
    send: Send,
    status: int,
    body: bytes,
    kind: bytes = b"application/json",
    *,
    retry_after: float | None = None,
    error: DetentError | None = None,
) -> None:
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    if retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(round(retry_after), 1)))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.hint.removeprefix("Use ").rstrip(".").encode()))
    if isinstance(error, InvalidKey):
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

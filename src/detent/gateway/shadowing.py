"""Shadow copies: calls made a second time, to another route, whose answers nobody gets.

A copy begins when its call is on its way and is a span of its own below the call's. It takes nothing from limits and
budgets: it has a daily budget of its own, and a bound on how many may be under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from detent.gateway.asking import Asker, Asking
from detent.gateway.attempt import Attempt
from detent.gateway.dialects.port import Asked
from detent.gateway.errors import Draining, UpstreamCut
from detent.gateway.limits.meter import FREE, Grant
from detent.gateway.metrics import Metrics, label
from detent.gateway.operations import Operation
from detent.gateway.recording import Origin, Outcome, bill, span_of
from detent.gateway.routing import ShadowPurse, copied
from detent.gateway.snapshot import price_at
from detent.gateway.world import Deployment, Way, World
from detent.kernel.chat import Usage
from detent.kernel.clock import Clock
from detent.kernel.errors import BugError, DetentError
from detent.kernel.ids import new_span_id
from detent.kernel.telemetry import Span

_AT_ONCE: Final = 64


class Shadows:
    """The copies of one worker.

    Args:
        workers: how many share the port; each spends its part of the daily budgets.
        record: takes a copy's span.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        metrics: Metrics,
        record: Callable[[Span], None],
        draw: Callable[[], float],
        workers: int = 1,
    ) -> None:
        self._clock = clock
        self._metrics = metrics
        self._record = record
        self._draw = draw
        self._workers = max(workers, 1)
        self._purses: dict[str, ShadowPurse] = {}
        self._running: set[asyncio.Task[None]] = set()

    def offer(self, world: World, operation: Operation, asked: Asked, way: Way, origin: Origin, asker: Asker) -> None:
        """Copy a call if its route says so, its coin falls so, and there is room and money for it."""
        rules = way.rules.shadow
        if rules is None or operation.kind != "chat" or not copied(rules, origin.trace_id):
            return
        other = world.other(way, rules.route)
        if other is None or not other.deployments:
            return
        name = f"{way.project}/{way.name}"
        now = self._clock.now()
        price = price_at(other.deployments[0].target, now)
        expected = None if price is None else price.cost(Usage(*asker.tokens))
        purse = self._purses.setdefault(name, ShadowPurse())
        limit = rules.daily_budget // self._workers if rules.daily_budget else 0
        if len(self._running) >= _AT_ONCE or not purse.take(now, expected, limit):
            self._metrics.count("detent_gateway_shadows_skipped_total", label(route=way.name))
            return
        copy = _Copy(self, world, operation, asked, other, origin, asker, purse, expected)
        task = asyncio.create_task(copy.run(), name="shadow")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def spent(self) -> dict[str, int]:
        """Nano-dollars of today, by route (`project/name`)."""
        now = self._clock.now()
        return {name: purse.spent(now) for name, purse in self._purses.items()}

    async def stop(self) -> None:
        """Let go of what is under way."""
        for task in tuple(self._running):
            task.cancel()
        if self._running:
            await asyncio.gather(*self._running, return_exceptions=True)


class _Copy:
    """One copy."""

    def __init__(
        self,
        shadows: Shadows,
        world: World,
        operation: Operation,
        asked: Asked,
        way: Way,
        origin: Origin,
        asker: Asker,
        purse: ShadowPurse,
        expected: int | None,
    ) -> None:
        self._shadows = shadows
        self._operation = operation
        self._asked = asked
        self._way = way
        self._purse = purse
        self._expected = expected
        clock = shadows._clock
        self._taken = clock.now()
        self._started = clock.monotonic()
        self._first: int | None = None
        span_id = new_span_id()
        self._origin = msgspec.structs.replace(origin, span_id=span_id, parent_id=origin.span_id, start=self._taken)
        self._original = origin.span_id
        self._asking = Asking(
            world,
            operation,
            asked,
            way,
            msgspec.structs.replace(asker, band="batch", traceparent=f"00-{origin.trace_id}-{span_id}-01"),
            self,
            clock=clock,
            draw=shadows._draw,
            deadline=asyncio.get_running_loop().time() + way.timeouts.total,
        )

    async def run(self) -> None:
        """Ask, read the answer to its end, and record it."""
        error = BugError.code
        try:
            attempt = await self._asking.open()
            await self._read(attempt)
            error = ""
        except DetentError as found:
            error = found.code
        except asyncio.CancelledError:
            error = Draining.code
            raise
        finally:
            self._end(error)

    async def _read(self, attempt: Attempt) -> None:
        stream, connection = attempt.stream, attempt.connection
        if stream is None or connection is None:
            return
        clock = self._shadows._clock
        try:
            while not stream.done:
                if self._first is None and stream.begun:
                    self._first = clock.monotonic() - self._started
                    attempt.first_output()
                    connection.begin()
                if stream.failure is not None:
                    raise stream.failure
                data = await connection.read()
                if not data:
                    if not stream.finish_reason:
                        raise UpstreamCut("The provider's stream ended before the answer was finished.")
                    break
                stream.feed(data)
        except DetentError as error:
            attempt.ended(error)
            raise
        attempt.ended(None)
        await attempt.finish()

    def _end(self, error: str) -> None:
        clock = self._shadows._clock
        attempt = self._asking.current
        billed = bill(self._operation, self._asked, attempt, self._taken)
        self._purse.settle(clock.now(), self._taken, self._expected, billed[1])
        if attempt is not None:
            attempt.left()
            attempt.close()
        outcome = Outcome(
            elapsed=clock.monotonic() - self._started,
            status="error" if error else "ok",
            error=error,
            attempts=self._asking.attempts,
            first=self._first,
            attributes={"detent.shadow": True, "detent.shadow_of": self._original},
        )
        self._shadows._record(span_of(self._origin, self._operation, self._asked, self._way, attempt, billed, outcome))

    # Listener

    async def reserve(self, way: Way, deployment: Deployment) -> Grant:  # noqa: ARG002
        """Copies take nothing from anybody's limits."""
        return FREE

    def failed(self, attempt: Attempt, error: DetentError) -> None:
        """The span of the copy tells."""

    def lost(self, attempt: Attempt) -> None:
        """A copy's lost hedge is money of the copies."""
        _usage, cost = bill(self._operation, self._asked, attempt, self._taken)
        now = self._shadows._clock.now()
        self._purse.settle(now, now, 0, cost)

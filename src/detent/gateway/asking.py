"""Asking a route's deployments until one has an answer for the client: choice, waiting, retries, hedges, fallbacks.

An asking holds all attempts of one call. It gives the first that is good; what the others came to is told to whoever
asks (`Listener`), because a failed attempt is counted and a lost hedge costs money.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, Protocol

import msgspec

from detent.gateway.attempt import Attempt
from detent.gateway.carriers import Headers, carrier
from detent.gateway.dialects.port import Asked
from detent.gateway.errors import NoDeployment, Shed, TotalTimedOut, UnknownModel, UpstreamRejected
from detent.gateway.limits.meter import Grant
from detent.gateway.model import Band, Failure
from detent.gateway.operations import Operation
from detent.gateway.routing import Trial, classify, fallbacks, order, pause, prefix_key, retriable, soonest
from detent.gateway.world import Deployment, Way, World
from detent.kernel.clock import Clock
from detent.kernel.errors import CallerError, DetentError, InvalidInput, TooMany, WorldError

_ELSEWHERE: Final = frozenset({"rate_limited", "unavailable"})
"""What a provider may mean by a 4xx that is not the request's fault, so that the next one is asked."""


class Asker(msgspec.Struct, frozen=True, kw_only=True):
    """Whose call it is and what it may take.

    Attributes:
        traceparent: W3C trace context for the providers.
        sticky: the session or user that the call keeps to one deployment for; empty for none.
        weight: the project's share of contended deployments.
        queue_seconds: how long the call may wait to begin; 0 leaves it to the route.
        tokens: expected input and output tokens.
        keep: whether the answer's text is kept.
        headers: the client's own that go along to a provider of the same dialect.
    """

    project: str
    traceparent: str
    session: str = ""
    user: str = ""
    weight: int = 1
    band: Band
    queue_seconds: float = 0.0
    tokens: tuple[int, int] = (1000, 250)
    keep: bool = False
    headers: Headers = ()


class Listener(Protocol):
    """Who wants to know how the asking goes."""

    async def reserve(self, way: Way, deployment: Deployment) -> Grant:
        """Hold what limits and budgets of the deployment's model want.

        Raises:
            TooMany: there is no room.
        """
        ...

    def failed(self, attempt: Attempt, error: DetentError) -> None:
        """An attempt came to nothing."""
        ...

    def lost(self, attempt: Attempt) -> None:
        """An attempt was overtaken by a hedge, or was the hedge that was overtaken; its prompt may have to be paid."""
        ...


class Asking:
    """All attempts of one call.

    Attributes:
        attempts: how many there were.
        current: the attempt that is under way or has the answer; the last one that failed when none has.
        way: the route that is being asked: the one that was named, or a fallback.
        waited: seconds spent in deployments' queues.
        hedged: whether a second deployment was asked because the first was late.
    """

    __slots__ = (
        "_arrived",
        "_asker",
        "_clock",
        "_deadline",
        "_draw",
        "_failures",
        "_listener",
        "_loop",
        "_operation",
        "_question",
        "_world",
        "attempts",
        "current",
        "hedged",
        "waited",
        "way",
    )

    def __init__(
        self,
        world: World,
        operation: Operation,
        question: Asked,
        way: Way,
        asker: Asker,
        listener: Listener,
        *,
        clock: Clock,
        draw: Callable[[], float],
        deadline: float,
    ) -> None:
        self._world = world
        self._operation = operation
        self._question = question
        self._asker = asker
        self._listener = listener
        self._clock = clock
        self._draw = draw
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        self._arrived = self._loop.time()
        self._failures: set[Failure] = set()
        self.way = way
        self.attempts = 0
        self.current: Attempt | None = None
        self.waited = 0.0
        self.hedged = False

    async def open(self) -> Attempt:
        """The attempt that has an answer for the client.

        Raises:
            DetentError: nobody has one; the last failure.
        """
        way = self.way
        if way.simple:
            return await self._only(way)
        others = way.rules.fallbacks
        way.budget.called(monotonic())
        if not others:
            return await self._through(way, last=True)
        seen = {way.name}
        while True:
            try:
                return await self._through(way, last=not others)
            except DetentError as error:
                following = self._fallback(way, error, seen)
                if following is None:
                    raise
            seen.add(following.name)
            self.way = way = following
            others = way.rules.fallbacks
            way.budget.called(monotonic())

    def close(self) -> None:
        """Let go of whatever is left: the call is over, however it ended."""
        if self.current is not None:
            self.current.left()
            self.current.close()

    def _fallback(self, way: Way, error: DetentError, seen: set[str]) -> Way | None:
        """The route that answers such failures; one that was asked already is not asked again."""
        failure = _failure(error)
        if isinstance(error, TotalTimedOut) or failure is None:
            return None
        failures, self._failures = self._failures | {failure}, set()
        for name in fallbacks(way.rules, failures):
            if name not in seen and (found := self._world.other(way, name)) is not None:
                return found
        return None

    async def _only(self, way: Way) -> Attempt:
        """Ask the one deployment there is, once. What the general way would come to, with less on the way."""
        now = monotonic()
        candidate = way.candidates[0]
        trial = None
        if now >= candidate.health.not_before:
            trial = candidate.begin(now, streamed=self._question.stream, force=True)
        if trial is None:
            raise _nobody(way, now)
        attempt = self.current = self._attempt(way, 0, trial, patient=False)
        try:
            permit = attempt.deployment.gate.try_enter(self._arrived)
            if permit is None or attempt.deployment.metered:
                if permit is not None:
                    permit.give_back(self._arrived)
                await self._try(attempt, way)
                return attempt
            attempt.permit = permit
            await attempt.open(self._asker.traceparent, self._clock)
            if attempt.said is not None:
                attempt.ended(None)
        except DetentError as error:
            self._fail(attempt, error)
            raise
        except BaseException:
            attempt.left()
            raise
        return attempt

    async def _through(self, way: Way, *, last: bool) -> Attempt:
        """Ask the route's deployments in the order that its policy gives.

        Args:
            last: whether there is no route to fall back to.
        """
        if not way.deployments:
            raise UnknownModel(
                f"The route '{way.name}' has no target.", hint="Add one with `detent routes add`.", field="model"
            )
        rules, now = way.rules, monotonic()
        places = order(
            rules,
            way.candidates,
            now=now,
            draw=self._draw,
            sticky_key=self._sticky(way),
            prefix_key=prefix_key(self._question.messages) if rules.policy == "prefix_affinity" else b"",
            streamed=self._question.stream,
            tokens=self._asker.tokens,
            last_resort=last,
        )
        if not places:
            raise _nobody(way, now)
        if len(places) > 1 and not way.deployments[places[0]].gate.has_room:
            # Rather the next one now than the first one later; when all are full, the first one's queue it is.
            roomy = next((at for at, place in enumerate(places) if way.deployments[place].gate.has_room), 0)
            places.insert(0, places.pop(roomy))
        error: DetentError | None = None
        while places:
            place = places.pop(0)
            failures = 0
            while True:
                trial = way.candidates[place].begin(
                    monotonic(), streamed=self._question.stream, force=last and not places and error is None
                )
                if trial is None:
                    break
                patient = bool(places) or not last or failures + 1 < rules.retry.attempts
                attempt = self._attempt(way, place, trial, patient=patient)
                try:
                    return await self._open(attempt, way, place, places)
                except (WorldError, CallerError) as found:
                    error = found
                    if not _goes_on(found):
                        raise
                failures += 1
                if not await self._may_retry(way, error, failures):
                    break
        raise error or _nobody(way, monotonic())

    async def _may_retry(self, way: Way, error: DetentError, failures: int) -> bool:
        """Pause before the same deployment is tried again; False when it is not."""
        retry = way.rules.retry
        if failures >= retry.attempts or not retriable(error):
            return False
        remaining = self._deadline - self._loop.time()
        seconds = pause(retry, failures, self._draw, remaining=remaining, retry_after=error.retry_after)
        if seconds is None or not way.budget.retry(monotonic(), retry):
            return False
        await asyncio.sleep(seconds)
        return True

    def _attempt(self, way: Way, place: int, trial: Trial, *, patient: bool) -> Attempt:
        deployment = way.deployments[place]
        self.attempts += 1
        return Attempt(
            deployment,
            carrier(self._operation, self._question, deployment, self._asker.headers),
            trial,
            patient=patient,
            keep=self._asker.keep,
            timeouts=way.timeouts,
            deadline=self._deadline,
        )

    async def _open(self, attempt: Attempt, way: Way, place: int, others: list[int]) -> Attempt:
        """Open an attempt; when it is late and another deployment may be asked too, the first good one of both."""
        self.current = attempt
        hedge = way.hedges[place]
        delay = hedge.delay(monotonic(), streamed=self._question.stream) if hedge is not None and others else None
        if delay is None:
            try:
                await self._try(attempt, way)
            except DetentError as error:
                self._fail(attempt, error)
                raise
            except BaseException:
                attempt.left()
                raise
            return attempt
        return await self._hedge(attempt, way, others, delay)

    async def _try(self, attempt: Attempt, way: Way) -> None:
        asker = self._asker
        deployment = attempt.deployment
        if deployment.metered:
            attempt.grant = await self._listener.reserve(way, deployment)
        gate = deployment.gate
        now = self._loop.time()
        permit = gate.try_enter(now)
        if permit is None:
            seconds = way.rules.queue.deadline_ms / 1000
            if asker.queue_seconds:
                seconds = min(seconds, asker.queue_seconds)
            deadline = min(self._arrived + seconds, self._deadline)
            permit = await gate.enter(asker.project, asker.weight, asker.band, deadline)
            self.waited += self._loop.time() - now
        attempt.permit = permit
        await attempt.open(asker.traceparent, self._clock)
        if attempt.said is not None:
            attempt.ended(None)

    def _fail(self, attempt: Attempt, error: DetentError) -> None:
        attempt.ended(error)
        if (failure := _failure(error)) is not None:
            self._failures.add(failure)
        attempt.sent = False
        attempt.close()
        self._listener.failed(attempt, error)

    async def _hedge(self, first: Attempt, way: Way, others: list[int], delay: float) -> Attempt:
        running: dict[asyncio.Task[Any], Attempt] = {asyncio.create_task(self._try(first, way)): first}
        error: DetentError | None = None
        timeout: float | None = delay
        try:
            while running:
                done, _ = await asyncio.wait(running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    timeout = None
                    second = self._second(way, others)
                    if second is not None:
                        self.hedged = True
                        running[asyncio.create_task(self._try(second, way))] = second
                    continue
                for task in sorted(done, key=_came_to_nothing):  # of one moment, an answer goes before a failure
                    found = task.exception()
                    if found is not None and not isinstance(found, DetentError):
                        raise found
                    attempt = running.pop(task)
                    if found is None:
                        self.current = attempt
                        return attempt
                    self._fail(attempt, found)
                    error = found
                    if attempt is first and not _goes_on(found):  # a hedge that is refused spoils nothing
                        raise found
                if running:
                    self.current = next(iter(running.values()))
            assert error is not None
            raise error
        finally:
            await self._drop(running)

    def _second(self, way: Way, others: list[int]) -> Attempt | None:
        """The hedge, if the budgets allow one; its deployment is not asked again after it."""
        now = monotonic()
        trial = way.candidates[others[0]].begin(now, streamed=self._question.stream)
        if trial is None:
            return None
        if not way.budget.hedge(now, way.rules.hedge, way.rules.retry):
            trial.abandoned()
            return None
        return self._attempt(way, others.pop(0), trial, patient=True)

    async def _drop(self, running: dict[asyncio.Task[Any], Attempt]) -> None:
        if not running:
            return
        for task in running:
            task.cancel()
        try:
            await asyncio.gather(*running, return_exceptions=True)
        finally:  # whoever gives up this wait too leaves nothing behind
            won = self.current not in running.values()
            for task, attempt in running.items():
                found = task.exception() if task.done() and not task.cancelled() else None
                if isinstance(found, DetentError):
                    self._fail(attempt, found)
                    continue
                attempt.left(outrun=won)
                if attempt is not self.current:
                    self._listener.lost(attempt)
                    attempt.close()

    def _sticky(self, way: Way) -> str:
        kind = way.rules.sticky
        return "" if not kind else self._asker.session if kind == "session" else self._asker.user


def _came_to_nothing(task: asyncio.Task[Any]) -> bool:
    return task.cancelled() or task.exception() is not None


def _failure(error: DetentError) -> Failure | None:
    """The class of failure that a fallback may answer; being shed by our own queue is one, a limit of ours is none."""
    if isinstance(error, Shed | NoDeployment):
        return "unavailable"
    return classify(error)


def _goes_on(error: DetentError) -> bool:
    """Whether another deployment of the route may do better."""
    if isinstance(error, TotalTimedOut):
        return False
    if isinstance(error, UpstreamRejected):
        return classify(error) in _ELSEWHERE
    return isinstance(error, WorldError | TooMany | InvalidInput)  # what one dialect cannot say another may


def _nobody(way: Way, now: float) -> NoDeployment:
    seconds = soonest(way.candidates, now)
    return NoDeployment(
        f"No deployment of the route '{way.name}' may be asked now: all have failed or asked to be left alone.",
        hint="Come back in a moment, or add a target or a fallback to the route.",
        retry_after=max(min(seconds, 3600.0), 1.0),
    )

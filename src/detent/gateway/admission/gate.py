"""The gate before one deployment: in at once, in after a wait, or refused at once.

A call that finds room takes a permit and pays well under a microsecond for it. One that does not waits in line; each
permit that is given back goes to who is next. Whoever can no longer begin in time is refused as soon as that is known,
on arrival if possible: an answer that comes too late costs the deployment as much as one in time, and is worth nothing.
A queue in order of arrival serves everybody too late when there is more than it can take (see the decision note on
newest-first).

One gate belongs to one event loop and outlives configurations. Nothing in it blocks; no call has a timer of its own.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable
from typing import Final, Literal, Protocol

import msgspec

from detent.gateway.admission.limit import AdaptiveLimit, Limit
from detent.gateway.admission.line import RANK, Line, Waiting
from detent.gateway.errors import DeadlineUnmet, QueueFull, Shed
from detent.gateway.model import Band, Queue

Outcome = Literal["good", "overloaded", "failed", "abandoned"]
"""How a call ended: answered; refused for load, or without output in time; failed otherwise; given up by the caller."""

_SLOW: Final = 0.1
_PACE_TOKENS: Final = 4
"""Fewer tell nothing about the pace."""
_MOST_RETRY_AFTER: Final = 60.0


class Ticking(Protocol):
    """A timer that was set."""

    def cancel(self) -> object:
        """Unset it."""
        ...


class Scheduler(Protocol):
    """What tells the time and wakes: an asyncio event loop, or a simulated one."""

    def time(self) -> float:
        """Monotonic seconds."""
        ...

    def call_at(self, when: float, callback: Callable[[], object], /) -> Ticking:
        """Call back at a time."""
        ...


class GateStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A gate at a moment.

    Attributes:
        limit: calls in flight at most, as it is now.
        waiting: calls in line, by band.
        oldest_wait: seconds.
        admitted, queued: calls let in so far, and those of them that had to wait.
        refused, shed: calls refused on arrival so far, and those that waited in vain.
        overloads: calls so far that the provider refused for load.
        first_output, per_token: seconds, of late; 0 while unknown.
    """

    limit: int
    in_flight: int
    waiting: dict[Band, int]
    oldest_wait: float
    admitted: int
    queued: int
    refused: int
    shed: int
    overloads: int
    first_output: float
    per_token: float


def together(queues: Iterable[Queue]) -> Queue:
    """One queue for a deployment that several routes share: the longest and most patient, at the strictest pace.

    Calls bring their own route's deadline. In order of arrival only if all want that; none given is the default.
    """
    every = list(queues)
    if not every:
        return Queue()
    return Queue(
        deadline_ms=max(queue.deadline_ms for queue in every),
        pace_ms=min((queue.pace_ms for queue in every if queue.pace_ms), default=0),
        length=max(queue.length for queue in every),
        order="fifo" if all(queue.order == "fifo" for queue in every) else "newest_first",
    )


class Permit:
    """Leave to make one call. Give it back with `leave`, once; more often does nothing."""

    __slots__ = ("_first", "_gate", "began")

    def __init__(self, gate: Gate, began: float) -> None:
        self._gate: Gate | None = gate
        self._first = 0.0
        self.began = began

    def first_output(self, now: float) -> None:
        """The first output has come. Only for calls whose output comes in pieces."""
        if not self._first and self._gate is not None:
            self._first = now
            self._gate._saw_first(self.began, now)

    def leave(self, now: float, outcome: Outcome, tokens: int = 0, seconds: float = 0.0) -> None:
        """The call is over.

        Args:
            now: the scheduler's time.
            outcome: how it ended.
            tokens: put out, if that tells the deployment's pace; 0 when somebody else slowed it, as a client that reads
                slowly does.
            seconds: from the first output to the last; 0 takes the time since `first_output`.
        """
        gate, self._gate = self._gate, None
        if gate is not None:
            gate._left(self, now, outcome, tokens, seconds)

    def give_back(self, now: float) -> None:
        """Nothing was asked of the deployment: a permit that was not used."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate._release(now)


class _Waiter(Waiting):
    """A call in line.

    Attributes:
        future: gets its permit, or why there is none.
        cutoff: when it is of no use any more to begin.
    """

    __slots__ = ("cutoff", "future")

    def __init__(self, project: str, weight: int, rank: int, since: float, deadline: float, cutoff: float) -> None:
        super().__init__(project, weight, rank, since, deadline)
        self.cutoff = cutoff
        self.future: asyncio.Future[Permit | Shed] = asyncio.get_running_loop().create_future()


class Gate:
    """Admission to one deployment.

    Args:
        scheduler: time and timer; `asyncio.get_running_loop()`.
        name: of the deployment, for messages.
        limit: how many may be in flight; adapts unless another is given.
    """

    __slots__ = (
        "_admitted",
        "_cutoffs",
        "_deadline",
        "_deviation",
        "_first",
        "_hold",
        "_in_flight",
        "_length",
        "_limit",
        "_line",
        "_name",
        "_order",
        "_overloads",
        "_peak",
        "_queued",
        "_refused",
        "_scheduler",
        "_shed",
        "_timer",
        "_timer_at",
    )

    def __init__(self, scheduler: Scheduler, name: str = "", limit: Limit | None = None) -> None:
        self._scheduler = scheduler
        self._name = name
        self._limit: Limit = AdaptiveLimit() if limit is None else limit
        self._line: Line[_Waiter] = Line()
        self._cutoffs: list[tuple[float, int, _Waiter]] = []
        self._timer: Ticking | None = None
        self._timer_at = 0.0
        self._order = 0
        self._in_flight = self._peak = 0
        self._admitted = self._queued = self._refused = self._shed = self._overloads = 0
        self._hold = self._first = self._deviation = 0.0
        self._deadline = 0.0
        self._length = 0
        self.configure(Queue())

    def configure(self, queue: Queue, max_concurrency: int = 0) -> None:
        """Take a configuration; calls in flight and in line stay, and so does what was learned."""
        self._deadline = queue.deadline_ms / 1000
        self._length = queue.length
        self._line.newest_first = queue.order == "newest_first"
        self._limit.configure(most=max_concurrency, first=self._deadline, pace=queue.pace_ms / 1000)
        if self._line.size:
            self._drain(self._scheduler.time())

    @property
    def busy(self) -> bool:
        """Whether anybody is in or waits."""
        return self._in_flight > 0 or self._line.size > 0

    @property
    def has_room(self) -> bool:
        """Whether a call would get in at once."""
        return self._in_flight < self._limit.room

    def try_enter(self, now: float) -> Permit | None:
        """A permit if there is room. Whoever waits has no room before it, so nobody is overtaken."""
        if self._in_flight >= self._limit.room:
            return None
        self._in_flight += 1
        if self._in_flight > self._peak:
            self._peak = self._in_flight
        return Permit(self, now)

    async def enter(
        self, project: str, weight: int = 1, band: Band = "default", deadline: float | None = None
    ) -> Permit:
        """A permit, after a wait if need be.

        Args:
            project: who competes with whom.
            weight: its share among projects.
            band: how urgent.
            deadline: the scheduler's time at which the first output is due; after the queue's own when None. The time
                that first outputs usually take is kept back from it, half of it at most.

        Raises:
            QueueFull: there is no place in the line.
            DeadlineUnmet: it would not begin in time.
        """
        now = self._scheduler.time()
        permit = self.try_enter(now)
        if permit is not None:
            return permit
        waiter = self._join(project, weight, band, deadline, now)
        try:
            found = await waiter.future
        except asyncio.CancelledError:
            if waiter.future.cancelled():
                self._line.remove(waiter)
            elif isinstance(granted := waiter.future.result(), Permit):  # it came, but nobody takes it
                granted.give_back(self._scheduler.time())
            raise
        if isinstance(found, Permit):
            return found
        raise found

    def status(self) -> GateStatus:
        """How things are."""
        now = self._scheduler.time()
        oldest = self._line.oldest()
        return GateStatus(
            limit=self._limit.room,
            in_flight=self._in_flight,
            waiting=self._line.sizes(),
            oldest_wait=0.0 if oldest is None else now - oldest,
            admitted=self._admitted + self._in_flight,
            queued=self._queued,
            refused=self._refused,
            shed=self._shed,
            overloads=self._overloads,
            first_output=self._first,
            per_token=self._limit.per_token,
        )

    # In line

    def _join(self, project: str, weight: int, band: Band, deadline: float | None, now: float) -> _Waiter:
        due = now + self._deadline if deadline is None else deadline
        rank = RANK[band]
        cutoff = due - min(self._first + 2 * self._deviation, (due - now) / 2)
        position = self._line.ahead(project, rank)
        if now + (position + 0.5) * self._hold / self._limit.room > cutoff or cutoff <= now:
            self._refused += 1
            raise self._unmet("The call would not begin in time", position)
        if self._line.size >= self._length:
            self._make_room(project, rank, position)
        waiter = _Waiter(project, weight, rank, now, due, cutoff)
        self._line.push(waiter)
        self._watch(waiter)
        return waiter

    def _make_room(self, project: str, rank: int, position: int) -> None:
        victim = self._line.to_make_room(project, rank) if self._length else None
        if victim is None:
            self._refused += 1
            raise self._full(position)
        self._line.remove(victim)
        self._refuse(victim, self._full(position))

    def _drain(self, now: float) -> None:
        """Let in whom there is room for."""
        while self._line.size and self._in_flight < self._limit.room:
            waiter = self._line.pop()
            if waiter.future.done():  # cancelled, and not yet awake to say so
                continue
            if now > waiter.cutoff:
                self._refuse(waiter, self._unmet("The call could not begin in time", 0))
                continue
            self._queued += 1
            self._in_flight += 1
            if self._in_flight > self._peak:
                self._peak = self._in_flight
            waiter.future.set_result(Permit(self, now))

    def _refuse(self, waiter: _Waiter, error: Shed) -> None:
        if not waiter.future.done():
            self._shed += 1
            waiter.future.set_result(error)

    # The one timer

    def _watch(self, waiter: _Waiter) -> None:
        self._order += 1
        heapq.heappush(self._cutoffs, (waiter.cutoff, self._order, waiter))
        if len(self._cutoffs) > 2 * self._line.size + 64:
            self._cutoffs = [entry for entry in self._cutoffs if not entry[2].future.done()]
            heapq.heapify(self._cutoffs)
        if self._timer is None or self._cutoffs[0][0] < self._timer_at:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._cutoffs[0][0]
        self._timer = self._scheduler.call_at(self._timer_at, self._sweep)

    def _sweep(self) -> None:
        """Refuse those whose time is over."""
        self._timer = None
        now = self._scheduler.time()
        while self._cutoffs and (self._cutoffs[0][2].future.done() or self._cutoffs[0][0] <= now):
            waiter = heapq.heappop(self._cutoffs)[2]
            if self._line.remove(waiter):
                self._refuse(waiter, self._unmet("The call could not begin in time", 0))
        if self._cutoffs:
            self._set_timer()

    # What permits tell

    def _saw_first(self, began: float, now: float) -> None:
        seconds = now - began
        if self._first:
            gap = seconds - self._first
            self._first += _SLOW * gap
            self._deviation += _SLOW * (abs(gap) - self._deviation)
        else:
            self._first, self._deviation = seconds, seconds / 2
        if self._limit.saw_first(began, seconds, self._peak, now):
            self._anew(now)

    def _left(self, permit: Permit, now: float, outcome: Outcome, tokens: int, seconds: float) -> None:
        limit, began, first = self._limit, permit.began, permit._first
        anew = False
        if outcome == "good":
            self._hold += _SLOW * (now - began - self._hold) if self._hold else now - began
            if not first:
                anew = limit.saw_whole(began, now - began, self._peak, now)
            elif tokens >= _PACE_TOKENS:
                seconds = seconds or now - first
                anew = limit.saw_pace(now - seconds / 2, seconds / (tokens - 1), self._peak, now)
        elif outcome == "overloaded":
            self._overloads += 1
            anew = limit.saw_overload(began, self._peak, now)
        elif outcome == "abandoned" and not first:
            anew = limit.still_waiting(began, now - began, self._peak, now)
        self._admitted += 1
        self._in_flight -= 1
        if anew:
            self._peak = self._in_flight
        if self._line.size:
            self._drain(now)

    def _release(self, now: float) -> None:
        self._in_flight -= 1
        if self._line.size:
            self._drain(now)

    def _anew(self, now: float) -> None:
        self._peak = self._in_flight
        if self._line.size:
            self._drain(now)

    # Refusals

    def _unmet(self, sentence: str, position: int) -> DeadlineUnmet:
        return DeadlineUnmet(
            f"{sentence}: {self._name or 'the deployment'} is busy, position {position + 1} in line.",
            hint="Send it again later, or give it more time with x-detent-deadline-ms.",
            retry_after=self._retry_after(),
            position=position + 1,
        )

    def _full(self, position: int) -> QueueFull:
        return QueueFull(
            f"No place in the line for {self._name or 'the deployment'}, where {self._line.size} calls wait.",
            hint="Send it again later.",
            retry_after=self._retry_after(),
            position=position + 1,
        )

    def _retry_after(self) -> float:
        """Seconds until the line of now is served, whole ones, 1 to 60."""
        seconds = (self._line.size + 1) * self._hold / self._limit.room
        return float(min(max(round(seconds + 0.5), 1), _MOST_RETRY_AFTER))

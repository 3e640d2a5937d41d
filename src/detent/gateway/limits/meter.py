"""A worker's meter: reserves for every call what all limits and budgets want of it, and settles what it came to.

Reserve, settle, lease. What a call may take is held before it goes out, for all rules at once or for none; when the
call is over, what it did take is used and the rest is free again. What is held lapses unless its worker renews it, so a
worker that dies leaks nothing. Settling is idempotent by the call's id, and a late one is still charged.

Where the counters are near (this process, this host) every call asks them, which is exact and takes microseconds. Where
they are across a network a worker takes a slice of what is free and serves calls from it; slices shrink with the
remainder, and with less than a slice left each call asks. What slices hold back from others is the declared slack of
refusals: at most a tenth of what was free when they were taken (1/16, and half of the one before), for each worker,
until they are given back (two seconds without calls). No slice lets more through than the limit.

While the counters cannot be reached, `unreachable` decides: go on, each worker by itself up to what it last saw free
(for a sliding window, up to the limit in each window), or refuse. What is used meanwhile is reported once they are
back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Final, Literal

from detent.gateway.errors import BudgetSpent, LimitExceeded, PriceUnknown, QuotasUnreachable
from detent.gateway.limits.headers import Headers, Standing, headers_of
from detent.gateway.limits.rules import Asked, Measure, Rule, counter_of, measure, rules_by_project, subject_of
from detent.gateway.model import Budget, Limit
from detent.kernel.clock import HOUR, SECOND, Clock
from detent.kernel.errors import DetentError, StorageFailed
from detent.kernel.money import dollars
from detent.kernel.ports import Quotas
from detent.kernel.quotas import GRAIN, GREATEST, LEASE, Counter, Move, Share

TICK_SECONDS: Final = 1.0
_RENEW: Final = LEASE // 3
_GOOD: Final = LEASE - 2 * GRAIN
"""How long after it was asked for a lease is relied on."""

_DOWN: Final = SECOND // 2
"""After a failure the counters are left alone for this long, so that calls do not queue up for time-outs."""

_PATIENCE_SECONDS: Final = 0.25
_STANDS: Final = SECOND // 20
_CACHED: Final = 10_000
_CHUNK: Final = 64
_FOREVER: Final = 2**62
_KINDS: Final[Mapping[Measure, int]] = {"requests": 0, "tokens": 1, "concurrency": 2, "money": 3}
_REQUESTS, _TOKENS, _CONCURRENCY, _MONEY = range(4)

_log = logging.getLogger("detent.gateway.limits")


class Account:
    """A counter as this worker has it.

    Attributes:
        busy: reserved by open calls.
        held: what the counters know to be held by us: for open calls, and idle slices.
        lease: which that stands in.
        unreported, returned: used, and taken back, and not told yet.
        at: the sub-window in which `returned` was charged; -1 when nobody knows.
        good: monotonic time until which `held` is relied on.
        free: what nobody used or held when we last asked.
        refused, until, wait: what far counters last had no room for, until when that stands, and what they foresaw.
    """

    __slots__ = (
        "at",
        "blind",
        "blind_since",
        "busy",
        "charges",
        "counter",
        "free",
        "good",
        "held",
        "kind",
        "lease",
        "refused",
        "renewed",
        "returned",
        "rule",
        "slice",
        "subject",
        "touched",
        "unreported",
        "until",
        "wait",
    )

    def __init__(self, rule: Rule, subject: str, counter: Counter) -> None:
        self.rule = rule
        self.subject = subject
        self.counter = counter
        self.kind = _KINDS[measure(rule)]
        self.charges = self.kind == _REQUESTS  # a request counts from its start; all else once it is known
        self.busy = self.held = self.lease = self.unreported = self.returned = 0
        self.at = -1
        self.good = self.renewed = 0
        self.slice = 0
        self.free = counter.limit
        self.blind = self.blind_since = 0
        self.refused = self.until = self.wait = 0
        self.touched = False

    @property
    def idle(self) -> int:
        """What is left of our slice."""
        return self.held - self.busy - self.unreported

    @property
    def low(self) -> bool:
        """Whether it is time for a new slice."""
        return self.counter.hard and self.idle * 2 <= self.slice

    @property
    def surplus(self) -> bool:
        """Whether more is idle than a slice, because calls took less than they reserved."""
        return self.idle > 2 * self.slice

    def move(self, now: int, *, ask: int = 0, spare: int = 0, drop: bool = False) -> Move:
        """What we tell and ask. Idle beyond a slice is given back, with `drop` all of it; and no longer ours."""
        keep = self.busy if drop or now >= self.good else self.busy + max(min(self.idle, self.slice), 0)
        move = Move(
            self.counter, self.unreported, self.returned, -1, self.held, self.lease, keep, ask, self.charges, spare
        )
        self.held = keep + self.unreported
        return move

    def learn(self, move: Move, share: Share, asked_at: int) -> None:
        """Take over what an exchange came to."""
        self.unreported -= move.spent
        self.returned -= move.back
        self.held = share.held
        self.lease = share.lease
        self.free = share.free
        self.good = asked_at + _GOOD
        self.renewed = asked_at
        self.blind = 0


class Match:
    """The accounts of calls that are alike, until one of their periods ends."""

    __slots__ = ("accounts", "hard", "until")

    def __init__(self, accounts: tuple[Account, ...]) -> None:
        self.accounts = accounts
        self.until = min((a.counter.until for a in accounts if a.counter.until), default=_FOREVER)
        self.hard = next((a for a in accounts if a.kind == _MONEY and a.counter.hard), None)


class Grant:
    """What was reserved for one call. Settle or release it; the first one counts."""

    __slots__ = ("_blind", "_lapsed", "_meter", "_open", "_takes", "id", "opened")

    def __init__(
        self,
        meter: Meter | None,
        id: str,
        takes: tuple[tuple[Account, int, int], ...],
        opened: int,
        *,
        blind: bool = False,
    ) -> None:
        self._meter = meter
        self.id = id
        self._takes = takes
        self._blind = blind
        self._open = True
        self._lapsed = False
        self.opened = opened

    @property
    def accounts(self) -> tuple[Account, ...]:
        """What it was reserved from."""
        return tuple(account for account, _amount, _at in self._takes)

    def settle(self, tokens: int, cost: int | None) -> bool:
        """The call is over and took this much; whether it was still open.

        Args:
            cost: nano-dollars; None when nobody knows, which charges what was reserved.
        """
        return self._close(tokens, cost, charge=True)

    def release(self) -> bool:
        """The call did not take place: nothing is charged, not even the request."""
        return self._close(0, 0, charge=False)

    def headers(self) -> Headers:
        """What limits stand where, for the answer."""
        return headers_of([_standing(account) for account, _amount, _at in self._takes]) if self._takes else ()

    def lapse(self) -> None:
        """Nobody settled it in time: it holds nothing any more. A settle that still comes is charged."""
        if self._open and not self._lapsed:
            self._lapsed = True
            for account, amount, _at in self._takes:
                if not account.charges:
                    account.busy -= amount

    def _close(self, tokens: int, cost: int | None, *, charge: bool) -> bool:
        if not self._open:
            return False
        self._open = False
        if self._meter is None:
            return True
        changed = []
        for account, amount, at in self._takes:
            kind = account.kind
            actual = 0
            if kind == _REQUESTS:
                if charge:
                    continue
                if not self._meter.outlived(account, self.opened):
                    account.returned += amount
                    account.at = at
            else:
                if not self._lapsed:
                    account.busy -= amount
                if charge and kind == _TOKENS:
                    actual = min(max(tokens, 0), GREATEST)
                elif charge and kind == _MONEY:
                    actual = amount if cost is None else min(max(cost, 0), GREATEST)
                account.unreported += actual
            if self._blind:
                account.blind = max(account.blind + actual - amount, 0)
            changed.append(account)
        self._meter.closed(self.id, changed)
        return True


FREE: Final = Grant(None, "", (), 0)
"""Of calls that no rule concerns. Settling it does nothing."""


class Meter:
    """Limits and budgets of one gateway worker. Belongs to one event loop.

    Args:
        quotas: the shared counters.
        unreachable: what happens while they cannot be reached.
        sender: unique among those who share the counters; names our exchanges.
        longest: ns after which a call that was never settled lapses.
        patience: seconds that a call waits for far counters before it goes on without them.
        stands: ns for which a refusal by far counters is given again without asking.
        count: told `degraded` for each call that was let through unasked, and `unreachable` for each failure.
        executor: where far counters are asked, one exchange at a time; by default a thread of our own.
    """

    def __init__(
        self,
        quotas: Quotas,
        *,
        clock: Clock,
        sender: str,
        unreachable: Literal["serve", "refuse"] = "serve",
        longest: int = HOUR,
        patience: float = _PATIENCE_SECONDS,
        stands: int = _STANDS,
        count: Callable[[str], None] = lambda _what: None,
        executor: Executor | None = None,
    ) -> None:
        self._quotas = quotas
        self._clock = clock
        self._sender = sender
        self._unreachable = unreachable
        self._usual = self._longest = longest
        self._patience = patience
        self._stands = stands
        self._count = count
        self._rules: dict[str, tuple[Rule, ...]] = {}
        self._accounts: dict[str, Account] = {}
        self._matches: dict[tuple[str, str, str, str, str, bool], Match] = {}
        self._open: dict[str, Grant] = {}
        self._down_until = 0
        self._numbers = 0
        self._lock = asyncio.Lock()
        self._lost: _Flight | None = None
        self._tasks: set[asyncio.Task[Grant | None]] = set()
        self._trim: dict[Account, None] = {}
        self._pool: Executor | None = (executor or ThreadPoolExecutor(1, "quotas")) if quotas.remote else None

    def configure(
        self, limits: Mapping[str, Iterable[Limit]], budgets: Mapping[str, Iterable[Budget]], *, longest: int = 0
    ) -> None:
        """Take the rules of a snapshot. What is used and reserved stays.

        Args:
            longest: ns that a call may take by it, when that is longer than usual.
        """
        self._longest = max(self._usual, longest)
        self._rules = rules_by_project(limits, budgets)
        self._matches = {}

    def concerns(self, project: str) -> bool:
        """Whether any rule may concern the project's calls; nothing needs to be estimated if not."""
        return project in self._rules

    # Reserving

    async def reserve(self, asked: Asked) -> Grant:
        """Hold what a call may take, for all rules at once or for none.

        Raises:
            LimitExceeded, BudgetSpent: a rule has no room; says which, what remains, and when there is more.
            PriceUnknown: a hard budget concerns the call, and its price is not known.
            QuotasUnreachable: the counters cannot be reached, and calls are to be refused then.
        """
        grant = self.reserve_now(asked)
        return grant if grant is not None else await self._ask(asked)

    def reserve_now(self, asked: Asked) -> Grant | None:
        """The same without waiting; None when it has to be asked for over a network."""
        if asked.project not in self._rules:
            return FREE
        match = self._match(asked)
        accounts = match.accounts
        if not accounts:
            return FREE
        if asked.id in self._open:
            return self._open[asked.id]
        needs = _needs(asked)
        if asked.cost is None and match.hard is not None:
            what = f"the model {asked.model}" if asked.model else f"a model of the route '{asked.route}'"
            raise PriceUnknown(
                f"The budget '{match.hard.rule.name}' is hard, and no price is known for {what}.",
                hint="See `detent models list`, set a price (0 where it costs nothing), or make the budget a soft one.",
                field="model",
            )
        if self._pool is not None:
            grant = self._take(asked.id, accounts, needs)
            if grant is None:
                self._refuse_again(accounts, needs)
            return grant
        if self._clock.monotonic() < self._down_until:
            return self._without(asked.id, accounts, needs)
        now = self._clock.monotonic()
        moves = [
            Move(a.counter, a.unreported, a.returned, a.at, a.held, a.lease, a.busy, needs[a.kind], a.charges)
            for a in accounts
        ]
        try:
            shares = self._quotas.exchange(moves)
        except StorageFailed as error:
            self._failed(error)
            return self._without(asked.id, accounts, needs)
        return self._reserved(asked.id, accounts, moves, shares, now)

    def settle(self, id: str, tokens: int, cost: int | None) -> bool:
        """Settle by the call's id; False when it is not open (any more)."""
        grant = self._open.get(id)
        return grant is not None and grant.settle(tokens, cost)

    def closed(self, id: str, changed: Sequence[Account]) -> None:
        """A grant was settled or released."""
        self._open.pop(id, None)
        if self._clock.monotonic() < self._down_until:
            return
        if self._pool is not None:
            self._trim.update((account, None) for account in changed if account.surplus)
            self._give_back()
        elif changed:
            self._report(changed)

    def outlived(self, account: Account, opened: int) -> bool:
        """Whether what was charged then is out of the window, so that there is nothing to take back."""
        return 0 < account.counter.window <= self._clock.monotonic() - opened

    def _match(self, asked: Asked) -> Match:
        key = (asked.project, asked.key, asked.user, asked.route, asked.model, asked.only_model)
        found = self._matches.get(key)
        if found is not None and (found.until == _FOREVER or self._clock.now() < found.until):
            return found
        now = self._clock.now()
        accounts = []
        for rule in self._rules[asked.project]:
            subject = subject_of(rule, asked)
            if subject is not None:
                accounts.append(self._account(rule, subject, now))
        if len(self._matches) >= _CACHED:
            self._matches.clear()
        found = self._matches[key] = Match(tuple(accounts))
        return found

    def _account(self, rule: Rule, subject: str, now: int) -> Account:
        counter = counter_of(rule, subject, now)
        found = self._accounts.get(counter.key)
        if found is None:
            found = self._accounts[counter.key] = Account(rule, subject, counter)
        elif found.rule is not rule:
            found.free += counter.limit - found.counter.limit
            found.rule, found.counter = rule, counter
        return found

    def _reserved(
        self, id: str, accounts: Sequence[Account], moves: Sequence[Move], shares: Sequence[Share], now: int
    ) -> Grant:
        takes = []
        for account, move, share in zip(accounts, moves, shares, strict=True):
            account.learn(move, share, now)
            if share.granted and not account.charges:
                account.busy += move.ask
            takes.append((account, move.ask, share.at))
        if not shares[0].granted:
            raise self._refusal(accounts, moves, shares)
        return self._opened(id, tuple(takes), now)

    def _opened(self, id: str, takes: tuple[tuple[Account, int, int], ...], now: int) -> Grant:
        grant = self._open[id] = Grant(self, id, takes, now)
        return grant

    # Near counters

    def _report(self, accounts: Sequence[Account]) -> None:
        """Tell near counters what changed; what cannot be told now is told later."""
        now = self._clock.monotonic()
        moves = [Move(a.counter, a.unreported, a.returned, a.at, a.held, a.lease, a.busy) for a in accounts]
        try:
            shares = self._quotas.exchange(moves)
        except StorageFailed as error:
            self._failed(error)
            return
        for account, move, share in zip(accounts, moves, shares, strict=True):
            account.learn(move, share, now)

    # Far counters

    def _take(self, id: str, accounts: Sequence[Account], needs: Sequence[int]) -> Grant | None:
        """Reserve from our slices, if all of them have enough."""
        now = self._clock.monotonic()
        for account in accounts:
            if account.counter.hard and (account.idle < needs[account.kind] or now >= account.good):
                return None
        takes = []
        low = False
        for account in accounts:
            need = needs[account.kind]
            account.touched = True
            if account.charges:
                account.unreported += need
            else:
                account.busy += need
            takes.append((account, need, -1))
            low = low or account.low
        if low and not self._tasks and now >= self._down_until:
            self._start(_Flight(accounts))
        return self._opened(id, tuple(takes), now)

    def _refuse_again(self, accounts: Sequence[Account], needs: Sequence[int]) -> None:
        """A refusal stands for a moment: whoever hammers a limit that is reached keeps nobody else waiting."""
        now = self._clock.monotonic()
        for account in accounts:
            need = needs[account.kind]
            if now < account.until and need >= account.refused:
                found = headers_of([_standing(one) for one in accounts])
                raise _refusal_of(account, need, account.free, account.wait, self._clock.now(), found)

    async def _ask(self, asked: Asked) -> Grant:
        accounts, needs = self._match(asked).accounts, _needs(asked)
        if self._clock.monotonic() < self._down_until:
            return self._without(asked.id, accounts, needs)
        flight = _Flight(accounts, needs, asked.id)
        task = self._start(flight)
        try:
            while not task.done():
                landed = self._numbers
                await asyncio.wait({task}, timeout=self._patience)
                if self._numbers == landed:  # nothing moves; others before us in the queue are not a failure
                    break
        except asyncio.CancelledError:
            flight.abandoned = True
            if task.done() and not task.cancelled() and task.exception() is None:
                grant = task.result()
                if grant is not None:
                    grant.release()
            raise
        if not task.done():
            flight.abandoned = True
            self._failed(StorageFailed("The shared counters of limits and budgets do not answer in time."))
            return self._without(asked.id, accounts, needs)
        try:
            grant = task.result()
        except StorageFailed:
            grant = None
        return grant if grant is not None else self._without(asked.id, accounts, needs)

    def _start(self, flight: _Flight) -> asyncio.Task[Grant | None]:
        task = asyncio.get_running_loop().create_task(self._fly(flight))
        self._tasks.add(task)
        task.add_done_callback(self._landed)
        return task

    def _give_back(self) -> None:
        """Fly once more if calls left much more than a slice; one flight at a time."""
        if self._trim and not self._tasks:
            project = next(iter(self._trim)).counter.project
            accounts = [account for account in self._trim if account.counter.project == project]
            for account in accounts:
                del self._trim[account]
            self._start(_Flight(accounts, purpose="trim"))

    def _landed(self, task: asyncio.Task[Grant | None]) -> None:
        self._tasks.discard(task)
        if self._clock.monotonic() >= self._down_until:
            self._give_back()
        if not task.cancelled():
            task.exception()  # whoever waits for it gets it; a flight that nobody waits for has been said already

    async def _fly(self, flight: _Flight) -> Grant | None:
        """One exchange with far counters; one at a time, so that each knows what the one before came to."""
        async with self._lock:
            if flight.abandoned or self._clock.monotonic() < self._down_until:
                return None
            if flight.needs is not None:
                grant = self._take(flight.id, flight.accounts, flight.needs)
                if grant is not None:
                    return grant
            if self._lost is not None:
                await self._send(self._lost)
                self._lost = None
            self._numbers += 1
            now = self._clock.monotonic()
            needs = flight.needs or (0, 0, 0, 0)
            flight.ticket = f"{self._sender}-{self._numbers}"
            flight.moves = [
                a.move(
                    now,
                    ask=needs[a.kind],
                    spare=a.counter.limit if a.low and flight.purpose == "slices" else 0,
                    drop=flight.purpose == "renew" and not a.touched,
                )
                for a in flight.accounts
            ]
            shares = await self._send(flight)
            if flight.needs is None or flight.abandoned:
                return None
            if not shares[0].granted:
                for account, move, share in zip(flight.accounts, flight.moves, shares, strict=True):
                    if not share.fits:
                        account.refused, account.until, account.wait = move.ask, now + self._stands, share.wait
                raise self._refusal(flight.accounts, flight.moves, shares)
            takes = []
            for account, move, share in zip(flight.accounts, flight.moves, shares, strict=True):
                takes.append((account, move.ask, share.at))
                if not account.charges:
                    account.busy += move.ask
            return self._opened(flight.id, tuple(takes), now)

    async def _send(self, flight: _Flight) -> tuple[Share, ...]:
        """Carry a flight out, or again when its reply was lost. An ask that nobody waits for any more becomes slice."""
        again = flight is self._lost
        if again:
            flight.abandoned = True
        now = self._clock.monotonic()
        loop = asyncio.get_running_loop()
        try:
            shares = await loop.run_in_executor(self._pool, self._exchange, flight)
        except StorageFailed as error:
            self._lost = flight
            self._failed(error)
            raise
        self._down_until = 0
        for account, move, share in zip(flight.accounts, flight.moves, shares, strict=True):
            account.learn(move, share, now)
            if move.spare:
                account.slice = max(share.held - move.keep - (0 if move.charge or not share.granted else move.ask), 0)
            if flight.abandoned and share.granted and move.charge:
                account.returned += move.ask
        return shares

    def _exchange(self, flight: _Flight) -> tuple[Share, ...]:
        return self._quotas.exchange(flight.moves, ticket=flight.ticket)

    # Without counters

    def _failed(self, error: StorageFailed) -> None:
        if not self._down_until:
            _log.error("limits: %s Calls are %s.", error, "refused" if self._unreachable == "refuse" else "served")
        self._count("unreachable")
        self._down_until = self._clock.monotonic() + _DOWN

    def _without(self, id: str, accounts: Sequence[Account], needs: Sequence[int]) -> Grant:
        """Reserve by what this worker last saw."""
        if self._unreachable == "refuse":
            raise QuotasUnreachable(
                "The shared counters of limits and budgets cannot be reached.",
                hint="See the gateway's log; gateway.quotas_unreachable decides what happens then.",
                retry_after=1.0,
            )
        now = self._clock.monotonic()
        for account in accounts:
            window = account.counter.window
            if window and now - max(account.blind_since, account.renewed) > window:
                account.free, account.blind, account.blind_since = account.counter.limit, 0, now
            room = account.free + max(account.idle, 0) - account.blind
            if account.counter.hard and needs[account.kind] > room:
                raise _refusal_of(account, needs[account.kind], room, LEASE, self._clock.now(), ())
        self._count("degraded")
        takes = []
        for account in accounts:
            need = needs[account.kind]
            account.blind += need
            account.touched = True
            if account.charges:
                account.unreported += need
            else:
                account.busy += need
            takes.append((account, need, -1))
        grant = self._open[id] = Grant(self, id, tuple(takes), now, blind=True)
        return grant

    # Time

    async def run(self) -> None:
        """Renew, give back and put on the disk, every second until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                await self.tick()
                await loop.run_in_executor(self._pool, self._quotas.sync)
            except StorageFailed as error:
                if not self._down_until:
                    _log.error("limits: %s", error)

    async def tick(self) -> None:
        """Renew what is held, report what is not told yet, give idle slices back, let lapse what nobody settled."""
        now = self._clock.monotonic()
        for grant in list(self._open.values()):
            if now - grant.opened <= self._longest:
                break
            grant.lapse()
            del self._open[grant.id]
        if now < self._down_until:
            return
        due: dict[str, list[Account]] = {}
        for account in self._accounts.values():
            old = now - account.renewed >= _RENEW
            if account.unreported or account.returned or account.idle > 0 or (old and (account.held or account.busy)):
                due.setdefault(account.counter.project, []).append(account)
        for accounts in due.values():
            for begin in range(0, len(accounts), _CHUNK):
                await self._renew(accounts[begin : begin + _CHUNK])
        if len(self._accounts) > _CACHED:
            self._forget()

    async def stop(self) -> None:
        """Report everything, hold nothing any more that no open call needs, and let go of the counters."""
        for task in list(self._tasks):
            with contextlib.suppress(DetentError):
                await task
        for account in self._accounts.values():
            account.touched = False
        self._down_until = 0
        await self.tick()
        if self._pool is not None:
            self._pool.shutdown(wait=False)
        self._quotas.close()

    async def _renew(self, accounts: list[Account]) -> None:
        if self._pool is None:
            self._report(accounts)
        else:
            with contextlib.suppress(StorageFailed):
                await self._fly(_Flight(accounts, purpose="renew"))
                for account in accounts:
                    account.touched = False

    def _forget(self) -> None:
        """Drop accounts that say nothing; the counters know them."""
        live = {account for grant in self._open.values() for account in grant.accounts}
        self._accounts = {
            key: a for key, a in self._accounts.items() if a.held or a.unreported or a.returned or a.busy or a in live
        }
        self._matches = {}

    def _refusal(self, accounts: Sequence[Account], moves: Sequence[Move], shares: Sequence[Share]) -> DetentError:
        """The error for the rule that keeps the call out longest."""
        worst, index = -2, 0
        for at, share in enumerate(shares):
            wait = _FOREVER if share.wait < 0 else share.wait
            if not share.fits and wait > worst:
                worst, index = wait, at
        found = headers_of([_standing(account) for account in accounts])
        share = shares[index]
        return _refusal_of(accounts[index], moves[index].ask, share.free, share.wait, self._clock.now(), found)


class _Flight:
    """One exchange with far counters: of an ask (with `needs`), for slices, to give back what is too much, to renew."""

    __slots__ = ("abandoned", "accounts", "id", "moves", "needs", "purpose", "ticket")

    def __init__(
        self,
        accounts: Sequence[Account],
        needs: Sequence[int] | None = None,
        id: str = "",
        *,
        purpose: Literal["slices", "trim", "renew"] = "slices",
    ) -> None:
        self.accounts = accounts
        self.needs = needs
        self.id = id
        self.purpose = purpose
        self.abandoned = False
        self.ticket = ""
        self.moves: list[Move] = []


def _needs(asked: Asked) -> tuple[int, int, int, int]:
    """By kind of account."""
    return (1, min(max(asked.tokens, 0), GREATEST), 1, min(max(asked.cost or 0, 0), GREATEST))


def _standing(account: Account) -> Standing:
    return Standing(account.rule, max(account.free + max(account.idle, 0), 0))


def _refusal_of(account: Account, need: int, free: int, wait: int, now: int, headers: Headers) -> DetentError:
    rule, remaining = account.rule, max(free, 0)
    error: LimitExceeded | BudgetSpent
    if isinstance(rule, Budget):
        error = BudgetSpent(
            f"The budget '{rule.name}' allows {dollars(rule.amount)} a {rule.period}; {dollars(remaining)} of it is "
            f"free, and the call may cost {dollars(need)}.",
            hint="Wait for the next period, ask for less, or raise the budget.",
            retry_after=max((account.counter.until - now) / SECOND, 1.0),
        )
    else:
        what = "calls at once" if rule.unit == "concurrency" else f"{rule.unit} in {rule.window_seconds} s"
        never = wait < 0
        error = LimitExceeded(
            f"The limit '{rule.name}' allows {rule.amount} {what}; {remaining} are free, and the call asks for {need}.",
            hint="Ask for less, e.g. with max_tokens: this call never fits." if never else "Wait and send it again.",
            retry_after=None if never else max(wait / SECOND, 1.0),
        )
    error.headers = headers
    return error

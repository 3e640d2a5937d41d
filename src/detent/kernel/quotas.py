"""Shared counters for limits and budgets: what the `Quotas` port exchanges, and the arithmetic that its adapters share.

A counter has a limit, an amount that is *used*, and an amount that is *held* for calls in flight. What is held was
promised to somebody and lapses by itself after `LEASE` unless it is renewed, so whoever dies leaks nothing.

Used amounts of a sliding window stand in `BUCKETS` sub-windows. A sub-window counts in full until all of it is out
of the window: in no window of that length is more used than the limit, and what was used comes back at most one
sub-window (1/60 of the window) late. Weighting the oldest sub-window instead would come back in time on average, and
let through up to twice the limit within one window after a burst.

A counter's state is a run of 64-bit integers, its *cells*, laid out the same in memory, in a mapped file and in a
database's array. The two rings are the truth; the sums beside them save adding up, and are made anew when somebody
died between two writes (`_DIRTY`).
"""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from typing import Final

import msgspec

from detent.kernel.clock import SECOND

LEASE: Final = 14 * SECOND
"""How long a held amount lasts unless it is renewed."""

GRAIN: Final = SECOND
"""Leases end on multiples of this, so one may last up to this much less."""

BUCKETS: Final = 60
_RING: Final = BUCKETS + 1
_LEASES: Final = LEASE // GRAIN
_HOLDS: Final = _LEASES + 2
_SHARE: Final = 16
"""A slice is at most this part of what is free, so slices shrink as the remainder does."""

SEPARATOR: Final = "\x1f"
"""Between the parts of a counter's key, of which the project is the first."""

LONGEST_KEY: Final = 512
"""Bytes of a counter's key at most."""

GREATEST: Final = 2**52
"""Largest limit and amount: exact also where numbers are doubles. 4.5 million dollars as nano-dollars."""

_DIRTY, _USED, _USED_AT, _HELD, _HELD_AT, _WIDTH, _UNTIL, _BUCKET = range(8)
_HOLD: Final = _BUCKET + _RING
CELLS: Final = _HOLD + _HOLDS
"""Integers of one counter."""


class Counter(msgspec.Struct, frozen=True):
    """What is counted, and up to where.

    Attributes:
        key: names it for all who share it; begins with the project and `SEPARATOR`, and is at most `LONGEST_KEY` long.
        project: whose it is; the moves of one exchange are of one project.
        limit: at most this much used and held together.
        window: ns of the sliding window; 0 where nothing slides (a period's money, calls in flight).
        until: wall time in ns after which nobody will ask for it any more; 0 for never.
        hard: whether more than the limit is refused; else it is only counted.
    """

    key: str
    project: str
    limit: int
    window: int = 0
    until: int = 0
    hard: bool = True


class Move(msgspec.Struct, frozen=True, gc=False):
    """What one party does to one counter in an exchange. All but `ask` and `spare` happens in any case.

    Attributes:
        spent: used since the last exchange.
        back: used before, and taken back: in the sub-window `back_at`, or with -1 in the oldest that have any.
        had: what it held until now, in the lease `lease`; given up by this exchange.
        keep: what it goes on holding of that.
        ask: what it wants beyond that, all or nothing, and together with the asks of the other moves.
        charge: whether what is asked for is used at once rather than held.
        spare: what more it would like to hold for calls to come, if there is plenty.
    """

    counter: Counter
    spent: int = 0
    back: int = 0
    back_at: int = -1
    had: int = 0
    lease: int = 0
    keep: int = 0
    ask: int = 0
    charge: bool = False
    spare: int = 0


class Share(msgspec.Struct, frozen=True, gc=False):
    """What a move came to.

    Attributes:
        granted: whether all asks of the exchange fitted.
        fits: whether this one did.
        held: what the party holds now.
        lease: the lease it is held in.
        at: the sub-window in which was charged.
        used: used by all.
        free: neither used nor held by anybody; negative when more was used than foreseen.
        wait: ns until the ask may fit, if it did not; -1 when it never will.
    """

    granted: bool
    fits: bool
    held: int
    lease: int
    at: int
    used: int
    free: int
    wait: int = 0


class Level(msgspec.Struct, frozen=True):
    """How far a counter is."""

    key: str
    used: int
    held: int


Cells = MutableSequence[int] | memoryview


def blank() -> list[int]:
    """The cells of a counter that nobody has used."""
    return [0] * CELLS


def exchange(places: Sequence[tuple[Cells, int]], moves: Sequence[Move], now: int) -> tuple[Share, ...]:
    """Carry out the moves on counters whose cells begin at the places.

    Args:
        places: for each move its cells and the offset of the first.
        now: ns; of a clock that all parties share.
    """
    reports = []
    granted = True
    grain = now // GRAIN
    for (cells, at), move in zip(places, moves, strict=True):
        report = _report(cells, at, move, now, grain)
        reports.append(report)
        if move.ask > report[0] and move.ask and move.counter.hard:
            granted = False
    shares = []
    for (cells, at), move, report in zip(places, moves, reports, strict=True):
        shares.append(_hold(cells, at, move, now, report, granted=granted))
    return tuple(shares)


def level(cells: Cells, at: int, now: int) -> tuple[int, int]:
    """What is used and held now; changes only what time changes."""
    _advance(cells, at, cells[at + _WIDTH], now)
    return cells[at + _USED], cells[at + _HELD]


def idle(cells: Cells, at: int, now: int, wall: int) -> bool:
    """Whether the counter says nothing any more: its period is over, or nothing is used or held."""
    used, held = level(cells, at, now)
    until: int = cells[at + _UNTIL]
    return not held and (wall > until if until else not used)


def set_clock_back(cells: Cells, at: int, now: int) -> None:
    """The clock is behind what stands here: take everything as of now, so that nothing comes back early or never."""
    width = cells[at + _WIDTH]
    if width:
        total = cells[at + _USED]
        for index in range(_RING):
            cells[at + _BUCKET + index] = 0
        cells[at + _USED_AT] = now // width
        cells[at + _BUCKET + now // width % _RING] = total
    held = cells[at + _HELD]
    for index in range(_HOLDS):
        cells[at + _HOLD + index] = 0
    cells[at + _HELD_AT] = now // GRAIN
    cells[at + _HOLD + (now // GRAIN + _LEASES) % _HOLDS] = held


def _advance(cells: Cells, at: int, width: int, now: int) -> None:
    """Let go of sub-windows and leases that are over."""
    if cells[at + _DIRTY]:
        if width:
            cells[at + _USED] = sum(cells[at + _BUCKET : at + _HOLD])
        cells[at + _HELD] = sum(cells[at + _HOLD : at + CELLS])
    if width:
        epoch, last = now // width, cells[at + _USED_AT]
        if epoch > last:
            if cells[at + _USED]:
                gone = 0
                for index in range(max(last, epoch - _RING) + 1, epoch + 1):
                    place = at + _BUCKET + index % _RING
                    gone += cells[place]
                    cells[place] = 0
                cells[at + _USED] -= gone
            cells[at + _USED_AT] = epoch
        elif epoch < last - 1:
            set_clock_back(cells, at, now)
    epoch, last = now // GRAIN, cells[at + _HELD_AT]
    if epoch > last:
        if cells[at + _HELD]:
            gone = 0
            for index in range(max(last, epoch - _HOLDS) + 1, epoch + 1):
                place = at + _HOLD + index % _HOLDS
                gone += cells[place]
                cells[place] = 0
            cells[at + _HELD] -= gone
        cells[at + _HELD_AT] = epoch
    elif epoch < last - 1:
        set_clock_back(cells, at, now)


def _report(cells: Cells, at: int, move: Move, now: int, grain: int) -> tuple[int, int, int]:
    """The part of a move that happens in any case; what is free, used and held afterwards."""
    counter = move.counter
    width = counter.window // BUCKETS
    if (
        cells[at + _HELD_AT] != grain
        or (width and cells[at + _USED_AT] != now // width)
        or cells[at + _WIDTH] != width
        or cells[at + _DIRTY]
    ):
        _advance(cells, at, width, now)
        cells[at + _WIDTH] = width
        cells[at + _UNTIL] = counter.until
    cells[at + _DIRTY] = 1
    used, held = cells[at + _USED], cells[at + _HELD]
    if move.spent:
        if width:
            cells[at + _BUCKET + cells[at + _USED_AT] % _RING] += move.spent
        used += move.spent
        cells[at + _USED] = used
    if move.back:
        _take_back(cells, at, width, move.back, move.back_at)
        used = cells[at + _USED]
    if move.had and 0 < move.lease - cells[at + _HELD_AT] <= _LEASES:
        place = at + _HOLD + move.lease % _HOLDS
        there = cells[place]
        given = min(move.had, there)
        cells[place] = there - given
        held -= given
        cells[at + _HELD] = held
    return counter.limit - used - held - move.keep, used, held


def _take_back(cells: Cells, at: int, width: int, amount: int, back_at: int) -> None:
    """Unless it is known where it was charged the oldest goes first: then what is newer is back late, never early."""
    if not width:
        cells[at + _USED] = max(cells[at + _USED] - amount, 0)
        return
    last = cells[at + _USED_AT]
    for index in range(last - _RING + 1, last + 1) if back_at < 0 else (back_at,):
        place = at + _BUCKET + index % _RING
        taken = min(amount, cells[place]) if last - _RING < index <= last else 0
        if taken:
            cells[place] -= taken
            cells[at + _USED] -= taken
            amount -= taken


def _hold(cells: Cells, at: int, move: Move, now: int, report: tuple[int, int, int], *, granted: bool) -> Share:
    """The part of a move that depends on whether all asks fitted."""
    free, used, held = report
    ask, hold, left = move.ask, move.keep, free
    fits = ask <= free or not ask or not move.counter.hard
    used_at = cells[at + _USED_AT]
    if granted:
        left -= ask
        if not move.charge:
            hold += ask
        elif ask:
            if move.counter.window:
                cells[at + _BUCKET + used_at % _RING] += ask
            used += ask
            cells[at + _USED] = used
        if move.spare and left >= _SHARE:
            spare = min(move.spare, left // _SHARE)
            hold += spare
            left -= spare
    lease = cells[at + _HELD_AT] + _LEASES
    if hold:
        cells[at + _HOLD + lease % _HOLDS] += hold
        cells[at + _HELD] = held + hold
    cells[at + _DIRTY] = 0
    wait = 0 if fits else _wait(cells, at, move, now, free)
    return Share(granted, fits, hold, lease, used_at, used, left, wait)


def _wait(cells: Cells, at: int, move: Move, now: int, free: int) -> int:
    """ns until an ask that did not fit may; leases that end earlier are not foreseen, so it may be sooner."""
    counter = move.counter
    if move.ask > counter.limit:
        return -1
    width = cells[at + _WIDTH]
    missing = move.ask - free
    if width:
        last = cells[at + _USED_AT]
        for index in range(last - _RING + 1, last + 1):
            missing -= cells[at + _BUCKET + index % _RING]
            if missing <= 0:
                wait: int = (index + _RING) * width - now
                return max(wait, 1)
    return GRAIN

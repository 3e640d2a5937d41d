"""Who waits, and who is next: bands by urgency, projects by weight, and within a project the newest (or the first).

The bands are served strictly in order, except that one that waits is passed over a bounded number of times. Within a
band, projects take turns by virtual time (start-time fair queueing, Goyal, Vin and Cheng 1996), so each gets calls in
proportion to its weight, however many it sends.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import Final, Generic, TypeVar

from detent.gateway.model import Band

BANDS: Final[tuple[Band, ...]] = ("interactive", "default", "batch")
RANK: Final = {band: rank for rank, band in enumerate(BANDS)}
PATIENCE: Final = (0, 10, 20)
"""By rank: each how-manieth turn is a waiting band's at the latest; one later when a more urgent one is due too."""


class Waiting:
    """Somebody who waits. Compared by identity.

    Attributes:
        weight: the project's share.
        rank: of the band, 0 the most urgent.
        since: when it joined.
        deadline: when its first output is due.
    """

    __slots__ = ("deadline", "project", "rank", "since", "weight")

    def __init__(self, project: str, weight: int, rank: int, since: float, deadline: float) -> None:
        self.project = project
        self.weight = weight
        self.rank = rank
        self.since = since
        self.deadline = deadline


W = TypeVar("W", bound=Waiting)


class _Crowd(Generic[W]):
    """Those of one project in one band, the oldest first."""

    __slots__ = ("members", "tag", "turn")

    def __init__(self) -> None:
        self.members: OrderedDict[W, None] = OrderedDict()
        self.tag = 0.0
        self.turn = False

    def weight(self) -> int:
        """The newest's word counts, as weights may change."""
        return max(next(reversed(self.members)).weight, 1)


class _Lane(Generic[W]):
    """One band."""

    __slots__ = ("_clock", "_heap", "_order", "crowds", "passed_over", "size")

    def __init__(self) -> None:
        self.size = 0
        self.passed_over = 0
        self.crowds: dict[str, _Crowd[W]] = {}
        self._heap: list[tuple[float, int, _Crowd[W]]] = []
        self._clock = 0.0
        self._order = 0

    def push(self, waiting: W) -> None:
        crowd = self.crowds.get(waiting.project)
        if crowd is None:
            crowd = self.crowds[waiting.project] = _Crowd()
        crowd.members[waiting] = None
        self.size += 1
        if not crowd.turn:
            crowd.tag = max(crowd.tag, self._clock)
            self._line_up(crowd)

    def pop(self, *, newest: bool) -> W:
        while True:
            _, _, crowd = heapq.heappop(self._heap)
            crowd.turn = False
            if crowd.members:
                break
        self._clock = crowd.tag
        crowd.tag += 1.0 / crowd.weight()
        waiting, _ = crowd.members.popitem(last=newest)
        if crowd.members:
            self._line_up(crowd)
        self._left()
        return waiting

    def remove(self, waiting: W) -> bool:
        crowd = self.crowds.get(waiting.project)
        if crowd is None or waiting not in crowd.members:
            return False
        del crowd.members[waiting]
        self._left()
        return True

    def others(self, project: str) -> int:
        """How many other projects wait."""
        crowd = self.crowds.get(project)
        return len(self._heap) - (crowd is not None and crowd.turn)

    def heaviest(self) -> tuple[str, _Crowd[W]]:
        """The project that has most waiting for its weight."""
        return max(
            ((project, crowd) for project, crowd in self.crowds.items() if crowd.members),
            key=lambda found: len(found[1].members) / found[1].weight(),
        )

    def _line_up(self, crowd: _Crowd[W]) -> None:
        self._order += 1
        crowd.turn = True
        heapq.heappush(self._heap, (crowd.tag, self._order, crowd))

    def _left(self) -> None:
        self.size -= 1
        if not self.size:  # nobody competes: all start anew
            self.crowds.clear()
            self._heap.clear()
            self._clock = 0.0
            self.passed_over = 0


class Line(Generic[W]):
    """All who wait for one deployment.

    Attributes:
        size: how many.
        newest_first: the order within a project.
    """

    __slots__ = ("_lanes", "newest_first", "size")

    def __init__(self) -> None:
        self.size = 0
        self.newest_first = True
        self._lanes: tuple[_Lane[W], ...] = tuple(_Lane() for _ in BANDS)

    def push(self, waiting: W) -> None:
        """Join."""
        self._lanes[waiting.rank].push(waiting)
        self.size += 1

    def pop(self) -> W:
        """Take who is next.

        Raises:
            IndexError: nobody waits.
        """
        waiting = [rank for rank, lane in enumerate(self._lanes) if lane.size]
        if not waiting:
            raise IndexError("nobody waits")
        due = (rank for rank in waiting[1:] if self._lanes[rank].passed_over + 1 >= PATIENCE[rank])
        chosen = next(due, waiting[0])
        for rank in waiting:
            self._lanes[rank].passed_over += 1
        lane = self._lanes[chosen]
        lane.passed_over = 0
        self.size -= 1
        return lane.pop(newest=self.newest_first)

    def remove(self, waiting: W) -> bool:
        """Leave without a turn; whether it was still waiting."""
        if not self._lanes[waiting.rank].remove(waiting):
            return False
        self.size -= 1
        return True

    def ahead(self, project: str, rank: int) -> int:
        """How many have a turn before one who joins now, if nobody joined after it."""
        found = 0
        for lane in self._lanes[:rank]:
            found += lane.size
        lane = self._lanes[rank]
        if not self.newest_first:
            return found + lane.size
        return found + lane.others(project)

    def to_make_room(self, project: str, rank: int) -> W | None:
        """Who is to go from a full line when somebody joins; None when that is the one who joins.

        Of the least urgent band the project that has most waiting for its weight, and of it who is served last.
        """
        lowest = max((r for r, lane in enumerate(self._lanes) if lane.size), default=-1)
        if lowest < rank:
            return None
        name, crowd = self._lanes[lowest].heaviest()
        if self.newest_first:
            return next(iter(crowd.members))
        if lowest == rank and name == project:
            return None
        return next(reversed(crowd.members))

    def sizes(self) -> dict[Band, int]:
        """How many wait in each band."""
        return {band: lane.size for band, lane in zip(BANDS, self._lanes, strict=True)}

    def oldest(self) -> float | None:
        """When the one who waits longest joined."""
        firsts = [
            next(iter(crowd.members)).since for lane in self._lanes for crowd in lane.crowds.values() if crowd.members
        ]
        return min(firsts, default=None)

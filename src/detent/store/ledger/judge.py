"""What happened where the chain breaks.

A row carries the hash it was chained after, so a row stands on its own: it is intact or not (its hash fits its
content), and it is linked or not (the row before is the one it was chained after). From the two follows what was done:

| intact | linked | the row it was chained after | judgement |
| --- | --- | --- | --- |
| no | - | - | this row was edited (or holds another row's content: reordered) |
| yes | no | stands elsewhere | this row was moved: reordered |
| yes | no | is gone, and the positions have a gap | the rows in the gap are missing |
| yes | no | is gone, without a gap | the row before was edited with its hash, or rows are missing, all renumbered |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import Connection, select, text
from sqlalchemy.exc import DBAPIError

from detent.kernel.ports import Checkpoint, Finding
from detent.store.ledger.chain import GENESIS, link
from detent.store.tables import FACTS

_WINDOW: Final = 200_000
_MOST_SWAPS: Final = 500
_MOST_SEARCHES: Final = 20
_END: Final = 2**62

_VERSION_GAP: Final = text(
    """
    SELECT 1
    FROM (
      SELECT stream, min(version) AS low FROM facts WHERE position >= :position AND position < :until GROUP BY stream
    ) AS later
    LEFT JOIN (SELECT stream, max(version) AS high FROM facts WHERE position < :position GROUP BY stream) AS earlier
      ON earlier.stream = later.stream
    WHERE low > coalesce(high, 0) + 1
    LIMIT 1
    """
)


class Break(NamedTuple):
    """A row at which the scan stumbled: what was expected there, and what stands there."""

    expected: int
    last: bytes
    position: int
    prev: bytes
    hash: bytes
    content: bytes

    @property
    def intact(self) -> bool:
        """Whether the hash fits the row's own content and link."""
        return link(self.prev, self.content) == self.hash


def judge(
    connection: Connection, breaks: Sequence[Break], checkpoints: Sequence[Checkpoint], *, complete: bool
) -> list[Finding]:
    """Name what happened at each break.

    Args:
        complete: whether these are all; if not, the last finding says so.
    """
    if not breaks:
        return []
    broken = [at for at in breaks if not at.intact]
    edits = {at.position: _edited(at, broken) for at in broken}
    # The hash in a row that holds another's content says nothing about where rows belong.
    places = _Places(connection, breaks, [place for place, edit in edits.items() if edit.problem == "reordered"])
    findings: dict[int, Finding] = {}
    replaced = 0

    def found(finding: Finding) -> None:
        findings.setdefault(finding.position, finding)

    for at, following in zip(breaks, [*breaks[1:], None], strict=True):
        if at.position > at.expected:
            found(_missing(at.expected, at.position - 1))
        if at.position < 1:
            found(Finding(at.position, "edited", f"there is no place {at.position} in the chain"))
        elif at.position in edits:
            found(edits[at.position])
        elif at.prev == at.last:
            continue  # all is well behind a gap
        elif (home := places.of(at.prev)) is not None:
            if places.rank.get(at.position) != at.position:
                after = f"after the fact that stands at {home:,}" if home else "as the first"
                found(Finding(at.position, "reordered", f"it was chained {after}"))
        elif at.position == at.expected and at.position - 1 not in edits:
            until = following.position if following else _END
            replaced += 1
            searched = replaced <= _MOST_SEARCHES
            if at.position == 1 or (searched and _renumbered(connection, at.position, until, checkpoints)):
                what = "one or more facts that stood here are gone and the rest was renumbered"
                found(Finding(at.position, "missing", what))
            else:
                what = f"its content and hash are not those that fact {at.position:,} was chained after"
                found(Finding(at.position - 1, "edited", what))
    if not complete:
        found(Finding(breaks[-1].position + 1, "edited", "the chain breaks at more rows than are listed"))
    return list(findings.values())


class _Places:
    """Where rows stand and where they belong, in the window between the first and the last break."""

    def __init__(self, connection: Connection, breaks: Sequence[Break], without: Sequence[int]) -> None:
        foul = frozenset(without)
        first, last = breaks[0].position - 1, breaks[-1].position
        query = (
            select(FACTS.c.position, FACTS.c.prev, FACTS.c.hash)
            .where(FACTS.c.position.between(first, last))
            .order_by(FACTS.c.position)
            .limit(_WINDOW)
        )
        rows = [(position, _raw(prev), _raw(hash_)) for position, prev, hash_ in connection.execute(query)]
        rows = [row for row in rows if row[0] not in foul]
        self._stands = {GENESIS: 0} | {hash_: position for position, _, hash_ in rows}
        strangers = {at.prev for at in breaks} - self._stands.keys()
        if strangers:
            # One pass over the chain for all of them: hashes have no index.
            for position, hash_ in connection.execute(select(FACTS.c.position, FACTS.c.hash)):
                if hash_ in strangers and position not in foul:
                    self._stands[hash_] = position
        following = {prev: (position, hash_) for position, prev, hash_ in rows}
        self.rank: dict[int, int] = {}
        self._follow(following, breaks[0].last, breaks[0].expected)
        for at in breaks:
            if at.position not in self.rank and self.of(at.prev) is None:
                self.rank[at.position] = at.position
                self._follow(following, at.hash, at.position + 1)

    def of(self, hash_: bytes) -> int | None:
        """Where the row with this hash stands now; None when it is gone."""
        return self._stands.get(hash_)

    def _follow(self, following: dict[bytes, tuple[int, bytes]], hash_: bytes, rank: int) -> None:
        """Walk from row to row by their links and number them as they were."""
        while (step := following.pop(hash_, None)) is not None:
            position, hash_ = step
            self.rank[position] = rank
            rank += 1


def _edited(at: Break, edited: Sequence[Break]) -> Finding:
    for other in edited[:_MOST_SWAPS]:
        if other.position != at.position and link(other.prev, at.content) in {other.hash, at.hash}:
            return Finding(at.position, "reordered", f"it holds the content of fact {other.position:,}")
    if link(at.last, at.content) == at.hash:
        return Finding(at.position, "edited", "its link to the fact before was changed")
    return Finding(at.position, "edited", "its content does not fit its hash")


def _missing(first: int, last: int) -> Finding:
    if first == last:
        return Finding(first, "missing", "this fact is gone")
    return Finding(first, "missing", f"facts {first:,} to {last:,} are gone")


def _renumbered(connection: Connection, position: int, until: int, checkpoints: Sequence[Checkpoint]) -> bool:
    """Whether rows were taken out here and the rest moved up, rather than the row before replaced.

    It shows in a stream whose numbers skip at this place (as far as the rows up to the next break tell), or in a head
    that was signed and now stands lower than it did.
    """
    try:
        skips = connection.execute(_VERSION_GAP, {"position": position, "until": until}).first() is not None
    except DBAPIError:
        skips = False  # another row's content is no JSON any more
    if skips:
        return True
    signed = next((checkpoint for checkpoint in checkpoints if checkpoint.size >= position), None)
    try:
        head = bytes.fromhex(signed.head) if signed else b""
    except ValueError:
        head = b""
    if signed is None or not head:
        return False
    stands = connection.execute(select(FACTS.c.position).where(FACTS.c.hash == head).limit(1)).scalar()
    return stands is not None and stands < signed.size


def _raw(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()

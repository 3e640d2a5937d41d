"""The spool: a bounded, durable queue of segment files between the gateway and the lake."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from detent.kernel.telemetry import Score, Span


def encode_span(span: Span) -> bytes:
    """A spool record that carries a span."""
    raise NotImplementedError(span)


def encode_score(score: Score) -> bytes:
    """A spool record that carries a score."""
    raise NotImplementedError(score)


def decode(record: bytes) -> Span | Score:
    """What a record carries."""
    raise NotImplementedError(record)


class Spool:
    """One process's end of the spool."""

    shed: int

    def __init__(self, folder: Path, *, writer: str, max_bytes: int = 1 << 30, segment_bytes: int = 8 << 20) -> None:
        raise NotImplementedError(folder, writer, max_bytes, segment_bytes)

    def append(self, record: bytes) -> bool:
        """Hand a record to the operating system: it survives the death of any process from here on."""
        raise NotImplementedError(record)

    def sync(self) -> None:
        """Put everything appended on the disk: it survives a power loss from here on."""
        raise NotImplementedError

    def close(self) -> None:
        """Finish the segment."""
        raise NotImplementedError


class SpoolReader:
    """The other end: complete records of every writer."""

    def __init__(self, folder: Path) -> None:
        raise NotImplementedError(folder)

    def read(self, limit: int) -> Iterator[bytes]:
        """Records not committed yet, in each writer's order."""
        raise NotImplementedError(limit)

    def commit(self) -> None:
        """Remember that everything read so far is in the lake."""
        raise NotImplementedError

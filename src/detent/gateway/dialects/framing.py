"""Server-sent events: whole ones out of any chunks, as the WHATWG standard defines them.

Every reader of a streamed answer stands on this. Nothing waits for more than the end of its event; the common form (one
chunk that ends with an event, an `event:` line at most and one `data:` line in each) is only split.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

from typing import Final, NamedTuple

MAX_EVENT: Final = 16 * 1024 * 1024
"""Bytes of one event at most."""

_BOM: Final = b"\xef\xbb\xbf"
_DATA: Final = b"data: "
_EVENT: Final = b"event: "


class Event(NamedTuple):
    """One event. `raw` is what its sender wrote, with LF for line ends and the empty line behind it."""

    raw: bytes
    name: bytes
    data: bytes


class Framing:
    """Takes one stream apart.

    Attributes:
        too_large: an event passed the bound; nothing is read after that.
    """

    __slots__ = ("_after_cr", "_started", "_tail", "too_large")

    def __init__(self) -> None:
        self._tail = bytearray()
        self._after_cr = False
        self._started = False
        self.too_large = False

    def feed(self, data: bytes) -> list[Event]:
        """Take what was read; give the events that are whole now. Comments come too, without name and data."""
        if self.too_large:
            return []
        if self._after_cr or b"\r" in data:
            data = self._plain(data)
        tail = self._tail
        if not tail and data.endswith(b"\n\n"):
            block = data
        else:
            # An event's end may straddle two reads; look no further back than it can reach.
            start = max(len(tail) - 1, 0)
            tail += data
            end = tail.rfind(b"\n\n", start)
            if end < 0:
                self.too_large = len(tail) > MAX_EVENT
                return []
            block = bytes(tail[: end + 2])
            del tail[: end + 2]
        if not self._started:
            self._started = True
            block = block.removeprefix(_BOM)
        found: list[Event] = []
        for between in block.split(b"\n\n"):
            lines = between.strip(b"\n")
            if not lines:
                continue
            if len(lines) > MAX_EVENT:
                self.too_large = True
                break
            found.append(_event(lines))
        return found

    def _plain(self, data: bytes) -> bytes:
        """CR LF and lone CR as LF; a pair that is split between two reads stays one line end."""
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
            self._after_cr = False
        if data:
            self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _event(lines: bytes) -> Event:
    first, _, rest = lines.partition(b"\n")
    if not rest:
        if first.startswith(_DATA):
            return Event(lines + b"\n\n", b"", first[6:])
    elif first.startswith(_EVENT) and rest.startswith(_DATA) and b"\n" not in rest:
        return Event(lines + b"\n\n", first[7:], rest[6:])
    name = b""
    data: list[bytes] = []
    for line in lines.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")
    return Event(lines + b"\n\n", name, b"\n".join(data))

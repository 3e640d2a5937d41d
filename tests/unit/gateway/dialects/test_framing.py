"""Server-sent events in every form that the standard allows."""

from __future__ import annotations

import pytest

from detent.gateway.dialects import framing
from detent.gateway.dialects.framing import Event, Framing

STREAM = (
    b'event: message_start\ndata: {"a":1}\n\n'
    b": ping\n\n"
    b"data: one\ndata: two\nid: 7\n\n"
    b"data:tight\n\n"
    b"event: x\n\n"
    b"data\n\n"
    b"data: \xc3\xa9\n\n"
)
EVENTS = [
    Event(b'event: message_start\ndata: {"a":1}\n\n', b"message_start", b'{"a":1}'),
    Event(b": ping\n\n", b"", b""),
    Event(b"data: one\ndata: two\nid: 7\n\n", b"", b"one\ntwo"),
    Event(b"data:tight\n\n", b"", b"tight"),
    Event(b"event: x\n\n", b"x", b""),
    Event(b"data\n\n", b"", b""),
    Event(b"data: \xc3\xa9\n\n", b"", b"\xc3\xa9"),
]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
def test_every_form_in_any_pieces(end: bytes, bom: bytes, size: int) -> None:
    raw = bom + STREAM.replace(b"\n", end)
    found = Framing()
    events = [event for at in range(0, len(raw), size) for event in found.feed(raw[at : at + size])]
    assert events == EVENTS


def test_only_the_first_bytes_may_be_a_mark() -> None:
    found = Framing()
    assert [event.data for event in found.feed(b"data: a\n\n\xef\xbb\xbfdata: b\n\n")] == [b"a", b""]


def test_what_is_not_whole_waits() -> None:
    found = Framing()
    assert found.feed(b"data: a\n") == []
    assert [event.data for event in found.feed(b"\ndata: b")] == [b"a"]
    assert [event.data for event in found.feed(b"\n\n")] == [b"b"]


@pytest.mark.parametrize("pieces", [1, 4])
def test_an_event_has_its_bound(pieces: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "MAX_EVENT", 100)
    found = Framing()
    good = b"data: fine\n\n"
    raw = good + b"data: " + b"x" * 200 + (b"\n\n" if pieces == 1 else b"")
    size = -(-len(raw) // pieces)
    events = [event for at in range(0, len(raw), size) for event in found.feed(raw[at : at + size])]
    assert events == [Event(good, b"", b"fine")]
    assert found.too_large
    assert found.feed(good) == []

"""However a stream is cut into pieces, its events, its usage and its text are the same."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from detent.gateway.sse import ChatStream

_text = st.text(st.characters(codec="utf-8"), max_size=12)
_delta = st.one_of(
    st.builds(lambda text: {"content": text}, _text),
    st.builds(lambda text: {"reasoning_content": text}, _text),
    st.builds(lambda text: {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}, _text),
    st.just({"role": "assistant", "content": ""}),
)
_said = st.builds(
    lambda delta, finish: {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]},
    _delta,
    st.sampled_from([None, None, None, "stop"]),
)
_usage = st.builds(
    lambda a, b: {"choices": [], "usage": {"prompt_tokens": a, "completion_tokens": b}},
    st.integers(-1, 9),
    st.integers(0, 9),
)
_event = st.one_of(
    st.builds(
        lambda value, ascii_only: b"data: " + json.dumps(value, ensure_ascii=ascii_only).encode(), _said, st.booleans()
    ),
    st.builds(lambda value: b"data: " + json.dumps(value).encode(), _usage),
    st.sampled_from(
        [b": ping", b"event: message\ndata: {}", b'data:{"choices":[]}', b"data: broken", b'data: {"error": "x"}']
    ),
)
_stream = st.builds(
    lambda events, end, done: (
        end.join(e.replace(b"\n", end) + end for e in events) + end + (b"data: [DONE]" + end * 2) * done
    ),
    st.lists(_event, max_size=6),
    st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"]),
    st.booleans(),
)


def read(pieces: list[bytes], *, hide: bool) -> tuple[object, ...]:
    found = ChatStream(hide_usage=hide, keep=1000)
    out = b"".join(found.feed(piece) for piece in pieces)
    code = found.failure.code if found.failure else ""
    return (
        out,
        json.loads(found.output()),
        found.usage,
        found.finish_reason,
        found.characters,
        found.begun,
        found.done,
        code,
    )


@given(_stream, st.booleans())
def test_every_single_cut(raw: bytes, hide: bool) -> None:
    whole = read([raw], hide=hide)
    for cut in range(len(raw) + 1):
        assert read([raw[:cut], raw[cut:]], hide=hide) == whole


@given(_stream, st.booleans(), st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_many_cuts(raw: bytes, hide: bool, sizes: list[int]) -> None:
    pieces, at = [], 0
    while at < len(raw):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(raw[at : at + size])
        at += size
    assert read(pieces, hide=hide) == read([raw], hide=hide)


@given(_stream)
def test_byte_by_byte(raw: bytes) -> None:
    assert read([bytes([byte]) for byte in raw], hide=True) == read([raw], hide=True)


@given(_stream, st.booleans())
def test_reading_what_was_passed_on_changes_nothing(raw: bytes, hide: bool) -> None:
    """What a client gets is again a good stream that says the same."""
    out, message, _, finish, characters, *_ = read([raw], hide=hide)
    assert isinstance(out, bytes)
    again = read([out], hide=hide)
    assert (again[0], again[1], again[3], again[4]) == (out, message, finish, characters)

"""Bodies: what is passed on stays the client's own; what is ambiguous is refused."""

from __future__ import annotations

import json

import pytest

from detent.gateway.body import read_body
from detent.gateway.errors import MalformedBody, TooDeep
from detent.kernel.errors import InvalidInput

ODD = (
    b'{ "model" : "route" ,\n "messages": [ {"role":"user", "content": "\\u00e9 \xc3\xa9", "new": null} ],'
    b' "big": 123456789012345678901234567890, "float": 1.10, "exp": 1E5, "esc\\"aped": "\\/",'
    b' "nested": {"b":1, "a":2} }'
)


def test_the_clients_bytes_are_forwarded_when_nothing_must_change() -> None:
    assert read_body(ODD, max_depth=64).for_model("route", b'"route"') is ODD


def test_only_the_model_is_replaced() -> None:
    sent = read_body(ODD, max_depth=64).for_model('up"stream', b'"up\\"stream"')
    assert list(json.loads(sent).items()) == list({**json.loads(ODD), "model": 'up"stream'}.items())
    for kept in (b"123456789012345678901234567890", b"1.10", b"1E5", b'"\\/"', b'{"b":1, "a":2}', b"\\u00e9 \xc3\xa9"):
        assert kept in sent


@pytest.mark.parametrize(
    ("sent", "forwarded", "hidden"),
    [
        ({"stream": True}, {"include_usage": True}, True),
        ({"stream": True, "stream_options": None}, {"include_usage": True}, True),
        ({"stream": True, "stream_options": {}}, {"include_usage": True}, True),
        ({"stream": True, "stream_options": {"include_usage": False, "x": 1}}, {"include_usage": True, "x": 1}, True),
        ({"stream": True, "stream_options": {"include_usage": True, "x": 1}}, {"include_usage": True, "x": 1}, False),
        ({"stream": False}, None, False),
        ({}, None, False),
    ],
)
def test_usage_is_asked_for_on_streams(sent: dict[str, object], forwarded: object, hidden: bool) -> None:
    raw = json.dumps({"model": "m", "messages": [{"role": "user"}], **sent}).encode()
    body = read_body(raw, max_depth=64)
    assert json.loads(body.for_model("m", b'"m"')).get("stream_options") == forwarded
    assert body.hide_usage is hidden


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" , ", " : ")])
def test_twins_are_found_however_the_object_is_written(separators: tuple[str, str]) -> None:
    fine = json.dumps({"model": "m", "messages": [{"role": "user"}], "x": [1, {"x": 2}]}, separators=separators)
    read_body(fine.encode(), max_depth=64)
    with pytest.raises(InvalidInput, match="given twice") as refused:
        read_body((fine[:-1] + separators[0] + '"x"' + separators[1] + "1}").encode(), max_depth=64)
    assert refused.value.field == "x"


def test_half_a_character_is_named() -> None:
    with pytest.raises(MalformedBody, match="surrogate"):
        read_body(b'{"model":"m","messages":[{"role":"user","content":"\\ud83d"}]}', max_depth=64)
    read_body(b'{"model":"m","messages":[{"role":"user","content":"\\ud83d\\ude00"}]}', max_depth=64)


def test_depth_is_exact() -> None:
    def nested(depth: int) -> bytes:
        return b'{"model":"m","messages":[{"role":"user"}],"x":' + b"[" * depth + b"]" * depth + b"}"

    read_body(nested(63), max_depth=64)  # 64 with the object itself
    with pytest.raises(TooDeep):
        read_body(nested(64), max_depth=64)


@pytest.mark.parametrize("raw", [b"", b"\xef\xbb\xbf{}", b'{"a":1', b'{"a" 1}', b"{'a': 1}", b"\x00"])
def test_no_json(raw: bytes) -> None:
    with pytest.raises(MalformedBody):
        read_body(raw, max_depth=64)


def test_a_million_brackets_are_too_many() -> None:
    wide = b'{"model":"m","messages":[{"role":"user"}],"x":[' + b",".join([b"[]"] * 600_000) + b"]}"
    with pytest.raises(TooDeep):
        read_body(wide, max_depth=64)

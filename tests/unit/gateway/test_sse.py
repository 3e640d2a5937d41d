"""Streams: every form that the standard allows, what is said in them, what the client may see."""

from __future__ import annotations

import json
from typing import Any

import pytest

from detent.gateway.sse import ChatStream
from detent.kernel.chat import Usage


def event(*, choices: Any = ..., **more: Any) -> bytes:
    found = {
        "id": "c1",
        "model": "m1",
        "choices": [{"index": 0, "delta": {"content": "x"}}] if choices is ... else choices,
    }
    return b"data: " + json.dumps({**found, **more}).encode() + b"\n\n"


def said(text: str) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": text}}])


HALVES = (b"\\ud83d", b"\\uDE00")
STOP = event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
USAGE = event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2})
DONE = b"data: [DONE]\n\n"


def stream(*, hide_usage: bool = True, keep: int = 1000) -> ChatStream:
    return ChatStream(hide_usage=hide_usage, keep=keep)


def test_one_block() -> None:
    found = stream()
    assert found.feed(said("Hel") + said("lo") + STOP + USAGE + DONE) == said("Hel") + said("lo") + STOP + DONE
    assert json.loads(found.output()) == {"role": "assistant", "content": "Hello"}
    assert (found.begun, found.done, found.finish_reason, found.characters) == (True, True, "stop", 5)
    assert (found.usage, found.id, found.model) == (Usage(3, 2), "c1", "m1")


@pytest.mark.parametrize("hide", [True, False])
def test_usage_is_shown_to_who_asked(hide: bool) -> None:
    for parts in ([said("a") + STOP + USAGE + DONE], [said("a"), STOP, USAGE, DONE], [said("a") + USAGE + STOP, DONE]):
        found = stream(hide_usage=hide)
        out = b"".join(found.feed(part) for part in parts)
        assert (USAGE in out) is not hide
        assert out.replace(USAGE, b"") == b"".join(parts).replace(USAGE, b"")
        assert found.usage == Usage(3, 2)


def test_usage_beside_choices_is_never_hidden() -> None:
    both = event(usage={"prompt_tokens": 1, "completion_tokens": 1})
    nothing = event(usage=None)
    empty = event(choices=[], usage=None)
    assert stream().feed(both + nothing + empty) == both + nothing + empty


@pytest.mark.parametrize(
    "written",
    [
        lambda raw: raw.replace(b"\n", b"\r\n"),
        lambda raw: raw.replace(b"\n", b"\r"),
        lambda raw: raw.replace(b"data: ", b"data:"),
        lambda raw: b"\xef\xbb\xbf" + raw,
        lambda raw: raw.replace(b"data: ", b": comment\nid: 7\nretry: 5\ndata: "),
        lambda raw: b": ping\n\n" + raw,
        lambda raw: b"\n\n\n" + raw,
        lambda raw: raw.replace(b"data: ", b"event: message\ndata: "),
    ],
)
def test_other_ways_to_write_it(written: Any) -> None:
    found = stream()
    out = found.feed(written(said("Hello") + STOP + USAGE + DONE))
    assert json.loads(found.output())["content"] == "Hello"
    assert (found.done, found.usage) == (True, Usage(3, 2))
    assert out.endswith(DONE)
    assert b"prompt_tokens" not in out
    assert b"\r" not in out


def test_data_over_several_lines() -> None:
    found = stream()
    found.feed(b'data: {"choices": [{"delta":\ndata: {"content": "two lines"}}]}\n\n')
    assert json.loads(found.output())["content"] == "two lines"


def test_nothing_after_done_is_read() -> None:
    found = stream()
    assert found.feed(said("a") + DONE + said("b")) == said("a") + DONE
    assert found.feed(said("c")) == b""
    assert json.loads(found.output())["content"] == "a"


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "text"},
        {"refusal": "I will not"},
        {"reasoning_content": "let me think"},
        {"content": None, "reasoning": "hm"},
        {"content": "", "reasoning_content": "hm"},
        {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}]},
        {"function_call": {"name": "f"}},
        {"audio": {"data": "AAAA"}},
        {"content": [{"type": "text", "text": "parts"}]},
    ],
)
def test_what_counts_as_output(delta: Any) -> None:
    found = stream()
    found.feed(event(choices=[{"index": 0, "delta": delta}]))
    assert found.begun
    assert found.characters > 0


@pytest.mark.parametrize(
    "raw",
    [
        event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}]),
        event(choices=[{"index": 0, "delta": {"role": "assistant", "content": None, "tool_calls": []}}]),
        event(choices=[]),
        event(choices=[], prompt_filter_results=[{"x": 1}]),
        b": ping\n\n",
        b"event: ping\n\n",
        b"data: {}\n\n",
        b"data: 7\n\n",
    ],
)
def test_what_is_not_output_yet(raw: bytes) -> None:
    found = stream()
    assert found.feed(raw) == raw
    assert (found.begun, found.failure) == (False, None)


@pytest.mark.parametrize(
    ("raw", "code", "word"),
    [
        (b'data: {"error": {"message": "boom", "code": 1}}\n\n', "upstream_error", "boom"),
        (b'data: {"error": "plain"}\n\n', "upstream_error", "plain"),
        (b'event: error\ndata: {"message": "named"}\n\n', "upstream_error", "named"),
        (b'event: error\ndata: {"error": {"message": "both"}}\n\n', "upstream_error", "both"),
        (b"data: not json\n\n", "bad_answer", "no JSON"),
        (b'data: {"choices": [\n\n', "bad_answer", "no JSON"),
        (b"data: " + b"[" * 100_000 + b"\n\n", "bad_answer", "no JSON"),
    ],
)
def test_faults(raw: bytes, code: str, word: str) -> None:
    for before in (b"", said("a")):
        found = stream()
        assert found.feed(before + raw + said("b") + DONE) == before
        assert found.failure is not None
        assert found.failure.code == code
        assert word in found.failure.message
        assert not found.done


def test_half_a_character_passes_as_it_came() -> None:
    """Providers that cut text by UTF-16 units split an emoji between two events."""
    first, second = (b'data: {"choices":[{"index":0,"delta":{"content":"' + half + b'"}}]}\n\n' for half in HALVES)
    for parts in ([first, second], [first + second], [said("x") + first + second + DONE]):
        found = stream()
        assert b"".join(found.feed(part) for part in parts) == b"".join(parts)
        assert found.failure is None
        assert json.loads(found.output())["content"].endswith("\ufffd\ufffd")
    assert stream().feed(first.replace(b"\\u", b"\\\\u")) == first.replace(b"\\u", b"\\\\u")


def test_odd_types_pass() -> None:
    odd = b'data: {"id": 7, "choices": [{"index": "0", "delta": {"content": 5}}], "usage": "later"}\n\n'
    found = stream()
    assert found.feed(odd + said("fine")) == odd + said("fine")
    assert (found.failure, found.usage) == (None, None)
    assert "fine" in json.loads(found.output())["content"]


def test_remembers_no_more_than_asked() -> None:
    found = stream(keep=10)
    for _ in range(20):
        found.feed(said("12345"))
    assert (json.loads(found.output())["content"], found.characters) == ("1234512345", 100)
    forgetful = stream(keep=0)
    forgetful.feed(said("secret"))
    assert (json.loads(forgetful.output())["content"], forgetful.characters) == ("", 6)


def test_several_choices_are_all_kept() -> None:
    found = stream()
    for text, index in (("a", 0), ("B", 1), ("c", 0)):
        found.feed(event(choices=[{"index": index, "delta": {"content": text}}]))
    assert [choice["content"] for choice in json.loads(found.output())] == ["ac", "B"]
    assert found.characters == 3


def test_a_dripping_event_costs_no_square() -> None:
    """A megabyte, byte by byte: seconds if each byte looked through all the ones before."""
    import time

    found = stream()
    began = time.process_time()
    for _ in range(1_000_000):
        found.feed(b"x")
    assert time.process_time() - began < 4

"""Answers in one piece: what they said, what kind of failure they are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from detent.gateway.answer import failure, holds_error, is_passed_on, read_answer
from detent.gateway.errors import BadAnswer, UpstreamError
from detent.gateway.usage import read_usage, settle
from detent.kernel.chat import Usage
from detent.kernel.clock import SECOND

NOW = 1_767_225_600 * SECOND  # 2026-01-01T00:00:00Z
MESSAGE = {"role": "assistant", "content": "Hi"}


def answer(**more: Any) -> bytes:
    choices = [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}]
    return json.dumps({"id": "c1", "model": "m1", "choices": choices, **more}).encode()


def test_an_answer() -> None:
    found = read_answer(answer(usage={"prompt_tokens": 3, "completion_tokens": 2}, new=[1]))
    assert (found.id, found.model, found.finish_reason, found.usage) == ("c1", "m1", "stop", Usage(3, 2))
    assert json.loads(found.message) == MESSAGE


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"7", b"{}", b"<html>", b"\xff", b'{"choices": []}', b'{"choices": [7]}', b"[" * 99999]
)
def test_no_answer(raw: bytes) -> None:
    with pytest.raises(BadAnswer):
        read_answer(raw)


def test_an_error_in_spite_of_its_status() -> None:
    assert read_answer(answer(error=None)).id == "c1"
    for raw in (b'{"error": {"message": "quota"}}', b'{"error": "quota"}', answer(error={"message": "quota"})):
        with pytest.raises(UpstreamError, match="quota"):
            read_answer(raw)


def test_half_a_character_is_read() -> None:
    found = read_answer(answer().replace(b"Hi", b"\\ud83d"))
    assert json.loads(found.message)["content"] == "\ufffd"


@pytest.mark.parametrize(
    ("status", "code", "answered"),
    [
        (429, "upstream_rate_limited", 429),
        (500, "upstream_error", 502),
        (503, "upstream_error", 502),
        (401, "credential_refused", 502),
        (403, "credential_refused", 502),
        (301, "upstream_error", 502),
        (204, "upstream_error", 502),
    ],
)
def test_statuses(status: int, code: str, answered: int) -> None:
    found = failure(status, {b"retry-after": b"3"}, b'{"error": {"message": "words"}}', NOW)
    assert (found.code, found.status) == (code, answered)
    assert not is_passed_on(status)


def test_the_clients_mistakes_are_passed_on() -> None:
    assert all(is_passed_on(status) for status in (400, 404, 409, 413, 422, 451))


@pytest.mark.parametrize(("sent", "read"), [(b"3", 3), (b"999999", 3600), (b"-3", None), (b"soon", None), (b"", None)])
def test_retry_after(sent: bytes, read: float | None) -> None:
    assert failure(429, {b"retry-after": sent}, b"", NOW).retry_after == read
    assert failure(429, {}, b"", NOW).retry_after is None


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (b"Thu, 01 Jan 2026 00:00:30 GMT", 30),
        (b"Wed, 31 Dec 2025 23:59:00 GMT", 0),
        (b"Fri, 01 Jan 2027 00:00:00 GMT", 3600),
        (b"Thu, 99 Jan 2026 00:00:30 GMT", None),
    ],
)
def test_retry_after_as_a_date(sent: bytes, read: float | None) -> None:
    assert failure(429, {b"retry-after": sent}, b"", NOW).retry_after == read


def test_retry_after_in_milliseconds_is_finer() -> None:
    assert failure(429, {b"retry-after": b"1", b"retry-after-ms": b"250"}, b"", NOW).retry_after == 0.25


def test_a_pause_may_stand_in_the_body() -> None:
    body = b'{"error": {"details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "12.5s"}]}}'
    assert failure(429, {}, body, NOW).retry_after == 12.5
    assert failure(429, {b"retry-after": b"3"}, body, NOW).retry_after == 3


def test_several_choices_are_a_list() -> None:
    raw = answer(
        choices=[{"index": 0, "message": MESSAGE}, {"index": 1, "message": {"role": "assistant", "content": "B"}}]
    )
    assert [message["content"] for message in json.loads(read_answer(raw).message)] == ["Hi", "B"]


def test_long_words_are_cut() -> None:
    assert len(failure(500, {}, json.dumps({"error": "x" * 10_000}).encode(), NOW).message) < 600


def test_error_bodies() -> None:
    assert holds_error(b'{"error": {"message": "x"}}')
    assert not any(holds_error(raw) for raw in (b"", b"{}", b"[]", b"<html>", b"\xff"))


def test_deepseek_names_cached_tokens_otherwise() -> None:
    assert read_usage(b'{"prompt_tokens": 9, "completion_tokens": 1, "prompt_cache_hit_tokens": 4}') == Usage(9, 1, 4)
    details = b'"prompt_tokens_details": null, "completion_tokens_details": null'
    assert read_usage(b'{"prompt_tokens": 9, "completion_tokens": 1, ' + details + b"}") == Usage(9, 1)


@pytest.mark.parametrize(
    ("reported", "size", "settled"),
    [
        (Usage(3, 2), 100, Usage(3, 2)),
        (Usage(3, 0), 0, Usage(3, 0)),
        (Usage(3, 0), 9, Usage(3, 3, estimated=True)),
        (None, 9, Usage(2, 3, estimated=True)),
        (None, 0, Usage(2, 0, estimated=True)),
    ],
)
def test_settling(reported: Usage | None, size: int, settled: Usage) -> None:
    assert settle(reported, messages=b"12345678", output_size=size) == settled

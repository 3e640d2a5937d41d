"""Which failures say something about a deployment, in the words of those who write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detent.gateway.errors import (
    AddressRefused,
    BadAnswer,
    ConnectFailed,
    ConnectTimedOut,
    CredentialRefused,
    CredentialUnusable,
    Draining,
    FirstTokenTimedOut,
    IdleTimedOut,
    MalformedBody,
    Overloaded,
    TotalTimedOut,
    UpstreamBusy,
    UpstreamCut,
    UpstreamError,
    UpstreamRejected,
)
from detent.gateway.model import Failure
from detent.gateway.routing import classify, rejected_class, retriable
from detent.kernel.errors import BugError, DetentError

SAID = [json.loads(line) for line in Path(__file__).with_name("rejections.jsonl").read_text().splitlines()]
TOO_LONG = b'{"error": {"message": "...", "code": "context_length_exceeded"}}'
NO_MODEL = b'{"type": "error", "error": {"type": "not_found_error", "message": "model: claude-9"}}'


@pytest.mark.parametrize("case", SAID, ids=lambda case: case["body"][:60])
def test_what_a_provider_means_by_4xx(case: dict[str, Any]) -> None:
    assert rejected_class(case["status"], case["body"].encode()) == case["means"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b"[]",
        b'[["error"]]',
        b'{"error":[1,2]}',
        b'{"error":{"code":{"a":1},"message":["maximum"],"details":[null,7]}}',
        b'{"error":{"message":"' + b"the model input " * 100_000 + b'"}}',
    ],
    ids=range(8),
)
def test_a_body_of_any_shape_is_survived(body: bytes) -> None:
    assert rejected_class(400, body) is None


@pytest.mark.parametrize(
    ("error", "failure", "again"),
    [
        (UpstreamBusy("", retry_after=1.0), "rate_limited", True),
        (ConnectFailed(""), "unavailable", True),
        (UpstreamError(""), "unavailable", True),
        (UpstreamCut(""), "unavailable", True),
        (CredentialRefused(""), "unavailable", False),
        (CredentialUnusable(""), "unavailable", False),
        (AddressRefused(""), "unavailable", False),
        (ConnectTimedOut(""), "timeout", True),
        (FirstTokenTimedOut(""), "timeout", True),
        (IdleTimedOut(""), "timeout", True),
        (TotalTimedOut(""), "timeout", False),
        (BadAnswer(""), "bad_answer", True),
        (UpstreamRejected("", said=TOO_LONG), "context_length", False),
        (UpstreamRejected("", answered=404, said=NO_MODEL), "unavailable", False),
        (UpstreamRejected("", said=b"{}"), None, False),
        (MalformedBody(""), None, False),
        (Overloaded(""), None, False),
        (Draining(""), None, False),
        (BugError(""), None, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, DetentError) else None,
)
def test_classes(error: DetentError, failure: Failure | None, again: bool) -> None:
    assert (classify(error), retriable(error)) == (failure, again)

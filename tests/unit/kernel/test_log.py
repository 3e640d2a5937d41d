"""What the processes say: masked, one line per event, JSON when asked for."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from detent.kernel.log import JsonLines, TextLines, masked


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("key dtk_0123456789abcdefghijABCDEFGHIJ refused", "dtk_0123456789abcdefghijABCDEFGHIJ"),
        ("GET /login?token=dtl_zGrnu33WVJnY3BzuGTKtmZ5", "dtl_zGrnu33WVJnY3BzuGTKtmZ5"),
        ("provider said: bad key sk-proj-0123456789abcdef", "sk-proj-0123456789abcdef"),
        ("header Authorization: Bearer abc.def-ghi_jkl", "abc.def-ghi_jkl"),
        ("cannot reach postgresql+psycopg://detent:hunter2@db:5432/x", "hunter2"),
    ],
)
def test_credentials_are_masked(text: str, secret: str) -> None:
    assert secret not in masked(text)
    assert "***" in masked(text)


def test_prose_is_left_alone() -> None:
    text = "provider openai at https://api.openai.com/v1 answered 429; basic checks passed at 10:04 by a@b.example"
    assert masked(text) == text


def _record(message: str, *, failure: BaseException | None = None) -> logging.LogRecord:
    info = (type(failure), failure, None) if failure else None
    return logging.LogRecord("detent.gateway", logging.WARNING, __file__, 1, message, (), info)


def test_a_message_cannot_forge_an_event() -> None:
    line = TextLines().format(_record("first\n2026-01-01T00:00:00Z up: forged"))
    assert line.count("\n") == 0
    assert line.endswith("warning gateway: first\\n2026-01-01T00:00:00Z up: forged")


def test_json_lines_are_json_and_masked() -> None:
    try:
        raise ValueError("token dtk_0123456789abcdefghijABCDEFGHIJ")
    except ValueError:
        record = logging.LogRecord("detent.gateway", logging.ERROR, __file__, 1, 'said "%s"', ("x",), sys.exc_info())
    said = json.loads(JsonLines().format(record))
    assert {name: said[name] for name in ("level", "logger", "message")} == {
        "level": "error",
        "logger": "detent.gateway",
        "message": 'said "x"',
    }
    assert "token ***" in said["trace"]
    assert "dtk_" not in said["trace"]

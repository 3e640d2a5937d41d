"""Signatures against the examples that AWS publishes."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import pytest

from detent.gateway.errors import CredentialUnusable
from detent.gateway.signing import signer
from detent.kernel.errors import MissingExtra
from detent.kernel.secret import Secret

NOW = datetime(2015, 8, 30, 12, 36, tzinfo=UTC).timestamp()
KEY = "AKIDEXAMPLE:wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("service", "method", "url", "headers", "body", "signed", "signature"),
    [
        # The guide's worked example, and cases of the "AWS Signature Version 4 Test Suite" by their names.
        (
            "iam",
            "GET",
            "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08",
            [("content-type", f"{FORM}; charset=utf-8")],
            b"",
            "content-type;host;x-amz-date",
            "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
        ),
        (  # get-vanilla
            "service",
            "GET",
            "https://example.amazonaws.com/",
            [],
            b"",
            "host;x-amz-date",
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        ),
        (  # post-vanilla
            "service",
            "POST",
            "https://example.amazonaws.com/",
            [],
            b"",
            "host;x-amz-date",
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
        ),
        (  # get-vanilla-query-order-key-case
            "service",
            "GET",
            "https://example.amazonaws.com/?Param2=value2&Param1=value1",
            [],
            b"",
            "host;x-amz-date",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        (  # post-x-www-form-urlencoded
            "service",
            "POST",
            "https://example.amazonaws.com/",
            [("content-type", FORM)],
            b"Param1=value1",
            "content-type;host;x-amz-date",
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
        ),
    ],
)
def test_published_examples(
    service: str, method: str, url: str, headers: list[tuple[str, str]], body: bytes, signed: str, signature: str
) -> None:
    sign = signer(Secret(KEY), "us-east-1", service)
    scope = f"AKIDEXAMPLE/20150830/us-east-1/{service}/aws4_request"
    authorization = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={signed}, Signature={signature}"
    added = sign(method, url, headers, body, NOW)
    assert added == (("x-amz-date", "20150830T123600Z"), ("authorization", authorization))


def test_the_suites_example_with_a_session_token() -> None:
    """post-sts-header-before"""
    token = (
        "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUu"
        "wthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHN"
        "VXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=="
    )
    added = dict(
        signer(Secret(f"{KEY}:{token}"), "us-east-1", "service")("POST", "https://example.amazonaws.com/", [], b"", NOW)
    )
    assert added["x-amz-security-token"] == token
    assert "SignedHeaders=host;x-amz-date;x-amz-security-token" in added["authorization"]
    assert added["authorization"].endswith("85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead")


def test_an_escaped_path_is_signed_as_aws_reads_it() -> None:
    """Other services than S3 escape the path once more before they sign it."""
    sign = signer(Secret(KEY), "us-east-1")
    one, other = (
        dict(sign("POST", f"https://bedrock-runtime.us-east-1.amazonaws.com/model/a{sep}0/converse", [], b"{}", NOW))
        for sep in ("%3A", ":")
    )
    assert one["authorization"] != other["authorization"]


def test_a_key_without_colons_is_sent_as_it_is() -> None:
    sign = signer(Secret(" bedrock-api-key-abc\n"), "")
    assert sign("POST", "https://x/", [], b"", NOW) == (("authorization", "Bearer bedrock-api-key-abc"),)


@pytest.mark.parametrize(("text", "region"), [("", "r"), (":", "r"), ("a:", "r"), (":b", "r"), ("a:b", "")])
def test_unusable_credentials(text: str, region: str) -> None:
    with pytest.raises(CredentialUnusable) as caught:
        signer(Secret(text), region)
    assert caught.value.hint


def test_a_missing_library_names_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.auth", None)
    with pytest.raises(MissingExtra) as caught:
        signer(Secret(KEY), "us-east-1")
    assert caught.value.hint == "Install it with: pip install 'detent[bedrock]'"

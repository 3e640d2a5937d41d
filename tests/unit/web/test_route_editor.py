"""The route editor: the form holds the whole route, rows move, a plan says what would change, only that is done."""

from __future__ import annotations

import re

import pytest
from starlette.testclient import TestClient

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
from detent.gateway.planning.document import route_entry
from detent.kernel.telemetry import Batch, Span
from detent.web.views.route_editor import arranged, fields_of, read_form
from detent.web.visit import Form

from .conftest import World

FULL = Route(
    name="full",
    project="default",
    targets=(Target("openai", "a/b=c", 3), Target("embedded", "detent-tiny")),
    policy="weighted",
    fallbacks=(Fallback("support-bot", ("timeout", "rate_limited")), Fallback("detent-tiny")),
    retry=Retry(3, 250, 0.15),
    breaker=Breaker(error_rate=0.25, slow_rate=0.5, slow_seconds=1.5, open_seconds=0.5, probes=4),
    hedge=Hedge(0.95, 0.02),
    timeouts=Timeouts(1.5, 20.0, 10.0, 120.0),
    queue=Queue(deadline_ms=500, length=7, order="fifo", pace_ms=40),
    sticky="user",
    shadow=Shadow("detent-tiny", 0.25, 1_500_000_000),
    cache=CachePolicy("semantic", 60, 0.9),
    priority="interactive",
)


def test_the_form_holds_everything() -> None:
    entry = read_form(Form(tuple(fields_of(FULL).items())))
    wanted = route_entry(FULL)
    targets, fallbacks = entry.pop("targets"), entry.pop("fallbacks")
    assert targets == [
        {"provider": "openai", "model": "a/b=c", "weight": 3},
        {"provider": "embedded", "model": "detent-tiny", "weight": 1},
    ]
    assert fallbacks == [
        {"route": "support-bot", "on": ["rate_limited", "timeout"]},
        {"route": "detent-tiny", "on": []},
    ]
    assert entry == {name: value for name, value in wanted.items() if name not in {"targets", "fallbacks"}}


def rows(form: Form) -> list[tuple[str, str]]:
    return [(form.get(f"target.{n}"), form.get(f"weight.{n}")) for n in form.rows("target")]


@pytest.mark.parametrize(
    ("do", "wanted"),
    [
        ("up:target.1", [("b/2", "2"), ("a/1", "1"), ("c/3", "3")]),
        ("down:target.1", [("a/1", "1"), ("c/3", "3"), ("b/2", "2")]),
        ("up:target.0", [("a/1", "1"), ("b/2", "2"), ("c/3", "3")]),
        ("down:target.2", [("a/1", "1"), ("b/2", "2"), ("c/3", "3")]),
        ("remove:target.0", [("b/2", "2"), ("c/3", "3")]),
        ("remove:target.9", [("a/1", "1"), ("b/2", "2"), ("c/3", "3")]),
        ("add:target", [("a/1", "1"), ("b/2", "2"), ("c/3", "3"), ("", "1")]),
        ("add:nothing", [("a/1", "1"), ("b/2", "2"), ("c/3", "3")]),
        ("up:target.²", [("a/1", "1"), ("b/2", "2"), ("c/3", "3")]),
        ("", [("a/1", "1"), ("b/2", "2"), ("c/3", "3")]),
    ],
)
def test_rows_move(do: str, wanted: list[tuple[str, str]]) -> None:
    form = Form(
        (
            ("name", "kept"),
            *((f"target.{n}", value) for n, value in enumerate(("a/1", "b/2", "c/3"))),
            *((f"weight.{n}", str(n + 1)) for n in range(3)),
            ("do", do),
        )
    )
    after = arranged(form)
    assert rows(after) == wanted
    assert after.get("name") == "kept"


def test_a_fallbacks_failures_move_with_it() -> None:
    form = Form(
        (
            ("fallback.0", "one"),
            ("on.0.timeout", "1"),
            ("fallback.1", "two"),
            ("on.1.rate_limited", "1"),
            ("do", "up:fallback.1"),
        )
    )
    after = arranged(form)
    assert [(after.get(f"fallback.{n}")) for n in after.rows("fallback")] == ["two", "one"]
    assert after.flag("on.0.rate_limited")
    assert after.flag("on.1.timeout")
    assert not after.flag("on.0.timeout")


def test_no_more_rows_than_a_route_may_have() -> None:
    many = Form((*((f"target.{n}", "a/b") for n in range(50)), ("do", "add:target")))
    assert len(arranged(many).rows("target")) == 50


# Plan and apply


class Editor:
    """An engineer with the editor of a route open."""

    def __init__(self, world: World, name: str) -> None:
        self.client: TestClient = world.client("engineer")
        self.at = f"/routes/{name}"
        view = self.client.get(f"{self.at}/edit.json").json()
        self.fields: dict[str, str] = {**view["fields"], "csrf": world.csrf("engineer")}

    def send(self, verb: str, status: int = 200, **changed: str) -> str:
        self.fields.update({name.replace("__", "."): value for name, value in changed.items()})
        answer = self.client.post(f"{self.at}/{verb}", data=self.fields)
        assert answer.status_code == status, answer.text[:3000]
        return answer.headers["location"] if status == 303 else answer.text

    def plan(self, **changed: str) -> str:
        text = self.send("plan", **changed)
        digest = re.search(r'name="expect" value="([^"]+)"', text)
        self.fields["expect"] = digest[1] if digest else ""
        return text


def test_a_route_is_planned_and_applied(world: World) -> None:
    operator = world.platform.access.operator()
    world.platform.gateway.save_route(operator, "edited", (Target("openai", "big"),))
    now = world.platform.clock.now()
    span = Span(
        trace_id="e" * 32,
        span_id="e" * 16,
        name="chat edited",
        start=now - 60_000_000_000,
        end=now - 59_000_000_000,
        operation="chat",
        route="edited",
        key_id="some-key",
        input_tokens=10,
        output_tokens=5,
        cost=1,
    )
    world.platform.lake.write(Batch((span,)))
    editor = Editor(world, "edited")
    assert "Nothing would change" in editor.plan()
    text = editor.plan(target__0="embedded/detent-tiny", retry__attempts="2")
    assert "Plan: 2 fields change" in text
    assert re.search(r"openai/big</span>.*<strong>embedded/detent-tiny", text, re.DOTALL)
    assert "On the last 24 hours' 1 calls" in text or "24 hours&#39; 1 calls" in text
    assert "edited to embedded/detent-tiny" in text
    assert world.platform.gateway.route(operator, "edited").retry.attempts == 1, "planning changes nothing"
    assert editor.send("apply", 303, reason="cheaper") == "/routes/edited?said=route-applied"
    route = world.platform.gateway.route(operator, "edited")
    assert (route.targets, route.retry.attempts) == ((Target("embedded", "detent-tiny"),), 2)
    newest = world.platform.audit.log(operator, limit=1)[0]
    assert (newest.kind, newest.reason) == ("route.saved", "cheaper")
    assert str(newest.actor) == f"user:{world.people['engineer'].account.id}"


def test_a_plan_that_is_no_longer_true_is_refused(world: World) -> None:
    operator, gateway = world.platform.access.operator(), world.platform.gateway
    gateway.save_route(operator, "moving", (Target("openai", "x"),))
    editor = Editor(world, "moving")
    editor.plan(weight__0="5")
    gateway.save_route(operator, "moving", (Target("openai", "y"),), replace=True)
    refused = editor.send("apply", 409)
    assert "changed since the plan was made" in refused
    assert 'value="5"' in refused, "what was typed is kept"
    editor.plan(weight__0="6")
    other = editor.send("apply", 409, weight__0="7")
    assert "changed since the plan was made" in other, "what was not planned is not done either"
    editor.fields.pop("expect")
    assert "Nothing was planned" in editor.send("apply", 400)
    assert gateway.route(operator, "moving").targets == (Target("openai", "y"),)


@pytest.mark.parametrize(
    ("changed", "field", "status"),
    [
        ({"retry__attempts": "99"}, "retry.attempts", 400),
        ({"retry__attempts": "1.5"}, "retry.attempts", 400),
        ({"hedge__quantile": "nan"}, "hedge.quantile", 400),
        ({"breaker__open_seconds": "-1"}, "breaker.open_seconds", 400),
        ({"target__0": "nowhere"}, "targets", 400),
        ({"target__0": ""}, "targets", 400),
        ({"weight__0": "0"}, "targets", 400),
        ({"weight__0": "x"}, "targets", 400),
        ({"hedge__quantile": "0.9"}, "hedge.quantile", 400),
        ({"cache__mode": "<b>"}, "cache.mode", 400),
        ({"shadow__route": "support-bot", "shadow__share": "2"}, "shadow.share", 400),
        ({"shadow__route": "support-bot", "shadow__daily_usd": "much"}, "shadow.daily_usd", 400),
    ],
)
def test_a_mistake_is_told_at_its_field(world: World, changed: dict[str, str], field: str, status: int) -> None:
    editor = Editor(world, "support-bot")
    for name in [name for name in editor.fields if name.startswith(("target.1", "weight.1"))]:
        editor.fields.pop(name)
    text = editor.send("plan", status, **changed)
    assert f'id="wrong-{field}"' in text
    assert 'aria-invalid="true"' in text
    assert 'name="expect"' not in text


def test_a_new_route_gets_its_name_here(world: World) -> None:
    operator = world.platform.access.operator()
    editor = Editor(world, "-")
    assert 'id="wrong-name"' in editor.send("plan", 400, name="Not A Name", target__0="embedded/detent-tiny")
    assert "already" in editor.send("plan", 400, name="support-bot")
    editor.plan(name="brand-new")
    assert editor.send("apply", 303) == "/routes/brand-new?said=route-applied"
    assert world.platform.gateway.route(operator, "brand-new").targets == (Target("embedded", "detent-tiny"),)
    gone = editor.client.post("/routes/brand-new/remove", data={"csrf": editor.fields["csrf"], "reason": "test"})
    assert gone.headers["location"] == "/routes?said=route-removed"
    assert editor.client.get("/routes/brand-new").status_code == 404
    kept = editor.client.post("/routes/nowhere/plan", data=editor.fields)
    assert kept.status_code == 404


def test_a_route_that_others_need_stays(world: World) -> None:
    operator, gateway = world.platform.access.operator(), world.platform.gateway
    gateway.save_route(operator, "needed", (Target("embedded", "detent-tiny"),))
    rules = Route(name="", project="", targets=(), fallbacks=(Fallback("needed"),))
    gateway.save_route(operator, "needing", (Target("embedded", "detent-tiny"),), rules=rules)
    client = world.client("engineer")
    kept = client.post("/routes/needed/remove", data={"csrf": world.csrf("engineer")})
    assert kept.status_code == 409
    assert "needing" in kept.text
    assert "Used by" in client.get("/routes/needed").text

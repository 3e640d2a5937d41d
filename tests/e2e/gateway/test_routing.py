"""A route's rules at work in a real worker: choice, retries, fallbacks, breakers, hedges, shadows, limits, budgets."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest

from detent.gateway.model import (
    Breaker,
    Budget,
    Fallback,
    Hedge,
    Limit,
    Queue,
    Retry,
    Route,
    Shadow,
    Timeouts,
)
from detent.kernel.money import NANO

pytestmark = pytest.mark.e2e


def route(name: str, **rules: Any) -> Route:
    return Route(name=name, project="default", targets=(), **rules)


class Stage:
    """A worker before two providers: route `m` with rules of the test's own over both, `other` at the second alone."""

    def __init__(self, start: Callable[..., Any], tools: ModuleType, **more: Any) -> None:
        self.tools = tools
        # Providers are named in the order of their addresses: the first is p0, the second p1.
        self.first, self.second = sorted((tools.Upstream(), tools.Upstream()), key=lambda found: found.url)
        targets = more.pop("targets", None) or {
            "m": [self.first.url, self.second.url],
            "one": [self.first.url],
            "other": [self.second.url],
        }
        rules = more.pop("rules", {})
        self.worker = start(tools.snapshot(targets, rules={r.name: r for r in rules}, **more))
        self.worker.wait_ready()
        self.good(self.first, "first")
        self.good(self.second, "second")

    def good(self, upstream: Any, text: str, pause: float = 0.0) -> None:
        upstream.script((pause, self.tools.answer(self.tools.completion(text)), self.tools.KEEP))

    def bad(self, upstream: Any, status: str = "500 Sorry", body: bytes = b"{}", extra: str = "") -> tuple[Any, ...]:
        return (self.tools.answer(body, status, extra=extra), self.tools.KEEP)

    def ask(self, model: str = "m", **headers: str) -> tuple[int, Any]:
        got = self.worker.chat({"model": model}, **headers)
        body = json.loads(got.read())
        return got.status, body["error"].get("code") if "error" in body else body["choices"][0]["message"]["content"]

    def span(self) -> Any:
        return self.worker.spans()[-1]

    def close(self) -> None:
        self.first.close()
        self.second.close()


@pytest.fixture
def begin(start: Callable[..., Any], tools: ModuleType) -> Any:
    stages: list[Stage] = []

    def make(*rules: Route, **more: Any) -> Stage:
        stages.append(Stage(start, tools, rules=rules, **more))
        return stages[-1]

    yield make
    for stage in stages:
        stage.close()


def test_weights(begin: Any) -> None:
    stage = begin(route("m", policy="weighted"))
    said = Counter(stage.ask()[1] for _ in range(60))
    assert set(said) == {"first", "second"}


def test_sticky_by_session(begin: Any) -> None:
    stage = begin(route("m", policy="weighted", sticky="session"))
    chosen = {f"s{n}": stage.ask(x_detent_session=f"s{n}")[1] for n in range(16)}
    assert set(chosen.values()) == {"first", "second"}
    assert all(stage.ask(x_detent_session=name)[1] == text for name, text in chosen.items())


def test_retries_stay_with_the_target(begin: Any, tools: ModuleType) -> None:
    stage = begin(route("m", retry=Retry(attempts=3, backoff_ms=10), breaker=Breaker(error_rate=0)))
    good = (tools.answer(tools.completion("at last")), tools.KEEP)
    stage.first.script(stage.bad(stage.first), stage.bad(stage.first), good)
    assert stage.ask() == (200, "at last")
    assert (stage.span().attempts, len(stage.span().attributes["detent.failed_attempts"])) == (3, 2)
    assert not stage.second.requests


def test_fallback_by_class(begin: Any) -> None:
    rules = route("one", fallbacks=(Fallback("other", ("context_length",)),))
    stage = begin(rules)
    too_long = json.dumps({"error": {"code": "context_length_exceeded", "message": "too long"}}).encode()
    stage.first.script(stage.bad(stage.first, "400 Bad Request", too_long))
    assert stage.ask("one") == (200, "second")
    span = stage.span()
    assert (span.route, span.provider, span.attributes["detent.fallback_route"]) == ("one", "p1", "other")
    stage.first.script(stage.bad(stage.first))
    assert stage.ask("one") == (502, "upstream_error")
    mistake = json.dumps({"error": {"message": "temperature is out of range"}}).encode()
    stage.first.script(stage.bad(stage.first, "400 Bad Request", mistake))
    assert stage.ask("one")[0] == 400


def test_fallbacks_in_a_ring_end(begin: Any) -> None:
    ring = (route("one", fallbacks=(Fallback("other"),)), route("other", fallbacks=(Fallback("one"),)))
    stage = begin(*ring)
    for upstream in (stage.first, stage.second):
        upstream.script(stage.bad(upstream))
    assert stage.ask("one") == (502, "upstream_error")
    assert stage.span().attempts == 2


def test_a_breaker_opens_and_closes(begin: Any) -> None:
    breaker = Breaker(error_rate=0.5, min_calls=4, open_seconds=0.3, probes=1)
    stage = begin(route("m", breaker=breaker))
    stage.first.script(stage.bad(stage.first))
    for _ in range(4):
        assert stage.ask() == (200, "second")
    asked = len(stage.first.requests)
    assert [stage.ask()[1] for _ in range(3)] == ["second"] * 3
    assert (len(stage.first.requests), stage.span().attempts) == (asked, 1)
    stage.good(stage.first, "well again")
    deadline = time.monotonic() + 10
    while stage.ask()[1] != "well again":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert stage.ask() == (200, "well again")


def test_failures_in_a_row_open_it_however_well_it_went_before(begin: Any) -> None:
    stage = begin(route("m", breaker=Breaker(error_rate=0.5, min_calls=4, window_seconds=60, open_seconds=30)))
    for _ in range(30):
        assert stage.ask() == (200, "first")
    stage.first.script(stage.bad(stage.first))
    for _ in range(6):
        assert stage.ask() == (200, "second")
    assert len(stage.first.requests) == 4


def test_who_is_full_is_passed_over(begin: Any) -> None:
    stage = begin(route("m", queue=Queue(deadline_ms=5000)), max_concurrency=1)
    stage.good(stage.first, "first", pause=1.0)
    stage.good(stage.second, "second", pause=1.0)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(stage.ask) for _ in range(2)]
        assert sorted(found.result()[1] for found in both) == ["first", "second"]
    assert not any("detent.queue_seconds" in span.attributes for span in stage.worker.spans())


def test_a_hedge_overtakes(begin: Any, tools: ModuleType) -> None:
    stage = begin(route("m", hedge=Hedge(quantile=0.9, max_extra=1.0)))
    for _ in range(25):
        assert stage.ask()[1] == "first"
    time.sleep(0.6)  # what is late is looked up twice a second
    stage.first.script((tools.HOLD,))
    assert stage.ask() == (200, "second")
    won = [span for span in stage.worker.spans() if span.attributes.get("detent.hedged")]
    lost = [span for span in stage.worker.spans() if span.attributes.get("detent.hedge") == "lost"]
    assert (len(won), len(lost)) == (1, 1)
    assert (lost[0].trace_id, lost[0].parent_id) == (won[0].trace_id, won[0].span_id)
    assert (won[0].provider, lost[0].provider, lost[0].status) == ("p1", "p0", "cancelled")
    assert lost[0].usage_estimated
    assert lost[0].cost > 0
    assert stage.first.gone.wait(5)


def test_shadow_copies_answer_nobody(begin: Any, tools: ModuleType) -> None:
    stage = begin(route("one", shadow=Shadow("other")))
    stage.second.script(tools.GOOD_STREAM)
    got = stage.worker.chat({"model": "one", "stream": True})
    stage.first.script(tools.GOOD_STREAM)
    got.read()
    stage.good(stage.first, "first")
    stage.good(stage.second, "second", pause=0.2)
    assert stage.ask("one") == (200, "first")
    original = next(s for s in stage.worker.spans() if s.route == "one" and not s.stream)
    deadline = time.monotonic() + 5
    while not (copies := [s for s in stage.worker.spans() if s.attributes.get("detent.shadow_of") == original.span_id]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    copy = copies[0]
    assert (copy.route, copy.provider, copy.parent_id, copy.trace_id) == (
        "other",
        "p1",
        original.span_id,
        original.trace_id,
    )
    assert (copy.http_status, copy.output_tokens, copy.key_id) == (0, 5, "key-1")
    assert (
        'route="other"' not in stage.worker.get("/metrics").read().decode().split("# HELP detent_gateway_duration")[0]
    )


def test_a_shadow_has_its_own_budget(begin: Any) -> None:
    stage = begin(route("one", shadow=Shadow("other", daily_budget=1)))
    assert stage.ask("one") == (200, "first")
    assert 'detent_gateway_shadows_skipped_total{route="one"} 1' in stage.worker.get("/metrics").read().decode()
    assert not stage.second.requests


def test_a_routes_own_time_outs(begin: Any) -> None:
    stage = begin(route("m", timeouts=Timeouts(first_token=0.3)))
    stage.good(stage.first, "slow", pause=2.0)
    assert stage.ask() == (200, "second")
    assert stage.span().attributes["detent.failed_attempts"] == ["p0/real-model: first_token_timeout"]


def test_requests_are_limited(begin: Any) -> None:
    limit = Limit(name="slow", project="default", scope="key", unit="requests", amount=2, window_seconds=60)
    stage = begin(limits={"default": (limit,)})
    got = stage.worker.chat({"model": "m"})
    assert (got.headers["x-ratelimit-limit-requests"], got.headers["x-ratelimit-remaining-requests"]) == ("2", "1")
    got.read()
    assert stage.ask()[0] == 200
    got = stage.worker.chat({"model": "m"})
    error = json.loads(got.read())["error"]
    assert (got.status, error["code"], error["type"]) == (429, "rate_limit_exceeded", "rate_limit_error")
    assert int(got.headers["retry-after"]) > 0
    assert "'slow'" in error["message"]
    assert len(stage.first.requests) == 2
    assert stage.span().error_type == "rate_limit_exceeded"


def test_calls_at_once_are_limited(begin: Any) -> None:
    limit = Limit(name="few", project="default", scope="project", unit="concurrency", amount=2, window_seconds=0)
    stage = begin(limits={"default": (limit,)})
    stage.good(stage.first, "first", pause=0.5)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: stage.ask()[0], range(6)))
    assert Counter(found) == {200: 2, 429: 4}
    assert stage.ask()[0] == 200


def test_a_hard_budget_refuses_and_a_soft_one_does_not(begin: Any) -> None:
    hard = Budget(name="cap", project="default", scope="project", amount=NANO // 400, period="day")
    stage = begin(budgets={"default": (hard,)})
    body = {"model": "m", "max_tokens": 50}
    statuses = []
    for _ in range(150):
        got = stage.worker.chat(body)
        statuses.append(got.status)
        last = json.loads(got.read())
    assert statuses[0] == 200
    assert statuses[-1] == 429
    assert last["error"]["code"] == "insufficient_quota"
    spent = sum(span.cost for span in stage.worker.spans())
    assert 0 < spent <= hard.amount
    soft = Budget(name="cap", project="default", scope="project", amount=1, period="day", hard=False)
    stage = begin(budgets={"default": (soft,)})
    assert stage.ask()[0] == 200


def test_a_models_limit_sends_calls_elsewhere(begin: Any) -> None:
    limit = Limit(
        name="p0",
        project="default",
        scope="model",
        subject="p0/real-model",
        unit="requests",
        amount=1,
        window_seconds=60,
    )
    stage = begin(limits={"default": (limit,)})
    assert [stage.ask()[1] for _ in range(3)] == ["first", "second", "second"]
    assert stage.ask("one") == (429, "rate_limit_exceeded")


def test_waiting_has_a_deadline(begin: Any) -> None:
    queue = Queue(deadline_ms=10_000, length=64)
    stage = begin(route("one", queue=queue), max_concurrency=1)
    stage.good(stage.first, "first", pause=0.3)
    with ThreadPoolExecutor(5) as pool:
        patient = [pool.submit(stage.ask, "one") for _ in range(3)]
        time.sleep(0.1)
        hasty = pool.submit(stage.ask, "one", x_detent_deadline_ms="50")
        assert hasty.result()[0] == 503
        assert [found.result() for found in patient] == [(200, "first")] * 3
    assert any(span.attributes.get("detent.queue_seconds", 0) > 0.1 for span in stage.worker.spans())

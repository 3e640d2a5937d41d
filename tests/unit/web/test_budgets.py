"""Budgets and limits: how far each is, for whom, and the forms that add, change and remove them."""

from __future__ import annotations

import pytest

from detent.gateway.limits.rules import counter_of
from detent.gateway.model import Budget, Limit
from detent.kernel.quotas import Move
from detent.web.words import window

from .conftest import World


def spend(world: World, rule: Budget | Limit, subject: str, amount: int) -> None:
    """Use some of a rule, as calls would."""
    counter = counter_of(rule, subject, world.platform.clock.now())
    world.platform.quotas.exchange((Move(counter, spent=amount),))


def view(world: World, role: str = "viewer") -> dict[str, dict[str, object]]:
    found = world.client(role).get("/budgets.json").json()
    return {line["name"]: line for line in (*found["budgets"], *found["limits"])}


def test_the_page_says_how_far_each_is(world: World) -> None:
    lines = view(world)
    assert [row["spent"]["limit"] for row in lines["everything"]["rows"]] == [500_000_000_000]
    assert lines["each-user"]["rows"] == [], "nobody has called yet"
    assert (lines["bot-at-once"]["counts"], lines["bot-at-once"]["href"]) == ("support-bot", "/routes/support-bot")
    page = world.client("viewer").get("/budgets").text
    assert "$0.00" in page
    assert "of $500.00" in page
    assert "only alerts" in page
    assert "nobody has called yet" in page
    assert "Remove…" not in page
    assert "Add budget" not in page


def post(world: World, path: str, role: str = "engineer", **form: str) -> tuple[int, str]:
    answer = world.client(role).post(path, data={"csrf": world.csrf(role), **form})
    return answer.status_code, answer.headers.get("location", "") or answer.text


def test_those_who_use_most_come_first(world: World) -> None:
    rule = world.platform.gateway.budget(world.platform.access.operator(), "each-user")
    for subject, amount in (("anna", 500_000_000), ("ben", 2_000_000_000), ("", 1_700_000_000), ("<b>x", 1)):
        spend(world, rule, subject, amount)
    rows = view(world)["each-user"]["rows"]
    assert isinstance(rows, list)
    assert [(row["who"], row["spent"]["used"]) for row in rows] == [
        ("ben", 2_000_000_000),
        ("calls that name no user", 1_700_000_000),
        ("anna", 500_000_000),
        ("<b>x", 1),
    ]
    page = world.client("viewer").get("/budgets").text
    assert "used up" in page
    assert "85%" in page
    assert "&lt;b&gt;x" in page
    table = world.client("viewer").get("/budgets.csv?table=budgets").text
    assert "each-user,user,anna,nano_usd,500000000,0,2000000000,0,day," in table
    for number in range(8):
        spend(world, rule, f"user-{number}", 2)
    assert view(world)["each-user"]["more"] == 7
    assert "and 7 more in the CSV" in world.client("viewer").get("/budgets").text


def test_a_budget_is_added_changed_and_removed(world: World) -> None:
    operator, gateway = world.platform.access.operator(), world.platform.gateway
    form = {
        "kind": "budget",
        "name": "web",
        "scope": "route",
        "subject": "support-bot",
        "usd": "12.50",
        "period": "day",
    }
    assert post(world, "/budgets", **form, alerts="50%, 90", hard="1") == (303, "/budgets?said=budget-set")
    made = gateway.budget(operator, "web")
    assert (made.amount, made.period, made.alerts, made.hard) == (12_500_000_000, "day", (50, 90), True)
    taken = post(world, "/budgets", **form, alerts="", hard="")
    assert (taken[0], "already" in taken[1]) == (409, True)
    opened = world.client("engineer").get("/budgets?budget=web")
    assert 'value="12.5"' in opened.text
    expected = world.client("engineer").get("/budgets.json?budget=web").json()["fields"]["expected"]
    change = {**form, "usd": "20", "alerts": "", "hard": "", "replace": "1", "expected": expected}
    assert post(world, "/budgets", **change)[0] == 303
    assert (gateway.budget(operator, "web").amount, gateway.budget(operator, "web").hard) == (20_000_000_000, False)
    late = post(world, "/budgets", **change)
    assert (late[0], "not as you have read it" in late[1]) == (409, True)
    assert "web" in world.client("viewer").get("/routes/support-bot").text
    assert post(world, "/budgets/web/remove", reason="test") == (303, "/budgets?said=budget-removed")
    assert post(world, "/budgets/web/remove")[0] == 404


def test_a_limit_is_added_changed_and_removed(world: World) -> None:
    operator, gateway = world.platform.access.operator(), world.platform.gateway
    form = {"kind": "limit", "name": "web", "scope": "key", "subject": "", "unit": "tokens", "amount": "20,000"}
    assert post(world, "/limits", **form, window_seconds="5m") == (303, "/budgets?said=limit-set")
    made = gateway.limit(operator, "web")
    assert (made.amount, made.window_seconds, made.unit) == (20_000, 300, "tokens")
    assert "in any 5 minutes" in world.client("viewer").get("/budgets").text
    expected = world.client("engineer").get("/budgets.json?limit=web").json()["fields"]["expected"]
    change = {**form, "unit": "concurrency", "amount": "3", "replace": "1", "expected": expected}
    assert post(world, "/limits", **change)[0] == 303
    assert gateway.limit(operator, "web").unit == "concurrency"
    assert post(world, "/limits/web/remove")[0] == 303


@pytest.mark.parametrize(
    ("path", "changed", "field"),
    [
        ("/budgets", {"usd": "much"}, "usd"),
        ("/budgets", {"usd": "0"}, "usd"),
        ("/budgets", {"usd": ""}, "usd"),
        ("/budgets", {"alerts": "some"}, "alerts"),
        ("/budgets", {"name": "Not A Name"}, "name"),
        ("/budgets", {"scope": "<b>"}, "scope"),
        ("/budgets", {"scope": "project", "subject": "x"}, "subject"),
        ("/limits", {"amount": "-1"}, "amount"),
        ("/limits", {"amount": "²"}, "amount"),
        ("/limits", {"window_seconds": "soon"}, "window_seconds"),
        ("/limits", {"window_seconds": "400d"}, "window_seconds"),
    ],
)
def test_a_mistake_is_told_at_its_field(world: World, path: str, changed: dict[str, str], field: str) -> None:
    kind = path[1:-1]
    form = {"kind": kind, "name": "x", "scope": "key", "subject": "", "usd": "5", "period": "day", "alerts": "50"}
    status, text = post(world, path, **{**form, "hard": "1", "unit": "requests", "amount": "5", **changed})
    assert status in {400, 404}
    assert f'id="wrong-{field}"' in text
    assert text.count('aria-invalid="true"') == 1, "only in the form that was sent"
    assert "/budgets.csv?table=budgets" in text, "links lead to the page, not to the form's address"


def test_a_key_has_a_page_with_its_limits(world: World) -> None:
    operator, gateway = world.platform.access.operator(), world.platform.gateway
    key = gateway.mint_key(operator, "counted", routes=("support-bot",)).key
    gateway.set_budget(operator, "per-key", scope="key", amount=3_000_000_000)
    gateway.set_limit(operator, "only-it", scope="key", subject="counted", unit="requests", amount=7)
    shown = world.client("engineer").get(f"/keys/{key.id}.json").json()
    assert {(s["kind"], s["name"], s["used"], s["limit"]) for s in shown["spent"]} == {
        ("budget", "per-key", 0, 3_000_000_000),
        ("limit", "only-it", 0, 7),
    }
    page = world.client("engineer").get(f"/keys/{key.id}").text
    assert 'href="/routes/support-bot"' in page
    assert "of 7 calls" in page
    assert key.hash not in page
    assert world.client("engineer").get("/keys/nothing").status_code == 404
    assert world.client("viewer").get(f"/keys/{key.id}").status_code == 403
    gateway.remove_budget(operator, "per-key")
    gateway.remove_limit(operator, "only-it")


def test_limits_have_an_address_too(world: World) -> None:
    answer = world.client("viewer").get("/limits")
    assert (answer.status_code, answer.headers["location"]) == (307, "/budgets#limits")
    assert world.client().get("/limits").status_code == 303


def test_windows_in_words() -> None:
    told = {
        1: "second",
        60: "minute",
        90: "90 seconds",
        300: "5 minutes",
        3600: "hour",
        86_400: "day",
        172_800: "2 days",
    }
    assert {seconds: window(seconds) for seconds in told} == told

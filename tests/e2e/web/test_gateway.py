"""The gateway's pages in a real browser: watched live, a route edited, planned and applied, all by keyboard as well."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from openai import OpenAI
from playwright.sync_api import Browser, Page, expect
from tests.e2e.app.conftest import Installation

from detent.gateway.model import Target

from .conftest import Watch, sign_in_link

pytestmark = [pytest.mark.e2e, pytest.mark.browser]

Visit = Callable[..., Page]


def ask(up: Installation, model: str = "detent-tiny") -> None:
    client = OpenAI(base_url=up.told["gateway_url"] + "/v1", api_key=up.key(), max_retries=0)
    client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Where is my order 4411?"}], max_tokens=40
    )


def route(up: Installation, name: str) -> None:
    """A route of one target, made anew."""
    with up.platform() as platform:
        platform.gateway.save_route(
            platform.access.operator(), name, (Target("embedded", "detent-tiny"),), replace=True
        )


def test_the_gateway_is_watched_live(up: Installation, visit: Visit) -> None:
    page = visit("/gateway")
    row = page.get_by_role("row").filter(has_text="detent-tiny").first
    link = row.get_by_role("link", name="Traces of embedded/detent-tiny")
    link.focus()
    ask(up)
    expect(row).to_contain_text("healthy", timeout=8000)
    expect(row).to_contain_text("0%", timeout=8000)
    assert link.evaluate("each => each === document.activeElement"), "what is refreshed keeps the focus"
    page.keyboard.press("Enter")
    page.wait_for_url("**/traces?provider=embedded&model=detent-tiny")
    expect(page.get_by_role("link", name="chat detent-tiny").first).to_be_visible()


def test_a_route_is_edited_planned_and_applied(up: Installation, visit: Visit, watch: Watch) -> None:
    route(up, "by-hand")
    with up.platform() as platform:
        platform.gateway.save_provider(
            platform.access.operator(), "idle", url="http://127.0.0.1:9/v1", allow_private=True, replace=True
        )
    page = visit("/routes")
    page.get_by_role("link", name="by-hand", exact=True).click()
    page.wait_for_url("**/routes/by-hand")
    page.keyboard.press("e")
    page.wait_for_url("**/routes/by-hand/edit")
    page.get_by_role("button", name="Add target").press("Enter")
    expect(page.get_by_label("Target 2", exact=True)).to_be_focused()
    page.keyboard.type("idle/some-model")
    page.get_by_label("Weight of target 2").fill("4")
    page.get_by_role("button", name="Move target 2 up").press("Enter")
    expect(page.get_by_label("Target 1", exact=True)).to_have_value("idle/some-model")
    expect(page.get_by_label("Weight of target 1")).to_have_value("4")
    expect(page.get_by_label("Target 2", exact=True)).to_have_value("embedded/detent-tiny")
    expect(page.get_by_label("Weight of target 2")).to_have_value("1")
    page.get_by_role("button", name="Move target 1 down").press("Enter")
    expect(page.get_by_role("button", name="Remove target 2")).to_be_visible()
    expect(page.get_by_label("Target 2", exact=True)).to_have_value("idle/some-model")
    page.get_by_text("By weight", exact=True).click()
    page.locator("summary", has_text="Retries").click()
    page.get_by_label("Tries of each target").fill("3")
    page.keyboard.press("Enter")
    plan = page.get_by_role("region", name="Plan: 3 fields change")
    expect(plan).to_be_visible()
    expect(plan).to_contain_text("retry.attempts")
    expect(plan).to_be_focused()
    plan.get_by_label("Reason").fill("more room")
    plan.get_by_role("button", name="Apply this plan").click()
    page.wait_for_url("**/routes/by-hand?said=route-applied")
    expect(page.get_by_role("status").filter(has_text="The plan is applied")).to_be_visible()
    expect(page.get_by_text("Each target is tried up to 3 times")).to_be_visible()

    # Somebody else was faster: nothing is done, and what was typed is still there.
    page.goto("/routes/by-hand/edit")
    page.get_by_label("Weight of target 1").fill("9")
    page.locator("#do-plan").click()
    expect(page.get_by_role("button", name="Apply this plan")).to_be_visible()
    route(up, "by-hand")
    page.get_by_role("button", name="Apply this plan").click()
    expect(page.get_by_role("alert")).to_contain_text("changed since the plan was made")
    expect(page.get_by_label("Weight of target 1")).to_have_value("9")
    watch.errors[:] = [error for error in watch.errors if "409 (Conflict)" not in error]
    page.goto("/routes/by-hand")
    page.get_by_role("button", name="Remove…").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove route").click()
    page.wait_for_url("**/routes?said=route-removed")


def test_a_route_is_edited_without_scripts(up: Installation, browser: Browser, watch: Watch) -> None:
    context = browser.new_context(base_url=watch.base, java_script_enabled=False)
    page = watch.over(context.new_page())
    page.goto(sign_in_link(up))
    page.get_by_role("button", name="Sign in with this link").click()
    page.goto("/routes/-/edit")
    page.get_by_label("Name", exact=True).fill("plain-html")
    page.get_by_label("Target 1", exact=True).fill("embedded/detent-tiny")
    page.get_by_role("button", name="Add fallback").click()
    page.get_by_label("Fallback 1", exact=True).select_option("detent-tiny")
    page.get_by_label("time-out", exact=True).check()
    page.locator("#do-plan").click()
    expect(page.locator("#plan")).to_contain_text("detent-tiny on timeout")
    page.get_by_role("button", name="Apply this plan").click()
    expect(page).to_have_url(re.compile(r"/routes/plain-html\?said=route-applied"))
    expect(page.get_by_text("after time-out")).to_be_visible()
    context.close()


def test_a_budget_is_added_and_seen_to_be_used(up: Installation, visit: Visit) -> None:
    page = visit("/")
    page.keyboard.press("g")
    page.keyboard.press("b")
    page.wait_for_url("**/budgets")
    page.keyboard.press("n")
    form = page.locator("form[action='/budgets']")
    form.get_by_label("Name").fill("everything")
    form.get_by_label("Amount, USD").fill("25")
    form.get_by_role("button", name="Add budget").click()
    page.wait_for_url("**/budgets?said=budget-set")
    row = page.get_by_role("row").filter(has_text="everything")
    expect(row).to_contain_text("$0.00 of $25.00")
    expect(row).to_contain_text("in ")
    page.keyboard.press("l")
    form = page.locator("form[action='/limits']")
    form.get_by_label("Name").fill("calls")
    form.get_by_label("At most").fill("100")
    form.get_by_label("In any").fill("1h")
    form.get_by_role("button", name="Add limit").click()
    page.wait_for_url("**/budgets?said=limit-set")
    ask(up)
    expect(page.get_by_role("row").filter(has_text="in any hour")).to_contain_text("1 of 100 calls", timeout=10_000)
    row.get_by_role("link", name="everything").click()
    form = page.locator("form[action='/budgets']")
    expect(form.get_by_label("Amount, USD")).to_have_value("25")
    form.get_by_label("Amount, USD").fill("30")
    form.get_by_role("button", name="Save budget").click()
    expect(page.get_by_role("row").filter(has_text="everything")).to_contain_text("of $30.00")
    for name, kind in (("everything", "budget"), ("calls", "limit")):
        found = page.locator(f"#{kind}-{name}")
        found.get_by_role("button", name="Remove…").click()
        found.get_by_role("button", name=f"Remove {kind}").click()
        page.wait_for_url(f"**/budgets?said={kind}-removed")

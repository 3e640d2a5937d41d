"""The console in a real browser: from the first link to a rated trace, by mouse, by keyboard, and under attack."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable

import pytest
from openai import AuthenticationError, OpenAI
from playwright.sync_api import Browser, Page, expect
from tests.e2e.app.conftest import Installation
from tests.unit.web.conftest import HOSTILE, TRACE, seed

from .conftest import SHOTS, Watch, sign_in_link

pytestmark = [pytest.mark.e2e, pytest.mark.browser]

Visit = Callable[..., Page]


def client(up: Installation, key: str) -> OpenAI:
    return OpenAI(base_url=up.told["gateway_url"] + "/v1", api_key=key, max_retries=0)


def ask(up: Installation, key: str, question: str) -> None:
    answer = client(up, key).chat.completions.create(
        model="detent-tiny", messages=[{"role": "user", "content": question}], max_tokens=60
    )
    assert answer.choices[0].message.content


def test_a_call_is_seen_found_and_rated(up: Installation, visit: Visit) -> None:
    key = up.key()
    ask(up, key, "Warm the engine up, please.")
    page = visit("/traces?live=1")
    expect(page.get_by_role("link", name="chat detent-tiny").first).to_be_visible()
    before = page.locator("tr[id^=t-]").count()

    word = "quokka48213"
    ask(up, key, f"Where is my order {word}? I live in Lyon.")
    answered = time.monotonic()
    expect(page.locator("tr[id^=t-]")).to_have_count(before + 1, timeout=2000)
    seen = time.monotonic() - answered
    assert seen <= 2.0
    expect(page.locator("#say")).to_have_text("1 new trace")

    stream = client(up, key).chat.completions.create(
        model="detent-tiny",
        messages=[{"role": "user", "content": f"Please refund {word}."}],
        max_tokens=60,
        stream=True,
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    expect(page.locator("tr[id^=t-]")).to_have_count(before + 2, timeout=2000)

    page.goto("/traces")
    page.keyboard.press("/")
    page.keyboard.type(f"Lyon {word}")
    page.wait_for_url(f"**/traces?*q=Lyon+{word}*")
    expect(page.locator("tr[id^=t-]")).to_have_count(1)
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("o")
    page.wait_for_url(re.compile(r"/traces/[0-9a-f]{32}"))
    expect(page.locator(".conversation")).to_contain_text(f"Where is my order {word}? I live in Lyon.")
    expect(page.locator(".turn.output")).to_have_count(1)
    expect(page.locator("[data-waterfall] li")).to_have_count(1)

    page.get_by_text("Good", exact=True).click()
    page.get_by_label("Comment").fill("right <b>intent</b>")
    page.get_by_role("button", name="Save rating").click()
    expect(page.locator("#rated")).to_contain_text("right <b>intent</b>")
    page.reload()
    expect(page.locator("#rated")).to_contain_text("right <b>intent</b>")
    expect(page.get_by_label("Good")).to_be_checked()

    trace = page.url.split("/traces/")[1].split("?")[0]
    listed = subprocess.run(
        [sys.executable, "-m", "detent", "traces", "list", "--json"], env=up.env, capture_output=True, check=True
    )
    assert trace in listed.stdout.decode()


def test_a_key_is_made_copied_used_and_revoked(up: Installation, visit: Visit) -> None:
    page = visit("/keys", permissions=["clipboard-read", "clipboard-write"])
    page.keyboard.press("n")
    page.get_by_role("textbox", name="Name").fill("from the browser")
    page.get_by_role("button", name="Make key").click()
    page.get_by_role("button", name="Copy the key").click()
    expect(page.get_by_role("button", name="Copy the key")).to_have_text("Copied")
    token = page.evaluate("navigator.clipboard.readText()")
    assert re.fullmatch(r"dtk_[\w-]{43}", token)

    deadline = time.monotonic() + 5
    while True:
        try:
            ask(up, token, "Where is my order 4411?")
            break
        except AuthenticationError:
            assert time.monotonic() < deadline, "the gateway never heard of the key"
            time.sleep(0.05)

    page.get_by_role("link", name="Done").click()
    assert token not in page.content()
    row = page.get_by_role("row").filter(has_text="from the browser")
    row.get_by_role("button", name="Revoke…").click()
    asked = page.get_by_role("dialog", name="Revoke “from the browser”?")
    expect(asked).to_be_visible()
    page.keyboard.press("Escape")
    expect(asked).to_be_hidden()
    row.get_by_role("button", name="Revoke…").click()
    asked.get_by_label("Reason").fill("test is over")
    asked.get_by_role("button", name="Revoke key").click()
    expect(page.get_by_role("status").filter(has_text="is revoked")).to_be_visible()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            ask(up, token, "Where is my order 4411?")
        except AuthenticationError:
            break
        time.sleep(0.05)
    else:
        pytest.fail("the gateway still takes the revoked key")


def test_the_keyboard_goes_everywhere(visit: Visit) -> None:
    page = visit("/")
    page.keyboard.press("g")
    page.keyboard.press("l")
    page.wait_for_url("**/ledger")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    focused = page.evaluate("document.activeElement.getAttribute('href')")
    assert focused == page.locator("tr[data-row] a[data-open]").first.get_attribute("href")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "what has the focus is seen"
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/ledger/\d+"))
    page.keyboard.press("u")
    page.wait_for_url("**/ledger")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Control+k")
    palette = page.get_by_role("combobox", name="Go to")
    palette.fill("prvd")
    results = page.get_by_role("listbox", name="Results").get_by_role("option")
    expect(results.first).to_contain_text("Providers")
    page.keyboard.press("Enter")
    page.wait_for_url("**/providers")
    page.keyboard.press("Control+k")
    palette.fill("detent-tiny")
    expect(results.filter(has_text="Traces of detent-tiny")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement !== document.body")


def test_the_look_is_chosen_and_kept(visit: Visit) -> None:
    page = visit("/traces", color_scheme="light")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.keyboard.press("t")
    page.keyboard.press("t")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark != light
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark
    page.keyboard.press("t")
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == light
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark


def test_charts_have_a_cursor_and_a_table(up: Installation, visit: Visit) -> None:
    ask(up, up.key(), "Where is my order 4411?")
    page = visit("/")
    expect(page.locator(".plot canvas")).to_have_count(4)
    page.locator("#plot-requests").focus()
    page.keyboard.press("End")
    expect(page.locator("[data-chart=requests] [data-legend] time")).to_be_visible()
    expect(page.locator("#say")).to_contain_text("requests")
    expect(page.locator("[data-chart=cost] [data-legend] time")).to_be_visible()
    page.get_by_text("Figures as a table").click()
    expect(page.locator("#over-time-data tbody tr")).to_have_count(24)


def test_pages_work_without_scripts(up: Installation, browser: Browser, watch: Watch) -> None:
    context = browser.new_context(base_url=watch.base, java_script_enabled=False)
    page = watch.over(context.new_page())
    page.goto(sign_in_link(up))
    page.get_by_role("button", name="Sign in with this link").click()
    for path in ("/", "/traces?status=ok", "/ledger"):
        page.goto(path)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
    page.goto("/account")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_text("You are signed out.")).to_be_visible()
    page.goto("/keys")
    expect(page).to_have_url(re.compile(r"/login\?next=%2Fkeys"))
    context.close()


PAGES = (
    "/",
    "/traces",
    "/traces?live=1",
    f"/traces/{TRACE}",
    "/gateway",
    "/routes",
    "/routes/support-bot",
    "/routes/support-bot/edit",
    "/routes/-/edit",
    "/budgets",
    "/budgets?budget=each-user",
    "/batches",
    "/playground",
    f"/playground?trace={TRACE}",
    "/models?new=1",
    "/providers?new=1",
    "/keys?all=1&new=1",
    "/jobs?new=1",
    "/ledger",
    "/ledger/1",
    "/users?new=1",
    "/settings",
    "/account",
)


@pytest.fixture(scope="module")
def attacked(up: Installation) -> None:
    """Hostile text in every field of every store."""
    with up.platform() as platform:
        seed(platform)


@pytest.mark.usefixtures("attacked")
def test_nothing_stored_runs_or_calls_home(visit: Visit, watch: Watch) -> None:
    page = visit("/")
    for path in PAGES:
        page.goto(path)
        page.wait_for_load_state("networkidle") if "live" not in path else page.wait_for_timeout(1200)
    for number in range(1, len(HOSTILE) + 1):
        page.goto(f"/traces/{TRACE}?span={number:016x}")
        for details in page.locator("details").all():
            details.evaluate("each => each.open = true")
    for text in HOSTILE:
        sent = urllib.parse.quote(text.encode("utf-8", "replace").decode())
        page.goto(f"/traces?q={sent}&session={sent}&attr.{sent}={sent}")
        page.keyboard.press("Control+k")
        page.get_by_role("combobox", name="Go to").fill(text.encode("utf-8", "replace").decode().replace("\x00", ""))
        page.wait_for_timeout(60)
        page.keyboard.press("Escape")
    assert page.evaluate("document.querySelectorAll('main script, main img, main iframe, main style').length") == 0
    watch.errors[:] = [error for error in watch.errors if "400 (Bad Request)" not in error]


@pytest.mark.usefixtures("attacked")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit(up: Installation, browser: Browser, visit: Visit, scheme: str, width: int) -> None:
    """Every page at both sizes in both looks: nothing wider than the screen; pictures in .shots/ for people."""
    SHOTS.mkdir(exist_ok=True)
    height = 800 if width > 800 else 844
    page = visit("/", viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce")
    for path in PAGES:
        page.goto(path)
        page.wait_for_timeout(150)
        wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wider <= 0, f"{path} is {wider} pixels wider than {width}"
        name = re.sub(r"\W+", "-", path.partition("?")[0].replace(TRACE, "one")).strip("-") or "home"
        name += "-live" if "live" in path else ""
        page.screenshot(path=SHOTS / f"{name}-{scheme}-{width}.png", full_page=True)
    stranger = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    door = stranger.new_page()
    door.goto(up.told["console_url"] + "/login")
    door.screenshot(path=SHOTS / f"login-{scheme}-{width}.png")
    stranger.close()


def test_what_is_sent_is_what_is_shown(up: Installation, visit: Visit) -> None:
    """The twins of a page, fetched by the page's own links, hold the same rows."""
    ask(up, up.key(), "Where is my order 4411?")
    page = visit("/traces?route=detent-tiny")
    rows = page.locator("tr[id^=t-]").count()
    found = page.request.get(page.get_by_role("link", name="JSON").get_attribute("href") or "")
    assert len(json.loads(found.body())["rows"]) == rows
    table = page.request.get(page.get_by_role("link", name="CSV").get_attribute("href") or "")
    assert table.headers["content-type"].startswith("text/csv")
    assert len(table.text().strip().splitlines()) == rows + 1

"""The playground in a real browser: an answer streams in, what came is shown whole, and stopping ends the call."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect
from tests.e2e.app.conftest import Installation

from detent.gateway.model import Target

from .conftest import SHOTS, Watch

pytestmark = [pytest.mark.e2e, pytest.mark.browser]

Visit = Callable[..., Page]

_EVENT = b'data: {"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Slowly"}}]}\n\n'


class Endless:
    """A provider that begins an answer and never ends it, and notices when nobody listens any more."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}/v1"
        self.left = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _address = self._server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(20)
                asked = b""
                while b"\r\n\r\n" not in asked:
                    asked += connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + _EVENT)
                try:
                    while connection.recv(65536):
                        pass
                except ConnectionError:
                    pass
                self.left.set()

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def endless(up: Installation) -> Iterator[Endless]:
    """Reached by the route `endless`."""
    made = Endless()
    with up.platform() as platform:
        caller, gateway = platform.access.operator(), platform.gateway
        gateway.save_provider(caller, "endless", url=made.url, allow_private=True, replace=True)
        gateway.save_route(caller, "endless", (Target("endless", "m"),), replace=True)
    yield made
    made.close()


def test_an_answer_streams_in(visit: Visit) -> None:
    page = visit("/gateway")
    page.get_by_role("link", name="Playground").first.click()
    page.wait_for_url("**/playground")
    page.get_by_label("Text").nth(0).fill("You are the helpdesk of a parcel service.")
    page.get_by_label("Text").nth(1).fill("Where is my order 4411?")
    page.get_by_label("Max. tokens").fill("40")
    page.keyboard.press("Control+Enter")
    expect(page.locator("[data-state]")).to_contain_text("finished", timeout=15_000)
    answer = page.locator("[data-answer]")
    expect(answer).not_to_be_empty()
    expect(page.locator("[data-first]")).to_contain_text(re.compile(r"\d (ms|s)"))
    expect(page.locator("[data-total]")).to_contain_text(re.compile(r"\d (ms|s)"))
    expect(page.locator("[data-cost]")).to_contain_text("$0.00", timeout=8000)
    expect(page.locator("[data-response]")).to_contain_text("data: [DONE]")
    expect(page.locator("[data-request]")).to_contain_text('"max_tokens": 40')
    expect(page.locator("[data-headers]")).to_contain_text("x-detent-trace-id")
    said = answer.inner_text()
    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SHOTS / "playground-answer-light-1280.png", full_page=True)

    page.get_by_role("button", name="Go on from this answer").click()
    expect(page.get_by_label("Text").nth(2)).to_have_value(said)
    expect(page.get_by_label("Text").nth(3)).to_be_focused()
    page.keyboard.type("And when?")
    page.get_by_label("as a stream").uncheck()
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator("[data-request]")).to_contain_text("And when?")
    expect(page.locator("[data-state]")).to_contain_text("finished", timeout=15_000)
    expect(page.locator("[data-response]")).to_contain_text('"chat.completion"')

    page.locator("[data-trace] a").click()
    page.wait_for_url(re.compile(r"/traces/[0-9a-f]{32}"))
    page.get_by_role("link", name="Open in playground").click()
    page.wait_for_url("**/playground?trace=*")
    expect(page.get_by_label("Text").nth(1)).to_have_value("Where is my order 4411?")


def test_stopping_ends_the_call(visit: Visit, endless: Endless) -> None:
    page = visit("/playground?route=endless")
    page.get_by_label("Text").nth(1).fill("Count to a million.")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator("[data-answer]")).to_have_text("Slowly", timeout=10_000)
    assert not endless.left.is_set()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("[data-state]")).to_contain_text("stopped")
    assert endless.left.wait(10), "the provider still sends"
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_enabled()
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()


def test_mistakes_and_errors_are_told(visit: Visit, watch: Watch) -> None:
    page = visit("/playground")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_role("alert").filter(has_text="Say something first")).to_be_visible()
    page.get_by_label("Text").nth(1).fill("Where is it?")
    page.get_by_label("Temperature").fill("warm")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("alert").filter(has_text="is no number")).to_be_visible()
    expect(page.get_by_label("Temperature")).to_be_focused()
    page.get_by_label("Temperature").fill("")
    page.locator("summary", has_text="More parameters").click()
    page.get_by_label("More parameters, as JSON").fill('{"model": "nowhere"}')
    page.get_by_role("button", name="Run", exact=True).click()
    failed = page.get_by_role("alert").filter(has_text="model_not_found")
    expect(failed).to_contain_text("GET /v1/models")
    expect(page.locator("[data-state]")).to_contain_text("failed")
    page.get_by_role("button", name="Move this turn down").first.click()
    expect(page.get_by_label("Text").nth(0)).to_have_value("Where is it?")
    page.get_by_role("button", name="Remove this turn").last.click()
    expect(page.get_by_label("Text")).to_have_count(1)
    assert watch.errors == []

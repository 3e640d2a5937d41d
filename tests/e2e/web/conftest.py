"""A real `detent up` and a real Chromium that keeps watch: over dialogs, errors, and whom the pages talk to."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from tests.e2e.app.conftest import Installation

SHOTS = Path(__file__).resolve().parents[3] / ".shots"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@dataclass
class Watch:
    """What a browser must never do, and whether it did."""

    base: str
    dialogs: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)

    def over(self, page: Page) -> Page:
        """Keep watch over a page."""

        def dialog(found: object) -> None:
            self.dialogs.append(str(getattr(found, "message", "")))
            found.dismiss()  # type: ignore[attr-defined]

        page.on("dialog", dialog)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        page.on("request", lambda request: self._check(request.url))
        return page

    def _check(self, url: str) -> None:
        if not url.startswith((self.base + "/", "data:", "blob:")):
            self.strangers.append(url)

    def nothing_happened(self) -> None:
        assert (self.dialogs, self.errors, self.strangers) == ([], [], [])


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """The product, running."""
    home = tmp_path_factory.mktemp("console") / "home"
    home.mkdir(mode=0o700)
    installation = Installation(home).start()
    yield installation
    assert installation.stop() == 0


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no chromium here; `make browser` installs it where it may")
    os.environ.setdefault("PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD", "1")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def watch(up: Installation) -> Iterator[Watch]:
    """Kept over every page of a test; what it saw fails the test at its end."""
    found = Watch(up.told["console_url"])
    yield found
    found.nothing_happened()


def sign_in_link(up: Installation) -> str:
    """A fresh one-time link for the admin."""
    with up.platform() as platform:
        return f"{up.told['console_url']}/login?token={platform.people.first_link().reveal()}"


Visit = Callable[..., Page]


@pytest.fixture
def visit(up: Installation, browser: Browser, watch: Watch) -> Iterator[Visit]:
    """Open a page as the admin: `visit("/traces")`, with the browser's options behind it."""
    contexts: list[BrowserContext] = []
    saved: list[object] = []

    def opened(path: str = "/", **options: object) -> Page:
        options.setdefault("viewport", {"width": 1280, "height": 800})
        context = browser.new_context(
            base_url=watch.base,
            storage_state=saved[0] if saved else None,  # type: ignore[arg-type]
            **options,  # type: ignore[arg-type]
        )
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = watch.over(context.new_page())
        if not saved:
            page.goto(sign_in_link(up))
            page.get_by_role("button", name="Sign in with this link").click()
            page.wait_for_url("**/account?first=1")
            saved.append(context.storage_state())
        page.goto(path)
        return page

    yield opened
    for context in contexts:
        context.close()

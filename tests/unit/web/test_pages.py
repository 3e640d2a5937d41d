"""Every page, for every role: what it shows, what it hides, its twins, and that nothing stored becomes markup."""

from __future__ import annotations

import csv
import io
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from detent.kernel.identity import ROLES, Permission
from detent.web.console import PAGES
from detent.web.page import Page
from detent.web.security import CONTENT_POLICY

from .conftest import HOSTILE, PLAIN, TRACE, World, decoded

ROLE_NAMES = tuple(ROLES)


def address(page: Page[Any], world: World) -> str:
    path = page.path.replace("{trace_id}", TRACE).replace("{job_id}", world.job).replace("{position}", "1")
    return path.replace("{name}", "support-bot").replace("{key_id}", world.key).replace("{batch_id}", world.batch)


class Markup(HTMLParser):
    """What a browser would make of a page: elements with their attributes, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.seen = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.seen += "".join(value or "" for name, value in attrs if name in {"title", "aria-label", "placeholder"})

    def handle_data(self, data: str) -> None:
        self.seen += data


@pytest.mark.parametrize("role", ROLE_NAMES)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)
def test_a_page_opens_for_those_who_may(world: World, page: Page[Any], role: str) -> None:
    client, url = world.client(role), address(page, world)
    answer = client.get(url)
    allowed = not isinstance(page.needs, Permission) or page.needs in ROLES[role]
    assert answer.status_code == (200 if allowed else 403), answer.text[:500]
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"] == CONTENT_POLICY
    assert answer.headers["cache-control"] == "no-store"
    twin = client.get(("/home" if url == "/" else url) + ".json")
    assert twin.status_code == answer.status_code
    if allowed:
        assert isinstance(decoded(twin.content), dict)
    else:
        assert twin.json()["error"]["code"] == "forbidden"
        assert "permission" in answer.text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)
def test_nobody_is_sent_to_sign_in_and_back(world: World, page: Page[Any]) -> None:
    url = address(page, world)
    answer = world.client().get(url)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/login")
    twin = world.client().get(("/home" if url == "/" else url) + ".json")
    assert (twin.status_code, twin.json()["error"]["code"]) == (401, "unauthenticated")


@pytest.mark.parametrize("page", [page for page in PAGES if page.tables], ids=lambda page: page.path)
def test_every_table_is_a_csv(world: World, page: Page[Any]) -> None:
    client, url = world.client("admin"), address(page, world)
    base = "/home" if url == "/" else url
    html = client.get(url).text
    names = set(re.findall(re.escape(base) + r"\.csv\?(?:[^\"]*&amp;)?table=([\w-]+)", html))
    assert names, "the page names its tables"
    for name in names | {""}:
        answer = client.get(f"{base}.csv", params={"table": name} if name else {})
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        assert answer.headers["content-disposition"].startswith("attachment")
        rows = list(csv.reader(io.StringIO(answer.text, newline="")))
        assert len({len(row) for row in rows}) == 1, "every row has every column"
        for cell in (cell for row in rows[1:] for cell in row):
            number = re.fullmatch(r"-?\d+(\.\d+)?", cell)
            assert number or not cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n")), cell
    assert client.get(f"{base}.csv", params={"table": "<x>"}).status_code == 404


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)
def test_nothing_stored_becomes_markup(world: World, page: Page[Any]) -> None:
    url = address(page, world)
    for query in ("", *(f"?span={number:016x}" for number in range(1, len(HOSTILE) + 1))):
        if query and page.path != "/traces/{trace_id}":
            break
        text = world.client("admin").get(url + query).text
        check_markup(text)
        assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b]", Markup(text).seen)


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_asked_for_becomes_markup(world: World, text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    client = world.client("admin")
    for url in ("/traces", "/jobs", "/ledger", "/"):
        for name in ("q", "name", "kind", "stream", "actor", "model", "said", "status", "since", "range", "attr.x"):
            check_markup(client.get(url, params={name: text}).text)
    for url in ("/login", "/nowhere"):
        check_markup(client.get(url, params={"token": text, "next": text, "said": text}).text)
        check_markup(world.client().get(url, params={"token": text, "next": text, "said": text}).text)


def check_markup(text: str) -> None:
    """Scripts and styles only from our own folder, nothing inline, no address of anybody else."""
    found = Markup(text).elements
    assert found
    for tag, attributes in found:
        assert not [name for name in attributes if name.startswith(("on", "hx-on", "data-hx"))], (tag, attributes)
        assert "style" not in attributes, (tag, attributes)
        assert tag not in {"style", "iframe", "object", "embed", "base", "img"}, tag
        if tag == "script":
            assert (attributes.get("src") or "").startswith("/static/"), attributes
        for name in ("href", "src", "action", "formaction", "hx-get", "hx-post"):
            value = attributes.get(name)
            assert value is None or value.startswith(("/", "#")), (tag, name, value)
            assert value is None or not value.startswith("//"), (tag, name, value)


# Content


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_content_needs_its_own_permission(world: World, role: str) -> None:
    may = Permission.CONTENT_READ in ROLES[role]
    client = world.client(role)
    for url in (f"/traces/{PLAIN}", f"/traces/{PLAIN}.json"):
        assert ("zebra" in client.get(url).text) is may
    searched = client.get("/traces", params={"q": "zebra"})
    assert searched.status_code == (200 if may else 403)
    assert ("Your role may see what calls took" in client.get(f"/traces/{PLAIN}").text) is not may
    hits = client.get("/palette.json", params={"q": "zebra"}).json()
    assert any(hit["kind"] == "search" for hit in hits) is may


def test_secrets_stand_on_no_page(world: World) -> None:
    client = world.client("admin")
    hashes = [key.hash for key in world.platform.gateway.keys(world.platform.access.operator())]
    for page in PAGES:
        url = address(page, world)
        for answer in (client.get(url), client.get(("/home" if url == "/" else url) + ".json")):
            assert "sk-canary-credential" not in answer.text
            assert "argon2" not in answer.text
            if not page.path.startswith("/ledger"):
                assert not [found for found in hashes if found in answer.text]
            if answer.headers["content-type"] == "application/json":
                assert world.csrf("admin") not in answer.text


def test_the_palette_leads_to_what_one_may_do(world: World) -> None:
    def found(role: str, text: str) -> set[str]:
        return {hit["href"] for hit in world.client(role).get("/palette.json", params={"q": text}).json()}

    assert found("viewer", "support-bot") == {"/routes/support-bot", "/traces?route=support-bot"}
    assert {"/routes/support-bot/edit", "/playground?route=support-bot"} <= found("engineer", "support-bot")
    assert "/budgets#limit-bot-at-once" in found("viewer", "bot-at")
    assert "/budgets#budget-everything" in found("viewer", "everything")
    assert f"/batches/{world.batch}" in found("engineer", world.batch)
    assert found("viewer", world.batch) == set()
    assert f"/keys/{world.key}" in found("engineer", world.key)


# Filters


def ids(world: World, **query: str) -> list[str]:
    view = world.client("admin").get("/traces.json", params=query).json()
    return [row["trace_id"] for row in view["rows"]]


def test_filters_in_the_url(world: World) -> None:
    assert set(ids(world)) == {TRACE, PLAIN}
    assert ids(world, q="zebra") == [PLAIN]
    assert ids(world, q='"zebra parcel"') == [PLAIN]
    assert ids(world, q="zebra", status="error") == []
    assert ids(world, status="error") == [TRACE]
    assert ids(world, route="support-bot") == [PLAIN]
    assert ids(world, model="gpt-4o-mini") == [PLAIN]
    assert ids(world, slower="300") == [PLAIN]
    assert ids(world, dearer="0.000004", q="zebra") == [PLAIN]
    assert ids(world, until="2025-12-31T00:00:00Z") == []
    rows = list(csv.reader(io.StringIO(world.client("admin").get("/traces.csv?q=zebra").text)))
    assert [row[0] for row in rows[1:]] == [PLAIN]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("status=maybe", "status"),
        ("since=yesterday", "since"),
        ("until=99999999999999", "until"),
        ("slower=-1", "slower"),
        ("slower=nan", "slower"),
        ("dearer=1e99", "dearer"),
        ("limit=1000000", "limit"),
    ],
)
def test_a_filter_that_cannot_be_is_named(world: World, query: str, field: str) -> None:
    answer = world.client("admin").get(f"/traces.json?{query}")
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, field)
    page = world.client("admin").get(f"/traces?{query}")
    assert page.status_code == 400
    check_markup(page.text)


def test_what_is_not_there(world: World) -> None:
    client = world.client("admin")
    for url in (
        "/traces/" + "0" * 32,
        "/traces/x",
        "/jobs/nothing",
        "/ledger/0",
        "/ledger/999999",
        "/ledger/x",
        "/nope",
    ):
        answer = client.get(url)
        assert answer.status_code == 404, url
        assert 'aria-label="Console"' in answer.text, "an error is no dead end"
        assert client.get(url + ".json").json()["error"]["code"] == "not_found"


def test_a_page_has_its_landmarks(world: World) -> None:
    for page in PAGES:
        found = Markup(world.client("admin").get(address(page, world)).text).elements
        tags = [tag for tag, _ in found]
        assert tags.count("main") == 1
        assert tags.count("h1") == 1
        assert ("a", {"class": "skip", "href": "#main"}) in found
        assert dict(found)["html"].get("lang") == "en"
        names = [attributes["id"] for _tag, attributes in found if attributes.get("id")]
        assert len(names) == len(set(names)), "ids are unique"
        labels = {attributes.get("for") for tag, attributes in found if tag == "label"}
        for tag, attributes in found:
            if tag in {"input", "select", "textarea"} and attributes.get("type") not in {"hidden", "radio", "checkbox"}:
                assert (
                    attributes.get("id") in labels
                    or "hidden" in attributes
                    or attributes.get("name")
                    in {
                        "status",
                        "since",
                        "route",
                        "model",
                        "key",
                        "slower",
                        "dearer",
                        "state",
                        "name",
                        "kind",
                        "stream",
                        "actor",
                    }
                ), (tag, attributes)

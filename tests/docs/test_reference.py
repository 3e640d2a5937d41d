"""The generated pages are current, and everything a user can meet stands in one of them."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from tools import docs

from detent.app.catalog import catalog
from detent.kernel import ports
from detent.kernel.errors import every_error
from detent.kernel.settings import every_field

ROOT = Path(__file__).resolve().parents[2]


def page(name: str) -> str:
    return (ROOT / "docs" / "reference" / name).read_text()


@pytest.mark.parametrize("name", docs.PAGES)
def test_a_page_is_current(name: str) -> None:
    assert page(name) == docs.text_of(name), "run `make docs`"


def test_every_setting() -> None:
    assert [f.env for f in every_field() if f"`{f.env}`" not in page("settings.md")] == []


def test_every_error_code() -> None:
    list(docs.every_module())
    product = [e for e in every_error() if e.__module__.startswith("detent.")]
    assert [e.code for e in product if f"`{e.code}`" not in page("errors.md") and e.code != "error"] == []
    codes = [e.code for e in product if e.code != "error"]
    assert len(codes) == len(set(codes)), "a code means one thing"


def test_every_fact_kind() -> None:
    rooms = [name for name in docs.module_names() if name.endswith(".facts")]
    declared = {body for name in rooms for body in getattr(importlib.import_module(name), "FACTS", ())}
    assert declared == set(catalog().bodies.values()), "the composition knows every fact"
    assert [body.kind for body in declared if f"## {body.kind}\n" not in page("facts.md")] == []
    assert all(body.__doc__ for body in declared)


def test_every_port() -> None:
    protocols = [
        n for n, v in vars(ports).items() if getattr(v, "_is_protocol", False) and v.__module__ == ports.__name__
    ]
    assert len(protocols) > 5
    assert [name for name in protocols if f"## {name}\n" not in page("ports.md")] == []


def test_every_page_of_the_console() -> None:
    from detent.web.console import PAGES

    assert [p.path for p in PAGES if f"`{p.path}`" not in page("console.md")] == []


def test_every_route_of_the_api() -> None:
    from detent.api.document import api_routes

    paths = {getattr(route, "path_format", "") for route in api_routes() if getattr(route, "include_in_schema", True)}
    assert [path for path in sorted(paths) if path not in page("api.md")] == []


def test_every_command() -> None:
    from detent.cli.root import root

    commands = list(docs.every_command(root, "detent"))
    assert len(commands) > 20
    for path, text in commands:
        assert f"## {path}\n" in page("cli.md")
        assert len(text.split("\n\n")) > 1, f"{path} says nothing about itself"

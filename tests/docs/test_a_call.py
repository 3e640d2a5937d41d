"""The page about a call names every header and attribute that the gateway has, and nothing that it has not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tools import docs

from detent.kernel.errors import every_error

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "a-call.md").read_text()
_HEADER = re.compile(r"x-(?:detent|ratelimit|request)-[a-z-]*[a-z]-?|ratelimit(?:-policy)?|age|retry-after|traceparent")
_ATTRIBUTE = re.compile(r"detent(?:\.[a-z_]+)+")
_CODE = re.compile(r"`([^`]+)`")
OTHERS = {
    "detent.connection": "a key of the ASGI scope",
    "detent.cycle": "another",
    "detent.quotas": "a group of entry points",
    "detent.toml": "a file",
}


def constants() -> Iterator[str]:
    """Every string and byte string in the gateway's code that is not a docstring's sentence."""
    for path in sorted((ROOT / "src" / "detent" / "gateway").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, bytes | str):
                value = node.value
                yield value.decode("latin-1") if isinstance(value, bytes) else value


def attributes() -> set[str]:
    found = {value for value in constants() if _ATTRIBUTE.fullmatch(value)} - OTHERS.keys()
    return {name for name in found if not is_module(name)}


def is_module(name: str) -> bool:
    parent = ROOT.joinpath("src", *name.split("."))
    return parent.is_dir() or parent.with_suffix(".py").exists()


def named() -> set[str]:
    return set(_CODE.findall(PAGE))


def test_every_header() -> None:
    found = {value for value in constants() if _HEADER.fullmatch(value)}
    assert {"x-detent-session", "x-request-id", "ratelimit", "x-ratelimit-limit-"} <= found
    assert [name for name in sorted(found) if not any(n == name or n.startswith(name) for n in named())] == []


def test_no_header_that_is_not() -> None:
    found = {value for value in constants() if _HEADER.fullmatch(value)}
    said = {name for name in named() if name.startswith(("x-detent", "x-ratelimit"))}
    assert len(said) > 10
    assert [
        name for name in sorted(said) if not any(name == f or (f.endswith("-") and name.startswith(f)) for f in found)
    ] == []


def test_every_attribute() -> None:
    said = {name for name in named() if _ATTRIBUTE.fullmatch(name)}
    assert len(said) > 15
    assert said == attributes()


def test_every_refusal_is_an_error_code() -> None:
    list(docs.every_module())
    codes = {error.code for error in every_error()}
    rows = re.findall(r"^\| \d+\. .*\| (.*) \|$", PAGE, re.M)
    assert len(rows) == 18
    said = {code for row in rows for code in _CODE.findall(row)}
    assert said - codes == set()
    gateway = {error.code for error in every_error() if error.__module__ == "detent.gateway.errors"}
    elsewhere = {"misdirected_scrape", "unknown_path", "headers_too_large", "control_away", "no_upstream"}
    assert gateway - said - elsewhere - {"shed"} == set()

"""The look: contrast of every pair of colours, assets within their weight, and a page without assets that says why."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import detent.web
from detent.web.assets import DIST, Manifest, read_manifest
from detent.web.render import Templates

CLIENT = Path(detent.web.__file__).parent / "client"
TOKENS = (CLIENT / "styles" / "tokens.css").read_text() if CLIENT.is_dir() else ""


def colours() -> dict[str, tuple[str, str]]:
    """Token to its light and its dark colour."""
    return {
        name: (light, dark) for name, light, dark in re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", TOKENS)
    }


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    a, b = sorted((luminance(one), luminance(other)), reverse=True)
    return (a + 0.05) / (b + 0.05)


GROUNDS = ("ground", "surface", "raised", "sunken", "hover", "selected", "current")
TEXT = [
    *((t, g) for t in ("text", "text-soft", "text-faint", "accent", "bad", "warn", "good") for g in GROUNDS),
    *((text, f"{text}-soft") for text in ("good", "warn", "bad", "idle")),
    *(("text", soft) for soft in ("good-soft", "warn-soft", "bad-soft", "accent-soft", "idle-soft")),
    *(("text-soft", soft) for soft in ("good-soft", "warn-soft", "bad-soft", "idle-soft")),
    ("accent-strong", "accent-soft"),
    ("on-accent", "accent"),
    ("on-accent", "accent-strong"),
]  # fmt: skip
SHAPES = [
    *((s, g) for s in ("control", "focus", "series-1", "series-bad", "span-tool", "span-other") for g in GROUNDS[:2]),
    ("series-2", "surface"),
]  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("text", "ground"), TEXT)
def test_text_can_be_read(text: str, ground: str, scheme: str) -> None:
    at = scheme == "dark"
    assert contrast(colours()[text][at], colours()[ground][at]) >= 4.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("shape", "ground"), SHAPES)
def test_shapes_can_be_seen(shape: str, ground: str, scheme: str) -> None:
    at = scheme == "dark"
    least = 2.4 if shape == "series-2" else 3.0  # the second series is also named beside its swatch
    assert contrast(colours()[shape][at], colours()[ground][at]) >= least


def test_colours_stand_in_one_file() -> None:
    for sheet in (CLIENT / "styles").glob("*.css"):
        if sheet.name != "tokens.css":
            assert not re.findall(r"#[0-9a-fA-F]{3,8}\b|\brgba?\(|\bhsla?\(|light-dark\(", sheet.read_text()), (
                sheet.name
            )


def test_assets_are_light() -> None:
    if not read_manifest().files:
        pytest.skip("the assets are not built; run `make assets`")
    assert sum(path.stat().st_size for path in DIST.iterdir()) <= 500_000
    assert {
        "console.js",
        "console.css",
        "chart.js",
        "playground.js",
        "waterfall.js",
        "favicon.svg",
    } <= read_manifest().files.keys()


def test_the_lock_file_names_no_registry() -> None:
    assert '"resolved"' not in (CLIENT / "package-lock.json").read_text()


def test_a_page_without_assets_says_so(tmp_path: Path) -> None:
    manifest = read_manifest(tmp_path)
    assert manifest == Manifest()
    text = Templates(manifest).show(
        "login.html",
        {"theme": "", "token": "", "next_page": "/", "name": "", "error": None, "csrf": "x", "said": ""},
    )
    assert "make assets" in text
    assert "<script" not in text
    assert 'name="password"' in text, "one can still sign in"
    (tmp_path / "manifest.json").write_text("{broken")
    assert read_manifest(tmp_path) == Manifest()

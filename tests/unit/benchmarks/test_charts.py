"""The charts are well-formed, stay within their frame, and leave gaps where nothing was measured."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from benchmarks import charts


def drawn(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def paths(svg: str) -> list[str]:
    return [e.attrib["d"] for e in drawn(svg).iterfind(".//{*}path") if e.attrib.get("class", "").startswith("s")]


def test_lines_are_drawn_within_the_frame_with_gaps() -> None:
    svg = charts.lines(
        "Memory & more",
        {"a <b>": [(0, 1.0), (1, None), (2, 3.0)], "c": [(0, 2.0), (2, 99.0)]},
        x="s",
        y="MB",
        high=5,
        marks=[(0.5, 1, "out")],
    )
    first, second, *legend = paths(svg)
    assert first.count("M") == 2, "a gap where there was no value"
    assert len(legend) == 2
    assert all(charts.TOP <= float(y) <= charts.HEIGHT - charts.BOTTOM for y in re.findall(r" ([\d.]+)", second))
    assert {"Memory & more", "a <b>", "out"} <= {e.text for e in drawn(svg).iterfind(".//{*}text")}
    assert "prefers-color-scheme:dark" in svg


def test_long_series_stay_small() -> None:
    svg = charts.lines("x", {"a": [(n / 10, float(n % 7)) for n in range(100_000)]}, x="s", y="")
    assert len(svg) < 10_000


def test_nothing_measured_is_still_a_chart() -> None:
    drawn(charts.lines("x", {}, x="s", y=""))
    drawn(charts.lines("x", {"a": [(0, None)]}, x="s", y=""))
    drawn(charts.lines("x", {"a": [(0, 4.0), (1, 4.0)]}, x="s", y="", low=None))
    drawn(charts.bars("x", [], unit="ms"))


def test_bars_grow_with_their_values() -> None:
    svg = charts.bars("CPU", [("a", 0.1, "0.1 ms"), ("b", 10, "10 ms"), ("c", 0, "-")], unit="ms")
    a, b, c = (float(e.attrib["width"]) for e in drawn(svg).iterfind(".//{*}rect"))
    assert c < a < b

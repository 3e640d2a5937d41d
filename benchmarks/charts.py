"""Small charts as SVG, readable on a light and on a dark page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 720, 280
LEFT, RIGHT, TOP, BOTTOM = 60, 16, 44, 40
LIGHT = ("#0b6bcb", "#c2410c", "#15803d", "#7e22ce", "#a16207", "#be123c")
DARK = ("#60a5fa", "#fb923c", "#4ade80", "#c084fc", "#facc15", "#fb7185")
DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 4", "12 4")
MOST_POINTS = 400

Points = Sequence[tuple[float, float | None]]


def lines(
    title: str,
    series: Mapping[str, Points],
    *,
    x: str,
    y: str,
    low: float | None = 0,
    high: float | None = None,
    marks: Sequence[tuple[float, float, str]] = (),
) -> str:
    """A line for each series; they differ by dashes too, not by colour alone.

    Args:
        low, high: of the vertical axis; None fits it to the values.
        marks: spans of the horizontal axis that are shaded, each with a word on it.
    """
    series = {name: _thinned(points) for name, points in series.items()}
    across = [point[0] for points in series.values() for point in points] or [0.0, 1.0]
    up = [point[1] for points in series.values() for point in points if point[1] is not None] or [0.0, 1.0]
    frame = _Frame(min(across), max(across), min(up) if low is None else low, max(up) if high is None else high)
    body = [*_marks(frame, marks), *frame.axes(x, y)]
    for number, points in enumerate(series.values()):
        kind = number % len(LIGHT)
        dash = f' stroke-dasharray="{DASHES[kind]}"' if DASHES[kind] else ""
        path = _path(frame, points)
        body.append(f'<path class="s{kind}" d="{path}" fill="none" stroke-width="1.6"{dash}/>')
    return _page(title, [*body, *_legend(list(series))], HEIGHT)


def bars(title: str, rows: Sequence[tuple[str, float, str]], *, unit: str) -> str:
    """A bar for each row: its name, its length, what is written behind it. The scale is logarithmic."""
    step, height = 24, TOP + 24 * len(rows) + 16
    values = [value for _, value, _ in rows if value > 0]
    least, most = (min(values) / 2, max(values)) if values else (0.5, 1.0)
    body = []
    for number, (name, value, written) in enumerate(rows):
        top = TOP + number * step
        share = math.log(max(value, least) / least) / math.log(most / least)
        length = 2 + share * 400
        body.append(f'<text x="196" y="{top + 13}" text-anchor="end">{escape(name)}</text>')
        fill = "b0" if number == 0 else "b1"
        body.append(f'<rect class="{fill}" x="204" y="{top + 2}" width="{length:.1f}" height="15" rx="2"/>')
        body.append(f'<text x="{210 + length:.1f}" y="{top + 13}">{escape(written)}</text>')
    return _page(f"{title} ({unit}, logarithmic)", body, height)


class _Frame:
    """The plot's area, and where a value lies in it."""

    def __init__(self, x0: float, x1: float, y0: float, y1: float) -> None:
        self.x0, self.x1 = x0, x1 if x1 > x0 else x0 + 1
        self.ticks = _ticks(y0, y1 if y1 > y0 else y0 + 1)
        self.y0, self.y1 = self.ticks[0], self.ticks[-1]

    def x(self, value: float) -> float:
        return LEFT + (value - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        bounded = min(max(value, self.y0), self.y1)
        return HEIGHT - BOTTOM - (bounded - self.y0) / (self.y1 - self.y0) * (HEIGHT - TOP - BOTTOM)

    def axes(self, x: str, y: str) -> list[str]:
        found = []
        for tick in self.ticks:
            at = self.y(tick)
            found.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
            found.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{tick:,.6g}</text>')
        for tick in _ticks(self.x0, self.x1):
            if self.x0 <= tick <= self.x1:
                found.append(
                    f'<text x="{self.x(tick):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{tick:,.6g}</text>'
                )
        found.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{escape(x)}</text>')
        found.append(f'<text x="8" y="{HEIGHT - 8}">{escape(y)}</text>')
        return found


def _ticks(low: float, high: float) -> list[float]:
    """Round values from below `low` to above `high`, about five."""
    rough = (high - low) / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, last + 1)]


def _thinned(points: Points) -> Points:
    """At most so many points that a chart stays small."""
    every = math.ceil(len(points) / MOST_POINTS)
    return points[::every] if every > 1 else points


def _path(frame: _Frame, points: Points) -> str:
    path, pen = [], "M"
    for x, y in points:
        if y is None:
            pen = "M"
            continue
        path.append(f"{pen}{frame.x(x):.1f} {frame.y(y):.1f}")
        pen = "L"
    return "".join(path)


def _marks(frame: _Frame, marks: Sequence[tuple[float, float, str]]) -> list[str]:
    found = []
    for begin, end, word in marks:
        left, right = frame.x(begin), frame.x(end)
        height = HEIGHT - TOP - BOTTOM
        found.append(
            f'<rect class="mark" x="{left:.1f}" y="{TOP}" width="{max(right - left, 1):.1f}" height="{height}"/>'
        )
        found.append(f'<text x="{left + 3:.1f}" y="{TOP + 12}">{escape(word)}</text>')
    return found


def _legend(names: Sequence[str]) -> list[str]:
    found, left = [], float(LEFT)
    for number, name in enumerate(names):
        kind = number % len(LIGHT)
        dash = f' stroke-dasharray="{DASHES[kind]}"' if DASHES[kind] else ""
        found.append(f'<path class="s{kind}" d="M{left:.0f} 32h22" stroke-width="2"{dash}/>')
        found.append(f'<text x="{left + 27:.0f}" y="36">{escape(name)}</text>')
        left += 45 + 7 * len(name)
    return found


def _page(title: str, body: Sequence[str], height: int) -> str:
    def colours(palette: Sequence[str]) -> str:
        strokes = "".join(f".s{n}{{stroke:{colour}}}" for n, colour in enumerate(palette))
        return strokes + f".b0{{fill:{palette[0]}}}"

    style = (
        "text{font:12px system-ui,sans-serif;fill:#57606a}.title{font-weight:600}.grid{stroke:#8b949e;opacity:.3}"
        f".mark{{fill:#8b949e;opacity:.18}}.b1{{fill:#8b949e}}{colours(LIGHT)}"
        f"@media(prefers-color-scheme:dark){{text{{fill:#adbac7}}{colours(DARK)}}}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img"><title>{escape(title)}</title><style>{style}</style>'
        f'<text class="title" x="8" y="16">{escape(title)}</text>{"".join(body)}</svg>\n'
    )

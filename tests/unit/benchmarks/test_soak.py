"""How a soak judges: what grows is seen, what goes up and down is not taken for growth, wrong answers are wrong."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script; it finds its neighbours as it does when it is run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import soak

    yield soak
    for name in [
        n for n, m in sys.modules.items() if str(getattr(m, "__file__", "") or "").startswith(str(BENCHMARKS))
    ]:
        del sys.modules[name]


def test_growth_is_the_slope_whatever_the_outliers(soak: ModuleType) -> None:
    drawn = random.Random(3)
    times = [float(n) for n in range(2000)]
    values = [50 + 0.01 * t + drawn.gauss(0, 0.5) + (40 if n % 50 == 0 else 0) for n, t in enumerate(times)]
    assert soak.growth(times, values) == pytest.approx(0.01, rel=0.03)


def test_what_goes_up_and_down_does_not_grow(soak: ModuleType) -> None:
    times = [float(n) for n in range(2000)]
    assert abs(soak.growth(times, [50.0 + (n // 10) % 2 for n in range(2000)])) < 1e-4
    assert soak.growth(times, [None] * 2000) == 0
    assert soak.growth([], []) == 0


def judged(soak: ModuleType, memory: list[float], descriptors: int = 20) -> list[str]:
    times = [float(n) for n in range(len(memory))]
    series = {"gateway/megabytes": memory, "gateway/threads": [3.0] * len(memory)}
    before = {"megabytes": memory[0], "descriptors": 20, "threads": 3, "pid": 7}
    soak.figures = lambda _pid: {"megabytes": memory[-1], "descriptors": descriptors, "threads": 3}
    return list(soak.judge_part("gateway", 7, before, times, series)[1])


def test_a_leak_is_called_one(soak: ModuleType) -> None:
    flat = [42.0] * 100
    assert judged(soak, flat) == []
    assert judged(soak, [42 + n * 0.1 for n in range(100)]) == ["gateway grew by 8.4 MB"]
    assert judged(soak, [130.0] * 100) == ["gateway had 130 MB"]
    assert judged(soak, flat, descriptors=30) == ["gateway kept 10 file descriptors"]


def test_answers_are_judged(soak: ModuleType) -> None:
    import traffic

    whole, stream = traffic.Kind("w", 1, "m"), traffic.Kind("s", 1, "m", stream=True)
    broken = traffic.Kind("b", 1, "m", stream=True, fails=True)
    told = b'data: {"error":{"code":"upstream_cut"}}\n\n'
    assert traffic.judge(whole, 200, b"tok " * 63 + b'tok"') == ""
    assert traffic.judge(whole, 200, b"tok " * 60) == "not all tokens"
    assert traffic.judge(whole, 502, b'{"error":{"code":"upstream_error"}}') == "status 502 upstream_error"
    assert traffic.judge(stream, 200, b"tok " * 64 + b"data: [DONE]\n\n") == ""
    assert traffic.judge(stream, 200, b"tok " * 64) == "no end of the stream"
    assert traffic.judge(stream, 200, b"tok " * 5 + b"\n\n" + told) == "not all tokens upstream_cut"
    assert traffic.judge(broken, 200, b"tok " * 5 + b"\n\n" + told) == ""
    assert traffic.judge(broken, 200, b"tok " * 64 + b"data: [DONE]\n\n") == "status 200 where an error was due"

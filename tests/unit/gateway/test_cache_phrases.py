"""How often likeness is right, on phrases that were written before any was tried: bounds that the guide states."""

from __future__ import annotations

import pytest
from benchmarks.cache import held_out, measure_held_out

from detent.gateway.model import CachePolicy


@pytest.mark.parametrize(
    ("name", "threshold", "wrong", "reworded"),
    [
        ("phrases", CachePolicy().threshold, 0, 0.47),
        ("phrases", 0.90, 9, 0.50),
        ("phrases_later", CachePolicy().threshold, 6, 0.60),
        ("phrases_later", 0.90, 20, 0.64),
    ],
)
def test_hits_are_as_right_as_the_guide_says(name: str, threshold: float, wrong: int, reworded: float) -> None:
    found = measure_held_out(threshold, name)
    assert len(found.wrong) <= wrong, found.wrong
    assert found.reworded[0] / found.reworded[1] >= reworded
    assert found.apart[0] == 0


@pytest.mark.parametrize(("name", "count"), [("phrases", 60), ("phrases_later", 20)])
def test_each_question_has_rewordings_and_near_misses(name: str, count: int) -> None:
    entries = held_out(name)
    assert len(entries) == count
    assert all(len(e.reworded) == 3 and len(e.others) == 1 and len(e.traps) >= 3 for e in entries)
    texts = [text for e in entries for text in (e.question, *e.reworded, *e.others, *e.traps)]
    assert len(texts) == len(set(texts))

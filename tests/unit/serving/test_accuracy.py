"""What the card claims of the shipped model holds for the files that ship."""

from __future__ import annotations

import hashlib
import json

import pytest

from detent.serving.engines.tiny.domain import Split
from detent.serving.engines.tiny.generation import Tiny
from detent.serving.engines.tiny.measure import measure
from detent.serving.engines.tiny.runtime import DATA

RECIPE = json.loads((DATA / "recipe.json").read_bytes())


@pytest.fixture(scope="module")
def model() -> Tiny:
    return Tiny.load()


@pytest.mark.parametrize(("split", "least"), [("train", 0.96), ("values", 0.965), ("phrasings", 0.85)])
def test_it_is_as_right_as_its_card_says(model: Tiny, split: Split, least: float) -> None:
    # Other examples than the card's; the bounds leave room for chance among 300 of them.
    assert measure(model, split, count=300, seed=7).exact >= least


def test_values_it_never_saw_are_copied_right() -> None:
    assert RECIPE["measured"]["values"]["count"] == 2000
    assert RECIPE["measured"]["values"]["exact"] >= 0.98


def test_the_files_are_those_that_were_measured() -> None:
    for name, digest in RECIPE["digests"].items():
        assert "sha256:" + hashlib.sha256((DATA / name).read_bytes()).hexdigest() == digest, name


@pytest.mark.parametrize("message", ["Hello", "Good morning!", "What is the capital of France?"])
def test_small_talk_is_something_else(model: Tiny, message: str) -> None:
    assert json.loads(model.answer([("user", message)]).text)["intent"] == "other"

"""Measures the model: `python -m detent.serving.engines.tiny.measure`. Right is an answer without a wrong character."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import msgspec

from detent.serving.engines.tiny.domain import Example, Split, examples
from detent.serving.engines.tiny.generation import Tiny
from detent.serving.engines.tiny.runtime import DATA

SEED = 2026
COUNT = 2000


class Measured(msgspec.Struct, frozen=True):
    """How often the answer was exactly right, and what was asked for where it was not.

    Attributes:
        exact: share of answers without a wrong character.
        by_style: the same among the examples of each form of answer.
    """

    count: int
    seed: int
    exact: float
    by_style: dict[str, float]


def measure(model: Tiny, split: Split, *, count: int = COUNT, seed: int = SEED) -> Measured:
    """Greedy answers to `count` examples of a split."""
    asked: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for example in examples(seed, count, split):
        found = model.answer(conversation(example)).text == example.answer
        for name in ("all", style_of(example)):
            asked[name] += 1
            right[name] += found
    shares = {name: round(right[name] / asked[name], 4) for name in sorted(asked)}
    return Measured(count, seed, shares.pop("all"), shares)


def conversation(example: Example) -> list[tuple[str, str]]:
    """The example as role and text."""
    return [*([("system", example.system)] if example.system else []), ("user", example.message)]


def style_of(example: Example) -> str:
    """The form of answer that was asked for, in words."""
    fields = "all" if len(example.style.fields) == 5 else "some"
    return f"{example.style.form}, {fields} fields, missing {example.style.missing}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one JSON document with a measurement per split."""
    parser = argparse.ArgumentParser(prog="measure", description="Exact match of detent-tiny by split.")
    parser.add_argument("--model", type=Path, default=DATA, help="model folder (default: the one that ships)")
    parser.add_argument("--count", type=int, default=COUNT, help="examples per split (default: %(default)s)")
    options = parser.parse_args(arguments)
    model = Tiny.load(options.model)
    found = {split: measure(model, split, count=options.count) for split in get_args(Split)}
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Training: without torch a sentence and no traceback; with it the same bytes every time, in files others read."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from detent.serving.engines.tiny import train
from detent.serving.engines.tiny.card import write_card
from detent.serving.engines.tiny.generation import Tiny
from detent.serving.engines.tiny.runtime import DATA

TORCH = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not TORCH, reason="the `tune` extra is not installed")
SMALL = train.Recipe(examples=96, tokenizer_examples=96, batch=16, warm_up=2)


@pytest.mark.skipif(TORCH, reason="torch is installed")
def test_without_torch_the_command_to_install_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--out", str(tmp_path)]) == 1
    assert "pip install 'detent[tune]'" in capsys.readouterr().err


@needs_torch
def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first = train.train(SMALL, tmp_path / "a", count=4)
    second = train.train(SMALL, tmp_path / "b", count=4)
    assert first["digests"] == second["digests"]
    other = train.train(
        train.Recipe(seed=2, examples=96, tokenizer_examples=96, batch=16, warm_up=2), tmp_path, count=4
    )
    assert other["digests"]["model.safetensors"] != first["digests"]["model.safetensors"]


@needs_torch
def test_what_is_trained_can_be_loaded_and_learns(tmp_path: Path) -> None:
    told: list[str] = []
    made = train.train(SMALL, tmp_path, count=4, say=told.append)
    assert Tiny.load(tmp_path).answer([("user", "Hello")]).prompt_tokens > 0
    assert made["parameters"] == 492_160
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in told if "loss" in line]
    assert losses[-1] < losses[0] - 2


@needs_torch
def test_logits_of_some_positions_are_those_of_all(tmp_path: Path) -> None:
    import torch

    from detent.serving.engines.tiny.runtime import Shape

    shape = Shape(vocabulary=40, width=32, heads=4, groups=2, head=8, hidden=48)
    weights = train.begin(shape)
    tokens, asked = torch.randint(0, 40, (2, 9)), torch.tensor([[0, 4, 8], [3, 3, 7]])
    every = train.forward(shape, weights, tokens)
    some = train.forward(shape, weights, tokens, asked)
    assert torch.allclose(some, every.gather(1, asked[:, :, None].expand(-1, -1, 40)), atol=1e-5)


def test_the_card_says_what_the_recipe_measured() -> None:
    recipe, config = (json.loads((DATA / name).read_bytes()) for name in ("recipe.json", "config.json"))
    size = (DATA / "model.safetensors").stat().st_size
    assert (DATA / "README.md").read_text(encoding="utf-8") == write_card(recipe, config, size)

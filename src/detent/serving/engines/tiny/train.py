"""Trains detent-tiny from nothing: `python -m detent.serving.engines.tiny.train --help`.

One thread, one seed, no data but what `domain` makes: on the same kind of processor the same seed gives the same bytes.
Matrices learn by Muon, the embedding and the gains by AdamW.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from detent.kernel.errors import MissingExtra
from detent.serving.engines.tiny.card import write_card
from detent.serving.engines.tiny.chat import TEMPLATE, render
from detent.serving.engines.tiny.domain import Example, Split, examples
from detent.serving.engines.tiny.generation import Tiny
from detent.serving.engines.tiny.measure import COUNT, conversation, measure
from detent.serving.engines.tiny.runtime import DATA, Shape
from detent.serving.engines.tiny.tokenizer import END, PAD, Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    Batch = tuple[Tensor, Tensor, Tensor, Tensor]

Say = Callable[[str], None]
_FOCUS = 1.3
_FAST = 0.03
"""Radians per token from which on a pair of dimensions tells one place from the next."""


def _silent(_: str) -> None: ...


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the bytes of the model, but the machine."""

    seed: int = 1
    examples: int = 320_000
    tokenizer_examples: int = 8_000
    batch: int = 32
    rate: float = 0.02
    rate_rest: float = 0.01
    decay: float = 0.05
    warm_up: int = 20
    vocabulary: int = 512


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, write the model's folder and, with `--check`, compare it with the one that ships."""
    parser = argparse.ArgumentParser(prog="train", description="Train detent-tiny and write its folder.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--check", action="store_true", help="compare the digests with those of the shipped model")
    parser.add_argument("--examples", type=int, default=Recipe.examples, help="examples to learn from")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    options = parser.parse_args(arguments)
    try:
        made = train(Recipe(seed=options.seed, examples=options.examples), options.out, say=_say)
    except MissingExtra as error:
        _say(str(error))
        return 1
    if not options.check:
        return 0
    shipped = json.loads((DATA / "recipe.json").read_text())
    for name, digest in shipped["digests"].items():
        got = made["digests"].get(name)
        _say(f"{name}: same" if got == digest else f"{name}: DIFFERS, {got} instead of {digest}")
    if made["digests"] == shipped["digests"]:
        return 0
    _say(f"Trained with {made['trained_with']}; the shipped model with {shipped['trained_with']}.")
    return 1


def train(recipe: Recipe, folder: Path, *, count: int = COUNT, say: Say = _silent) -> dict[str, Any]:
    """Train by the recipe, write the model's folder, and give what stands in its `recipe.json`.

    Args:
        count: examples of each split to measure with.

    Raises:
        MissingExtra: torch is not installed.
    """
    torch = _torch()
    began = time.process_time()
    data = examples(recipe.seed, recipe.examples, "train")
    tokenizer = Tokenizer.train(
        (text for e in data[: recipe.tokenizer_examples] for text in (e.system, e.message, e.answer)), recipe.vocabulary
    )
    shape = Shape(vocabulary=tokenizer.size)
    torch.manual_seed(recipe.seed)
    weights = begin(shape)
    fit(shape, weights, recipe, list(batches(data, tokenizer, recipe)), say=say)
    made = write_folder(folder, weights, tokenizer, shape, recipe)
    made["data"] = {"split": "train", "digest": _digest(_json([[e.system, e.message, e.answer] for e in data]))}
    made["trained_with"]["cpu_seconds"] = round(time.process_time() - began)
    say(f"{made['parameters']} parameters in {made['trained_with']['cpu_seconds']} s of CPU; measuring")
    describe(folder, made, count=count)
    return made


def describe(folder: Path, made: dict[str, Any], *, count: int) -> None:
    """Measure the model in the folder with the numpy runtime, and write its `recipe.json` and its card."""
    model = Tiny.load(folder)
    made["measured"] = {split: msgspec.to_builtins(measure(model, split, count=count)) for split in get_args(Split)}
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "recipe.json").write_bytes(_json(made))
    size = (folder / "model.safetensors").stat().st_size
    (folder / "README.md").write_text(write_card(made, config, size), encoding="utf-8")


def write_folder(
    folder: Path, weights: Mapping[str, Tensor], tokenizer: Tokenizer, shape: Shape, recipe: Recipe
) -> dict[str, Any]:
    """Write the model as a folder that other Llama runtimes read; the recipe, with the digests of its files."""
    torch = _torch()
    from detent.serving.engines.tiny.weights import write_tensors

    tensors = {name: tensor.detach().half().numpy() for name, tensor in weights.items()}
    special = {"eos_token_id": tokenizer.special[END], "pad_token_id": tokenizer.special[PAD]}
    reading = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "model_max_length": shape.context,
        "chat_template": TEMPLATE,
    }
    machine = {
        "torch": torch.__version__,
        "python": ".".join(map(str, sys.version_info[:2])),
        "threads": 1,
        "capability": torch.backends.cpu.get_cpu_capability(),
    }
    files = {
        "config.json": _json({**shape.to_json(), **special}),
        "generation_config.json": _json({"do_sample": False, **special}),
        "model.safetensors": write_tensors(tensors, {"format": "pt"}),
        "tokenizer.json": _json(tokenizer.to_json()),
        "tokenizer_config.json": _json(reading),
        "chat_template.jinja": TEMPLATE.encode(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return {
        "recipe": asdict(recipe),
        "parameters": sum(tensor.numel() for tensor in weights.values()),
        "trained_with": machine,
        "digests": {name: _digest(content) for name, content in files.items()},
    }


def fit(
    shape: Shape, weights: Mapping[str, Tensor], recipe: Recipe, work: Sequence[Batch], *, say: Say = _silent
) -> None:
    """One pass over the batches: linear warm-up, then a linear way down to nothing."""
    torch = _torch()
    matrices = [tensor for name, tensor in weights.items() if "_proj" in name]
    rest = [tensor for name, tensor in weights.items() if "_proj" not in name]
    optimizers = (
        torch.optim.Muon(matrices, lr=recipe.rate, weight_decay=recipe.decay, momentum=0.95),
        torch.optim.AdamW(rest, lr=recipe.rate_rest, weight_decay=0.0, betas=(0.9, 0.95)),
    )
    began = time.monotonic()
    for step, (tokens, asked, targets, counted) in enumerate(work):
        share = min((step + 1) / recipe.warm_up, (len(work) - step) / (len(work) - recipe.warm_up))
        for optimizer, rate in zip(optimizers, (recipe.rate, recipe.rate_rest), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * share
        logits = forward(shape, weights, tokens, asked)
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        loss = (losses * counted.flatten()).sum() / counted.sum()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0 or step == len(work) - 1:
            say(f"step {step + 1}/{len(work)}: loss {loss.item():.4f}, {time.monotonic() - began:.0f} s")


def batches(data: Sequence[Example], tokenizer: Tokenizer, recipe: Recipe) -> Iterator[Batch]:
    """Tokens, the positions asked for, what follows those, and which count: only answers are learned.

    Conversations of like length go together, the batches in random order.
    """
    torch = _torch()
    chance = random.Random(recipe.seed)  # noqa: S311 - data, not secrets
    pad, end = tokenizer.special[PAD], tokenizer.special[END]
    rows = []
    for example in data:
        prompt = render(tokenizer, conversation(example))
        rows.append(([*prompt, *tokenizer.encode(example.answer), end], len(prompt)))
    window = recipe.batch * 16
    groups = []
    for start in range(0, len(rows), window):
        part = sorted(rows[start : start + window], key=lambda row: len(row[0]))
        found = [part[i : i + recipe.batch] for i in range(0, len(part), recipe.batch)]
        chance.shuffle(found)
        groups.extend(found)
    for group in groups:
        length = max(len(ids) for ids, _ in group)
        answer = max(len(ids) - cut for ids, cut in group)
        tokens = torch.tensor([ids + [pad] * (length - len(ids)) for ids, _ in group])
        asked = torch.tensor([[min(cut - 1 + i, length - 2) for i in range(answer)] for _, cut in group])
        counted = torch.tensor([[float(i < len(ids) - cut) for i in range(answer)] for ids, cut in group])
        yield tokens[:, :-1], asked, tokens.gather(1, asked + 1), counted


def begin(shape: Shape) -> dict[str, Tensor]:
    """Weights by the names they have in a model folder: random, but for where the first layer looks.

    All embeddings begin with a common part, and through it all heads but one begin by looking one, two, three
    tokens back. Finding what follows what, the base of all copying, then takes hundreds of steps less.
    """
    torch = _torch()
    weights = {"model.embed_tokens.weight": torch.randn(shape.vocabulary, shape.width) * 0.02}
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        for name, (read, written) in shape.projections().items():
            weights[f"{prefix}{name}.weight"] = torch.randn(written, read) * 0.6 * read**-0.5
        weights[prefix + "input_layernorm.weight"] = torch.ones(shape.width)
        weights[prefix + "post_attention_layernorm.weight"] = torch.ones(shape.width)
    weights["model.norm.weight"] = torch.ones(shape.width)
    embedding = weights["model.embed_tokens.weight"]
    embedding *= 0.02 * shape.width**0.5 / embedding.norm(dim=1, keepdim=True)
    embedding[:, 0] = 0.1
    queries, keys = (weights[f"model.layers.0.self_attn.{name}_proj.weight"] for name in "qk")
    angles = shape.frequencies(torch)
    fast = angles > _FAST
    for head in range(shape.groups - 1):
        rows = slice(head * shape.head, (head + 1) * shape.head)
        turn = angles * (head + 1)
        queries[rows], keys[rows] = 0.0, 0.0
        queries[rows, 0] = _FOCUS * torch.cat((turn.cos() * fast, -turn.sin() * fast))
        keys[rows, 0] = _FOCUS * torch.cat((fast * 1.0, fast * 0.0))
    return {name: tensor.requires_grad_() for name, tensor in weights.items()}


def forward(shape: Shape, weights: Mapping[str, Tensor], tokens: Tensor, asked: Tensor | None = None) -> Tensor:
    """Logits in torch, for a batch, with gradients: what `runtime.Llama` computes for one conversation.

    Args:
        asked: positions of each row whose logits are wanted; the last layer works for these only. None for all.
    """
    torch = _torch()
    functional = torch.nn.functional
    places = torch.arange(tokens.shape[1]).expand(tokens.shape)
    turns = torch.arange(tokens.shape[1], dtype=torch.float32)[:, None] * shape.frequencies(torch)
    cos, sin = torch.cat((turns, turns), dim=-1).cos(), torch.cat((turns, turns), dim=-1).sin()

    def matrix(name: str, x: Tensor) -> Tensor:
        y: Tensor = functional.linear(x, weights[f"{prefix}{name}_proj.weight"])
        return y

    def heads(name: str, x: Tensor, at: Tensor) -> Tensor:
        y = matrix(f"self_attn.{name}", x).unflatten(-1, (-1, shape.head)).transpose(1, 2)
        return y if name == "v" else _rotated(y, cos[at][:, None], sin[at][:, None])

    def normed(name: str, x: Tensor) -> Tensor:
        y: Tensor = functional.rms_norm(x, (shape.width,), weights[name], shape.epsilon)
        return y

    x = functional.embedding(tokens, weights["model.embed_tokens.weight"])
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        y = normed(prefix + "input_layernorm.weight", x)
        k, v = heads("k", y, places), heads("v", y, places)
        if layer == shape.layers - 1 and asked is not None:
            index = asked[:, :, None].expand(-1, -1, shape.width)
            x, y = x.gather(1, index), y.gather(1, index)
            q, seen = heads("q", y, asked), (places[:, None, None] <= asked[:, None, :, None])
            mixed = functional.scaled_dot_product_attention(q, k, v, seen, enable_gqa=shape.groups != shape.heads)
        else:
            q = heads("q", y, places)
            gqa = shape.groups != shape.heads
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=gqa)
        x = x + matrix("self_attn.o", mixed.transpose(1, 2).flatten(2))
        y = normed(prefix + "post_attention_layernorm.weight", x)
        x = x + matrix("mlp.down", functional.silu(matrix("mlp.gate", y)) * matrix("mlp.up", y))
    logits: Tensor = functional.linear(normed("model.norm.weight", x), weights["model.embed_tokens.weight"])
    return logits


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + _torch().cat((-second, first), dim=-1) * sin


def _torch() -> Any:
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    try:
        import torch
    except ImportError:
        raise MissingExtra("Training needs torch.", hint="Install it with: pip install 'detent[tune]'") from None
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    return torch


def _json(tree: Any) -> bytes:
    return (json.dumps(tree, indent=1, ensure_ascii=False) + "\n").encode()


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())

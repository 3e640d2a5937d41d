"""Trains detent-tiny from nothing: `python -m detent.serving.engines.tiny.train --help`.

One thread, one seed, no data but what `domain` makes: on the same kind of processor the same seed gives the same bytes.
Matrices learn by Muon, the embedding and the gains by AdamW. With AdamW alone the copying of values, which the task
lives from, does not form in this time.
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
from typing import TYPE_CHECKING, Any

from detent.kernel.errors import MissingExtra
from detent.serving.engines.tiny.chat import TEMPLATE, render
from detent.serving.engines.tiny.domain import Example, examples
from detent.serving.engines.tiny.runtime import DATA, Shape
from detent.serving.engines.tiny.tokenizer import END, PAD, Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    Batch = tuple[Tensor, Tensor, Tensor]

Say = Callable[[str], None]


def _silent(_: str) -> None: ...


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the bytes of the model, but the machine."""

    seed: int = 1
    examples: int = 60_000
    tokenizer_examples: int = 8_000
    batch: int = 64
    rate: float = 0.02
    rate_rest: float = 0.004
    decay: float = 0.05
    warm_up: int = 20
    prompt_weight: float = 0.1
    vocabulary: int = 512


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, write the model's folder and, with `--check`, compare it with the one that ships."""
    parser = argparse.ArgumentParser(prog="train", description="Train detent-tiny and write its folder.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--check", action="store_true", help="compare the digests with those of the shipped model")
    parser.add_argument("--examples", type=int, default=Recipe.examples, help="examples to learn from")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    options = parser.parse_args(arguments)
    made = train(Recipe(seed=options.seed, examples=options.examples), options.out, say=_say)
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


def train(recipe: Recipe, folder: Path, *, say: Say = _silent) -> dict[str, Any]:
    """Train by the recipe, write the model's folder, and give what stands in its `recipe.json`."""
    torch = _torch()
    began = time.monotonic()
    data = examples(recipe.seed, recipe.examples, "train")
    tokenizer = Tokenizer.train(
        (text for e in data[: recipe.tokenizer_examples] for text in (e.system, e.message, e.answer)), recipe.vocabulary
    )
    shape = Shape(vocabulary=tokenizer.size)
    torch.manual_seed(recipe.seed)
    weights = begin(shape)
    fit(shape, weights, recipe, list(batches(data, tokenizer, recipe)), say=say)
    made = write_folder(folder, weights, tokenizer, shape, recipe)
    say(f"{made['parameters']} parameters, {time.monotonic() - began:.0f} s")
    return made


def write_folder(
    folder: Path, weights: Mapping[str, Tensor], tokenizer: Tokenizer, shape: Shape, recipe: Recipe
) -> dict[str, Any]:
    """Write the model as a folder that other Llama runtimes read, and the recipe with the digests of its files."""
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
    made = {
        "recipe": asdict(recipe),
        "data": "detent.serving.engines.tiny.domain, split train",
        "parameters": sum(tensor.numel() for tensor in weights.values()),
        "trained_with": machine,
        "digests": {name: "sha256:" + hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    (folder / "recipe.json").write_bytes(_json(made))
    return made


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
    for step, (tokens, targets, shares) in enumerate(work):
        share = min((step + 1) / recipe.warm_up, (len(work) - step) / (len(work) - recipe.warm_up))
        for optimizer, rate in zip(optimizers, (recipe.rate, recipe.rate_rest), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * share
        logits = forward(shape, weights, tokens)
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        loss = (losses * shares.flatten()).sum() / shares.sum()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0 or step == len(work) - 1:
            say(f"step {step + 1}/{len(work)}: loss {loss.item():.4f}, {time.monotonic() - began:.0f} s")


def batches(data: Sequence[Example], tokenizer: Tokenizer, recipe: Recipe) -> Iterator[Batch]:
    """Tokens, next tokens and their weights; conversations of like length together, the batches in random order."""
    torch = _torch()
    chance = random.Random(recipe.seed)  # noqa: S311 - data, not secrets
    pad, end = tokenizer.special[PAD], tokenizer.special[END]
    rows = []
    for example in data:
        prompt = render(tokenizer, conversation(example))
        answer = [*tokenizer.encode(example.answer), end]
        rows.append((prompt + answer, len(prompt)))
    window = recipe.batch * 16
    groups = []
    for start in range(0, len(rows), window):
        part = sorted(rows[start : start + window], key=lambda row: len(row[0]))
        found = [part[i : i + recipe.batch] for i in range(0, len(part), recipe.batch)]
        chance.shuffle(found)
        groups.extend(found)
    for group in groups:
        length = max(len(ids) for ids, _ in group)
        tokens = torch.tensor([ids + [pad] * (length - len(ids)) for ids, _ in group])
        shares = torch.tensor(
            [
                [recipe.prompt_weight] * (cut - 1) + [1.0] * (len(ids) - cut) + [0.0] * (length - len(ids))
                for ids, cut in group
            ]
        )
        yield tokens[:, :-1], tokens[:, 1:], shares


def conversation(example: Example) -> list[tuple[str, str]]:
    """The example as role and text."""
    return [*([("system", example.system)] if example.system else []), ("user", example.message)]


def begin(shape: Shape) -> dict[str, Tensor]:
    """Random weights by the names they have in a model folder. Only matrices are random; gains begin at one."""
    torch = _torch()

    def matrix(rows: int, columns: int, deviation: float) -> Tensor:
        return (torch.randn(rows, columns) * deviation).requires_grad_()

    def gain() -> Tensor:
        ones: Tensor = torch.ones(shape.width, requires_grad=True)
        return ones

    weights = {"model.embed_tokens.weight": matrix(shape.vocabulary, shape.width, 0.02), "model.norm.weight": gain()}
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        for name, (read, written) in shape.projections().items():
            weights[f"{prefix}{name}.weight"] = matrix(written, read, 0.6 * read**-0.5)
        weights[prefix + "input_layernorm.weight"] = gain()
        weights[prefix + "post_attention_layernorm.weight"] = gain()
    return weights


def forward(shape: Shape, weights: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
    """Logits after every token: what `runtime.Llama` computes, in torch, for a batch, with gradients."""
    torch = _torch()
    functional = torch.nn.functional
    turns = torch.arange(tokens.shape[1], dtype=torch.float32)[:, None] * shape.frequencies(torch)
    cos, sin = torch.cat((turns, turns), dim=-1).cos(), torch.cat((turns, turns), dim=-1).sin()

    def normed(x: Tensor, name: str) -> Tensor:
        y: Tensor = functional.rms_norm(x, (shape.width,), weights[name], shape.epsilon)
        return y

    def heads(x: Tensor, name: str) -> Tensor:
        return functional.linear(x, weights[name]).unflatten(-1, (-1, shape.head)).transpose(1, 2)

    x = functional.embedding(tokens, weights["model.embed_tokens.weight"])
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        y = normed(x, prefix + "input_layernorm.weight")
        q, k, v = (heads(y, f"{prefix}self_attn.{name}_proj.weight") for name in "qkv")
        q, k = _rotated(q, cos, sin), _rotated(k, cos, sin)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=shape.groups != shape.heads)
        x = x + functional.linear(mixed.transpose(1, 2).flatten(2), weights[prefix + "self_attn.o_proj.weight"])
        y = normed(x, prefix + "post_attention_layernorm.weight")
        gate, up = (functional.linear(y, weights[f"{prefix}mlp.{name}_proj.weight"]) for name in ("gate", "up"))
        x = x + functional.linear(functional.silu(gate) * up, weights[prefix + "mlp.down_proj.weight"])
    return functional.linear(normed(x, "model.norm.weight"), weights["model.embed_tokens.weight"])


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


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())

"""The numpy runtime: the same model as torch's, however a prompt is cut, with adapters beside the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detent.kernel.errors import InvalidInput
from detent.serving.engines.tiny.runtime import DATA, Adapter, Cache, Llama, Shape
from detent.serving.engines.tiny.weights import Array, read_file, write_tensors

GROUPED = Shape(vocabulary=64, width=32, layers=3, heads=4, groups=2, head=8, hidden=48, context=64)
NAMES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
         "mlp.down_proj")  # fmt: skip


def weights_of(shape: Shape, seed: int = 0) -> dict[str, Array]:
    chance = np.random.default_rng(seed)
    tensors = {
        "model.embed_tokens.weight": chance.normal(size=(shape.vocabulary, shape.width)),
        "model.norm.weight": chance.uniform(0.5, 1.5, shape.width),
    }
    for layer in range(shape.layers):
        for name, (read, written) in shape.projections().items():
            tensors[f"model.layers.{layer}.{name}.weight"] = chance.normal(size=(written, read)) * read**-0.5
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{name}.weight"] = chance.uniform(0.5, 1.5, shape.width)
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def lora_of(shape: Shape, rank: int, names: tuple[str, ...] = NAMES) -> dict[str, Array]:
    chance = np.random.default_rng(1)
    tensors = {}
    for layer in range(shape.layers):
        for name in names:
            read, written = shape.projections()[name]
            stem = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{stem}.lora_A.weight"] = chance.normal(size=(rank, read)).astype(np.float32) * 0.1
            tensors[f"{stem}.lora_B.weight"] = chance.normal(size=(written, rank)).astype(np.float32)
    return tensors


def every(llama: Llama, ids: list[int], adapter: Adapter | None = None) -> Array:
    return llama.forward(ids, Cache(llama.shape, len(ids)), adapter, every=True)


@pytest.fixture(scope="module")
def grouped() -> Llama:
    return Llama(GROUPED, weights_of(GROUPED))


IDS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3]


@pytest.mark.parametrize("cuts", [[1] * 16, [16], [5, 11], [15, 1], [1, 7, 8]])
def test_however_the_tokens_come_the_logits_are_the_same(grouped: Llama, cuts: list[int]) -> None:
    cache, rows, start = Cache(GROUPED, 16), [], 0
    for cut in cuts:
        rows.append(grouped.forward(IDS[start : start + cut], cache, every=True))
        start += cut
    assert cache.length == 16
    assert np.allclose(np.concatenate(rows), every(grouped, IDS), atol=1e-4)


def test_without_every_only_the_last_logits_come(grouped: Llama) -> None:
    assert np.allclose(grouped.forward(IDS, Cache(GROUPED, 16)), every(grouped, IDS)[-1], atol=1e-5)


def test_a_token_sees_nothing_that_comes_after_it(grouped: Llama) -> None:
    other = [*IDS[:8], *reversed(IDS[8:])]
    assert np.allclose(every(grouped, IDS)[:8], every(grouped, other)[:8], atol=1e-5)
    assert not np.allclose(every(grouped, IDS)[9:], every(grouped, other)[9:], atol=1e-2)


@pytest.mark.parametrize("shape", [GROUPED, Shape(layers=1, vocabulary=40)])
def test_the_logits_are_those_of_torch(shape: Shape) -> None:
    torch = pytest.importorskip("torch", reason="the `tune` extra is not installed")
    from detent.serving.engines.tiny.train import forward

    tensors = weights_of(shape)
    expected = forward(shape, {name: torch.tensor(tensor) for name, tensor in tensors.items()}, torch.tensor([IDS]))
    assert np.allclose(every(Llama(shape, tensors), IDS), expected[0].numpy(), atol=1e-4)


def test_the_shipped_model_says_the_same_in_torch() -> None:
    torch = pytest.importorskip("torch", reason="the `tune` extra is not installed")
    from detent.serving.engines.tiny.train import forward

    llama = Llama.load(DATA)
    tensors = {name: torch.tensor(tensor) for name, tensor in read_file(DATA / "model.safetensors").items()}
    ids = list(range(5, 400, 3))
    expected = forward(llama.shape, tensors, torch.tensor([ids]))[0].numpy()
    assert np.allclose(every(llama, ids), expected, atol=2e-3)


@pytest.mark.parametrize("names", [NAMES, ("self_attn.q_proj", "self_attn.v_proj"), ("mlp.up_proj",)])
def test_an_adapter_beside_the_weights_equals_a_merged_one(names: tuple[str, ...]) -> None:
    tensors, lora = weights_of(GROUPED), lora_of(GROUPED, 4, names)
    merged = dict(tensors)
    for layer in range(GROUPED.layers):
        for name in names:
            stem = f"base_model.model.model.layers.{layer}.{name}"
            key = f"model.layers.{layer}.{name}.weight"
            merged[key] = tensors[key] + 0.5 * lora[f"{stem}.lora_B.weight"] @ lora[f"{stem}.lora_A.weight"]
    llama = Llama(GROUPED, tensors)
    beside = every(llama, IDS, Adapter(GROUPED, lora, scale=0.5))
    assert np.allclose(beside, every(Llama(GROUPED, merged), IDS), atol=2e-4)
    assert not np.allclose(beside, every(llama, IDS), atol=1e-2)


def write_adapter(folder: Path, tensors: dict[str, Array], **settings: Any) -> Path:
    (folder / "adapter_model.safetensors").write_bytes(write_tensors(tensors))
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 2, **settings}))
    return folder


def test_an_adapter_is_read_from_its_folder(tmp_path: Path, grouped: Llama) -> None:
    lora = lora_of(GROUPED, 4)
    plain = Adapter.load(write_adapter(tmp_path, lora), GROUPED)
    assert np.allclose(every(grouped, IDS, plain), every(grouped, IDS, Adapter(GROUPED, lora, scale=0.5)))
    root = Adapter.load(write_adapter(tmp_path, lora, use_rslora=True), GROUPED)
    assert np.allclose(every(grouped, IDS, root), every(grouped, IDS, Adapter(GROUPED, lora, scale=1.0)))


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"q_proj": 2}},
        {"r": "x"},
    ],
)
def test_an_adapter_of_another_kind_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        Adapter.load(write_adapter(tmp_path, lora_of(GROUPED, 4), **settings), GROUPED)


def test_tensors_that_would_not_be_applied_are_refused() -> None:
    lora = lora_of(GROUPED, 4)
    with pytest.raises(InvalidInput, match="does not apply"):
        Adapter(GROUPED, lora | {"base_model.model.lm_head.lora_A.weight": np.zeros((4, 32), np.float32)}, scale=1)
    with pytest.raises(InvalidInput, match="do not fit"):
        Adapter(Shape(), lora, scale=1)


def test_a_missing_adapter_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="nowhere"):
        Adapter.load(tmp_path / "nowhere", GROUPED)


def test_the_sizes_survive_config_json() -> None:
    assert Shape.from_json(GROUPED.to_json()) == GROUPED


@pytest.mark.parametrize("change", [{"model_type": "mistral"}, {"tie_word_embeddings": False}, {"hidden_act": "gelu"}])
def test_another_architecture_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        Shape.from_json(GROUPED.to_json() | change)

"""The Llama architecture in numpy: the forward pass, the cache of keys and values, adapters beside the weights.

Made for small models on one core: what is done once per load (transposing, joining matrices, the rotary table) is
not done per token, and a token costs a few dozen numpy calls. Prompts go through in blocks, so that a long one costs
memory in proportion to its length and a server can breathe between two blocks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detent.kernel.errors import InvalidInput
from detent.serving.engines.tiny.weights import Array, read_file

DATA = Path(__file__).parent / "data"
"""The folder of the model that ships with the package."""

BLOCK = 128
"""Tokens of a prompt that go through the model at once."""

_ONE = np.float32(1)
_JOINED = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""Matrices that read the same input are one matrix here; the names are those of the tensors."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a Llama model, with the meaning of `config.json`."""

    vocabulary: int = 512
    width: int = 128
    layers: int = 2
    heads: int = 4
    groups: int = 4
    head: int = 32
    hidden: int = 384
    context: int = 2048
    theta: float = 100000.0
    epsilon: float = 1e-5

    def frequencies(self, library: Any) -> Any:
        """Angles per position of the rotary embedding, as an array of numpy or torch."""
        return self.theta ** (-library.arange(0, self.head, 2, dtype=library.float32) / self.head)

    def projections(self) -> dict[str, tuple[int, int]]:
        """Width read and width written of each matrix of a layer."""
        inner, keys = self.heads * self.head, self.groups * self.head
        return {
            "self_attn.q_proj": (self.width, inner),
            "self_attn.k_proj": (self.width, keys),
            "self_attn.v_proj": (self.width, keys),
            "self_attn.o_proj": (inner, self.width),
            "mlp.gate_proj": (self.width, self.hidden),
            "mlp.up_proj": (self.width, self.hidden),
            "mlp.down_proj": (self.hidden, self.width),
        }

    def to_json(self) -> dict[str, Any]:
        """The model's part of a `config.json` that other Llama runtimes read."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.groups,
            "head_dim": self.head,
            "intermediate_size": self.hidden,
            "max_position_embeddings": self.context,
            "rope_theta": self.theta,
            "rms_norm_eps": self.epsilon,
            "hidden_act": "silu",
            "tie_word_embeddings": True,
            "attention_bias": False,
            "mlp_bias": False,
            "torch_dtype": "float16",
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Shape:
        """Read a `config.json`. Raises InvalidInput for an architecture that this runtime does not compute."""
        if tree.get("model_type") != "llama" or tree.get("hidden_act") != "silu" or not tree.get("tie_word_embeddings"):
            raise InvalidInput("This runtime computes Llama models with tied embeddings only.", field="model_type")
        return cls(
            vocabulary=tree["vocab_size"],
            width=tree["hidden_size"],
            layers=tree["num_hidden_layers"],
            heads=tree["num_attention_heads"],
            groups=tree["num_key_value_heads"],
            head=tree["head_dim"],
            hidden=tree["intermediate_size"],
            context=tree["max_position_embeddings"],
            theta=tree["rope_theta"],
            epsilon=tree["rms_norm_eps"],
        )


class Cache:
    """Keys and values of the tokens seen so far, with room for `capacity` of them."""

    __slots__ = ("keys", "length", "values")

    def __init__(self, shape: Shape, capacity: int) -> None:
        self.keys = np.empty((shape.layers, shape.groups, capacity, shape.head), np.float32)
        self.values = np.empty_like(self.keys)
        self.length = 0


@dataclass(frozen=True, slots=True)
class Low:
    """A low-rank addition to some columns of a joined matrix: `x @ down @ up`."""

    columns: slice
    down: Array
    up: Array


class Adapter:
    """A LoRA adapter in PEFT's format, applied beside the weights and never merged: every call may pick its own."""

    def __init__(self, shape: Shape, tensors: Mapping[str, Array], *, scale: float) -> None:
        """Tensors by PEFT's names (`...layers.0.mlp.up_proj.lora_A.weight`). Raises InvalidInput for any other."""
        self.parts: dict[tuple[int, str], list[Low]] = {}
        widths = shape.projections()
        left = set(tensors)
        for layer in range(shape.layers):
            for joined, names in _JOINED.items():
                begin = 0
                for name in names:
                    columns = slice(begin, begin + widths[name][1])
                    begin = columns.stop
                    stem = next((n for n in left if n.endswith(f"layers.{layer}.{name}.lora_A.weight")), None)
                    if stem is None:
                        continue
                    down, up = tensors[stem], tensors.get(stem.replace("lora_A", "lora_B"))
                    if up is None or down.shape != (up.shape[1], widths[name][0]) or up.shape[0] != widths[name][1]:
                        raise InvalidInput(f"The adapter's tensors for {name} do not fit this model.", field=stem)
                    left -= {stem, stem.replace("lora_A", "lora_B")}
                    low = Low(columns, np.ascontiguousarray(down.T), np.ascontiguousarray(up.T) * np.float32(scale))
                    self.parts.setdefault((layer, joined), []).append(low)
        if left:
            raise InvalidInput(
                f"The adapter holds tensors that this runtime does not apply, such as {min(left)}.",
                hint="Train LoRA on the projections of attention and MLP only.",
                field=min(left),
            )

    @classmethod
    def load(cls, folder: Path, shape: Shape) -> Adapter:
        """Read `adapter_config.json` and `adapter_model.safetensors`. Raises InvalidInput if it is not LoRA."""
        try:
            settings = json.loads((folder / "adapter_config.json").read_bytes())
            rank, alpha = int(settings["r"]), float(settings["lora_alpha"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidInput(f"The adapter in {folder} cannot be read: {error}.", field="adapter") from None
        for name in ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern"):
            if settings.get(name):
                raise InvalidInput(f"The adapter uses {name}, which this runtime does not apply.", field=name)
        if settings.get("bias", "none") != "none":
            raise InvalidInput("The adapter holds biases, which this runtime does not apply.", field="bias")
        scale = alpha / (rank**0.5 if settings.get("use_rslora") else rank)
        return cls(shape, read_file(folder / "adapter_model.safetensors"), scale=scale)


class Llama:
    """The model: token ids in, logits out."""

    def __init__(self, shape: Shape, tensors: Mapping[str, Array]) -> None:
        self.shape = shape
        self._embedding = np.ascontiguousarray(tensors["model.embed_tokens.weight"], np.float32)
        self._unembedding = np.ascontiguousarray(self._embedding.T)
        self._norm = np.asarray(tensors["model.norm.weight"], np.float32)
        self._layers = [_Layer(tensors, f"model.layers.{index}.") for index in range(shape.layers)]
        turns = np.arange(shape.context, dtype=np.float32)[:, None] * shape.frequencies(np)
        cos, sin = np.cos(turns), np.sin(turns)
        self._cos = np.concatenate((cos, cos), axis=1)[:, None, :]
        self._sin = np.concatenate((-sin, sin), axis=1)[:, None, :]
        half = shape.head // 2
        self._swap = np.concatenate((np.arange(half, shape.head), np.arange(half)))
        self._scale = np.float32(shape.head**-0.5)
        self._share = np.float32(1 / shape.width)
        self._epsilon = np.float32(shape.epsilon)

    @classmethod
    def load(cls, folder: Path) -> Llama:
        """Read `config.json` and `model.safetensors`."""
        shape = Shape.from_json(json.loads((folder / "config.json").read_bytes()))
        return cls(shape, read_file(folder / "model.safetensors"))

    def forward(
        self, ids: Sequence[int], cache: Cache, adapter: Adapter | None = None, *, every: bool = False
    ) -> Array:
        """Logits after the last of `ids` (after each with `every`), which follow what the cache holds."""
        start, count = cache.length, len(ids)
        cos, sin = self._cos[start : start + count], self._sin[start : start + count]
        x = self._embedding[list(ids)]
        for index, layer in enumerate(self._layers):
            x = x + self._attend(x, index, layer, cache, cos, sin, adapter)
            normed = self._normed(x, layer.norm_mlp)
            both = _product(normed, layer.gate_up, adapter, index, "gate_up")
            gate, up = both[:, : self.shape.hidden], both[:, self.shape.hidden :]
            x = x + _product(gate / (np.exp(-gate) + _ONE) * up, layer.down, adapter, index, "down")
        cache.length = start + count
        logits: Array = self._normed(x if every else x[-1:], self._norm) @ self._unembedding
        return logits if every else logits[0]

    def _attend(
        self, x: Array, index: int, layer: _Layer, cache: Cache, cos: Array, sin: Array, adapter: Adapter | None
    ) -> Array:
        shape = self.shape
        start, count = cache.length, len(x)
        stop = start + count
        qkv = _product(self._normed(x, layer.norm_attention), layer.qkv, adapter, index, "qkv")
        qkv = qkv.reshape(count, shape.heads + 2 * shape.groups, shape.head)
        turning = qkv[:, : shape.heads + shape.groups]
        turned = turning * cos + turning.take(self._swap, axis=2) * sin
        keys, values = cache.keys[index], cache.values[index]
        keys[:, start:stop] = turned[:, shape.heads :].transpose(1, 0, 2)
        values[:, start:stop] = qkv[:, shape.heads + shape.groups :].transpose(1, 0, 2)
        queries = (turned[:, : shape.heads] * self._scale).transpose(1, 0, 2)
        queries = queries.reshape(shape.groups, -1, shape.head)
        scores = queries @ keys[:, :stop].transpose(0, 2, 1)
        if count > 1:
            hidden = np.arange(stop) > np.arange(start, stop)[:, None]
            scores.reshape(shape.groups, -1, count, stop)[:, :, hidden] = -np.inf
        scores -= np.maximum.reduce(scores, axis=2, keepdims=True)
        np.exp(scores, out=scores)
        scores /= np.add.reduce(scores, axis=2, keepdims=True)
        mixed = (scores @ values[:, :stop]).reshape(shape.heads, count, shape.head)
        return _product(mixed.transpose(1, 0, 2).reshape(count, -1), layer.out, adapter, index, "out")

    def _normed(self, x: Array, gain: Array) -> Array:
        scale = np.sqrt(np.vecdot(x, x) * self._share + self._epsilon)
        normed: Array = x / scale[:, None] * gain
        return normed


class _Layer:
    """The weights of one layer, joined and turned so that a row of activations times a matrix is one call."""

    def __init__(self, tensors: Mapping[str, Array], prefix: str) -> None:
        def joined(key: str) -> Array:
            matrices = [tensors[f"{prefix}{name}.weight"] for name in _JOINED[key]]
            return np.ascontiguousarray(np.concatenate(matrices).T, np.float32)

        self.qkv, self.out = joined("qkv"), joined("out")
        self.gate_up, self.down = joined("gate_up"), joined("down")
        self.norm_attention = np.asarray(tensors[prefix + "input_layernorm.weight"], np.float32)
        self.norm_mlp = np.asarray(tensors[prefix + "post_attention_layernorm.weight"], np.float32)


def _product(x: Array, matrix: Array, adapter: Adapter | None, layer: int, joined: str) -> Array:
    y: Array = x @ matrix
    if adapter is not None:
        for low in adapter.parts.get((layer, joined), ()):
            y[:, low.columns] += x @ low.down @ low.up
    return y

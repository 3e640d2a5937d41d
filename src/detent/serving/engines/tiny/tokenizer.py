"""Byte-pair tokenizer in pure Python, on the `tokenizer.json` that the `tokenizers` library reads as well.

Words, single digits, single blanks and runs of signs are kept apart, so a value has the same tokens wherever it stands
and can be copied token by token. Every text can be encoded, for the 256 bytes are in the vocabulary; special tokens
only come from the chat template, never from a text.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
SPECIALS = (PAD, END, SYSTEM, USER, ASSISTANT)
PATTERN = r"[0-9]|[A-Za-z]{1,24}|[ \t\r\n]|[^A-Za-z0-9 \t\r\n]{1,8}"
"""Bounded runs: a hostile text costs no more than a plain one of its length."""

_PIECES = re.compile(PATTERN)


def _alphabet() -> list[str]:
    """GPT-2's printable character for each byte, as `tokenizer.json` writes them."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    chars = {byte: chr(byte) for byte in plain}
    for offset, byte in enumerate(byte for byte in range(256) if byte not in chars):
        chars[byte] = chr(256 + offset)
    return [chars[byte] for byte in range(256)]


_CHARS = _alphabet()
_BYTES = {char: byte for byte, char in enumerate(_CHARS)}


class Tokenizer:
    """Text to token ids and back."""

    def __init__(self, vocabulary: dict[str, int], merges: Sequence[tuple[str, str]]) -> None:
        self._ids = vocabulary
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.merges = tuple(merges)
        self.size = len(vocabulary)
        self.special = {name: vocabulary[name] for name in SPECIALS}
        self.bytes = [b""] * self.size
        for token, index in vocabulary.items():
            if token not in self.special:
                self.bytes[index] = bytes(_BYTES[char] for char in token)
        self.longest = max(map(len, self.bytes))
        self._piece = lru_cache(maxsize=8192)(self._split)

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read a `tokenizer.json` of this pattern."""
        tree = json.loads(path.read_text(encoding="utf-8"))
        model = tree["model"]
        vocabulary = {token["content"]: token["id"] for token in tree["added_tokens"]} | model["vocab"]
        return cls(vocabulary, [(left, right) for left, right in model["merges"]])

    @classmethod
    def train(cls, texts: Iterable[str], size: int) -> Tokenizer:
        """Learn merges from texts until the vocabulary has `size` tokens. Ties fall to the pair that sorts first."""
        counts = Counter(piece for text in texts for piece in _PIECES.findall(text))
        words = {piece: [_CHARS[byte] for byte in piece.encode()] for piece in counts}
        vocabulary = {token: index for index, token in enumerate((*SPECIALS, *_CHARS))}
        merges: list[tuple[str, str]] = []
        while len(vocabulary) < size:
            pairs: Counter[tuple[str, str]] = Counter()
            for piece, symbols in words.items():
                for pair in pairwise(symbols):
                    pairs[pair] += counts[piece]
            best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
            if best is None:
                break
            merges.append(best)
            vocabulary.setdefault("".join(best), len(vocabulary))
            for symbols in words.values():
                _merge(symbols, best)
        return cls(vocabulary, merges)

    def to_json(self) -> dict[str, Any]:
        """The `tokenizer.json` of the `tokenizers` library."""
        added = [
            {"id": index, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True}
            for name, index in self.special.items()
        ]  # fmt: skip
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
            "post_processor": None,
            "decoder": level,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": self._ids,
                "merges": [list(pair) for pair in self.merges],
            },
        }

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; a lone surrogate becomes a question mark."""
        ids: list[int] = []
        for piece in _PIECES.findall(text):
            ids.extend(self._piece(piece))
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; special tokens have none, torn characters become U+FFFD."""
        return b"".join(self.bytes[index] for index in ids).decode("utf-8", "replace")

    def _split(self, piece: str) -> tuple[int, ...]:
        symbols = [_CHARS[byte] for byte in piece.encode("utf-8", "replace")]
        while len(symbols) > 1:
            rank = min(self._ranks.get(pair, len(self._ranks)) for pair in pairwise(symbols))
            if rank == len(self._ranks):
                break
            _merge(symbols, self.merges[rank])
        return tuple(self._ids[symbol] for symbol in symbols)


def _merge(symbols: list[str], pair: tuple[str, str]) -> None:
    """Join every occurrence of the pair in place, from the left."""
    left, right = pair
    index = 0
    while index < len(symbols) - 1:
        if symbols[index] == left and symbols[index + 1] == right:
            symbols[index : index + 2] = [left + right]
        index += 1

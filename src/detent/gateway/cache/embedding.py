"""Texts as vectors: the port, and a function that needs no model.

`HashedNgrams` knows words and their pieces, not meanings: it finds the same question in another order, spelling or
politeness, and not the same question in other words. An embedding model behind the same port finds those as well.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Final, Protocol
from zlib import crc32

_WORDS: Final = re.compile(r"[^\W_]+")
_PIECES: Final = (3, 4)
_FILLER_WORDS: Final = """
a an the is are was were be been am do does did can could would should will shall may might please kindly hi hello hey
thanks thank you me my i we us our your it its this that these those to of in on at for from by with as and or so just
also tell show give explain let know want need like there here how what which who whom whose when where why if then
about
"""
FILLERS: Final = frozenset(_FILLER_WORDS.split())
"""Words that make a question polite or whole, and hardly count."""
_FILLER_WEIGHT: Final = 0.15
_PIECE_WEIGHT: Final = 0.35
_PAIR_WEIGHT: Final = 0.5


class Embed(Protocol):
    """Turns a text into a vector of length 1. Called on the request path of routes whose policy says `semantic`.

    Attributes:
        name: of the function and its version; vectors of different names are never compared.
        dims: how many numbers a vector has.
        resolution: one other word among n moves a text by a cosine of at least so much / n, for functions that know
            words only; texts in which it would not show are not compared. 0 for those that know meanings.
    """

    @property
    def name(self) -> str: ...

    @property
    def dims(self) -> int: ...

    @property
    def resolution(self) -> float: ...

    def __call__(self, text: str) -> Sequence[float]:
        """The vector; all zeros for a text that says nothing."""
        ...


class HashedNgrams:
    """Words, pieces of words and pairs of neighbouring words, hashed into a few hundred dimensions with random signs.

    Feature hashing after Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009; counts are
    damped (square root). Deterministic, the same in every process and on every machine.
    """

    name = "hashed-ngrams-1"
    resolution = 1.2

    def __init__(self, dims: int = 512) -> None:
        self.dims = dims

    def __call__(self, text: str) -> Sequence[float]:
        counts: dict[str, float] = {}
        before = ""
        for word in _WORDS.findall(unicodedata.normalize("NFKC", text).casefold()):
            weight = _FILLER_WEIGHT if word in FILLERS else 1.0
            counts[word] = counts.get(word, 0.0) + weight
            if weight == 1.0:
                # Who does what to whom: only pairs tell "paris to rome" from "rome to paris".
                pair = f"{before} {word}"
                counts[pair] = counts.get(pair, 0.0) + _PAIR_WEIGHT
                before = word
            if len(word) > _PIECES[0] and weight == 1.0:
                framed = f"<{word}>"
                for size in _PIECES:
                    for at in range(len(framed) - size + 1):
                        piece = framed[at : at + size]
                        counts[piece] = counts.get(piece, 0.0) + _PIECE_WEIGHT
        vector = [0.0] * self.dims
        for feature, count in counts.items():
            hashed = crc32(feature.encode(errors="surrogatepass"))
            value = count**0.5 if count > 1 else count
            vector[hashed % self.dims] += value if hashed & 0x80000000 else -value
        norm = sum(value * value for value in vector) ** 0.5
        return [value / norm for value in vector] if norm else vector

"""The Merkle tree over the facts' hashes (RFC 9162, section 2.1), kept as its frontier.

The frontier is the list of roots of the perfect subtrees from left to right, one for each bit set in the size: at most
64 hashes, enough to go on from and to compute the root.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

_EMPTY: Final = sha256(b"").digest()
_LEAF: Final = b"\x00"
_NODE: Final = b"\x01"
_BLOCK_BITS: Final = 12
_BLOCK: Final = 1 << _BLOCK_BITS


class Frontier:
    """A tree that grows at its right end."""

    __slots__ = ("_peaks", "size")

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        if size.bit_count() != len(peaks):
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} peaks, not {len(peaks)}")
        self.size = size
        self._peaks = list(peaks)

    def extend(self, leaves: Sequence[bytes]) -> None:
        """Append leaves. Whole aligned blocks are hashed level by level, which is what makes it fast."""
        start, count = 0, len(leaves)
        while start < count:
            if self.size % _BLOCK == 0 and count - start >= _BLOCK:
                self._push(_perfect(leaves[start : start + _BLOCK]), _BLOCK_BITS)
                start += _BLOCK
            else:
                stop = min(count, start + _BLOCK - self.size % _BLOCK)
                for leaf in leaves[start:stop]:
                    self._push(sha256(_LEAF + leaf).digest(), 0)
                start = stop

    def root(self) -> bytes:
        """The tree's root; the hash of nothing for an empty tree."""
        if not self._peaks:
            return _EMPTY
        root = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            root = sha256(_NODE + peak + root).digest()
        return root

    def to_bytes(self) -> bytes:
        """The peaks, largest first; with the size enough to make the frontier again."""
        return b"".join(self._peaks)

    @classmethod
    def from_bytes(cls, size: int, data: bytes) -> Frontier:
        """The frontier that `to_bytes` wrote.

        Raises:
            ValueError: the bytes are not those of a tree of this size.
        """
        return cls(size, [data[at : at + 32] for at in range(0, len(data), 32)])

    def _push(self, node: bytes, level: int) -> None:
        """Add a perfect subtree of 2**level leaves, merging it with equals on its left."""
        size = self.size >> level
        while size & 1:
            node = sha256(_NODE + self._peaks.pop() + node).digest()
            size >>= 1
        self._peaks.append(node)
        self.size += 1 << level


def _perfect(leaves: Sequence[bytes]) -> bytes:
    """The root over a power of two of leaves."""
    level = [sha256(_LEAF + leaf).digest() for leaf in leaves]
    while len(level) > 1:
        pairs = iter(level)
        level = [sha256(_NODE + left + right).digest() for left, right in zip(pairs, pairs, strict=True)]
    return level[0]

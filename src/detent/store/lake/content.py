"""What is seldom read and takes most of the room: input, output and attributes, compressed in blocks of spans.

Spans that are written together stand in one zstd frame: a trace's messages repeat each other, and a block of twenty
takes less than half of what twenty frames would.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import msgspec
import zstandard

from detent.kernel.errors import StorageFailed
from detent.kernel.telemetry import Span

BLOCK_SPANS = 24
BLOCK_BYTES = 128 * 1024
MAX_BLOCK = 1 << 30
_LEVEL = 3
_local = threading.local()


class Content(msgspec.Struct, frozen=True, array_like=True):
    """The fat part of one span."""

    input: str
    output: str
    attributes: dict[str, Any]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Content])


def content_of(span: Span) -> Content:
    """The fat part."""
    return Content(span.input, span.output, span.attributes)


def pack(contents: Sequence[Content]) -> bytes:
    """A block."""
    if not hasattr(_local, "compressor"):
        # One per thread: a context may not be used by two at once, and making one costs more than a block.
        _local.compressor = zstandard.ZstdCompressor(level=_LEVEL)
    return bytes(_local.compressor.compress(_encoder.encode(contents)))


def unpack(block: bytes) -> list[Content]:
    """The contents of a block, in order.

    Raises:
        StorageFailed: it is damaged.
    """
    if not hasattr(_local, "decompressor"):
        _local.decompressor = zstandard.ZstdDecompressor()
    try:
        return _decoder.decode(_local.decompressor.decompress(block, max_output_size=MAX_BLOCK))
    except (zstandard.ZstdError, msgspec.DecodeError) as error:
        raise StorageFailed(f"A block of the lake is damaged: {error}.", hint="Restore the day's file.") from None


def chunks(spans: Sequence[Span]) -> list[Sequence[Span]]:
    """Cut into runs that fit a block."""
    found: list[Sequence[Span]] = []
    begin = size = 0
    for at, span in enumerate(spans):
        size += len(span.input) + len(span.output) + 64 * len(span.attributes)
        if at > begin and (size > BLOCK_BYTES or at - begin >= BLOCK_SPANS):
            found.append(spans[begin:at])
            begin, size = at, len(span.input) + len(span.output)
    found.append(spans[begin:])
    return found

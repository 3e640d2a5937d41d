"""The safetensors format, read and written with numpy alone: a length, a JSON header, the bytes.

What is written depends only on the tensors and the notes: the same training gives the same file, byte for byte.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detent.kernel.errors import InvalidInput

Array = np.ndarray[Any, np.dtype[Any]]

_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
_NAMES = {np.dtype(code): name for name, code in _TYPES.items()}
_HEADER_LIMIT = 100_000_000


def write_tensors(tensors: Mapping[str, Array], notes: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a safetensors file: tensors by name, header padded to eight bytes."""
    header: dict[str, Any] = {"__metadata__": dict(sorted(notes.items()))} if notes else {}
    chunks: list[bytes] = []
    offset = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        data = np.ascontiguousarray(tensor, dtype=tensor.dtype.newbyteorder("<")).tobytes()
        offsets = [offset, offset + len(data)]
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        chunks.append(data)
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, *chunks))


def read_tensors(data: bytes) -> tuple[dict[str, Array], dict[str, str]]:
    """Tensors and notes of a safetensors file.

    Raises:
        InvalidInput: it is not one, or its header does not fit its bytes.
    """
    try:
        size = int.from_bytes(data[:8], "little")
        if len(data) < 8 or size > min(_HEADER_LIMIT, len(data) - 8):
            raise ValueError("the header is longer than the file")
        header = json.loads(data[8 : 8 + size])
        notes = header.pop("__metadata__", {})
        body = memoryview(data)[8 + size :]
        return {name: _tensor(entry, body) for name, entry in header.items()}, notes
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(
            f"These bytes are no safetensors file that can be used: {error}.",
            hint="Tensors of type BF16 are not read; save them as F16 or F32.",
        ) from None


def read_file(path: Path) -> dict[str, Array]:
    """Tensors of a file, in single precision as the runtime wants them."""
    tensors, _ = read_tensors(path.read_bytes())
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def _tensor(entry: Mapping[str, Any], body: memoryview) -> Array:
    begin, end = entry["data_offsets"]
    kind = np.dtype(_TYPES[entry["dtype"]])
    shape = tuple(entry["shape"])
    if not 0 <= begin <= end <= len(body) or end - begin != math.prod(shape) * kind.itemsize:
        raise ValueError("a tensor lies outside the file")
    return np.frombuffer(body[begin:end], kind).reshape(shape)

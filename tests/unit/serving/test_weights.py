"""The safetensors format: what is written is read, what is damaged is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detent.kernel.errors import InvalidInput
from detent.serving.engines.tiny.weights import read_tensors, write_tensors

TENSORS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.array([1, -2], dtype=np.int64),
    "h": np.array([[0.5]], dtype=np.float16),
    "empty": np.zeros((0, 4), dtype=np.float32),
    "one": np.array(7, dtype=np.uint8),
}


def test_what_is_written_is_read() -> None:
    tensors, notes = read_tensors(write_tensors(TENSORS, {"format": "pt"}))
    assert notes == {"format": "pt"}
    assert set(tensors) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert np.array_equal(tensors[name], tensor)


def test_the_bytes_do_not_depend_on_the_order_of_names() -> None:
    turned = dict(reversed(TENSORS.items()))
    assert write_tensors(turned) == write_tensors(TENSORS)


def test_the_header_ends_on_eight_bytes() -> None:
    data = write_tensors(TENSORS)
    assert int.from_bytes(data[:8], "little") % 8 == 0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 7,
        (2**60).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (4).to_bytes(8, "little") + b"\xff\xfe{}",
        write_tensors(TENSORS)[:-1],
    ],
)
def test_what_is_no_safetensors_file_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        read_tensors(data)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]},
        {"dtype": "F32", "shape": [1]},
    ],
)
def test_a_tensor_outside_its_file_is_refused(entry: dict[str, object]) -> None:
    header = json.dumps({"x": entry}).encode()
    with pytest.raises(InvalidInput):
        read_tensors(len(header).to_bytes(8, "little") + header + b"\x00" * 4)


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_load_or_be_refused(data: bytes) -> None:
    try:
        read_tensors(data)
    except InvalidInput:
        return


def test_the_safetensors_library_agrees() -> None:
    library = pytest.importorskip("safetensors.numpy", reason="the `tune` extra is not installed")
    read = library.load(write_tensors(TENSORS))
    assert all(np.array_equal(read[name], tensor) for name, tensor in TENSORS.items())
    tensors, _ = read_tensors(library.save({"x": TENSORS["b"]}))
    assert np.array_equal(tensors["x"], TENSORS["b"])

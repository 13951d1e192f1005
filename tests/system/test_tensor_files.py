"""Headers read and written by hand, beside the library that the format belongs to."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kernel.system.tensor_files import Tensor, read_header, write_tensors


def put(path: Path, header: object, data: bytes = b"") -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(shape: list, begin: int, end: int) -> dict:
    return {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}


def test_a_header_says_where_each_tensor_of_the_librarys_file_begins(tmp_path):
    rows = {"a": np.arange(6, dtype=np.float16).reshape(2, 3), "b": np.arange(4, dtype=np.float32)}
    save_file(rows, tmp_path / "own.safetensors")
    data = (tmp_path / "own.safetensors").read_bytes()
    for tensor in read_header(tmp_path / "own.safetensors"):
        assert tensor.shape == rows[tensor.name].shape
        assert data[tensor.start : tensor.start + tensor.bytes] == rows[tensor.name].tobytes()


def test_the_library_reads_what_is_written(tmp_path):
    tensors = [Tensor("odd", "U8", (3,)), Tensor("rows", "F32", (2, 2))]
    written = {"odd": bytes([1, 2, 3]), "rows": np.float32([[1, 2], [3, 4]]).tobytes()}
    write_tensors(tmp_path / "own.safetensors", tensors, lambda tensor: [written[tensor.name]], {"made": "here"})
    found = load_file(tmp_path / "own.safetensors")
    assert found["odd"].tolist() == [1, 2, 3] and found["rows"].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ({"w": entry([-2, -2], 0, 8)}, "named safetensors but is not"),
        ({"w": entry([4], -8, 0)}, "named safetensors but is not"),
        ({"w": entry(["x"], 0, 8)}, "named safetensors but is not"),
        ({"w": {**entry([4], 0, 8), "dtype": ["F16"]}}, "named safetensors but is not"),
        ({"a": entry([2], 0, 4), "b": entry([2], 2, 6)}, "named safetensors but is not.*b of F16"),  # overlap
        ({"a": entry([1], 0, 2), "b": entry([1], 6, 8)}, "named safetensors but is not.*b of F16"),  # a gap
        ({"w": entry([2], 0, 8)}, "named safetensors but is not"),
        ({"w": entry([8], 0, 16)}, "ends before w does"),
        ({"w": entry([2], 0, 4)}, "bytes, its header says"),
    ],
)
def test_a_header_that_cannot_be_is_refused(tmp_path, header, why):
    with pytest.raises(ValueError, match=why):
        read_header(put(tmp_path / "own.safetensors", header, bytes(8)))


def test_a_deeply_nested_header_is_refused(tmp_path):
    text = b"[" * 100_000
    (tmp_path / "own.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(ValueError, match="named safetensors but is not"):
        read_header(tmp_path / "own.safetensors")


@pytest.mark.parametrize("data", [b"123", b"12345"])
def test_blocks_that_are_not_the_tensor_leave_no_file(tmp_path, data):
    with pytest.raises(ValueError, match="expected 4"):
        write_tensors(tmp_path / "own.safetensors", [Tensor("w", "F16", (2,))], lambda tensor: [data], {})
    assert list(tmp_path.iterdir()) == []

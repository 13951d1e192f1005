"""Headers read and written by hand, beside the library that the format belongs to."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from kernel.system import tensor_files
from kernel.system.tensor_files import ITEM_BYTES, Tensor, read_header, write_tensors
from tests.system.test_records import JSON, places
from tests.system.test_records import put as changed


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
        ({"w": {**entry([4], 0, 8), "dtype": 16}}, "named safetensors but is not"),
        ({"w": {**entry([4], 0, 8), "shape": {}}}, "named safetensors but is not"),
        ({"w": {**entry([4], 0, 8), "shape": "4"}}, "named safetensors but is not"),
        ({"w": {**entry([4], 8, 0), "dtype": "F8_E4M3"}}, "named safetensors but is not"),
        ({"w": entry([4], 0, True)}, "named safetensors but is not"),
        ({"w": entry([4], 0, 8) | {"data_offsets": [0, 8, 8]}}, "named safetensors but is not"),
        ({"w": entry([4], 0, 8), "__metadata__": {"format": 3}}, "named safetensors but is not.*no words"),
        ({"w" * 999: entry([-4] * 99, 0, 8)}, "named safetensors but is not"),
        ([], "named safetensors but is not"),
        ({"a": entry([2], 0, 4), "b": entry([2], 2, 6)}, "named safetensors but is not.*b of F16"),  # overlap
        ({"a": entry([1], 0, 2), "b": entry([1], 6, 8)}, "named safetensors but is not.*b of F16"),  # a gap
        ({"w": entry([2], 0, 8)}, "named safetensors but is not"),
        ({"w": entry([8], 0, 16)}, "ends before 'w' does"),
        ({"w": entry([2], 0, 4)}, "bytes, its header says"),
    ],
)
def test_a_header_that_cannot_be_is_refused(tmp_path, header, why):
    with pytest.raises(ValueError, match=why):
        read_header(put(tmp_path / "own.safetensors", header, bytes(8)))


ENTRY = '{"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}'


@pytest.mark.parametrize(
    "text",
    [
        f'{{"w": {ENTRY}, "w": {ENTRY.replace("[0, 4]", "[4, 8]")}}}',
        f'{{"w": {ENTRY.replace("[2]", "[4]").replace("[0, 4]", "[0, 4], ")[:-1]} "data_offsets": [0, 8]}}}}',
    ],
)
def test_a_name_that_stands_twice_is_refused_though_libraries_take_the_last(tmp_path, text):
    data = text.encode()
    (tmp_path / "own.safetensors").write_bytes(len(data).to_bytes(8, "little") + data + bytes(8))
    with pytest.raises(ValueError, match="a name stands twice"):
        read_header(tmp_path / "own.safetensors")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
def test_a_header_in_another_encoding_is_refused_as_the_library_refuses_it(tmp_path, encoding):
    text = f'{{"w": {ENTRY}}}'.encode(encoding)
    (tmp_path / "own.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    with pytest.raises(ValueError, match="named safetensors but is not"):
        read_header(tmp_path / "own.safetensors")


def test_a_header_larger_than_any_model_needs_is_not_read(tmp_path, monkeypatch):
    path = put(tmp_path / "own.safetensors", {"w": entry([2], 0, 4)}, bytes(4))
    assert read_header(path)
    monkeypatch.setattr(tensor_files, "MOST_HEADER_BYTES", 20)
    with pytest.raises(ValueError, match="its header claims"):
        read_header(path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "own.safetensors")
    with pytest.raises(OSError, match="a named pipe"):
        read_header(tmp_path / "own.safetensors")


HEADER = {"__metadata__": {"format": "pt"}, "a": {**entry([2, 1], 0, 8), "dtype": "F32"}, "b": entry([2], 8, 12)}


def read_or_refused(path: Path) -> list[Tensor] | None:
    try:
        return read_header(path)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1 and len(str(error)) < 400
        return None


@settings(deadline=None)
@given(data=st.data())
def test_any_bytes_in_any_place_are_tensors_inside_the_file_or_one_line(tmp_path_factory, data):
    path = put(tmp_path_factory.getbasetemp() / "bytes.safetensors", HEADER, bytes(12))
    content = bytearray(path.read_bytes())
    start = data.draw(st.integers(0, len(content)))
    content[start : start + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    path.write_bytes(content)
    place = 8
    for tensor in read_or_refused(path) or []:
        assert place <= tensor.start <= len(content)
        place = tensor.start + (tensor.bytes if tensor.dtype in ITEM_BYTES else 0)
    assert place <= len(content)


@settings(deadline=None)
@given(data=st.data())
def test_any_value_in_any_place_of_a_header_is_read_as_the_library_reads_it_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "value.safetensors"
    other = changed(HEADER, data.draw(st.sampled_from(places(HEADER))), data.draw(JSON))
    found = read_or_refused(put(path, other, bytes(12)))
    if found is not None and all(tensor.dtype in ITEM_BYTES for tensor in found):
        with safe_open(path, framework="np") as file:
            assert {own.name: list(own.shape) for own in found} == {
                name: file.get_slice(name).get_shape()
                for name in file.keys()  # noqa: SIM118 - no mapping
            }


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

import hashlib
import math
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from kernel.errors import UserError
from kernel.models.captioners.blip2 import BLIP2
from kernel.publish.hub import convert
from kernel.publish.hub.convert import convert_pickle, convert_safetensors, shard_index
from kernel.system import tensor_files
from kernel.system.tensor_files import read_header
from tests.conftest import ROOT

WO = "language_model.encoder.block.0.layer.1.DenseReluDense.wo.weight"
VISION = "vision_model.encoder.layers.0.mlp.fc1.weight"


def converted(tmp_path: Path, tensors: dict[str, torch.Tensor], full_precision=()) -> dict[str, torch.Tensor]:
    """Through the real writer and the real reader, with the conversion between them."""
    save_file(tensors, tmp_path / "source.safetensors")
    convert_safetensors(tmp_path / "source.safetensors", tmp_path / "target.safetensors", full_precision)
    return load_file(tmp_path / "target.safetensors")


def refusal(tmp_path: Path, tensors: dict[str, torch.Tensor], full_precision=()) -> str:
    with pytest.raises(UserError) as refused:
        converted(tmp_path, tensors, full_precision)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def random_values(*shape: int) -> torch.Tensor:
    """Over the whole range of float16, subnormal numbers and zeros included."""
    generator = torch.Generator().manual_seed(0)
    exponents = torch.randint(-30, 16, shape, generator=generator).float()
    return torch.randn(shape, generator=generator).clamp(-1.9, 1.9) * torch.exp2(exponents)


# values


def test_known_values_are_rounded_to_the_nearest_half(tmp_path):
    # 1 + 2**-11 lies between 1 and 1 + 2**-10, and goes to the even one; 2**-24 is the smallest half
    values = torch.tensor([1.0, 1 + 2**-11, 1 + 3 * 2**-11, -65504.0, 2**-24, 2**-26])
    halves = converted(tmp_path, {"w": values})["w"]
    assert halves.tolist() == [1.0, 1.0, 1 + 2 * 2**-10, -65504.0, 2**-24, 0.0]


def test_float32_becomes_what_torch_makes_of_it(tmp_path):
    values = random_values(300, 7)
    assert torch.equal(converted(tmp_path, {"w": values})["w"], values.half())


def test_bfloat16_becomes_what_torch_makes_of_it(tmp_path):
    values = random_values(300, 7).bfloat16()
    assert torch.equal(converted(tmp_path, {"w": values})["w"], values.float().half())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_part_kept_in_full_precision_keeps_every_value(tmp_path, dtype):
    values = random_values(30, 7).to(dtype)
    found = converted(tmp_path, {WO: values}, BLIP2.full_precision)[WO]
    assert found.dtype == torch.float32 and torch.equal(found, values.float())


@pytest.mark.parametrize("name", [WO, "qformer.layernorm.weight", "query_tokens"])
def test_the_parts_that_the_loader_keeps_are_kept(tmp_path, name):
    assert converted(tmp_path, {name: torch.ones(2)}, BLIP2.full_precision)[name].dtype == torch.float32


@pytest.mark.parametrize("name", [VISION, "language_model.two.weight", "language_model.lm_head.weight", "my_qformer.w"])
def test_a_part_whose_name_only_looks_alike_is_halved(tmp_path, name):
    assert converted(tmp_path, {name: torch.ones(2)}, BLIP2.full_precision)[name].dtype == torch.float16


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.float16])
def test_whole_numbers_and_halves_stay_as_they_are(tmp_path, dtype):
    values = torch.arange(100).to(dtype)
    found = converted(tmp_path, {"position_ids": values})["position_ids"]
    assert found.dtype == dtype and torch.equal(found, values)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1, 1, 1, 5)])
def test_every_shape_survives(tmp_path, shape):
    assert converted(tmp_path, {"w": torch.ones(shape)})["w"].shape == shape


@pytest.mark.parametrize("value", [65520.0, -1e6])
def test_a_value_beyond_float16_is_refused_with_its_tensors_name(tmp_path, value):
    values = torch.zeros(50)
    values[33] = value
    assert f"{VISION}: holds {value:g}, beyond float16's 65504" in refusal(tmp_path, {VISION: values})


def test_a_refused_checkpoint_leaves_no_file(tmp_path):
    refusal(tmp_path, {"a": torch.ones(9), "w": torch.tensor([1e6])})
    assert [path.name for path in tmp_path.iterdir()] == ["source.safetensors"]


def test_an_infinity_of_the_checkpoint_stays_one(tmp_path):
    assert converted(tmp_path, {"w": torch.tensor([math.inf, 1.0])})["w"].tolist() == [math.inf, 1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [VISION, WO])
def test_a_checkpoint_with_nan_is_refused_whether_it_is_converted_or_copied(tmp_path, name, dtype):
    values = torch.zeros(50, dtype=dtype)
    values[33] = math.nan
    assert f"{name}: holds NaN, which is no number" in refusal(tmp_path, {name: values}, BLIP2.full_precision)


def test_a_dtype_that_is_not_foreseen_is_refused(tmp_path):
    assert "w is of dtype F64; expected one of F32" in refusal(tmp_path, {"w": torch.ones(2, dtype=torch.float64)})


# the file


@pytest.mark.parametrize("block_bytes", [8, 24, 2**20])
def test_block_borders_change_nothing(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(tensor_files, "BLOCK_BYTES", block_bytes)
    tensors = {"a": random_values(33), WO: random_values(5, 5), "n": torch.arange(7)}
    found = converted(tmp_path, tensors, BLIP2.full_precision)
    expected = {"a": tensors["a"].half(), WO: tensors[WO], "n": tensors["n"]}
    assert set(found) == set(expected) and all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_sha256_is_that_of_the_file(tmp_path):
    save_file({"w": random_values(99)}, tmp_path / "source.safetensors")
    found = convert_safetensors(tmp_path / "source.safetensors", tmp_path / "target.safetensors")
    assert found == hashlib.sha256((tmp_path / "target.safetensors").read_bytes()).hexdigest()


def test_the_file_says_that_its_tensors_are_torchs(tmp_path):
    converted(tmp_path, {"w": torch.ones(2)})
    with safe_open(tmp_path / "target.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_every_tensor_begins_at_a_multiple_of_its_item(tmp_path):
    """torch refuses a view that begins elsewhere, so the odd byte of a bool must not come before a float."""
    tensors = {"a": torch.ones(3, dtype=torch.bool), "b": torch.ones(3), "c": torch.ones(1, dtype=torch.int64)}
    converted(tmp_path, tensors, ["b"])
    items = {"I64": 8, "F32": 4, "BOOL": 1}
    header = read_header(tmp_path / "target.safetensors")
    assert [tensor.start % items[tensor.dtype] for tensor in header] == [0, 0, 0]


def test_equal_tensors_stay_two(tmp_path):
    """flan-T5's head and embedding are two matrices, whatever their values."""
    found = converted(tmp_path, {"lm_head.weight": torch.ones(4, 4), "shared.weight": torch.ones(4, 4)})
    assert set(found) == {"lm_head.weight", "shared.weight"}


@pytest.mark.parametrize("content", [b"", b"{}", pickle.dumps({"w": [1.0]}), (2).to_bytes(8, "little") + b"[]"])
def test_what_is_no_safetensors_file_is_refused(tmp_path, content):
    (tmp_path / "source.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="source.safetensors: named safetensors but is not"):
        convert_safetensors(tmp_path / "source.safetensors", tmp_path / "target.safetensors")


def test_a_file_that_ends_too_early_is_refused(tmp_path):
    save_file({"w": torch.ones(9)}, tmp_path / "whole.safetensors")
    (tmp_path / "source.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-1])
    with pytest.raises(UserError, match="ends before 'w' does"):
        convert_safetensors(tmp_path / "source.safetensors", tmp_path / "target.safetensors")


FULL_DISK = """
import resource, sys
from pathlib import Path
from kernel.errors import UserError
from kernel.publish.hub.convert import convert_safetensors
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    convert_safetensors(Path(sys.argv[1]), Path(sys.argv[2]))
except UserError as error:
    print(error)
"""


def test_a_full_disk_ends_with_words_and_leaves_nothing(tmp_path):
    """The system's own refusal in the middle of the file, by a limit on the size of files."""
    save_file({"w": torch.ones(100_000)}, tmp_path / "source.safetensors")
    (tmp_path / "out").mkdir()
    command = [
        sys.executable,
        "-c",
        FULL_DISK,
        tmp_path / "source.safetensors",
        tmp_path / "out" / "target.safetensors",
    ]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "target.safetensors: cannot be written (File too large), it takes 0.00 GB" in said
    assert "Free space there or give --out another disk, then run again: finished files are kept" in said
    assert list((tmp_path / "out").iterdir()) == []


# pickles


def from_pickle(tmp_path: Path, content: object) -> dict[str, torch.Tensor]:
    torch.save(content, tmp_path / "source.bin")
    convert_pickle(tmp_path / "source.bin", tmp_path / "target.safetensors")
    return load_file(tmp_path / "target.safetensors")


@pytest.mark.parametrize("remap_bytes", [0, 2**28])
def test_a_pickle_gives_the_same_as_safetensors(tmp_path, monkeypatch, remap_bytes):
    monkeypatch.setattr(convert, "REMAP_BYTES", remap_bytes)
    tensors = {
        "a": random_values(33, 3),
        "b": random_values(9).bfloat16(),
        "n": torch.arange(7),
        "s": torch.tensor(3.5),
    }
    found, expected = from_pickle(tmp_path, tensors), converted(tmp_path, tensors)
    assert set(found) == set(expected) and all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_pickles_views_of_one_storage_are_written_whole(tmp_path):
    storage = random_values(6, 4)
    found = from_pickle(tmp_path, {"rows": storage[2:4], "turned": storage.T})
    assert torch.equal(found["rows"], storage[2:4].half()) and torch.equal(found["turned"], storage.T.half())


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path):
    with pytest.raises(
        UserError, match="source.bin: torch does not read it as plain weights .*; nothing in it was run"
    ):
        from_pickle(tmp_path, {"w": torch.ones(2), "payload": Payload(tmp_path / "ran")})
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content", [[torch.ones(2)], {"state_dict": {"w": torch.ones(2)}}, {"w": torch.ones(2), "n": 3}]
)
def test_a_pickle_that_is_no_flat_dictionary_of_tensors_is_refused(tmp_path, content):
    with pytest.raises(UserError, match="source.bin: not a flat dictionary of tensors"):
        from_pickle(tmp_path, content)


def test_a_pickle_whose_tensors_have_no_names_is_refused(tmp_path):
    with pytest.raises(UserError, match="source.bin: not a flat dictionary of tensors"):
        from_pickle(tmp_path, {1: torch.ones(2), "w": torch.ones(2)})


# indexes


def test_a_tensor_that_two_shards_hold_is_refused(tmp_path):
    shards = [tmp_path / "model-00001-of-00002.safetensors", tmp_path / "model-00002-of-00002.safetensors"]
    save_file({"a": torch.ones(3), "b": torch.ones(2)}, shards[0])
    save_file({"b": torch.zeros(2)}, shards[1])
    with pytest.raises(UserError, match=f"{shards[1]}: holds 'b', as {shards[0].name} does"):
        shard_index(shards)


def test_a_shard_index_says_where_each_tensor_is_and_how_large_all_are(tmp_path):
    shards = [tmp_path / "model-00001-of-00002.safetensors", tmp_path / "model-00002-of-00002.safetensors"]
    save_file({"a": torch.ones(3), "b": torch.ones(2)}, shards[0])
    save_file({"c": torch.ones(1)}, shards[1])
    assert shard_index(shards) == {
        "metadata": {"total_size": 24},
        "weight_map": {"a": shards[0].name, "b": shards[0].name, "c": shards[1].name},
    }

import json
import re
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from safetensors.numpy import load_file, save_file

from kernel.banks.prompt_bank import PromptBank, write_bank, write_matrix
from kernel.errors import UserError
from kernel.models.linear_head import Head
from kernel.models.vectors import unit_rows
from kernel.system.devices import Device
from kernel.system.files import file_sha256

CLIP, SENTENCES = "c" * 64, "5" * 64
PROMPTS = ["a cat", "größe 猫", "a, b\nc", "swirl", "a dog"]
N, D, E = len(PROMPTS), 6, 384
RECORD = {"clip": CLIP, "sentences": SENTENCES, "sources": ["a.txt"], "dropped": {"empty": 2}, "excluded": None}
FILES = ["clip.safetensors", "head.safetensors", "prompts.parquet", "sentences.safetensors"]
CPU = Device("cpu")


def random_unit_rows(n: int, dimensions: int, seed: int) -> np.ndarray:
    return unit_rows(np.random.default_rng(seed).normal(size=(n, dimensions)))


FEATURES, EMBEDDINGS = random_unit_rows(N, D, seed=0), random_unit_rows(N, E, seed=1)
MATRICES = [("clip.safetensors", "features", FEATURES), ("sentences.safetensors", "embeddings", EMBEDDINGS)]
HEAD = Head(np.ones((D, E), dtype=np.float32), np.zeros(D, dtype=np.float32), np.zeros(E, dtype=np.float32), 0.1)


def write(folder: Path, **changes: object) -> Path:
    parts = {
        "count": N,
        "prompts": [PROMPTS[:2], [], PROMPTS[2:]],
        "features": [FEATURES[:3], FEATURES[3:]],
        "embeddings": [EMBEDDINGS],
        "head": HEAD,
        "record": RECORD,
    }
    write_bank(folder, **{**parts, **changes})
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return write(tmp_path / "bank")


def opened(folder: Path) -> PromptBank:
    return PromptBank.open(folder, CLIP, SENTENCES)


def refusal(folder: Path, clip: str = CLIP, sentences: str = SENTENCES) -> str:
    with pytest.raises(UserError) as refused:
        PromptBank.open(folder, clip, sentences)
    assert "\n" not in str(refused.value) and "python -m kernel bank" in str(refused.value)
    return str(refused.value)


def refusal_of_prompts(folder: Path) -> str:
    """Of a bank that a run may open, as it needs no prompt's words."""
    bank = opened(folder)
    with pytest.raises(UserError) as refused:
        bank.prompts([0])
    assert "\n" not in str(refused.value) and "python -m kernel bank" in str(refused.value)
    return str(refused.value)


def record(folder: Path) -> dict:
    return json.loads((folder / "bank.json").read_text())


def change_record(folder: Path, **changes: object) -> None:
    (folder / "bank.json").write_text(json.dumps({**record(folder), **changes}))


def vouch(folder: Path) -> None:
    """Makes bank.json list the files as they now are."""
    files = [
        {"path": name, "bytes": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)} for name in FILES
    ]
    change_record(folder, files=files)


# writing and opening


def test_an_opened_bank_holds_the_rows_that_were_written_in_half_precision(folder):
    bank = opened(folder)
    np.testing.assert_array_equal(bank.features, FEATURES.astype(np.float16))
    np.testing.assert_array_equal(bank.embeddings, EMBEDDINGS.astype(np.float16))


def test_the_matrices_of_an_opened_bank_are_memory_maps(folder):
    bank = opened(folder)
    assert isinstance(bank.features, np.memmap) and isinstance(bank.embeddings, np.memmap)


def test_an_opened_bank_has_its_head(folder):
    assert opened(folder).head.weights.tolist() == HEAD.weights.tolist()


@pytest.mark.parametrize(("name", "tensor", "rows"), MATRICES)
def test_the_safetensors_library_reads_a_written_matrix(folder, name, tensor, rows):
    tensors = load_file(folder / name)
    assert list(tensors) == [tensor]
    np.testing.assert_array_equal(tensors[tensor], rows.astype(np.float16))


@pytest.mark.parametrize("count", [1, 10, 100])
def test_a_written_tensor_begins_at_a_multiple_of_8_bytes(tmp_path, count):
    rows = random_unit_rows(count, D, seed=6)
    write_matrix(tmp_path / "clip.safetensors", (count, D), [rows])
    assert (tmp_path / "clip.safetensors").stat().st_size % 8 == rows.size * 2 % 8


def test_a_matrix_that_the_safetensors_library_wrote_is_read(folder):
    save_file({"features": FEATURES.astype(np.float16)}, folder / "clip.safetensors", metadata={"made": "by hand"})
    vouch(folder)
    np.testing.assert_array_equal(opened(folder).features, FEATURES.astype(np.float16))


def test_a_written_bank_has_these_files_and_no_other(folder):
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "bank.json"])


def test_the_record_names_the_models_sources_and_counts(folder):
    found = record(folder)
    files = found.pop("files")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found.pop("created"))
    assert found == {"format": 1, "count": N, **RECORD}
    assert sorted(entry["path"] for entry in files) == FILES


def test_the_record_holds_each_files_size_and_sha256(folder):
    for entry in record(folder)["files"]:
        path = folder / entry["path"]
        assert (entry["bytes"], entry["sha256"]) == (path.stat().st_size, file_sha256(path))


def test_rounding_to_half_precision_moves_a_cosine_by_at_most_5e_4(tmp_path):
    rows = random_unit_rows(500, D, seed=3)
    bank = opened(
        write(
            tmp_path, count=500, prompts=[["x"] * 500], features=[rows], embeddings=[random_unit_rows(500, E, seed=4)]
        )
    )
    images = random_unit_rows(50, D, seed=5)
    assert np.abs(images @ bank.features.astype(np.float32).T - images @ rows.T).max() < 5e-4


@pytest.mark.parametrize(
    "changes",
    [
        {"prompts": [PROMPTS[:4]]},
        {"prompts": [PROMPTS, ["one more"]]},
        {"features": [FEATURES[:4]]},
        {"features": [FEATURES, FEATURES[:1]]},
        {"embeddings": []},
        {"embeddings": [EMBEDDINGS[:, :383]]},
    ],
)
def test_batches_that_do_not_add_up_leave_no_bank(tmp_path, changes):
    write(tmp_path)
    with pytest.raises(ValueError, match="expected"):
        write(tmp_path, **changes)
    assert not (tmp_path / "bank.json").exists() and list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, 2.0])
def test_a_row_that_is_no_unit_row_is_refused_with_its_place(tmp_path, bad):
    features = FEATURES.copy()
    features[4] *= bad
    with pytest.raises(UserError, match="clip.safetensors row 1 of .* has length .*; expected 1"):
        write(tmp_path, features=[features[:3], features[3:]])


def test_a_prompt_source_that_breaks_off_leaves_no_half_file(tmp_path):
    def breaking():
        yield PROMPTS[:2]
        raise RuntimeError("the source broke off")

    with pytest.raises(RuntimeError):
        write(tmp_path / "bank", prompts=breaking())
    assert list((tmp_path / "bank").iterdir()) == []


def test_a_feature_source_that_breaks_off_leaves_the_finished_files_alone(tmp_path):
    def breaking():
        yield FEATURES[:2]
        raise RuntimeError("the source broke off")

    with pytest.raises(RuntimeError):
        write(tmp_path / "bank", features=breaking())
    assert [path.name for path in (tmp_path / "bank").iterdir()] == ["prompts.parquet"]


def test_a_full_disk_is_one_clear_line(tmp_path, monkeypatch):
    def full(path, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match="cannot be written .No space left on device.; no bank.json was left"):
        write(tmp_path / "bank")


# refusing


def test_a_file_of_fusion_weights_beside_the_bank_does_no_harm(folder):
    (folder / "fusion.json").write_text("{}")
    assert opened(folder).record["count"] == N


def test_a_missing_bank_is_refused(tmp_path):
    assert "bank.json: not found; expected a finished prompt bank" in refusal(tmp_path / "gone")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"null"])
def test_a_record_that_is_no_record_is_refused(folder, content):
    (folder / "bank.json").write_bytes(content)
    assert "bank.json: not a prompt bank's record of format 1" in refusal(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"files": []},
        {"files": None},
        {"files": [{"path": "../x"}]},
        {"clip": None},
        {"sentences": 5},
        {"count": "many"},
    ],
)
def test_a_record_of_another_shape_is_refused(folder, changes):
    change_record(folder, **changes)
    assert "bank.json: not a prompt bank's record of format 1" in refusal(folder)


def test_a_record_that_lists_a_file_outside_is_refused(folder):
    files = record(folder)["files"]
    files[0]["path"] = "../prompts.parquet"
    change_record(folder, files=files)
    assert "lists '../prompts.parquet', which lies outside the folder" in refusal(folder)


def test_an_empty_bank_is_refused(folder):
    change_record(folder, count=0)
    assert "bank.json: the bank holds no prompt" in refusal(folder)


def test_a_bank_made_with_another_clip_is_refused_with_both_names(folder):
    said = "bank.json: made with the CLIP model cccccccc..., the weights folder holds 91c0aaaa..."
    assert said in refusal(folder, clip="91c0aaaa" * 8)


def test_a_bank_made_with_another_minilm_is_refused_with_both_names(folder):
    said = "bank.json: made with the MiniLM model 55555555..., the weights folder holds 91c0aaaa..."
    assert said in refusal(folder, sentences="91c0aaaa" * 8)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(folder, name):
    (folder / name).unlink()
    assert f"{name}: missing, though bank.json lists it" in refusal(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_in_the_middle_is_refused_with_both_sizes(folder, name):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    assert f"{name}: {len(data) // 2} bytes, bank.json says {len(data)}" in refusal(folder)


@pytest.mark.parametrize("name", ["prompts.parquet", "head.safetensors"])
def test_one_altered_byte_of_a_small_file_is_refused(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[-20] ^= 1
    (folder / name).write_bytes(data)
    assert f"{name}: sha256 {file_sha256(folder / name)[:8]}... differs from bank.json's" in refusal(folder)


@pytest.mark.parametrize(("name", "tensor"), [matrix[:2] for matrix in MATRICES])
@pytest.mark.parametrize(
    "content",
    [
        {"other": FEATURES.astype(np.float16)},
        {"features": FEATURES, "embeddings": EMBEDDINGS},
        {"features": FEATURES.astype(np.float16), "embeddings": EMBEDDINGS.astype(np.float16)},
        {"features": FEATURES.astype(np.float16)[0], "embeddings": EMBEDDINGS.astype(np.float16)[0]},
    ],
)
def test_a_matrix_of_another_name_precision_or_shape_is_refused(folder, name, tensor, content):
    save_file(content, folder / name)
    vouch(folder)
    assert f"{name}: not a matrix named {tensor}" in refusal(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        bytes(100),
        b"\xff" * 100,
        (2).to_bytes(8, "little") + b"[]",
        (2**62).to_bytes(8, "little"),
    ],
)
def test_a_matrix_file_that_is_no_safetensors_is_refused(folder, content):
    (folder / "clip.safetensors").write_bytes(content)
    vouch(folder)
    assert "clip.safetensors: not a matrix named features" in refusal(folder)


def test_a_matrix_file_shorter_than_its_header_says_is_refused(folder):
    data = (folder / "clip.safetensors").read_bytes()
    (folder / "clip.safetensors").write_bytes(data[:-2])
    vouch(folder)
    assert "clip.safetensors: not a matrix named features (ValueError(\"ends before 'features' does" in refusal(folder)


@pytest.mark.parametrize(("name", "tensor", "rows"), MATRICES)
def test_a_matrix_of_another_number_of_rows_is_refused(folder, name, tensor, rows):
    save_file({tensor: rows[:-1].astype(np.float16)}, folder / name)
    vouch(folder)
    assert f"{name}: {N - 1} rows; bank.json says {N}" in refusal(folder)


def test_a_bank_is_opened_without_pyarrow(folder, monkeypatch):
    """Which nobody vouches for on Kaggle's image."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert len(opened(folder).features) == N
    with pytest.raises(ImportError):
        opened(folder).prompts([0])


def test_another_number_of_prompts_is_refused(folder):
    pyarrow.parquet.write_table(pyarrow.table({"prompt": PROMPTS[:-1]}), folder / "prompts.parquet")
    vouch(folder)
    assert f"prompts.parquet: {N - 1} rows; bank.json says {N}" in refusal_of_prompts(folder)


def test_prompts_in_a_column_of_another_name_are_refused(folder):
    pyarrow.parquet.write_table(pyarrow.table({"text": PROMPTS}), folder / "prompts.parquet")
    vouch(folder)
    assert "prompts.parquet: columns ['text']; expected 'prompt'" in refusal_of_prompts(folder)


def test_prompts_that_are_no_parquet_are_refused(folder):
    (folder / "prompts.parquet").write_bytes(b"a cat\n")
    vouch(folder)
    assert "prompts.parquet: not a readable parquet file" in refusal_of_prompts(folder)


@pytest.mark.parametrize("shape", [(D + 1, E), (D, E - 1)])
def test_a_head_that_does_not_fit_the_matrices_is_refused(folder, shape):
    features, embeddings = shape
    Head(np.ones(shape, np.float32), np.ones(features, np.float32), np.ones(embeddings, np.float32), 0.1).save(
        folder / "head.safetensors"
    )
    vouch(folder)
    assert f"head.safetensors: maps {shape}; expected {(D, E)}" in refusal(folder)


# prompts


@pytest.mark.parametrize("indices", [[0], [4, 0, 2], [1, 1, 3, 1], [], range(N)])
def test_prompts_come_in_the_order_asked_for(folder, indices):
    assert opened(folder).prompts(indices) == [PROMPTS[index] for index in indices]


@pytest.mark.parametrize("index", [-1, N])
def test_a_row_that_the_bank_lacks_is_refused(folder, index):
    with pytest.raises(IndexError, match="out of bounds"):
        opened(folder).prompts([0, index])

"""An image encoder inside a weights folder: accepted there, loaded from there, and carried through Kaggle's dataset."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kernel.errors import UserError
from kernel.models.encoders.encoder import ImageEncoder
from kernel.models.encoders.into_weights import add_encoder
from kernel.models.encoders.record import RECORD, SPLIT, WEIGHTS, Pixels, Tower, read_encoder_record
from kernel.models.weights_folder import open_weights
from kernel.notebook.inputs import restore_weights
from kernel.publish.kaggle.staging import stage_dataset
from kernel.publish.rehearsal.mounts import upload_and_unpack
from kernel.system.files import file_sha256
from tests.models.encoders.by_hand import WIDTH, record_files, save_encoder
from tests.publish.conftest import project, wheels_folder  # noqa: F401


@pytest.fixture
def encoder(tmp_path, weights) -> Path:
    return save_encoder(tmp_path / "vit", weights)


@pytest.fixture
def own(weights_folder, tmp_path) -> Path:
    """Weights that a test may add to: files are links."""
    return Path(shutil.copytree(weights_folder, tmp_path / "weights", copy_function=os.link))


def refusal(weights: Path, encoder: Path, name: str | None = None) -> str:
    """The one line; the weights are as they were, and nothing is left beside them."""
    before = (weights / "manifest.json").read_bytes()
    with pytest.raises(UserError) as refused:
        add_encoder(weights, encoder, name)
    assert (weights / "manifest.json").read_bytes() == before and open_weights(weights).encoders == {}
    assert [path.name for path in weights.parent.iterdir() if path.name.startswith(".")] == []
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_the_weights_are_accepted_with_the_encoder_in_them(own, encoder, weights):
    folder = add_encoder(own, encoder)
    opened = open_weights(own)
    assert opened.encoders == {"vit": file_sha256(encoder / RECORD)} and opened.models == weights.models
    assert folder == opened.encoder_folder("vit")


def test_its_own_files_come_along_and_nothing_else(own, encoder):
    folder = add_encoder(own, encoder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: (encoder / name).read_bytes() for name in (RECORD, WEIGHTS, SPLIT)
    }


def test_what_is_loaded_from_there_answers_as_the_encoder_does(own, encoder, cpu):
    features = np.random.default_rng(1).normal(size=(3, WIDTH)).astype(np.float32)
    rows = [ImageEncoder.load(folder, cpu).head.apply(features) for folder in (encoder, add_encoder(own, encoder))]
    np.testing.assert_array_equal(*rows)


def test_several_stand_beside_each_other(own, encoder, weights, tmp_path):
    folders = [encoder, *(save_encoder(tmp_path / name, weights, 1) for name in ("vit-b.16", "ridge"))]
    for folder in folders:
        add_encoder(own, folder)
    assert open_weights(own).encoders == {folder.name: file_sha256(folder / RECORD) for folder in folders}


def test_adding_it_again_changes_nothing(own, encoder):
    add_encoder(own, encoder)
    before = {path: path.stat().st_mtime_ns for path in own.rglob("*")}
    add_encoder(own, encoder)
    assert {path: path.stat().st_mtime_ns for path in own.rglob("*")} == before


def test_another_of_its_name_takes_its_place(own, encoder, weights, tmp_path):
    add_encoder(own, encoder)
    other = save_encoder(tmp_path / "second", weights, seed=1)
    add_encoder(own, other, "vit")
    assert open_weights(own).encoders == {"vit": file_sha256(other / RECORD)}


def test_the_folder_one_stands_in_has_a_name_too(own, encoder, monkeypatch):
    monkeypatch.chdir(encoder)
    add_encoder(own, Path())
    assert set(open_weights(own).encoders) == {"vit"}


@pytest.mark.parametrize("name", ["", ".", "..", "../vit", "vit/b", "/vit", ".vit", "-vit", "a vit", "vit+b", "vité"])
def test_a_name_that_is_no_plain_folder_name_is_refused(own, encoder, name):
    assert f"{name!r} is no name for an encoder" in refusal(own, encoder, name)


def test_no_encoder_is_refused(own, tmp_path):
    assert "none/encoder.json: not found; expected a trained encoder" in refusal(own, tmp_path / "none")


def test_one_for_another_minilm_is_refused(own, encoder):
    record_files(encoder, replace(read_encoder_record(encoder), sentences="1" * 64))
    assert "encoder.json: trained with the MiniLM model 11111111..., the weights folder holds" in refusal(own, encoder)


def test_one_that_reads_the_features_of_another_clip_is_refused(own, encoder):
    record_files(encoder, replace(read_encoder_record(encoder), towers=[Tower("clip", WIDTH, sha256="2" * 64)]))
    assert "encoder.json: trained with the CLIP model 22222222..., the weights folder holds" in refusal(own, encoder)


def test_one_that_looks_with_another_blip2_is_refused(own, weights, encoder):
    clip = Tower("clip", WIDTH - 1, sha256=weights.sha256("clip"))
    towers = [clip, Tower("blip2", 1, sha256="3" * 64, configuration={})]
    record_files(encoder, replace(read_encoder_record(encoder), towers=towers))
    held = weights.sha256("blip2")[:8]
    assert f"trained with the BLIP-2 model 33333333..., the weights folder holds {held}" in refusal(own, encoder)


def test_one_with_a_tower_of_its_own_goes_with_any_clip(own, weights, tmp_path):
    pixels = Pixels(224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic")
    tower = Tower("timm", WIDTH, architecture="vit_tiny_patch16_224", pixels=pixels)
    add_encoder(own, save_encoder(tmp_path / "vit", weights, tower=tower))
    assert set(open_weights(own).encoders) == {"vit"}


@pytest.mark.parametrize("name", [WEIGHTS, SPLIT])
def test_a_damaged_file_is_refused(own, encoder, name):
    content = (encoder / name).read_bytes()
    (encoder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert f"{name}: sha256 " in refusal(own, encoder)


@pytest.mark.parametrize("name", [WEIGHTS, SPLIT])
def test_a_missing_file_is_refused(own, encoder, name):
    (encoder / name).unlink()
    assert f"{name}: missing, though encoder.json lists it" in refusal(own, encoder)


def test_a_file_that_is_no_safetensors_is_refused_though_the_record_lists_it(own, encoder):
    (encoder / WEIGHTS).write_bytes(b"\x80\x04\x95 a pickle")
    record_files(encoder, read_encoder_record(encoder))
    said = refusal(own, encoder)
    assert "named safetensors but is not" in said and "python -m kernel train" in said


def test_a_full_disk_is_one_line(own, encoder, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    assert "encoders/vit: cannot be written (No space left on device)" in refusal(own, encoder)


def test_a_disk_that_gives_back_other_bytes_is_found_out(own, encoder, monkeypatch):
    def damaging(source: Path, target: Path) -> None:
        content = Path(source).read_bytes()
        Path(target).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    monkeypatch.setattr(shutil, "copyfile", damaging)
    assert "the file is damaged or was changed" in refusal(own, encoder)


def test_it_travels_flat_and_comes_back_whole(own, encoder, project, tmp_path):  # noqa: F811
    add_encoder(own, encoder)
    staged = stage_dataset(project, own, project / "wheels", tmp_path / "dataset")
    assert {"encoders--vit--model.safetensors", "encoders--vit"} <= {name for name, _ in staged.entries}
    upload_and_unpack(staged.folder, tmp_path / "mounted")
    weights = open_weights(restore_weights(tmp_path / "mounted", tmp_path / "restored"))
    assert weights.encoders == {"vit": file_sha256(encoder / RECORD)}

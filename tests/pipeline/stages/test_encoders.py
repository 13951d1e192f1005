"""Runs with image encoders: one over CLIP's features, one with a tower of timm of its own, one over both and BLIP-2."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch

from kernel.config import RECIPES, Paths, Recipe
from kernel.errors import UserError
from kernel.models.clip import ClipEncoder
from kernel.models.encoders import record as records
from kernel.models.encoders.encoder import ImageEncoder
from kernel.models.encoders.output_head import OutputHead
from kernel.models.encoders.towers import read_timm_tower
from kernel.models.vectors import unit_rows
from kernel.models.weights_folder import FileEntry, open_weights, write_manifest
from kernel.pipeline.decoding import decode
from kernel.pipeline.run import run
from kernel.pipeline.submission import read_submission
from kernel.system.deadline import OutOfTime
from kernel.system.files import write_json
from kernel.training.tower.opened import NamedTower, open_tower

ALONE = Recipe(name="own", estimates={"encoder": 1.0}, shard_images=2, encoder_batch=2)


def write_encoder(folder, towers: list[records.Tower], sentences: str, state: dict, seed: int):
    """An encoder whose head is of random numbers."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    weights, bias = rng.normal(size=(384, sum(tower.dimensions for tower in towers))), rng.normal(size=384)
    head = OutputHead(((weights.astype(np.float32), bias.astype(np.float32)),))
    save_file(
        head.tensors() | {f"tower.{len(towers) - 1}.{name}": own.numpy() for name, own in state.items()},
        folder / records.WEIGHTS,
    )
    write_json(folder / records.SPLIT, {})
    files = [FileEntry.of(folder / name, name) for name in (records.WEIGHTS, records.SPLIT)]
    trained_on, held_out = records.TrainedOn("0" * 64, 9, 9, "none"), records.HeldOut(1, 1, 0.5, (0.4, 0.6))
    record = records.EncoderRecord(records.FORMAT, towers, "ridge", sentences, trained_on, held_out, files)
    from dataclasses import asdict

    write_json(folder / records.RECORD, asdict(record))


@pytest.fixture(scope="module")
def with_encoders(tmp_path_factory, weights):
    """The miniature weights with encoders `seen` (a tiny ViT), `clip`, and `both`."""
    folder = tmp_path_factory.mktemp("encoders") / "weights"
    shutil.copytree(weights.folder, folder, copy_function=os.link)
    (folder / "manifest.json").unlink()
    torch.manual_seed(0)
    saved = folder.parent / "tower"
    timm.models.save_for_hf(timm.create_model("test_vit2", num_classes=10), saved, safe_serialization=True)
    tower, model = read_timm_tower(saved)
    sentences = weights.sha256("sentences")
    write_encoder(folder / "encoders" / "seen", [tower], sentences, model.state_dict(), 1)
    width = ClipEncoder.load(weights, cpu_device()).encode_texts(["a"], 1).shape[1]
    own = records.Tower("clip", width, sha256=weights.sha256("clip"))
    write_encoder(folder / "encoders" / "clip", [own], sentences, {}, 2)
    eyes = open_tower(NamedTower("blip2", weights), cpu_device()).frozen
    write_encoder(folder / "encoders" / "both", [own, eyes, tower], sentences, model.state_dict(), 3)
    write_manifest(folder, weights.models, weights.captioners)
    return open_weights(folder)


def cpu_device():
    from kernel.system.devices import Device

    return Device("cpu")


@pytest.fixture
def where(image_folder, with_encoders, tmp_path) -> Paths:
    return Paths(image_folder, with_encoders.folder, tmp_path / "run", None)


def expected(where, weights, name: str) -> np.ndarray:
    """What the encoder says of the pictures of `where`, by hand."""
    images = [decode(path) for path in sorted(where.images.iterdir())]
    encoder = ImageEncoder.load(weights.encoder_folder(name), cpu_device(), weights)
    features = [encoder.see(images)] if encoder.towers else []
    if name != "seen":
        features.insert(0, ClipEncoder.load(weights, cpu_device()).encode_images(images))
    return encoder.head.apply(np.concatenate(features, axis=1))


def rows_of(where) -> np.ndarray:
    return np.stack(list(read_submission(where.run / "submission.csv").values()))


@pytest.mark.parametrize("name", ["seen", "clip", "both"])
def test_one_encoder_alone_is_the_answer(name, where, with_encoders):
    content = run(replace(ALONE, encoders={name: 1.0}), where, "cpu")
    assert content["problems"] == [] and content["counts"]["no_encoder"] == 0
    np.testing.assert_allclose(rows_of(where), expected(where, with_encoders, name), atol=1e-5)


def test_several_count_alike_and_each_has_its_time_and_its_plan(where, with_encoders):
    content = run(ALONE, where, "cpu")
    mean = unit_rows(sum(expected(where, with_encoders, name) for name in ("seen", "clip", "both")))
    np.testing.assert_allclose(rows_of(where), mean, atol=1e-5)
    assert {"encoder seen", "encoder clip"} <= content["seconds"].keys()
    assert content["plan"]["encoder seen"]["seconds_estimated"] >= 0


def test_a_run_goes_on_with_the_shards_that_are_there(where, monkeypatch):
    first = run(ALONE, where, "cpu")
    asked = []
    tower = ImageEncoder.see
    monkeypatch.setattr(ImageEncoder, "see", lambda own, images: asked.extend(images) or tower(own, images))
    path = next(where.run.glob("encoders/00001.*.safetensors"))
    run(ALONE, where, "cpu")
    assert not asked
    for own in where.run.glob("encoders/00001.*.safetensors"):
        own.write_bytes(own.read_bytes()[:-1])
    again = run(ALONE, where, "cpu")
    assert len(asked) == 2 * 2 and again["counts"] == first["counts"] and path.is_file()


def test_an_encoder_that_fails_is_given_up_and_the_others_answer(where, with_encoders, monkeypatch):
    def failing(*_):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(ImageEncoder, "see", failing)
    content = run(ALONE, where, "cpu")
    assert sorted(content["given_up"]) == ["both", "seen"]
    assert "encoder seen was given up" in " ".join(content["problems"])
    assert content["counts"]["no_encoder"] == 6
    np.testing.assert_allclose(rows_of(where), expected(where, with_encoders, "clip"), atol=1e-5)


def test_what_the_time_did_not_suffice_for_is_told_and_made_by_the_next_run(where, with_encoders, monkeypatch):
    encode, seen = ImageEncoder.see, []

    def slow(own, images):
        if len(seen) >= 3:
            raise OutOfTime
        seen.extend(images)
        return encode(own, images)

    monkeypatch.setattr(ImageEncoder, "see", slow)
    content = run(replace(ALONE, encoders={"seen": 1.0}), where, "cpu")
    assert content["counts"]["no_encoder"] == content["counts"]["degraded_rows"] == 2
    assert "the time was over before encoder seen had seen every image" in content["problems"]
    monkeypatch.setattr(ImageEncoder, "see", encode)
    assert run(replace(ALONE, encoders={"seen": 1.0}), where, "cpu")["problems"] == []
    np.testing.assert_allclose(rows_of(where), expected(where, with_encoders, "seen"), atol=1e-5)


@pytest.mark.parametrize("name", ["clip", "both"])
def test_where_clip_did_not_come_to_every_image_an_encoder_of_its_features_goes_by_the_others(name, where, monkeypatch):
    encode, seen = ClipEncoder.encode_images, []

    def slow(own, images):
        if len(seen) >= 2:
            raise OutOfTime
        seen.extend(images)
        return encode(own, images)

    monkeypatch.setattr(ClipEncoder, "encode_images", slow)
    recipe = replace(ALONE, encoders={name: 1.0})
    content = run(recipe, where, "cpu")
    assert (
        content["counts"]["no_features"] == content["counts"]["no_encoder"] == content["counts"]["degraded_rows"] == 4
    )
    monkeypatch.setattr(ClipEncoder, "encode_images", encode)
    assert run(recipe, where, "cpu")["problems"] == []


def test_an_image_that_an_encoder_fails_on_is_counted(where, monkeypatch):
    encode = ImageEncoder.see
    third = decode(where.images / "c.png").tobytes()

    def failing(own, images):
        if any(image.tobytes() == third for image in images):
            raise RuntimeError("odd")
        return encode(own, images)

    monkeypatch.setattr(ImageEncoder, "see", failing)
    content = run(replace(ALONE, encoders={"seen": 1.0}), where, "cpu")
    assert content["counts"]["no_encoder"] == content["counts"]["degraded_rows"] == 1
    assert "1 of 6 images lack the answer of an image encoder" in content["problems"] and not content["bad_images"]


def test_a_bad_image_gets_the_fallback_row(where, with_encoders):
    (where.images / "c.png").write_bytes(b"no picture")
    content = run(ALONE, where, "cpu")
    assert list(content["bad_images"]) == ["c"]
    rows = read_submission(where.run / "submission.csv")
    assert not np.allclose(rows["c"], rows["b"]) and np.isfinite(rows["c"]).all()


def test_recipe_pairs_says_whose_shares_it_has(where, with_encoders):
    recipe = replace(RECIPES["pairs"], num_beams=1, captions_per_image=1)
    content = run(recipe, where, "cpu")
    assert content["shares_from"] == "published"
    assert content["recipe"]["estimates"] == {"neighbours": 0.3, "prompts": 0.1, "encoder": 0.6}
    assert sorted(path.stem for path in (where.run / "estimates").glob("*.safetensors")) == [
        "encoder", "nearest", "neighbours", "prompts"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (replace(ALONE, encoders={"sen": 1.0}), "image encoder 'sen'.*did you mean 'seen'.*holds both, clip, seen"),
        (ALONE, "trained with the MiniLM model 00000000..., the weights folder holds .*make it again"),
    ],
)
def test_an_encoder_that_is_not_there_or_of_other_models_stops_it_before_image_1(
    recipe, words, where, with_encoders, tmp_path
):
    folder = tmp_path / "weights"
    shutil.copytree(with_encoders.folder, folder, copy_function=os.link)
    for path in (folder / "manifest.json", folder / "encoders" / "clip" / "encoder.json"):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    record = json.loads((folder / "encoders" / "clip" / "encoder.json").read_text())
    write_json(folder / "encoders" / "clip" / "encoder.json", record | {"sentences": "0" * 64})
    write_manifest(folder, with_encoders.models, with_encoders.captioners)
    with pytest.raises(UserError, match=words):
        run(recipe, replace(where, weights=folder), "cpu")
    assert not where.run.exists()

"""Drawn pictures, the miniature CLIP and a tiny model of timm: encoders trained, kept and asked."""

import json
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.numpy import load_file

from kernel.__main__ import main
from kernel.errors import UserError
from kernel.evaluation.evaluate import pairwise_cosine
from kernel.miniature.world.drawing import draw
from kernel.miniature.world.grammar import scene_stream
from kernel.models.clip import ClipEncoder
from kernel.models.encoders.encoder import ImageEncoder
from kernel.models.encoders.record import check_encoder, read_encoder_record
from kernel.models.sentences import SentenceEncoder
from kernel.pipeline.decoding import decode_file
from kernel.training import features, heads
from kernel.training.pairs import open_pairs
from kernel.training.split import parts_of, read_split
from kernel.training.tower import processes
from kernel.training.train import train
from tests.training.sets import write_tars

SEED, PAIRS, CLUSTERS = 7_700_000, 160, 20


@pytest.fixture(scope="module", autouse=True)
def short():
    """Heads of few steps: what is asked here is not how good they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads, "STEPS", 40)
        yield


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    scenes = [(draw(scene, rng), scene.prompt) for scene, rng in scene_stream(SEED, PAIRS)]
    told = [(picture, prompt, index % CLUSTERS) for index, (picture, prompt) in enumerate(scenes)]
    return write_tars(tmp_path_factory.mktemp("pairs"), told, a_tar=50)


@pytest.fixture(scope="module")
def encoder(pairs, weights, tmp_path_factory):
    out = tmp_path_factory.mktemp("encoders") / "own"
    return out, train(pairs, weights.folder, out, device="cpu")


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tower")
    torch.manual_seed(0)
    timm.models.save_for_hf(timm.create_model("test_vit2", num_classes=10), folder, safe_serialization=True)
    return folder


def test_the_record_is_what_lies_in_the_folder(encoder, weights):
    out, content = encoder
    record = read_encoder_record(out)
    check_encoder(out, record)
    assert json.loads((out / "encoder.json").read_text()) == json.loads(json.dumps(content))
    assert record.clip_sha256 == weights.sha256("clip") and record.sentences == weights.sha256("sentences")


def test_the_held_out_score_is_that_of_the_encoder_as_it_is_loaded(encoder, pairs, weights, cpu):
    """Computed anew from the pictures: tar, decoder, CLIP, head, MiniLM."""
    out, content = encoder
    found, loaded = open_pairs(pairs), ImageEncoder.load(out, cpu)
    places = parts_of(found, read_split(out)).held_out.tolist()
    images = [decode_file(found.pictures[place]) for place in places]
    rows = loaded.head.apply(ClipEncoder.load(weights, cpu).encode_images(images))
    truth = SentenceEncoder.load(weights, cpu).encode([found.prompts[place] for place in places], 64)
    assert content["held_out"]["pictures"] == len(places) == PAIRS // 10
    assert pairwise_cosine(rows, truth).mean() == pytest.approx(content["held_out"]["mean"], abs=1e-4)


def test_it_beats_the_mean_prompt_on_what_it_never_saw(encoder, pairs, weights, cpu):
    out, content = encoder
    found = open_pairs(pairs)
    parts = parts_of(found, read_split(out))
    truth = SentenceEncoder.load(weights, cpu).encode(found.prompts, 64)
    mean = np.tile(truth[parts.train].mean(axis=0), (len(parts.held_out), 1))
    assert content["held_out"]["mean"] > pairwise_cosine(mean, truth[parts.held_out]).mean() + 0.02


def test_the_better_of_ridge_and_head_on_the_validation_pairs_is_taken(encoder):
    _, content = encoder
    assert content["tier"] == max(content["validation"], key=content["validation"].get)


def test_a_second_training_goes_on_with_what_is_kept_and_ends_alike(encoder, pairs, weights, monkeypatch):
    out, content = encoder
    before = (out / "model.safetensors").read_bytes()

    def loads(*_):
        raise AssertionError("a model was loaded though everything was there")

    monkeypatch.setattr(ClipEncoder, "load", loads)
    monkeypatch.setattr(SentenceEncoder, "load", loads)
    assert train(pairs, weights.folder, out, device="cpu") == content
    assert (out / "model.safetensors").read_bytes() == before


def test_a_process_that_is_not_the_first_writes_nothing(encoder, pairs, weights, monkeypatch):
    """Two that wrote a file at the same time would take it away from one another."""
    out, _ = encoder

    def files() -> dict:
        return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.rglob("*")}

    @contextmanager
    def second(device):
        yield processes.Processes(1, 1, device)

    monkeypatch.setattr(processes, "processes", second)
    before = files()
    assert train(pairs, weights.folder, out, device="cpu") == {}
    assert files() == before


def test_a_tower_of_timm_travels_in_the_encoders_own_file(pairs, tower, weights, tmp_path, cpu):
    content = train(pairs, weights.folder, tmp_path / "own", [str(tower)], device="cpu")
    assert content["towers"][0]["architecture"] == "test_vit2"
    loaded = ImageEncoder.load(tmp_path / "own", cpu)
    picture = Image.effect_noise((200, 200), 90).convert("RGB")
    own = timm.create_model("test_vit2", num_classes=0)
    own.load_state_dict({name.removeprefix("tower.0."): torch.from_numpy(tensor)
                         for name, tensor in load_file(tmp_path / "own" / "model.safetensors").items()
                         if name.startswith("tower.0.")})  # fmt: skip
    seen = loaded.see([picture])
    np.testing.assert_allclose(loaded.encode_images([picture]), loaded.head.apply(seen), atol=1e-6)
    assert own.num_features == seen.shape[1] == loaded.head.inputs


def test_a_head_reads_clip_blip2_and_a_tower_side_by_side(pairs, tower, weights, tmp_path, cpu):
    """The score is computed anew from the pictures, as the loaded encoder answers; CLIP comes first, however named."""
    content = train(pairs, weights.folder, tmp_path / "own", [str(tower), "blip2", "clip"], device="cpu")
    assert [own["kind"] for own in content["towers"]] == ["clip", "timm", "blip2"]
    found, loaded = open_pairs(pairs), ImageEncoder.load(tmp_path / "own", cpu, weights)
    places = parts_of(found, read_split(tmp_path / "own")).held_out.tolist()
    images = [decode_file(found.pictures[place]) for place in places]
    features = np.concatenate([ClipEncoder.load(weights, cpu).encode_images(images), loaded.see(images)], axis=1)
    truth = SentenceEncoder.load(weights, cpu).encode([found.prompts[place] for place in places], 64)
    scored = pairwise_cosine(loaded.head.apply(features), truth).mean()
    assert scored == pytest.approx(content["held_out"]["mean"], abs=1e-4)
    # what the weights folder holds anyway does not travel
    names = load_file(tmp_path / "own" / "model.safetensors")
    assert {name.removeprefix("tower.").split(".")[0] for name in names} == {"head", "1"}
    with pytest.raises(UserError, match="--tier full trains one tower, and 2 are named"):
        train(pairs, weights.folder, tmp_path / "own", [str(tower), "clip"], "full")


def test_what_cannot_be_trained_is_refused_before_anything_is_made(pairs, weights, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--tower blip2: only its features are learned from"):
        train(pairs, weights.folder, tmp_path / "own", ["blip2"], "blocks")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"--tier lora: peft cannot be imported .*\[lora\]"):
        train(pairs, weights.folder, tmp_path / "own", tier="lora")
    assert not (tmp_path / "own").exists()


def test_bad_pictures_are_counted_and_stop_nothing(pairs, weights, tmp_path):
    path = tmp_path / "set" / "own.tar"
    path.parent.mkdir()
    whole = bytearray((pairs / "set-000.tar").read_bytes())
    found = open_pairs(pairs)
    first = next(own for own in found.pictures if own.path.name == "set-000.tar")
    whole[first.start : first.start + 8] = b"no image"
    path.write_bytes(whole)
    content = train(tmp_path / "set", weights.folder, tmp_path / "own", device="cpu")
    split = read_split(tmp_path / "own")
    assert content["trained_on"]["pictures"] + len(split.held_out) + len(split.validation) in (49, 50)
    assert content["left_out"] == {"picture that cannot be used": 1}
    kept = next((tmp_path / "own").rglob("clip-*"))
    assert features.read_shard(kept / "00000.safetensors").bad.keys() == {"own/000000"}


def test_a_folder_that_no_training_wrote_is_refused(pairs, weights, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds files, and no training wrote them"):
        train(pairs, weights.folder, tmp_path, device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_tier_that_there_is_not_is_refused(pairs, weights, tmp_path):
    with pytest.raises(UserError, match="unknown tier 'block'.*did you mean 'blocks'.*Valid: head, blocks, lora, full"):
        train(pairs, weights.folder, tmp_path / "own", tier="block", device="cpu")


def test_a_tower_that_is_no_folder_is_refused(pairs, weights, tmp_path):
    with pytest.raises(UserError, match="--tower vit: no such folder; expected clip, blip2, or a folder"):
        train(pairs, weights.folder, tmp_path / "own", ["vit"], device="cpu")


def test_the_command_tells_what_was_tried_and_how_good_it_is(encoder, pairs, weights, capfd):
    out, content = encoder
    arguments = ["train", str(pairs), "--weights", str(weights.folder), "--out", str(out), "--device", "cpu"]
    assert main(arguments) == 0
    printed = capfd.readouterr().out
    assert f"{content['validation']['ridge']:.4f} on the validation pairs" in printed
    assert f"{content['held_out']['mean']:.4f}" in printed and "near to none trained on" in printed
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == json.loads(json.dumps(content))

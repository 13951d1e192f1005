"""A vision tower that a captioner and image-text matching have in common lies in a weights folder once."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from kernel.errors import UserError
from kernel.models.image_text_matching import MATCHING, Matcher
from kernel.models.shared_tower import TOWER, share_tower
from kernel.models.weights_folder import MANIFEST, Weights, open_weights, write_manifest
from tests.models.whole_matching import put_whole_matching

CAPTIONS = [["a red fish on a hill", "a cat"]]


def whole(own: Weights) -> Path:
    """Puts the tower into the matching's own file, and says so in its record; returns the file."""
    path = put_whole_matching(own, own.folder / "whole")
    shutil.rmtree(own.model_folder(MATCHING))
    path = path.parent.rename(own.model_folder(MATCHING)) / path.name
    del own.models[MATCHING]["tower_of"], own.models[MATCHING]["tower_sha256"]
    return path


@pytest.fixture
def own(own_copy) -> Weights:
    """Weights whose matching, and what the manifest says of it, a test may change."""
    found = own_copy(MATCHING)
    return Weights(found.folder, {name: dict(model) for name, model in found.models.items()}, found.captioners)


def test_the_miniature_models_have_one_tower(weights):
    captioner = load_file(weights.model_folder("blip2") / "model.safetensors")
    matching = load_file(weights.model_folder(MATCHING) / "model.safetensors")
    assert weights.models[MATCHING]["tower_of"] == "blip2"
    assert [name for name in captioner if name.startswith(TOWER)] != []
    assert [name for name in matching if name.startswith(TOWER)] == []


@pytest.mark.parametrize("head", ["itm", "itc"])
def test_scores_are_those_of_a_whole_file(weights, own, cpu, drawn, head):
    pictures = [picture for picture, _ in drawn[:1]]
    whole(own)
    found, expected = (Matcher.load(of, cpu).scores(pictures, CAPTIONS, head) for of in (weights, own))
    assert found == expected


def test_half_precision_is_that_of_a_whole_file(weights, own, half_on_cpu):
    whole(own)
    found, expected = (Matcher.load(of, half_on_cpu).model.state_dict() for of in (weights, own))
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype and tensor.equal(expected[name]), name


@pytest.mark.parametrize("change", ["a bit", "a shape", "a tensor more", "a tensor less"])
def test_a_tower_that_differs_is_another(own, change):
    path = whole(own)
    assert share_tower(own, MATCHING, ["sentences", "blip2"]) and own.models[MATCHING].pop("tower_of") == "blip2"
    state = load_file(path)
    name = next(name for name in state if name.startswith(TOWER))
    if change == "a bit":
        state[name].view(-1)[0] += 1
    elif change == "a shape":
        state[name] = state[name].reshape(-1)
    elif change == "a tensor more":
        state[f"{TOWER}more"] = state[name].clone()
    else:
        del state[name]
    save_file(state, path, metadata={"format": "pt"})
    assert not share_tower(own, MATCHING, ["blip2"]) and "tower_of" not in own.models[MATCHING]


def test_a_model_without_a_tower_shares_none(weights):
    assert not share_tower(weights, "sentences", ["clip"])


@pytest.mark.parametrize("lacks", [True, False])
def test_another_tower_in_its_place_is_refused(own_copy, cpu, lacks):
    own = own_copy("blip2")
    path = own.model_folder("blip2") / "model.safetensors"
    state = load_file(path)
    name = next(name for name in state if name.startswith(TOWER))
    state[name] += 1
    save_file({key: own for key, own in state.items() if not (lacks and key == name)}, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match="captioners/blip2: its vision tower is not the one that .*matching goes"):
        Matcher.load(own, cpu)


def test_a_tower_that_is_no_safetensors_is_told_of_the_captioners_file(own_copy, cpu):
    own = own_copy("blip2")
    (own.model_folder("blip2") / "model.safetensors").write_bytes(b"no such file")
    with pytest.raises(UserError, match="captioners/blip2/model.safetensors"):
        Matcher.load(own, cpu)


def test_the_tower_is_part_of_the_models_name_and_the_rest_of_the_captioner_is_not(own_copy):
    own = own_copy("blip2")
    (own.model_folder("blip2") / "generation_config.json").write_text("{}")
    write_manifest(own.folder, own.models, own.captioners)
    before = open_weights(own.folder)
    assert before.sha256(MATCHING) == own.sha256(MATCHING) and before.sha256("blip2") != own.sha256("blip2")
    models = {**own.models, MATCHING: {**own.models[MATCHING], "tower_sha256": "0" * 64}}
    write_manifest(own.folder, models, own.captioners)
    assert open_weights(own.folder).sha256(MATCHING) != before.sha256(MATCHING)


def test_a_manifest_that_names_a_tower_of_no_model_is_refused(own):
    content = json.loads((own.folder / MANIFEST).read_text())
    content["models"][MATCHING]["tower_of"] = "../elsewhere"
    (own.folder / MANIFEST).unlink()
    (own.folder / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(UserError, match="vision towers of .*elsewhere.*not all among the models"):
        open_weights(own.folder)

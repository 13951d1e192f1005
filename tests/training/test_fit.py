import json
import os
import shutil
from dataclasses import replace

import pytest

from kernel.__main__ import main
from kernel.banks.build import build_bank
from kernel.banks.prompt_bank import PromptBank
from kernel.config import ESTIMATES, RECIPES, BankSettings, Paths
from kernel.errors import UserError
from kernel.miniature.world.drawing import draw
from kernel.miniature.world.folders import TEST_SEED, scenes
from kernel.miniature.world.grammar import scene_stream
from kernel.models.weights_folder import open_weights, write_manifest
from kernel.pipeline.run import run
from kernel.training.fit import fit, unseen
from kernel.training.pairs import open_pairs
from kernel.training.split import read_split
from kernel.training.train import train
from tests.engines import HERE
from tests.training.sets import write_folder, write_tars


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, drawn):
    return write_folder(tmp_path_factory.mktemp("pairs") / "set", [(own, scene.prompt) for own, scene in drawn])


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, pairs, weights):
    """A bank of other prompts than the pairs', with shares fitted on them; the bank, the run, what fit returned."""
    folder = tmp_path_factory.mktemp("fitted")
    (folder / "prompts.txt").write_text("\n".join(scene.prompt for scene in scenes(TEST_SEED + 1, 400)) + "\n")
    settings = BankSettings([folder / "prompts.txt"], None, pairs / "prompts.csv", near=1.0)
    build_bank(settings, weights.folder, folder / "bank", HERE)
    return folder / "bank", folder / "run", fit(pairs, weights.folder, folder / "bank", folder / "run", "cpu")


def test_every_estimate_has_a_share_and_a_score_of_its_own(fitted):
    _, _, result = fitted
    assert list(result["shares"]["text"]) == list(result["alone"]) == [name for name in ESTIMATES if name != "encoder"]
    assert sum(result["shares"]["text"].values()) == pytest.approx(1)
    assert result["images"] == 24


def test_fitted_shares_do_no_worse_than_any_estimate_alone_on_images_held_out(fitted):
    """With 24 pictures only by a margin; the ablation measures this on hundreds."""
    _, _, result = fitted
    assert result["held_out"]["text"]["mean"] > max(result["alone"].values()) - 0.02


def test_what_fit_returns_lies_beside_the_bank(fitted):
    bank, _, result = fitted
    assert json.loads((bank / "fusion.json").read_text()) == result


def test_a_run_takes_the_fitted_shares_and_says_so(fitted, pairs, weights, tmp_path):
    bank, _, result = fitted
    where = Paths(pairs / "images", weights.folder, tmp_path / "run", bank)
    content = run(RECIPES["text"], where, "cpu", limit=2)
    assert content["shares_from"] == "fitted"
    assert content["recipe"]["estimates"] == result["shares"]["text"]


def test_a_bank_in_a_weights_folder_is_not_written_into(pairs, weights, tmp_path):
    with pytest.raises(UserError, match="lies in a weights folder.*publish weights --bank COPY"):
        fit(pairs, weights.folder, weights.folder / "prompt_bank", tmp_path / "run", "cpu")
    assert not (tmp_path / "run").exists()


def test_too_few_pairs_are_refused(pairs, fitted, weights, tmp_path):
    (tmp_path / "images").mkdir()
    lines = (pairs / "prompts.csv").read_text().splitlines()
    for index in range(9):
        (tmp_path / "images" / f"{index:03d}.png").symlink_to(pairs / "images" / f"{index:03d}.png")
    (tmp_path / "prompts.csv").write_text("\n".join(lines[:10]) + "\n")
    with pytest.raises(UserError, match="9 images with known prompts; expected 10 or more"):
        fit(tmp_path, weights.folder, fitted[0], tmp_path / "run", "cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shares": {"text": {"prompts": 0.5}}}, "sum to 0.5, not to 1"),
        ({"shares": {"text": {"nonsense": 1.0}}}, "not fitted shares"),
        ({"shares": {"text": {"prompts": 2.0, "head": -1.0}}}, "not fitted shares"),
        ({"format": 1}, "not fitted shares"),
        ({"clip": "0" * 64}, "fitted with other models"),
    ],
)
def test_shares_that_cannot_be_used_are_refused(fitted, weights, change, words):
    folder, _, result = fitted
    (folder / "fusion.json").write_text(json.dumps({**result, **change}))
    bank = PromptBank.open(folder, weights.sha256("clip"), weights.sha256("sentences"))
    with pytest.raises(UserError, match=words + ".*python -m kernel fit"):
        bank.fitted()
    (folder / "fusion.json").write_text(json.dumps(result))


def test_scores_and_fits_on_prompts_that_the_bank_may_hold_are_warned_of(fitted, weights, pairs, tmp_path, capfd):
    """Scored are the very prompts that were kept out, then a file that nothing says so of."""
    bank, run_folder, _ = fitted
    prompts = pairs / "prompts.csv"
    other = tmp_path / "prompts.csv"
    other.write_text(prompts.read_text() + "\n")
    for file, warned in ((prompts, False), (other, True)):
        arguments = ["evaluate", run_folder / "run" / "submission.csv", file, "--weights", weights.folder]
        assert main([str(argument) for argument in arguments]) == 0
        assert (f"was built without '--exclude {file}'" in capfd.readouterr().err) is warned


@pytest.fixture(scope="module")
def of_tars(tmp_path_factory, weights):
    """An encoder trained on 120 drawn pictures in tars, weights that hold it, a bank, and what fit makes of them."""
    folder = tmp_path_factory.mktemp("encoded")
    scenes_drawn = [(draw(scene, rng), scene.prompt) for scene, rng in scene_stream(7_800_000, 120)]
    told = [(picture, prompt, index % 10) for index, (picture, prompt) in enumerate(scenes_drawn)]
    pairs = write_tars(folder / "pairs", told, a_tar=60)
    own = shutil.copytree(weights.folder, folder / "weights", copy_function=os.link)
    (own / "manifest.json").unlink()
    train(pairs, weights.folder, folder / "own", device="cpu")
    shutil.copytree(folder / "own", own / "encoders" / "own", ignore=shutil.ignore_patterns("training"))
    write_manifest(own, weights.models, weights.captioners)
    (folder / "prompts.txt").write_text("\n".join(scene.prompt for scene in scenes(TEST_SEED + 1, 400)) + "\n")
    build_bank(BankSettings([folder / "prompts.txt"], None, None, near=1.0), own, folder / "bank", HERE)
    return folder, fit(pairs, own, folder / "bank", folder / "fit", "cpu")


def test_only_pictures_that_the_encoder_held_out_take_part(of_tars):
    folder, result = of_tars
    held_out = read_split(folder / "own").held_out
    assert result["images"] == len(held_out) == 12
    assert len(list((folder / "fit" / "images").iterdir())) == 12


def test_text_is_fitted_without_and_pairs_with_the_encoder(of_tars):
    _, result = of_tars
    assert "encoder" not in result["shares"]["text"] and "encoder" in result["shares"]["pairs"]
    for shares in result["shares"].values():
        assert sum(shares.values()) == pytest.approx(1)


def test_recipe_pairs_takes_the_shares_fitted_for_this_very_encoder(of_tars, image_folder, tmp_path):
    folder, result = of_tars
    recipe = replace(RECIPES["pairs"], num_beams=1, captions_per_image=1)
    paths = Paths(image_folder, folder / "weights", tmp_path / "run", folder / "bank")
    content = run(recipe, paths, "cpu", limit=2)
    assert content["shares_from"] == "fitted" and content["recipe"]["estimates"] == result["shares"]["pairs"]
    fusion = json.loads((folder / "bank" / "fusion.json").read_text())
    (folder / "bank" / "fusion.json").write_text(json.dumps(fusion | {"encoders": {"own": "0" * 64}}))
    content = run(recipe, replace(paths, run=tmp_path / "other"), "cpu", limit=2)
    assert content["shares_from"] == "published"
    assert content["recipe"]["estimates"] == RECIPES["pairs"].estimates
    (folder / "bank" / "fusion.json").write_text(json.dumps(fusion))


def test_of_pairs_that_no_encoder_knows_all_take_part_and_that_is_warned_of(of_tars, pairs, capfd):
    folder, _ = of_tars
    places = unseen(open_pairs(pairs), open_weights(folder / "weights"))
    assert len(places) == 24
    assert "encoder own was trained on other pairs" in capfd.readouterr().err

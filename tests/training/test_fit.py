import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from kernel.__main__ import main
from kernel.banks.build import build_bank
from kernel.banks.prompt_bank import PromptBank
from kernel.config import ESTIMATES, RECIPES, BankSettings, Paths
from kernel.errors import UserError
from kernel.miniature.world.folders import TEST_SEED, scenes
from kernel.pipeline.run import run
from kernel.training.fit import fit


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, drawn):
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "images").mkdir()
    rows = [("imgId", "prompt")]
    for index, (picture, scene) in enumerate(drawn):
        picture.save(folder / "images" / f"{index:03d}.png")
        rows.append((f"{index:03d}", scene.prompt))
    with (folder / "prompts.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, pairs, weights):
    """A bank of other prompts than the pairs', with shares fitted on them; the bank, the run, what fit returned."""
    folder = tmp_path_factory.mktemp("fitted")
    (folder / "prompts.txt").write_text("\n".join(scene.prompt for scene in scenes(TEST_SEED + 1, 400)) + "\n")
    settings = BankSettings([folder / "prompts.txt"], None, pairs / "prompts.csv", near=1.0)
    build_bank(settings, weights.folder, folder / "bank", "cpu")
    return folder / "bank", folder / "run", fit(pairs, weights.folder, folder / "bank", folder / "run", "cpu")


def test_every_estimate_has_a_share_and_a_score_of_its_own(fitted):
    _, _, result = fitted
    assert list(result["shares"]) == list(result["alone"]) == list(ESTIMATES)
    assert sum(result["shares"].values()) == pytest.approx(1)
    assert result["images"] == 24


def test_fitted_shares_do_no_worse_than_any_estimate_alone_on_images_held_out(fitted):
    """With 24 pictures only by a margin; the ablation measures this on hundreds."""
    _, _, result = fitted
    assert result["held_out"]["mean"] > max(result["alone"].values()) - 0.02


def test_what_fit_returns_lies_beside_the_bank(fitted):
    bank, _, result = fitted
    assert json.loads((bank / "fusion.json").read_text()) == result


def test_a_run_takes_the_fitted_shares_and_says_so(fitted, pairs, weights, tmp_path):
    bank, _, result = fitted
    where = Paths(pairs / "images", weights.folder, tmp_path / "run", bank)
    content = run(RECIPES["text"], where, "cpu", limit=2)
    assert content["shares_from"] == "fitted"
    assert content["recipe"]["estimates"] == result["shares"]


def test_a_pair_without_its_partner_is_refused(pairs, fitted, weights, tmp_path):
    (tmp_path / "images").symlink_to(pairs / "images")
    lines = (pairs / "prompts.csv").read_text().splitlines()
    (tmp_path / "prompts.csv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(UserError, match="1 ids are only among the images or only in prompts.csv, the first is '023'"):
        fit(tmp_path, weights.folder, fitted[0], tmp_path / "run", "cpu")


def test_the_regression_is_kept_beside_the_bank_and_used_by_a_run(fitted, pairs, weights, tmp_path):
    folder, run_folder, result = fitted
    bank = PromptBank.open(folder, weights.sha256("clip"), weights.sha256("sentences"))
    recipe = replace(RECIPES["text"], estimates={"regression": 1.0})
    run(recipe, Paths(pairs / "images", weights.folder, tmp_path / "run", folder), "cpu")
    features = load_file(run_folder / "clip" / "00000.safetensors")["image_features"]
    head = bank.fitted().regression
    expected = head.apply(features, head.feature_mean)
    found = load_file(tmp_path / "run" / "estimates" / "regression.safetensors")["rows"]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_regression_that_was_changed_is_refused(fitted, weights):
    folder, _, _ = fitted
    path = folder / "regression.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-4] + b"abcd")
    bank = PromptBank.open(folder, weights.sha256("clip"), weights.sha256("sentences"))
    with pytest.raises(UserError, match="regression.safetensors: missing, or not the one.*python -m kernel fit"):
        bank.fitted()
    path.write_bytes(whole)


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
        ({"shares": {"prompts": 0.5}}, "sum to 0.5, not to 1"),
        ({"shares": {"nonsense": 1.0}}, "not fitted shares"),
        ({"shares": {"prompts": 2.0, "head": -1.0}}, "not fitted shares"),
        ({"format": 2}, "not fitted shares"),
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
        arguments = ["evaluate", run_folder / "submission.csv", file, "--weights", weights.folder]
        assert main([str(argument) for argument in arguments]) == 0
        assert (f"was built without '--exclude {file}'" in capfd.readouterr().err) is warned

"""Estimates one by one, and the line that fuses them with a prompt bank, on the miniature models."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from kernel.build_bank import build_bank
from kernel.checkpoints import write_manifest
from kernel.config import RECIPES, BankSettings, Paths, Recipe
from kernel.errors import UserError
from kernel.estimates import Said, bank_estimate, said_of, text_estimate, weighed_captions
from kernel.fusion import unit_rows
from kernel.miniature.pictures import scenes
from kernel.pipeline import run
from kernel.prompt_bank import PromptBank
from kernel.report import write_report
from kernel.sentences import SentenceEncoder
from kernel.submission import check_submission, read_submission
from tests.conftest import TEST_SEED

RECIPE = Recipe(separator=", ")
FAST = replace(RECIPES["text"], num_beams=2, captions_per_image=2, neighbours=20)
IDS = list("abcdef")


@pytest.fixture(scope="module")
def bank_folder(tmp_path_factory, weights):
    """A bank of 300 miniature prompts, none of which is of a drawn picture's seed."""
    folder = tmp_path_factory.mktemp("bank")
    prompts = [scene.prompt for scene in scenes(TEST_SEED + 1, 300)]
    (folder / "prompts.txt").write_text("\n".join(prompts) + "\n")
    build_bank(BankSettings([folder / "prompts.txt"], near=1.0), weights.folder, folder / "bank", "cpu")
    return folder / "bank"


@pytest.mark.parametrize(
    ("name", "captions", "phrases", "texts"),
    [
        (
            "prompts",
            ["a fish", "a cat"],
            ["a woodcut", "swirl"],
            ["a fish, a woodcut, swirl", "a cat, a woodcut, swirl"],
        ),
        ("captions", ["a fish", "a cat"], ["a woodcut"], ["a fish", "a cat"]),
        ("modifiers", ["a fish"], ["a woodcut", "swirl"], ["a woodcut, swirl"]),
        ("captions", [], ["a woodcut"], []),
        ("modifiers", ["a fish"], [], []),
        ("prompts", [], ["a woodcut"], ["a woodcut"]),
    ],
)
def test_the_texts_of_each_estimate(name, captions, phrases, texts):
    said = said_of(name, Said(captions, [1.0] * len(captions)), phrases, RECIPE)
    assert said.texts == texts
    assert len(said.weights) == len(texts)


def test_captions_count_alike_unless_their_cosines_are_given():
    said = weighed_captions([["a", "b", "a"], []], None, RECIPE)
    assert said == [Said(["a", "b", "a"], [1, 1, 1]), Said([], [])]


def test_captions_count_by_their_cosine_with_the_image():
    recipe = replace(RECIPE, caption_weighting="clip", caption_temperature=0.1)
    (said,) = weighed_captions([["a", "b"]], [[0.3, 0.4]], recipe)
    assert said.weights == pytest.approx([np.exp(-1), 1])


@pytest.mark.parametrize("cosines", [None, [[0.3, 0.4, 0.3]]])
def test_of_equal_captions_one_counts_where_the_recipe_says_so(cosines):
    (said,) = weighed_captions([["a", "b", "a"]], cosines, replace(RECIPE, distinct_captions=True))
    assert said.texts == ["a", "b"]
    assert len(said.weights) == 2


def test_the_weights_of_captions_are_those_of_their_prompts():
    said = said_of("prompts", Said(["a fish", "a cat"], [0.2, 1.0]), ["a woodcut"], RECIPE)
    assert said == Said(["a fish, a woodcut", "a cat, a woodcut"], [0.2, 1.0])


def test_the_head_says_nothing_of_a_single_image(bank_folder, weights, cpu):
    bank = PromptBank.open(bank_folder, weights.sha256("clip"), weights.sha256("sentences"))
    features = np.array(bank.features[:2], dtype=np.float32)
    features[1] = 0
    _, usable = bank_estimate("head", features, bank, RECIPE, cpu)
    assert usable.tolist() == [False, False]


def test_a_text_estimate_is_the_mean_of_its_texts_and_unusable_without_any(weights, cpu):
    encoder = SentenceEncoder.load(weights, cpu)
    said = [Said(["a red fish", "a blue cat"], [3.0, 1.0]), Said([], []), Said(["a hill"], [0.5])]
    rows, usable = text_estimate(said, encoder, 8)
    own = encoder.encode(["a red fish", "a blue cat", "a hill"], 8)
    np.testing.assert_allclose(rows, [0.75 * own[0] + 0.25 * own[1], np.zeros(384), own[2]], atol=1e-6)
    assert usable.tolist() == [True, False, True]


@pytest.mark.parametrize("name", ["neighbours", "head"])
def test_a_bank_says_nothing_of_a_bad_image(name, bank_folder, weights, cpu):
    bank = PromptBank.open(bank_folder, weights.sha256("clip"), weights.sha256("sentences"))
    features = np.array(bank.features[:3], dtype=np.float32)
    features[1] = 0
    rows, usable = bank_estimate(name, features, bank, replace(RECIPE, neighbours=5), cpu)
    assert usable.tolist() == [True, False, True]
    assert rows.shape == (3, 384)


def test_the_neighbours_of_a_banks_own_prompt_say_that_prompt(bank_folder, weights, cpu):
    bank = PromptBank.open(bank_folder, weights.sha256("clip"), weights.sha256("sentences"))
    features = unit_rows(np.array(bank.features[:10], dtype=np.float32))
    rows, _ = bank_estimate("neighbours", features, bank, replace(RECIPE, neighbours=1), cpu)
    assert (rows * np.array(bank.embeddings[:10], dtype=np.float32)).sum(axis=1).min() > 0.999


@pytest.fixture(scope="module")
def finished(tmp_path_factory, weights_folder, bank_folder, drawn):
    folder = tmp_path_factory.mktemp("finished")
    (folder / "images").mkdir()
    for name, (picture, _) in zip(IDS, drawn, strict=False):
        picture.save(folder / "images" / f"{name}.png")
    (folder / "images" / "c.png").write_bytes(b"")
    where = Paths(folder / "images", weights_folder, folder / "run", bank_folder)
    return where, run(FAST, where, "cpu")


def test_the_recipe_with_a_bank_leaves_a_valid_submission_and_every_estimate(finished):
    where, content = finished
    check_submission(where.run / "submission.csv", IDS)
    names = {path.name for path in (where.run / "estimates").iterdir()}
    # nearest: the prompts themselves that `neighbours` is made of, for people to look at
    assert names == {f"{name}.safetensors" for name in ("neighbours", "prompts", "head", "nearest")}
    assert content["bank"] == {"folder": str(where.bank), "excluded": None}
    assert content["shares_from"] == "published"


def test_the_answer_is_the_sum_of_the_unit_estimates_by_their_shares(finished):
    from safetensors.numpy import load_file

    where, _ = finished
    total = sum(
        share * unit_rows(load_file(where.run / "estimates" / f"{name}.safetensors")["rows"])
        for name, share in FAST.estimates.items()
    )
    answer = read_submission(where.run / "submission.csv")
    good = [index for index, name in enumerate(IDS) if name != "c"]
    np.testing.assert_allclose([answer[IDS[i]] for i in good], unit_rows(total)[good], atol=1e-6)


def test_a_bad_image_gets_the_fallback(finished):
    where, content = finished
    assert list(content["bad_images"]) == ["c"]
    assert content["counts"]["degraded_rows"] == 1


def test_a_recipe_that_needs_no_captions_makes_none_and_is_reported(finished, tmp_path):
    where, _ = finished
    own = replace(where, run=tmp_path / "run")
    recipe = replace(FAST, estimates={"neighbours": 0.5, "head": 0.5})
    content = run(recipe, own, "cpu")
    assert "captions" not in content["seconds"]
    assert list((tmp_path / "run" / "captions").iterdir()) == []
    assert write_report(tmp_path / "run").is_file()


def test_the_weights_folders_own_bank_is_used_where_none_is_given(finished, weights, tmp_path):
    where, _ = finished
    recipe = replace(FAST, estimates={"neighbours": 1.0})
    content = run(recipe, replace(where, bank=None, run=tmp_path / "run"), "cpu")
    assert content["bank"]["folder"] == str(weights.folder / "prompt_bank")


def test_without_any_bank_it_stops_before_image_1_and_names_both_ways_on(finished, weights, tmp_path):
    where, _ = finished
    bare = tmp_path / "weights"
    shutil.copytree(
        weights.folder, bare, copy_function=os.link, ignore=shutil.ignore_patterns("prompt_bank", "manifest.json")
    )
    write_manifest(bare, weights.models, weights.captioners)
    with pytest.raises(UserError, match="asks a prompt bank.*python -m kernel bank.*--recipe baseline"):
        run(FAST, replace(where, weights=bare, bank=None, run=tmp_path / "run"), "cpu")
    assert not (tmp_path / "run").exists()


def test_a_share_for_a_regression_that_was_not_fitted_stops_it_before_image_1(finished, tmp_path):
    where, _ = finished
    with pytest.raises(UserError, match="holds no regression.*python -m kernel fit"):
        run(replace(FAST, estimates={"regression": 1.0}), replace(where, run=tmp_path / "run"), "cpu")
    assert not (tmp_path / "run").exists()


def test_more_neighbours_than_the_bank_holds_stop_it_before_image_1(finished, tmp_path):
    where, _ = finished
    with pytest.raises(UserError, match=r"holds \d+ prompts, recipe setting neighbours is 5000"):
        run(replace(FAST, neighbours=5000), replace(where, run=tmp_path / "run"), "cpu")
    assert not (tmp_path / "run").exists()


def test_another_bank_starts_the_run_over(finished, tmp_path, weights, capfd):
    where, _ = finished
    (tmp_path / "few.txt").write_text("a red fish\na blue cat on a hill\n")
    build_bank(BankSettings([tmp_path / "few.txt"]), weights.folder, tmp_path / "few", "cpu")
    recipe = replace(FAST, estimates={"neighbours": 1.0}, neighbours=1)
    own = replace(where, run=tmp_path / "run")
    run(recipe, own, "cpu")
    run(recipe, replace(own, bank=tmp_path / "few"), "cpu")
    assert "bank changed since the last run: estimates made again" in capfd.readouterr().err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["bank"]["folder"] == str(tmp_path / "few")


def test_the_constant_estimate_is_the_banks_mean(bank_folder, weights, cpu):
    bank = PromptBank.open(bank_folder, weights.sha256("clip"), weights.sha256("sentences"))
    rows, _ = bank_estimate("constant", np.ones((2, 128), np.float32), bank, RECIPE, cpu)
    mean = np.array(bank.embeddings, dtype=np.float32).mean(axis=0)
    np.testing.assert_allclose(rows, np.tile(unit_rows(mean[None]), (2, 1)), atol=1e-3)


def test_texts_of_many_images_are_embedded_part_by_part(weights, cpu, monkeypatch):
    encoder = SentenceEncoder.load(weights, cpu)
    said = [Said([f"a fish {index}", "a cat"][: index % 3], [1.0, 3.0][: index % 3]) for index in range(7)]
    rows, usable = text_estimate(said, encoder, 8)
    asked: list[int] = []

    class Counting(SentenceEncoder):
        def encode(self, prompts, batch):
            asked.append(len(prompts))
            return super().encode(prompts, batch)

    monkeypatch.setattr("kernel.estimates.IMAGES", 3)
    in_parts, same = text_estimate(said, Counting(encoder.model), 8)
    assert asked == [3, 3]  # images 0 to 2 and 3 to 5; image 6 has no text
    np.testing.assert_array_equal(same, usable)
    np.testing.assert_allclose(in_parts, rows, atol=1e-6)
    assert usable.tolist() == [False, True, True, False, True, True, False]

"""The table of estimates, and the line that fuses them with a prompt bank, on the miniature models."""

import importlib
import json
import os
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from kernel.banks.build import build_bank
from kernel.config import ESTIMATES, RECIPES, BankSettings, Paths, Recipe
from kernel.errors import UserError
from kernel.estimates import estimate
from kernel.estimates.known import Known
from kernel.evaluation.report import write_report
from kernel.models.sentences import SentenceEncoder
from kernel.models.vectors import unit_rows
from kernel.models.weights_folder import write_manifest
from kernel.pipeline.folder import results
from kernel.pipeline.folder.run_folder import RunFolder
from kernel.pipeline.images import list_images
from kernel.pipeline.job import Job
from kernel.pipeline.run import run
from kernel.pipeline.stages.estimates import EstimatesStage
from kernel.pipeline.submission import check_submission, read_submission
from kernel.system.deadline import Deadline
from kernel.system.work import Share
from tests.engines import HERE

RECIPE = Recipe(separator=", ")
FAST = replace(RECIPES["text"], num_beams=2, captions_per_image=2, neighbours=20)
IDS = list("abcdef")


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


def test_a_share_for_an_encoder_that_is_not_there_stops_it_before_image_1(finished, tmp_path):
    where, _ = finished
    with pytest.raises(UserError, match="asks an image encoder.*holds none.*kernel train PAIRS.*--recipe text"):
        run(replace(FAST, estimates={"encoder": 1.0}), replace(where, run=tmp_path / "run"), "cpu")
    assert not (tmp_path / "run").exists()


def test_more_neighbours_than_the_bank_holds_stop_it_before_image_1(finished, tmp_path):
    where, _ = finished
    with pytest.raises(UserError, match=r"holds \d+ prompts, recipe setting neighbours is 5000"):
        run(replace(FAST, neighbours=5000), replace(where, run=tmp_path / "run"), "cpu")
    assert not (tmp_path / "run").exists()


def test_another_bank_starts_the_run_over(finished, tmp_path, weights, capfd):
    where, _ = finished
    (tmp_path / "few.txt").write_text("a red fish\na blue cat on a hill\n")
    build_bank(BankSettings([tmp_path / "few.txt"]), weights.folder, tmp_path / "few", HERE)
    recipe = replace(FAST, estimates={"neighbours": 1.0}, neighbours=1)
    own = replace(where, run=tmp_path / "run")
    run(recipe, own, "cpu")
    run(recipe, replace(own, bank=tmp_path / "few"), "cpu")
    assert "bank changed since the last run: estimates made again" in capfd.readouterr().err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["bank"]["folder"] == str(tmp_path / "few")


def test_an_unknown_estimate_is_refused_with_the_valid_ones(weights, cpu):
    known = Known(Recipe(), cpu, SentenceEncoder.load(weights, cpu), None, np.ones((1, 128), np.float32), [], [])
    with pytest.raises(UserError, match=r"unknown estimate 'prompt' \(did you mean 'prompts'\?\). Valid: prompts, cap"):
        estimate("prompt", known)


@pytest.mark.parametrize("name", ESTIMATES)
def test_every_estimate_of_the_table_has_its_function(name):
    module = importlib.import_module(f"kernel.estimates.{ESTIMATES[name].file}")
    assert callable(getattr(module, name)) and ESTIMATES[name].needs


def test_what_the_folder_holds_is_read_once_for_all_estimates(finished, weights, cpu, monkeypatch):
    where, content = finished
    folder = RunFolder(where.run, list_images(where.images), FAST.shard_images)
    job = Job(FAST, weights, folder, where.bank, [0.0] * 384)
    before = {name: results.read_estimate(folder, name)[1].tolist() for name in FAST.estimates}
    asked: Counter[str] = Counter()
    for name in ("read_clip", "read_captions", "read_modifiers"):
        really = getattr(results, name)
        monkeypatch.setattr(results, name, lambda *own, name=name, really=really: asked.update([name]) or really(*own))
    stage = EstimatesStage.load(job, cpu)
    for item in range(len(FAST.shared)):
        for _ in stage.make(item, Share(len(folder.images), Deadline())):
            pass
    assert asked == {"read_clip": 1, "read_captions": 1, "read_modifiers": 1}
    assert {name: results.read_estimate(folder, name)[1].tolist() for name in FAST.estimates} == before

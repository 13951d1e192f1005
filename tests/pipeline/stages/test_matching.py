"""Captions weighed by image-text matching, through a whole run on the miniature models."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest

from kernel.config import RECIPES, Paths
from kernel.errors import UserError
from kernel.evaluation.finished import finished_run
from kernel.evaluation.report_content import cards
from kernel.models.captioners.captioner import Captioner
from kernel.models.image_text_matching import MATCHING, Matcher
from kernel.models.sentences import SentenceEncoder
from kernel.models.weights_folder import write_manifest
from kernel.pipeline.folder import results
from kernel.pipeline.folder.run_folder import RunFolder
from kernel.pipeline.record import Record
from kernel.pipeline.run import run
from kernel.pipeline.submission import check_submission, read_submission
from kernel.system.deadline import Deadline, OutOfTime

RECIPE = replace(
    RECIPES["baseline"],
    caption_decoding="sampling",
    captions_per_image=3,
    sampling_top_p=1.0,
    caption_weighting="itm",
    matching_batch=2,
    shard_images=3,
    estimates={"captions": 1.0},
)
IDS = list("abcdef")
TOLD = "6 of 6 images have captions that were not weighed, so they count alike"


@pytest.fixture
def where(image_folder, weights_folder, tmp_path) -> Paths:
    return Paths(image_folder, weights_folder, tmp_path / "run")


@pytest.fixture(scope="module")
def plain(submission_by) -> dict[str, np.ndarray]:
    return submission_by(replace(RECIPE, caption_weighting="mean"))


def captions_of(where: Paths) -> list[list[str]]:
    return [own for path in shards(where, "captions") for own in json.loads(path.read_text())["captions"]]


def shards(where: Paths, stage: str = "matching") -> list:
    return [where.run / stage / f"0000{shard}.json" for shard in range(2)]


@pytest.mark.parametrize("head", ["itm", "itc"])
def test_captions_are_weighed_by_their_match_with_the_image(where, drawn, weights, cpu, head):
    content = run(replace(RECIPE, caption_weighting=head), where, "cpu")
    matcher, encoder = Matcher.load(weights, cpu), SentenceEncoder.load(weights, cpu)
    answer = read_submission(where.run / "submission.csv")
    said = captions_of(where)
    scores = matcher.scores([picture for picture, _ in drawn[:6]], said, head)
    for image, captions, own in zip(IDS, said, np.float64(scores), strict=True):
        weights_of = 1 / (1 + np.exp(-own)) if head == "itm" else np.exp(own / RECIPE.caption_temperature)
        expected = weights_of @ encoder.encode(captions, 8)
        np.testing.assert_allclose(answer[image], expected / np.linalg.norm(expected), atol=1e-4)
    assert "image-text matching" in content["seconds"] and content["plan"]["image-text matching"]["seconds_estimated"]
    assert content["models"]["matching"] == "kernel/miniature/checkpoints"
    assert content["problems"] == [] and content["counts"]["degraded_rows"] == 0


def test_a_run_that_goes_on_scores_only_what_is_missing(where, monkeypatch):
    run(RECIPE, where, "cpu")
    before, submission = [path.read_bytes() for path in shards(where)], (where.run / "submission.csv").read_bytes()
    shards(where)[1].unlink()
    asked = []
    original = Matcher.scores
    monkeypatch.setattr(Matcher, "scores", lambda *given: asked.append(len(given[1])) or original(*given))
    run(RECIPE, where, "cpu")
    assert asked == [2, 1]
    assert [path.read_bytes() for path in shards(where)] == before
    assert (where.run / "submission.csv").read_bytes() == submission


def test_a_shard_that_was_altered_is_made_again(where):
    run(RECIPE, where, "cpu")
    before = shards(where)[0].read_bytes()
    shards(where)[0].write_bytes(before.replace(b"scores", b"stores"))
    run(RECIPE, where, "cpu")
    assert shards(where)[0].read_bytes() == before


def test_another_head_makes_the_scores_again_and_keeps_the_captions(where, capsys):
    run(RECIPE, where, "cpu")
    captions, scores = [path.read_bytes() for path in shards(where, "captions")], shards(where)[0].read_bytes()
    capsys.readouterr()
    run(replace(RECIPE, caption_weighting="itc"), where, "cpu")
    assert "matching, recipe changed since the last run: matching, estimates made again" in capsys.readouterr().err
    assert [path.read_bytes() for path in shards(where, "captions")] == captions
    assert shards(where)[0].read_bytes() != scores


def test_a_model_that_cannot_be_used_leaves_plain_means_told_and_counted(where, plain, monkeypatch):
    def refuse(cls, *given):
        raise UserError("no such model today")

    monkeypatch.setattr(Matcher, "load", classmethod(refuse))
    content = run(RECIPE, where, "cpu")
    assert content["counts"]["unweighed_captions"] == content["counts"]["degraded_rows"] == 6
    assert content["problems"] == [
        TOLD,
        "image-text matching was given up (UserError: no such model today) before every caption was weighed, so the "
        "others count alike",
    ]
    assert_rows_are(where, plain)


def test_scores_that_are_no_numbers_leave_plain_means(where, plain, monkeypatch):
    def overflown(*given):
        raise ValueError("its scores are no numbers")

    monkeypatch.setattr(Matcher, "scores", overflown)
    content = run(RECIPE, where, "cpu")
    assert content["problems"][0] == TOLD and "its scores are no numbers" in content["problems"][1]
    assert_rows_are(where, plain)


def test_of_an_image_that_the_model_fails_on_captions_count_alike(where, plain, monkeypatch):
    original = Matcher.scores
    failing = []

    def scores(self, images, captions, head):
        failing[:] = failing or [captions[0]]
        if failing[0] in captions:
            raise RuntimeError("odd image")
        return original(self, images, captions, head)

    monkeypatch.setattr(Matcher, "scores", scores)
    content = run(RECIPE, where, "cpu")
    assert content["counts"]["unweighed_captions"] == 1
    stored = json.loads(shards(where)[0].read_text())
    assert stored["scores"][0] is None and stored["failed"]["a"] == "RuntimeError: odd image"
    rows = read_submission(where.run / "submission.csv")
    np.testing.assert_allclose(rows["a"], plain["a"], atol=1e-5)
    assert [card["degraded"] for card in cards(finished_run(where.run), None)] == [["captions not weighed"]] + 5 * [[]]
    monkeypatch.setattr(Matcher, "scores", original)
    other = shards(where)[1].stat().st_mtime_ns
    assert run(RECIPE, where, "cpu")["problems"] == []  # the same command tries it again
    assert json.loads(shards(where)[0].read_text())["failed"] == {}
    assert shards(where)[1].stat().st_mtime_ns == other


def test_what_was_scored_of_a_shard_counts_when_the_time_is_over_within_it(where, plain, monkeypatch):
    whole, original, batches = replace(RECIPE, shard_images=6), Matcher.scores, []

    def scores(*given):
        batches.append(given)
        if len(batches) == 2:
            raise OutOfTime
        return original(*given)

    monkeypatch.setattr(Matcher, "scores", scores)
    content = run(whole, where, "cpu")
    assert content["counts"]["unweighed_captions"] == 4
    assert content["problems"][1] == "the time was over before every caption was weighed, so the others count alike"
    monkeypatch.undo()
    assert run(whole, where, "cpu")["problems"] == []  # the same command makes up for it


class Told(Deadline):
    """By a clock that a test sets."""

    clock = [0.0]

    def left(self) -> float:
        return self.ends - self.clock[0]

    def earlier(self, seconds: float) -> "Told":
        return Told(self.ends - seconds)


def test_captions_that_fill_all_the_time_leave_some_to_weigh_them(where, monkeypatch):
    """Six captions of 10 seconds each and 35 in all, of which weighing would take more than there is."""
    monkeypatch.setattr(Told, "clock", [0.0])
    monkeypatch.setattr("kernel.pipeline.run.Watchdog", lambda deadline: nullcontext())
    monkeypatch.setattr(Record, "planned_seconds", lambda self, *stages: 1000.0 * len(stages))
    original = Captioner.captions

    def captions(self, images, *given):
        Told.clock[0] += 10 * (len(images) > 0)
        return original(self, images, *given)

    monkeypatch.setattr(Captioner, "captions", captions)
    content = run(replace(RECIPE, caption_batch=1, shard_images=1), where, "cpu", deadline=Told(35.0))
    assert 0 < content["counts"]["no_captions"] < 6
    assert content["counts"]["unweighed_captions"] == 0


def test_a_bad_image_has_no_scores(where):
    (where.images / "c.png").write_bytes(b"")
    content = run(RECIPE, where, "cpu")
    assert content["counts"]["bad_images"] == content["counts"]["degraded_rows"] == 1
    assert [len(own) for own in json.loads(shards(where)[0].read_text())["scores"]] == [3, 3, 0]
    before = shards(where)[0].stat().st_mtime_ns
    run(RECIPE, where, "cpu")
    assert shards(where)[0].stat().st_mtime_ns == before


def test_without_the_model_a_recipe_that_asks_it_is_refused_before_image_1(where, tmp_path, weights, own_copy):
    own = own_copy(MATCHING)
    shutil.rmtree(own.model_folder(MATCHING))
    (own.folder / "manifest.json").unlink()
    models = {name: model for name, model in weights.models.items() if name != MATCHING}
    write_manifest(own.folder, models, weights.captioners)
    lacking = replace(where, weights=own.folder)
    with pytest.raises(UserError, match="holds no model for image-text matching"):
        run(RECIPE, lacking, "cpu")
    assert not (where.run / "clip").exists()
    content = run(replace(RECIPE, caption_weighting="consensus"), lacking, "cpu")
    assert content["problems"] == [] and "matching" not in content["models"]


def test_new_captions_drop_scores_of_others(where):
    run(RECIPE, where, "cpu")
    folder = RunFolder(where.run, [None] * 6, 3)
    results.write_captions(folder, 0, results.read_caption_shard(folder, 0))
    assert not shards(where)[0].exists() and shards(where)[1].exists()


def assert_rows_are(where: Paths, expected: dict[str, np.ndarray]) -> None:
    check_submission(where.run / "submission.csv", IDS)
    rows = read_submission(where.run / "submission.csv")
    for name in IDS:
        np.testing.assert_allclose(rows[name], expected[name], atol=1e-5)

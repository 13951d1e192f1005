"""Several captioners in one recipe, through whole runs on the miniature models."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kernel.__main__ import main
from kernel.config import RECIPES, Paths
from kernel.errors import UserError
from kernel.estimates.texts import compose
from kernel.evaluation.explain import explain
from kernel.evaluation.finished import finished_run
from kernel.evaluation.report_content import cards
from kernel.models.captioners.captioner import Captioner
from kernel.models.clip import ClipEncoder
from kernel.models.image_text_matching import Matcher
from kernel.models.sentences import SentenceEncoder
from kernel.pipeline.folder import results
from kernel.pipeline.run import Line, run
from kernel.pipeline.submission import check_submission, read_submission
from tests import warm
from tests.conftest import ROOT

ONE = replace(RECIPES["baseline"], num_beams=2, captions_per_image=2, shard_images=2)
BOTH = replace(ONE, captioner="blip2,blip")
IDS = list("abcdef")
NAMES = ("blip2", "blip")
REAL = Captioner.captions
LACKING = "6 of 6 images lack the captions of one of several captioners (0 by blip2, 6 by blip)"


@pytest.fixture
def where(image_folder, weights_folder, tmp_path) -> Paths:
    return Paths(image_folder, weights_folder, tmp_path / "run")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, weights_folder, drawn) -> tuple[Paths, dict]:
    """One run by both: its paths and what it returned."""
    folder = tmp_path_factory.mktemp("both")
    (folder / "images").mkdir()
    for name, (picture, _) in zip(IDS, drawn, strict=False):
        picture.save(folder / "images" / f"{name}.png")
    own = Paths(folder / "images", weights_folder, folder / "run")
    return own, run(BOTH, own, "cpu")


@pytest.fixture
def failing(monkeypatch):
    """Lets a captioner raise, on all images or on its call of that number and on the image alone after it."""

    def fail(name: str, call: int | None = None) -> None:
        calls = []

        def captions(self, images, *more):
            if self.kind.name == name:
                calls.append(len(images))
                if call is None or len(calls) in (call, call + 1):
                    raise ValueError("odd picture")
            return REAL(self, images, *more)

        monkeypatch.setattr(Captioner, "captions", captions)

    return fail


def shard(where: Paths, name: str, number: int, stage: str = "captions") -> Path:
    return where.run / stage / f"{number:05d}.{name}.json"


def captions_of(where: Paths, name: str) -> list[list[str]]:
    return [own for number in range(3) for own in json.loads(shard(where, name, number).read_text())["captions"]]


def counts(content: dict) -> dict[str, int]:
    return {name: count for name, count in content["counts"].items() if count and name != "images"}


def assert_near(where: Paths, expected: dict[str, np.ndarray], ids: list[str] = IDS) -> None:
    check_submission(where.run / "submission.csv", IDS)
    rows = read_submission(where.run / "submission.csv")
    for name in ids:
        np.testing.assert_allclose(rows[name], expected[name], atol=1e-5)


@pytest.mark.parametrize("shares", [{}, {"blip2": 0.75, "blip": 0.25}])
def test_each_one_s_mean_of_prompts_counts_by_its_share(finished, weights, cpu, shares):
    where, _ = finished
    if shares:
        run(replace(BOTH, captioner_shares=shares), where, "cpu")
    encoder = SentenceEncoder.load(weights, cpu)
    rows = read_submission(where.run / "submission.csv")
    modifiers = json.loads((where.run / "clip" / "modifiers.json").read_text())
    for image, phrases, *said in zip(IDS, modifiers, *(captions_of(where, name) for name in NAMES), strict=True):
        means = [encoder.encode(compose(own, phrases, BOTH), 8).mean(axis=0) for own in said]
        expected = sum(shares.get(name, 0.5) * mean for name, mean in zip(NAMES, means, strict=True))
        np.testing.assert_allclose(rows[image], expected / np.linalg.norm(expected), atol=1e-5)
    run(BOTH, where, "cpu")  # as it was, for the other tests


@pytest.mark.parametrize("name", NAMES)
def test_each_says_what_it_says_alone(finished, tmp_path, name):
    where, _ = finished
    alone = replace(where, run=tmp_path / "alone")
    run(replace(ONE, captioner=name), alone, "cpu")
    for number in range(3):
        whole = (alone.run / "captions" / f"{number:05d}.json").read_bytes()
        assert shard(where, name, number).read_bytes() == whole


def test_run_json_says_who_captioned_and_what_each_took(finished, weights):
    _, content = finished
    assert content["captioners"] == {"blip2": 6, "blip": 6} and counts(content) == {} and content["problems"] == []
    assert set(content["models"]) == {"clip", "blip2", "blip", "sentences"}
    for name in NAMES:
        assert content["seconds"][f"captions {name}"] > 0
        assert content["plan"][f"captions {name}"]["seconds_estimated"] > 0
        assert content["plan"][f"captions {name}"]["bytes_estimated"] > 2**20
        assert content["identity"]["estimates"]["models"][name] == weights.sha256(name)
    assert "captions" not in content["seconds"]


def test_every_image_passes_one_before_the_next_is_there(where, monkeypatch):
    made = []
    write = results.write_captions
    monkeypatch.setattr(results, "write_captions", lambda *own: (made.append((own[3], own[1])), write(*own)))
    run(BOTH, where, "cpu")
    assert made == [(name, number) for name in NAMES for number in range(3)]


def test_the_first_leaves_the_second_the_time_that_is_planned_for_it(where, monkeypatch):
    kept, ends = [], Line.ends
    monkeypatch.setattr(Line, "ends", lambda self, reserve: (kept.append(reserve), ends(self, reserve))[1])
    content = run(BOTH, where, "cpu")
    first, second = kept[-3:-1]  # the last is of what is made of captions
    assert first - second == pytest.approx(content["plan"]["captions blip"]["seconds_estimated"])


def test_one_that_cannot_be_used_is_left_out_told_counted_and_made_up_for_later(where, finished, failing, monkeypatch):
    failing("blip2")
    content = run(BOTH, where, "cpu")
    assert content["captioners"] == {"blip": 6} and content["given_up"] == ["blip2"]
    assert counts(content) == {"lacking_captioners": 6, "degraded_rows": 6}
    assert content["problems"][0] == LACKING and content["problems"][1].startswith("captioner blip2 was given up (")
    alone = replace(where, run=where.run.with_name("alone"))
    monkeypatch.setattr(Captioner, "captions", REAL)
    run(replace(ONE, captioner="blip"), alone, "cpu")
    assert_near(where, read_submission(alone.run / "submission.csv"))
    assert counts(run(BOTH, where, "cpu")) == {}
    assert (where.run / "submission.csv").read_bytes() == (finished[0].run / "submission.csv").read_bytes()


def test_the_last_line_of_a_run_tells_of_the_one_that_was_lost(where, failing, capsys):
    failing("blip2")
    settings = ["num_beams=2", "captions_per_image=2", "captioner=blip2,blip"]
    words = [word for own in settings for word in ("--set", own)]
    folders = [str(where.images), "--weights", str(where.weights), "--out", str(where.run)]
    assert main(["run", *folders, "--device", "cpu", *words]) == 1
    assert ", 6 lack those of one of several, and of 0 captions were not weighed" in capsys.readouterr().err


def test_an_image_on_which_one_fails_is_left_to_the_other(where, finished, failing, weights, cpu):
    failing("blip2", call=2)  # the second shard, then its first image alone
    content = run(BOTH, where, "cpu")
    assert content["captioners"] == {"blip2": 5, "blip": 6} and content["given_up"] == []
    assert counts(content) == {"lacking_captioners": 1, "degraded_rows": 1} and content["caption_failures"] == {}
    whole = read_submission(finished[0].run / "submission.csv")
    assert_near(where, whole, list("abdef"))
    assert captions_of(where, "blip2")[2] == [] and len(captions_of(where, "blip")[2]) == 2
    phrases = json.loads((where.run / "clip" / "modifiers.json").read_text())[2]
    prompts = compose(captions_of(where, "blip")[2], phrases, BOTH)
    expected = SentenceEncoder.load(weights, cpu).encode(prompts, 8).mean(axis=0)
    assert_near(where, {"c": expected / np.linalg.norm(expected)}, ["c"])
    run_cards = {card["id"]: card for card in cards(finished_run(where.run), None)}
    assert run_cards["c"]["degraded"] == ["no captions by blip2"] and run_cards["a"]["degraded"] == []


def test_where_none_is_left_the_modifiers_answer(where, monkeypatch):
    def refuse(*given):
        raise ValueError("odd picture")

    monkeypatch.setattr(Captioner, "captions", refuse)
    content = run(BOTH, where, "cpu")
    assert content["captioners"] == {} and content["given_up"] == ["blip2", "blip"]
    assert counts(content) == {"no_captions": 6, "degraded_rows": 6}
    assert content["problems"][-1] == "no captioner is left, so images without captions go without"
    modifiers = replace(where, run=where.run.with_name("modifiers"))
    run(replace(ONE, estimates={"modifiers": 1.0}), modifiers, "cpu")
    assert_near(where, read_submission(modifiers.run / "submission.csv"))


def test_a_run_that_goes_on_makes_only_what_is_missing_or_altered(where):
    run(BOTH, where, "cpu")
    first = (where.run / "submission.csv").read_bytes()
    whole = {(name, number): shard(where, name, number).read_bytes() for name in NAMES for number in range(3)}
    kept = {own: shard(where, *own).stat().st_mtime_ns for own in whole if own not in (("blip", 1), ("blip2", 2))}
    shard(where, "blip", 1).unlink()
    shard(where, "blip2", 2).write_bytes(whole["blip2", 2].replace(b"a", b"b"))
    run(BOTH, where, "cpu")
    assert {own: shard(where, *own).read_bytes() for own in whole} == whole
    assert {own: shard(where, *own).stat().st_mtime_ns for own in kept} == kept
    assert (where.run / "submission.csv").read_bytes() == first


def test_a_changed_order_keeps_the_captions_and_other_weights_of_one_do_not(where, monkeypatch):
    run(BOTH, where, "cpu")
    before = {name: shard(where, name, 0).stat().st_mtime_ns for name in NAMES}
    run(replace(BOTH, captioner="blip, blip2"), where, "cpu")
    assert {name: shard(where, name, 0).stat().st_mtime_ns for name in NAMES} == before
    content = json.loads(shard(where, "blip", 0).read_text())
    folder = finished_run(where.run).folder
    results.write_captions(folder, 0, results.CaptionShard(**content | {"sha256": {"blip": "0" * 64}}), "blip")
    results.drop_captions_of_others(folder, content["sha256"], "blip")
    assert folder.made(results.CAPTIONS.by("blip")) == [1, 2] and folder.made(results.CAPTIONS.by("blip2")) == [0, 1, 2]


@pytest.mark.parametrize("weighting", ["itm", "clip"])
def test_the_captions_of_each_are_weighed_among_themselves(where, drawn, weights, cpu, monkeypatch, weighting):
    asked, scores = [], Matcher.scores
    monkeypatch.setattr(Matcher, "scores", lambda *own: asked.extend(len(said) for said in own[2]) or scores(*own))
    recipe = replace(BOTH, caption_weighting=weighting, estimates={"captions": 1.0})
    assert counts(run(recipe, where, "cpu")) == {}
    assert asked == ([4] * 6 if weighting == "itm" else [])  # an image is looked at once
    pictures, stage = [picture for picture, _ in drawn[:6]], {"itm": "matching", "clip": "cosines"}[weighting]
    encoder, rows = SentenceEncoder.load(weights, cpu), read_submission(where.run / "submission.csv")
    expected = np.zeros((6, 384))
    for name in NAMES:
        said = captions_of(where, name)
        if weighting == "itm":
            own = 1 / (1 + np.exp(-np.float64(scores(Matcher.load(weights, cpu), pictures, said, "itm"))))
        else:
            clip = ClipEncoder.load(weights, cpu)
            features = clip.encode_images(pictures)
            cosines = [clip.encode_texts(texts, 8) @ row for texts, row in zip(said, features, strict=True)]
            own = np.exp(np.float64(cosines) / recipe.caption_temperature)
        assert all(shard(where, name, number, stage).is_file() for number in range(3))
        for number, (texts, weight) in enumerate(zip(said, own, strict=True)):
            expected[number] += weight @ encoder.encode(texts, 8) / weight.sum()
    for image, row in zip(IDS, expected, strict=True):
        np.testing.assert_allclose(rows[image], row / np.linalg.norm(row), atol=1e-4)
    shard(where, "blip", 1, stage).unlink()
    before = shard(where, "blip2", 1, stage).stat().st_mtime_ns
    run(recipe, where, "cpu")
    assert shard(where, "blip", 1, stage).is_file()
    assert shard(where, "blip2", 1, stage).stat().st_mtime_ns == before


def test_a_report_and_an_explanation_name_the_captioner_of_each_caption(finished, weights_folder):
    where, _ = finished
    expected = [f"{name}: {caption}" for name in NAMES for caption in captions_of(where, name)[0]]
    assert finished_run(where.run).captions[0] == expected and len(expected) == 4
    assert explain(where.images / "a.png", BOTH, weights_folder, None, "cpu").captions == expected


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"captioner": "blip2,blipp"}, r"holds no captioner 'blipp' \(did you mean 'blip'\?\); it has blip2, blip"),
        ({"captioner": "blip2,auto"}, "holds no captioner 'auto'.*; it has blip2, blip"),
        ({"captioner": "blip2,"}, "holds no captioner ''.*; it has blip2, blip"),
        ({"captioner": "blip,blip2,blip"}, "names 'blip' more than once.*; expected different ones of blip2, blip"),
        ({"captioner_shares": {"blip2": 1.0}}, "gives blip2 1; expected a share above 0 of each .*: blip2, blip"),
        ({"captioner_shares": {"blip2": 1.0, "blip": 0.0}}, "gives blip2 1, blip 0; expected a share above 0 of each"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_image(where, settings, said):
    with pytest.raises(UserError, match=said):
        run(replace(BOTH, **settings), where, "cpu")
    assert not where.run.exists()


def test_a_killed_run_goes_on_to_the_same_submission(where, finished):
    command = [
        sys.executable, "-m", "kernel", "run", str(where.images), "--weights", str(where.weights), "--out",
        str(where.run), "--device", "cpu", "--recipe", "baseline", "--set", "num_beams=2", "--set",
        "captions_per_image=2", "--set", "shard_images=2", "--set", "captioner=blip2,blip",
    ]  # fmt: skip
    process = warm.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None and not shard(where, "blip", 0).is_file():
        time.sleep(0.005)  # waits for an event, not for a time
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = shard(where, "blip2", 0).stat().st_mtime_ns
    done = warm.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert "going on with the last run" in done.stderr
    assert shard(where, "blip2", 0).stat().st_mtime_ns == kept
    assert_near(where, read_submission(finished[0].run / "submission.csv"))

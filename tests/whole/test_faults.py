"""What can go wrong after image 1, brought about on purpose: every run still ends with a valid submission."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from kernel.config import RECIPES, Paths
from kernel.errors import UserError
from kernel.models.captioners.captioner import Captioner
from kernel.models.clip import ClipEncoder
from kernel.models.weights_folder import Weights, write_manifest
from kernel.pipeline.folder import results
from kernel.pipeline.folder.run_folder import RunFolder
from kernel.pipeline.run import run
from kernel.pipeline.stages.batches import BatchSize, Failed, encoded
from kernel.pipeline.submission import check_submission, read_submission
from kernel.system.deadline import Deadline
from kernel.system.work import CannotBeUsed
from tests import warm
from tests.conftest import ROOT

IDS = list("abcdef")
RECIPE = replace(RECIPES["baseline"], num_beams=2, captions_per_image=2, shard_images=2, caption_batch=2)
REAL = Captioner.captions


@pytest.fixture
def where(image_folder, weights_folder, tmp_path) -> Paths:
    return Paths(image_folder, weights_folder, tmp_path / "run")


@pytest.fixture(scope="module")
def undisturbed(submission_by) -> dict[str, np.ndarray]:
    return submission_by(RECIPE)


def counts(content: dict) -> dict[str, int]:
    return {name: count for name, count in content["counts"].items() if count and name != "images"}


def changed(where: Paths, undisturbed: dict[str, np.ndarray]) -> list[str]:
    check_submission(where.run / "submission.csv", IDS)
    rows = read_submission(where.run / "submission.csv")
    return [name for name in IDS if np.abs(rows[name] - undisturbed[name]).max() > 1e-4]


# out of memory


def test_out_of_memory_halves_the_batch_until_it_fits():
    asked = []

    def encode(images):
        asked.append(len(images))
        if len(images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images

    size = BatchSize(16)
    assert encoded(list(range(20)), size, encode) == list(range(20))
    assert asked == [16, 8, 4, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    assert size.value == 2


def test_one_image_that_does_not_fit_is_no_use():
    def encode(images):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(CannotBeUsed, match="one image alone does not fit into memory"):
        encoded([1, 2, 3], BatchSize(2), encode)


def test_an_image_on_which_a_model_raises_is_alone_in_that():
    def encode(images):
        if 3 in images:
            raise ValueError("three")
        return images

    assert encoded([1, 2, 3, 4, 5], BatchSize(4), encode) == [1, 2, Failed("ValueError: three"), 4, 5]


def test_a_captioner_out_of_memory_captions_in_smaller_batches(where, undisturbed, monkeypatch, capfd):
    def captions(self, images, *more):
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return REAL(self, images, *more)

    monkeypatch.setattr(Captioner, "captions", captions)
    content = run(RECIPE, where, "cpu")
    assert counts(content) == {} and content["problems"] == []
    assert changed(where, undisturbed) == []
    assert "out of memory: 1 images at a time from here on" in capfd.readouterr().err


class Blip2:
    """In place of both captioners: BLIP-2 has no memory once it has done so many batches; `stop` ends the process in
    place of the n-th batch of BLIP, as a kill does."""

    def __init__(self, monkeypatch, good: int = 0, stop: int | None = None, fails_on: int | None = None) -> None:
        self.good, self.stop, self.fails_on, self.asked = good, stop, fails_on, {"blip2": 0, "blip": 0}
        monkeypatch.setattr(Captioner, "captions", lambda captioner, *more: self.captions(captioner, *more))

    def captions(self, captioner, images, *more):
        name = "blip2" if hasattr(captioner.model, "qformer") else "blip"
        self.asked[name] += 1
        if name == "blip2" and self.asked[name] > self.good:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if name == "blip2" and self.fails_on in (self.asked[name], self.asked[name] - 1):
            raise ValueError("odd picture")
        if name == "blip" and self.asked[name] == self.stop:
            raise KeyboardInterrupt
        return REAL(captioner, images, *more)


GIVEN_UP = "captioner blip2 was given up (CannotBeUsed: one image alone does not fit into memory: "


def test_a_captioner_without_memory_for_one_image_is_followed_by_the_smaller_one(where, undisturbed, monkeypatch):
    Blip2(monkeypatch)
    content = run(RECIPE, where, "cpu")
    what, why = content["problems"]
    assert what == "6 of 6 images were captioned by a stand-in for blip2 (6 by blip)"
    assert why.startswith(GIVEN_UP)
    assert counts(content) == {"fallback_captions": 6, "degraded_rows": 6}
    assert content["captioners"] == {"blip": 6} and set(content["models"]) == {"clip", "blip", "sentences"}
    assert changed(where, undisturbed)  # of some pictures both say the same


@pytest.fixture
def killed(where, monkeypatch) -> Paths:
    """A run whose BLIP-2 failed after the first of three shards, and that was killed before BLIP's last."""
    Blip2(monkeypatch, good=1, stop=2)
    with pytest.raises(KeyboardInterrupt):
        run(RECIPE, where, "cpu")
    return where


def captions_in(where: Paths) -> list[bytes]:
    return [path.read_bytes() for path in sorted((where.run / "captions").glob("*.json"))]


def test_a_run_that_goes_on_says_who_captioned_and_keeps_what_the_better_one_cannot_better(killed, monkeypatch):
    before = captions_in(killed)
    for _ in range(2):
        asked = Blip2(monkeypatch).asked
        content = run(RECIPE, killed, "cpu")
        assert asked["blip2"] == 2  # a batch, and an image alone, of one shard: nothing is tried without end
        assert content["captioners"] == {"blip2": 2, "blip": 4}
        assert set(content["models"]) == {"clip", "blip2", "blip", "sentences"}
        assert counts(content) == {"fallback_captions": 4, "degraded_rows": 4}
        assert content["problems"][0] == "4 of 6 images were captioned by a stand-in for blip2 (4 by blip)"
        assert content["problems"][1].startswith(GIVEN_UP) and len(content["problems"]) == 2
    assert captions_in(killed)[:2] == before


def test_a_run_that_goes_on_first_makes_what_is_missing_then_what_a_stand_in_made(killed, undisturbed, monkeypatch):
    made = []
    write = results.write_captions
    monkeypatch.setattr(
        results, "write_captions", lambda folder, shard, *more: (made.append(shard), write(folder, shard, *more))
    )
    monkeypatch.setattr(Captioner, "captions", REAL)
    content = run(RECIPE, killed, "cpu")
    assert made == [2, 1]
    assert content["captioners"] == {"blip2": 6} and counts(content) == {} and content["problems"] == []
    assert changed(killed, undisturbed) == []


def test_an_image_on_which_the_better_captioner_fails_keeps_what_the_stand_in_said(where, monkeypatch):
    Blip2(monkeypatch)
    run(RECIPE, where, "cpu")
    before = results.read_captions(RunFolder(where.run, [None] * 6, 2))[0]
    Blip2(monkeypatch, good=100, fails_on=2)  # the second shard whole, then its first image alone
    content = run(RECIPE, where, "cpu")
    assert content["captioners"] == {"blip2": 5, "blip": 1} and content["caption_failures"] == {}
    assert counts(content) == {"fallback_captions": 1, "degraded_rows": 1}
    assert results.read_captions(RunFolder(where.run, [None] * 6, 2))[0][2] == before[2]
    asked = Blip2(monkeypatch, good=100).asked
    assert run(RECIPE, where, "cpu")["captioners"] == {"blip2": 5, "blip": 1}
    assert asked == {"blip2": 0, "blip": 0}  # it has failed on that image


def test_time_that_is_over_while_captions_are_bettered_takes_none_away(where, monkeypatch):
    whole = replace(RECIPE, shard_images=6)
    Blip2(monkeypatch)
    run(whole, where, "cpu")
    before = captions_in(where)
    monkeypatch.setattr(Captioner, "captions", REAL)
    monkeypatch.setattr("kernel.system.deadline.Effort.took", lambda self, *more: setattr(self, "image_seconds", 100.0))
    content = run(whole, where, "cpu", deadline=Scripted(1e6, 1e6, 0))
    assert captions_in(where) == before
    assert content["problems"][1:] == ["the time was over before blip2 had captioned what a stand-in had"]
    assert counts(content) == {"fallback_captions": 6, "degraded_rows": 6}


def test_captions_of_a_captioner_whose_weights_changed_are_made_again(where, undisturbed, monkeypatch):
    Blip2(monkeypatch)
    run(RECIPE, where, "cpu")
    monkeypatch.setattr(Captioner, "captions", REAL)
    folder = RunFolder(where.run, [None] * 6, 2)
    results.drop_captions_of_others(
        folder, {"blip2": "1", "blip": results.read_caption_shard(folder, 0).sha256["blip"]}
    )
    assert folder.made(results.CAPTIONS) == [0, 1, 2]
    results.drop_captions_of_others(folder, {"blip2": "1", "blip": "2"})
    assert folder.made(results.CAPTIONS) == []


def test_clip_out_of_memory_encodes_in_smaller_batches(where, undisturbed, monkeypatch):
    real = ClipEncoder.encode_images

    def encode_images(self, images):
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, images)

    monkeypatch.setattr(ClipEncoder, "encode_images", encode_images)
    assert counts(run(RECIPE, where, "cpu")) == {}
    assert changed(where, undisturbed) == []


@pytest.mark.parametrize("error", [RuntimeError("device-side assert"), torch.OutOfMemoryError("CUDA out of memory")])
def test_a_clip_that_fails_on_everything_stops_the_run_and_is_made_up_for_later(where, undisturbed, monkeypatch, error):
    def encode_images(self, images):
        raise error

    monkeypatch.setattr(ClipEncoder, "encode_images", encode_images)
    with pytest.raises(UserError, match="CLIP cannot be used on cpu .*6 images have no features"):
        run(RECIPE, where, "cpu")
    assert changed(where, undisturbed) == IDS
    monkeypatch.undo()
    assert counts(run(RECIPE, where, "cpu")) == {}
    assert changed(where, undisturbed) == []


def test_a_shard_of_one_image_on_which_clip_fails_stops_nothing(where, undisturbed, monkeypatch):
    real = ClipEncoder.encode_images
    calls = []

    def encode_images(self, images):
        calls.append(len(images))
        if len(calls) == 2:
            raise ValueError("odd picture")
        return real(self, images)

    monkeypatch.setattr(ClipEncoder, "encode_images", encode_images)
    content = run(replace(RECIPE, shard_images=5), where, "cpu")
    assert content["bad_images"] == {"f": "ValueError: odd picture"}
    assert changed(where, undisturbed) == ["f"]


# captioners that fail


def test_a_captioner_that_raises_on_an_image_leaves_it_to_the_rest(where, undisturbed, monkeypatch):
    calls = []

    def captions(self, images, *more):
        calls.append(len(images))
        if len(calls) in (2, 3):  # the second batch, then its first image alone
            raise ValueError("odd picture")
        return REAL(self, images, *more)

    monkeypatch.setattr(Captioner, "captions", captions)
    content = run(RECIPE, where, "cpu")
    assert content["caption_failures"] == {"c": "ValueError: odd picture"}
    assert counts(content) == {"caption_failures": 1, "degraded_rows": 1}
    assert changed(where, undisturbed) == ["c"]


def damaged(weights: Weights, model: str) -> Path:
    """Weights whose numbers of one model are none, and whose manifest vouches for them."""
    (path,) = weights.model_folder(model).glob("*.safetensors")
    state = load_file(path)
    broken = {name: tensor * torch.nan for name, tensor in state.items() if tensor.is_floating_point()}
    save_file(state | broken, path, metadata={"format": "pt"})
    (weights.folder / "manifest.json").unlink()
    write_manifest(weights.folder, weights.models, weights.captioners)
    return weights.folder


@pytest.mark.parametrize("settings", [{}, {"caption_decoding": "sampling"}])
def test_a_captioner_whose_numbers_are_none_is_followed_by_the_smaller_one(where, own_copy, settings, capfd):
    content = run(replace(RECIPE, **settings), replace(where, weights=damaged(own_copy("blip2"), "blip2")), "cpu")
    assert content["captioners"] == {"blip": 6}
    assert counts(content) == {"fallback_captions": 6, "degraded_rows": 6}
    assert "captioner blip2 was given up" in content["problems"][1] and content["given_up"] == ["blip2"]
    assert "Traceback" not in capfd.readouterr().err


def test_a_captioner_that_says_the_same_of_every_picture_is_followed_by_the_smaller_one(where, monkeypatch):
    real = Captioner.said

    def said(self, images, *more):
        blind = [images[0].point(lambda value: 0) for _ in images] if hasattr(self.model, "qformer") else images
        return real(self, blind, *more)

    monkeypatch.setattr(Captioner, "said", said)
    content = run(RECIPE, where, "cpu")
    assert content["captioners"] == {"blip": 6} and content["given_up"] == ["blip2"]
    assert re.search("blip2 was given up .* of a red disc and of blue stripes alike", content["problems"][1])


def test_a_scorer_whose_numbers_are_none_stops_the_run_before_the_first_image(where, own_copy):
    weights = damaged(own_copy("sentences"), "sentences")
    with pytest.raises(UserError, match="embeddings.* holds what is no number.*the file is damaged. Make it again"):
        run(RECIPE, replace(where, weights=weights), "cpu")
    assert not where.run.exists()


def test_captions_that_are_empty_are_none(where, undisturbed, monkeypatch):
    def captions(self, images, *more):
        return [["", ""] for _ in images]

    monkeypatch.setattr(Captioner, "captions", captions)
    run(RECIPE, where, "cpu")
    assert changed(where, undisturbed) == IDS
    assert json.loads((where.run / "captions" / "00000.json").read_text())["captions"] == [[], []]


def test_without_any_captioner_that_works_the_answer_has_no_captions(where, undisturbed, monkeypatch):
    def captions(self, images, *more):
        raise RuntimeError("device-side assert")

    monkeypatch.setattr(Captioner, "captions", captions)
    content = run(RECIPE, where, "cpu")
    assert content["problems"][0] == "6 of 6 images have no captions"
    assert [problem.split(" ")[1] for problem in content["problems"][1:]] == ["blip2", "blip", "captioner"]
    assert counts(content) == {"no_captions": 6, "degraded_rows": 6}
    assert changed(where, undisturbed) == IDS
    monkeypatch.undo()
    assert counts(run(RECIPE, where, "cpu")) == {}  # the same command makes up for it
    assert changed(where, undisturbed) == []


# too little time


class Scripted(Deadline):
    """A deadline far away; what CLIP gets of it too, and that of captions says these seconds left one after the other.

    Each stage (words, CLIP, captions) asks for two: when it begins nothing more, and when it is ended as hanging.
    Before the model is loaded there is time.
    """

    def __init__(self, *seconds: float) -> None:
        super().__init__(None)
        object.__setattr__(self, "script", iter((1e6, *seconds)))
        object.__setattr__(self, "asked", [])

    def left(self) -> float:
        return 1e6

    def earlier(self, seconds: float) -> Deadline:
        own = Deadline()
        self.asked.append(own)
        if len(self.asked) > 4:
            object.__setattr__(own, "left", lambda: next(self.script))
        return own


def test_too_little_time_means_fewer_beams_then_fewer_images(where, undisturbed, monkeypatch):
    asked = []

    def captions(self, images, recipe, *more):
        asked.append(recipe.num_beams)
        return REAL(self, images, recipe, *more)

    monkeypatch.setattr(Captioner, "captions", captions)
    monkeypatch.setattr("kernel.system.deadline.Effort.took", lambda self, *more: setattr(self, "image_seconds", 100.0))
    content = run(RECIPE, where, "cpu", deadline=Scripted(1e6, 350, 0))
    assert asked == [2, 1]
    assert counts(content) == {"fewer_captions": 2, "no_captions": 2, "degraded_rows": 4}
    assert content["problems"] == [
        "2 of 6 images have no captions",
        "2 of 6 images were captioned with less effort than asked",
        "the time was over before every image had captions",
    ]
    assert changed(where, undisturbed) == ["c", "d", "e", "f"]


def test_what_was_captioned_of_a_shard_counts_when_the_time_is_over_within_it(where, undisturbed, monkeypatch):
    monkeypatch.setattr("kernel.system.deadline.Effort.took", lambda self, *more: setattr(self, "image_seconds", 100.0))
    whole = replace(RECIPE, shard_images=6)
    content = run(whole, where, "cpu", deadline=Scripted(1e6, 1e6, 0))
    assert counts(content) == {"no_captions": 2, "degraded_rows": 2}
    assert changed(where, undisturbed) == ["e", "f"]
    monkeypatch.undo()
    assert counts(run(whole, where, "cpu")) == {}  # the same command makes up for it
    assert changed(where, undisturbed) == []


def test_without_time_for_every_image_clip_gives_what_it_has_seen(where, undisturbed, monkeypatch):
    class Short(Scripted):
        """Of CLIP's time, not of the captions'."""

        def earlier(self, seconds):
            own = super().earlier(seconds)
            object.__setattr__(own, "left", lambda: next(self.script) if len(self.asked) in (3, 4) else 1e6)
            return own

    monkeypatch.setattr("kernel.system.deadline.Effort.took", lambda self, *more: setattr(self, "image_seconds", 1.0))
    content = run(replace(RECIPE, clip_batch=1), where, "cpu", deadline=Short(1e6, 1e6, 1e6, 0))
    assert content["problems"] == [
        "3 of 6 images have no features",
        "the time was over before CLIP had seen every image",
    ]
    assert counts(content) == {"no_features": 3, "degraded_rows": 3}
    assert set(changed(where, undisturbed)) <= {"d", "e", "f"}  # captions alone say much of theirs
    assert json.loads((where.run / "clip" / "modifiers.json").read_text())[3:] == [[], [], []]


HANGS = """
import sys, time
from kernel.__main__ import main
from kernel.models.captioners.captioner import Captioner
from kernel.system.deadline import Deadline
from kernel.errors import UserError
from kernel.system.interrupts import end_when_interrupted
hanging = []
class Told(Deadline):
    "All the time in the world, and none once the captioner hangs."
    def left(self):
        return 0 if hanging else 1e6
    def earlier(self, seconds):
        return self
def hang(self, *more):
    print("captioning", flush=True)
    if sys.argv[1] == "deadline":
        hanging.append(True)
    time.sleep(1000)
Captioner.captions = hang
Deadline.after = lambda *more: Told()
end_when_interrupted()
sys.exit(main(sys.argv[2:]))
"""


def hanging(where: Paths, until: str) -> warm.Popen:
    settings = ["--recipe", "baseline", "--set", "num_beams=2", "--set", "captions_per_image=2"]
    arguments = ["run", where.images, "--weights", where.weights, "--out", where.run, *settings]
    command = [sys.executable, "-c", HANGS, until, *map(str, arguments)]
    return warm.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_captioner_that_hangs_does_not_hold_the_run(where, undisturbed):
    process = hanging(where, "deadline")
    said, errors = process.communicate()
    assert (said, process.returncode) == ("captioning\n", 1)
    assert "the last submission.csv stands" in errors
    assert changed(where, undisturbed) == IDS
    content = json.loads((where.run / "run.json").read_text())
    assert content["problems"] == [
        "6 of 6 images have no captions",
        "the run ended before its captions were done",
    ]


def test_sigterm_leaves_a_valid_submission_and_exit_code_1(where, undisturbed):
    process = hanging(where, "signal")
    assert process.stdout is not None and process.stdout.readline() == "captioning\n"
    os.kill(process.pid, signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "interrupted; what is finished is kept" in errors
    assert changed(where, undisturbed) == IDS

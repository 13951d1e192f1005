"""A whole small run on a GPU beside the same on the CPU."""

import json
from dataclasses import replace

import numpy as np
import pytest

from kernel.config import RECIPES, Paths
from kernel.pipeline.run import run
from kernel.pipeline.submission import check_submission, read_submission
from tests.conftest import save_pictures
from tests.gpu.rounding import RELATIVE_ERROR

IDS = list("abcdef")
RECIPE = replace(RECIPES["text"], num_beams=3, captions_per_image=3, shard_images=2)
# features bring their error, and what is made of them, a head's products and neighbours by their cosines, another
COSINE = 1 - (2 * RELATIVE_ERROR) ** 2 / 2
# of two words nearly as likely the other may be taken: if one of an image's captions turned into its very opposite
ONE_CAPTION_TURNED = 1 - (2 * RECIPE.estimates["prompts"] / RECIPE.captions_per_image) ** 2 / 2
WITHOUT_CAPTIONS = replace(RECIPE, estimates={"neighbours": 0.5, "head": 0.5})


@pytest.fixture(scope="module")
def ran(tmp_path_factory, weights_folder, drawn, cuda):
    """(rows, run.json) of a recipe on a device, by a run of its own."""

    def make(recipe, device):
        folder = tmp_path_factory.mktemp("run")
        save_pictures(folder / "images", drawn)
        paths = Paths(folder / "images", weights_folder, folder / "run", bank=weights_folder / "prompt_bank")
        run(recipe, paths, device.name)
        check_submission(folder / "run" / "submission.csv", IDS)
        rows = read_submission(folder / "run" / "submission.csv")
        return np.stack([rows[own] for own in IDS]), json.loads((folder / "run" / "run.json").read_text())

    return make


@pytest.fixture(scope="module")
def whole(ran, cuda, cpu):
    return ran(RECIPE, cuda), ran(RECIPE, cpu)


def test_rows_are_those_of_the_cpu(whole):
    (on_gpu, _), (on_cpu, _) = whole
    cosines = (on_gpu * on_cpu).sum(axis=1)
    assert cosines.min() >= ONE_CAPTION_TURNED and np.median(cosines) >= COSINE


def test_rows_without_captions_are_those_of_the_cpu(ran, cuda, cpu):
    (on_gpu, _), (on_cpu, _) = ran(WITHOUT_CAPTIONS, cuda), ran(WITHOUT_CAPTIONS, cpu)
    assert (on_gpu * on_cpu).sum(axis=1).min() >= COSINE


def test_nothing_was_degraded_and_the_gpu_is_named(whole, cuda):
    (_, on_gpu), (_, on_cpu) = whole
    assert on_gpu["counts"] == on_cpu["counts"] and on_gpu["problems"] == []
    assert on_gpu["captioners"] == on_cpu["captioners"]
    assert on_gpu["device"] == cuda.name and on_gpu["devices"][0]["memory"] > 10**9


@pytest.mark.parametrize("stage", ["clip", "captions", "estimates"])
def test_every_stage_ran_on_the_gpu_in_the_memory_that_was_planned(whole, stage):
    """Of models this small the most is cuBLAS's own workspace, 8 MB on a T4 and 32 on an H100."""
    (_, on_gpu), _ = whole
    took, planned = on_gpu["memory"][stage]["device"], on_gpu["plan"][stage]["bytes_estimated"]
    assert took is not None and 0 < took <= planned + 64 * 2**20

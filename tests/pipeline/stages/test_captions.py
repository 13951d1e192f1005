"""Sampled captions and their weights by CLIP, through a whole run on the miniature models."""

import json
from dataclasses import replace

import numpy as np
import pytest

from kernel.config import RECIPES, Paths
from kernel.models.clip import ClipEncoder
from kernel.models.sentences import SentenceEncoder
from kernel.pipeline.folder import results
from kernel.pipeline.folder.run_folder import RunFolder
from kernel.pipeline.run import run
from kernel.pipeline.stages.captions import batch_seeds
from kernel.pipeline.submission import read_submission

RECIPE = replace(
    RECIPES["baseline"],
    caption_decoding="sampling",
    captions_per_image=6,
    sampling_top_p=1.0,
    distinct_captions=True,
    caption_weighting="clip",
    caption_batch=2,
    shard_images=3,
    estimates={"captions": 1.0},
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, weights_folder, drawn):
    folder = tmp_path_factory.mktemp("sampled")
    (folder / "images").mkdir()
    for index, (picture, _) in enumerate(drawn[:6]):
        picture.save(folder / "images" / f"{index}.png")
    where = Paths(folder / "images", weights_folder, folder / "run")
    return where, run(RECIPE, where, "cpu")


def captions_of(where: Paths) -> list[list[str]]:
    return [own for path in shards(where) for own in json.loads(path.read_text())["captions"]]


def shards(where: Paths) -> list:
    return [where.run / "captions" / f"0000{shard}.json" for shard in range(2)]


def test_a_run_that_goes_on_draws_what_it_would_have_drawn(finished):
    where, _ = finished
    before = [path.read_bytes() for path in shards(where)]
    submission = (where.run / "submission.csv").read_bytes()
    assert any(len(set(own)) > 1 for own in captions_of(where))
    shards(where)[1].unlink()
    run(RECIPE, where, "cpu")
    assert [path.read_bytes() for path in shards(where)] == before
    assert (where.run / "submission.csv").read_bytes() == submission


def test_every_batch_has_a_seed_of_its_own():
    def first_three(seed: int, shard: int) -> list[int]:
        return [number for number, _ in zip(batch_seeds(seed, shard), range(3), strict=False)]

    drawn = first_three(0, 0) + first_three(0, 1) + first_three(1, 0)
    assert len(set(drawn)) == 9


def test_captions_are_weighed_by_their_cosine_with_the_image(finished, weights, cpu):
    where, content = finished
    clip, encoder = ClipEncoder.load(weights, cpu), SentenceEncoder.load(weights, cpu)
    features = results.read_clip(RunFolder(where.run, [None] * 6, 3))[0]
    answer = read_submission(where.run / "submission.csv")
    for image, said in enumerate(captions_of(where)):
        distinct = list(dict.fromkeys(said))
        cosines = clip.encode_texts(distinct, 8) @ features[image]
        weights_of = np.exp(cosines / RECIPE.caption_temperature)
        expected = weights_of @ encoder.encode(distinct, 8)
        np.testing.assert_allclose(answer[str(image)], expected / np.linalg.norm(expected), atol=1e-4)
    assert "caption cosines" in content["seconds"]


def test_a_bad_image_has_no_cosines(finished, tmp_path):
    where, _ = finished
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes((where.images / "0.png").read_bytes())
    (tmp_path / "images" / "b.png").write_bytes(b"")
    own = replace(where, images=tmp_path / "images", run=tmp_path / "run")
    assert run(RECIPE, own, "cpu")["counts"]["bad_images"] == 1
    cosines = json.loads((tmp_path / "run" / "cosines" / "00000.json").read_text())
    assert [len(image) for image in cosines] == [6, 0]

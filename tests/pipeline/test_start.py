"""What a run does before its first image and what only later, on the miniature models: the answer is the same."""

import gc
from dataclasses import replace

import numpy as np
import pytest

from kernel.config import RECIPES, Paths
from kernel.errors import UserError
from kernel.models.clip import ClipEncoder
from kernel.models.sentences import SentenceEncoder
from kernel.models.weights_folder import write_manifest
from kernel.pipeline.preparation import prepare
from kernel.pipeline.run import run
from kernel.pipeline.submission import check_submission, read_submission
from kernel.system.deadline import NEVER, Deadline
from tests.conftest import save_pictures

FAST = replace(RECIPES["baseline"], num_beams=2, captions_per_image=2, shard_images=2)


def paths(tmp_path, weights_folder) -> Paths:
    return Paths(tmp_path / "images", weights_folder, tmp_path / "run")


@pytest.fixture(scope="module")
def plain(tmp_path_factory, weights_folder, drawn):
    """The submission of a run over the six pictures that loads MiniLM before all else."""

    def prepared(*given):
        ready = prepare(*given)
        ready.encoder()
        return ready

    folder = tmp_path_factory.mktemp("plain")
    save_pictures(folder / "images", drawn)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kernel.pipeline.run.prepare", prepared)
        run(FAST, paths(folder, weights_folder))
    return folder / "run" / "submission.csv"


@pytest.mark.parametrize("deadline", [NEVER, Deadline.after(86_400)])
def test_minilm_is_loaded_once_after_the_first_images_or_with_a_deadline_before_them(
    image_folder, tmp_path, weights_folder, plain, monkeypatch, deadline
):
    """The answer is the same, as what is loaded then is."""
    order = []
    really_load, really_encode = SentenceEncoder.load, ClipEncoder.encode_images

    def load(weights, device):
        order.append("MiniLM")
        return really_load(weights, device)

    def encode_images(clip, images):
        order.append("images")
        return really_encode(clip, images)

    monkeypatch.setattr(SentenceEncoder, "load", load)
    monkeypatch.setattr(ClipEncoder, "encode_images", encode_images)
    run(FAST, paths(tmp_path, weights_folder), deadline=deadline)
    assert order == (["images"] * 3 + ["MiniLM"] if deadline is NEVER else ["MiniLM"] + ["images"] * 3)
    assert (tmp_path / "run" / "submission.csv").read_bytes() == plain.read_bytes()


@pytest.mark.usefixtures("warm_processes")
def test_who_has_workers_loads_minilm_while_none_of_them_has_seen_an_image(
    image_folder, tmp_path, weights_folder, plain, monkeypatch
):
    """It has to make the estimates where they cannot."""
    where, seen, really_load = paths(tmp_path, weights_folder), [], SentenceEncoder.load

    def load(weights, device):
        seen.append(len(list((where.run / "clip").glob("0*.safetensors"))))
        return really_load(weights, device)

    monkeypatch.setattr(SentenceEncoder, "load", load)
    run(FAST, where, "cpu,cpu")
    assert seen == [0] and (where.run / "submission.csv").read_bytes() == plain.read_bytes()


def test_weights_without_the_priors_row_give_the_answer_that_they_give_with_it(
    image_folder, tmp_path, weights_folder, own_copy
):
    """Also of a broken picture, whose answer is that row."""
    (image_folder / "broken.png").touch()
    weights, answers = own_copy("sentences"), []
    (weights.folder / "prior.safetensors").unlink()
    (weights.folder / "manifest.json").unlink()
    write_manifest(weights.folder, weights.models, weights.captioners)
    for name, folder in (("without", weights.folder), ("with", weights_folder)):
        run(FAST, replace(paths(tmp_path, folder), run=tmp_path / name))
        answers.append(np.stack(list(read_submission(tmp_path / name / "submission.csv").values())))
    np.testing.assert_allclose(*answers, atol=1e-6)  # the row was made in another process


def test_a_minilm_that_does_not_load_leaves_the_last_submission(image_folder, tmp_path, weights_folder, monkeypatch):
    """All that can be seen of it beforehand is; what its library says comes after CLIP's features, which stay."""

    def load(weights, device):
        raise UserError("sentences: sentence-transformers cannot load it")

    monkeypatch.setattr(SentenceEncoder, "load", load)
    where = paths(tmp_path, weights_folder)
    with pytest.raises(UserError, match="sentence-transformers cannot load it"):
        run(FAST, where)
    check_submission(where.run / "submission.csv", list("abcdef"))
    assert len(list((where.run / "clip").glob("0*.safetensors"))) == 3
    monkeypatch.undo()
    assert run(FAST, where)["counts"]["degraded_rows"] == 0


def test_garbage_waits_until_all_is_prepared_and_no_longer(image_folder, tmp_path, weights_folder, plain, monkeypatch):
    collecting, really_encode = [], ClipEncoder.encode_images

    def prepared(*given):
        collecting.append(gc.isenabled())
        return prepare(*given)

    def encode_images(clip, images):
        collecting.append(gc.isenabled())
        return really_encode(clip, images)

    monkeypatch.setattr("kernel.pipeline.run.prepare", prepared)
    monkeypatch.setattr(ClipEncoder, "encode_images", encode_images)
    run(FAST, paths(tmp_path, weights_folder))
    assert collecting == [False, True, True, True] and gc.isenabled()
    assert (tmp_path / "run" / "submission.csv").read_bytes() == plain.read_bytes()


def test_garbage_is_collected_again_after_a_refusal(tmp_path, weights_folder):
    with pytest.raises(UserError):
        run(FAST, paths(tmp_path, weights_folder))  # no images
    assert gc.isenabled()

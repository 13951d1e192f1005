import shutil

import numpy as np
import pytest

from kernel.errors import UserError
from kernel.estimates.constant import constant_row, keep_constant_row
from kernel.models.sentences import SentenceEncoder
from kernel.pipeline.constant import write_constant
from kernel.pipeline.submission import check_submission, read_submission


def refused_model():
    raise AssertionError("MiniLM was loaded")


def test_every_image_gets_the_same_unit_row(tmp_path, image_folder, weights_folder):
    assert write_constant(image_folder, weights_folder, tmp_path / "submission.csv") == 6
    rows = np.stack(list(read_submission(tmp_path / "submission.csv").values()))
    assert np.ptp(rows, axis=0).max() == 0
    assert np.linalg.norm(rows[0]) == pytest.approx(1, abs=1e-6)


def test_the_submission_is_valid_for_the_images(tmp_path, image_folder, weights_folder):
    write_constant(image_folder, weights_folder, tmp_path / "submission.csv")
    check_submission(tmp_path / "submission.csv", list("abcdef"))


def test_only_the_scorer_and_the_prior_are_needed(tmp_path, image_folder, weights_folder):
    part = tmp_path / "weights"
    shutil.copytree(weights_folder / "sentences", part / "sentences")
    for name in ("prior.txt", "prior.safetensors", "manifest.json"):
        shutil.copy(weights_folder / name, part / name)
    assert write_constant(image_folder, part, tmp_path / "submission.csv") == 6


def test_the_row_that_the_weights_bring_is_the_priors_mean_and_loads_no_model(weights_folder, weights, cpu, tmp_path):
    shutil.copy(weights_folder / "prior.txt", tmp_path)
    encoded = constant_row(tmp_path, lambda: SentenceEncoder.load(weights, cpu))
    with pytest.raises(AssertionError, match="was loaded"):
        constant_row(tmp_path, refused_model)
    keep_constant_row(tmp_path, lambda: SentenceEncoder.load(weights, cpu))
    assert constant_row(tmp_path, refused_model).tolist() == encoded.tolist()
    np.testing.assert_allclose(constant_row(weights_folder, refused_model), encoded, atol=1e-6)


def test_a_damaged_prior_is_refused(tmp_path, image_folder, weights_folder):
    own = shutil.copytree(weights_folder, tmp_path / "weights")
    (own / "prior.txt").write_text("something else\n")
    with pytest.raises(UserError, match=r"prior\.txt: \d+ bytes, the manifest says"):
        write_constant(image_folder, own, tmp_path / "submission.csv")


def test_a_prior_of_more_than_a_minutes_work_is_refused_before_a_model_is_loaded(tmp_path):
    (tmp_path / "prior.txt").write_text("\n".join(f"{number} {'x' * 100_000}" for number in range(20)))
    with pytest.raises(UserError, match=r"prior.txt: cannot be read \(more than 1 MiB\); expected a text file"):
        constant_row(tmp_path, refused_model)


def test_prompts_of_a_prior_that_no_model_reads_whole_are_left_out(tmp_path):
    (tmp_path / "prior.txt").write_text("x" * 1001 + "\n")
    with pytest.raises(UserError, match="prior.txt: no phrase left .*'too long': 1"):
        constant_row(tmp_path, refused_model)

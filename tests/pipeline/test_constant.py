import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from kernel.errors import UserError
from kernel.estimates.constant import constant_row, keep_constant_row
from kernel.models.sentences import SentenceEncoder
from kernel.pipeline.constant import write_constant
from kernel.pipeline.submission import check_submission, read_submission


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
    def refused():
        raise AssertionError("MiniLM was loaded")

    shutil.copy(weights_folder / "prior.txt", tmp_path)
    encoded = constant_row(tmp_path, lambda: SentenceEncoder.load(weights, cpu))
    with pytest.raises(AssertionError, match="was loaded"):
        constant_row(tmp_path, refused)
    keep_constant_row(tmp_path, lambda: SentenceEncoder.load(weights, cpu))
    assert constant_row(tmp_path, refused).tolist() == encoded.tolist()
    np.testing.assert_allclose(constant_row(weights_folder, refused), encoded, atol=1e-6)


@pytest.mark.parametrize("tensors", [{"row": np.ones(3)}, {"row": np.full(384, np.nan)}, {"rows": np.ones(384)}, {}])
def test_what_is_no_row_of_the_prior_is_refused(tmp_path, tensors):
    save_file({name: row.astype(np.float32) for name, row in tensors.items()}, tmp_path / "prior.safetensors")
    with pytest.raises(UserError, match="prior.safetensors.*(expected one row of 384 numbers|not finite)"):
        constant_row(tmp_path, lambda: pytest.fail("MiniLM was loaded"))


def test_a_damaged_prior_is_refused(tmp_path, image_folder, weights_folder):
    own = shutil.copytree(weights_folder, tmp_path / "weights")
    (own / "prior.txt").write_text("something else\n")
    with pytest.raises(UserError, match=r"prior\.txt: \d+ bytes, the manifest says"):
        write_constant(image_folder, own, tmp_path / "submission.csv")

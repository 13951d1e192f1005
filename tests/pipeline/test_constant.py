import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from kernel.config import Paths
from kernel.errors import UserError
from kernel.estimates.constant import constant_row, keep_constant_row
from kernel.models.sentences import SentenceEncoder
from kernel.pipeline.constant import answer_at_once, write_constant
from kernel.pipeline.folder.run_folder import read_run
from kernel.pipeline.submission import check_submission, read_submission
from tests.conftest import ROOT


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


def test_a_time_too_short_for_the_models_leaves_the_constant(tmp_path, image_folder, weights_folder):
    command = ["run", str(image_folder), "--weights", str(weights_folder), "--out", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-m", "kernel", *command, "--deadline", "1s"], cwd=ROOT,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 1 and done.stderr.startswith("the time is over: ")
    check_submission(tmp_path / "run" / "submission.csv", list("abcdef"))
    assert read_run(tmp_path / "run") == {"identity": {}}


def test_the_answer_at_once_imports_no_models_library(tmp_path, image_folder, weights_folder):
    code = (
        "import sys; from pathlib import Path; from kernel.config import Paths\n"
        "from kernel.pipeline.constant import answer_at_once\n"
        "answer_at_once(Paths(*map(Path, sys.argv[1:])), 2)\n"
        "print(*sys.modules.keys() & {'torch', 'transformers', 'open_clip', 'sentence_transformers'})"
    )
    command = [sys.executable, "-c", code, str(image_folder), str(weights_folder), str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == "\n"
    check_submission(tmp_path / "run" / "submission.csv", ["a", "b"])


def test_what_only_began_is_begun_anew_with_its_own_images(tmp_path, image_folder, weights_folder):
    paths = Paths(image_folder, weights_folder, tmp_path / "run")
    for limit in (2, 3):
        answer_at_once(paths, limit)
        check_submission(tmp_path / "run" / "submission.csv", list("abc")[:limit])


@pytest.mark.parametrize("there", ["a file", "a run that answered", "no images", "weights without the row"])
def test_nothing_is_touched_where_an_answer_at_once_has_no_place(tmp_path, image_folder, weights_folder, there):
    images, weights, folder = image_folder, weights_folder, tmp_path / "run"
    if there == "a file":
        folder.mkdir()
        (folder / "letter.txt").write_text("mine")
    elif there == "a run that answered":
        folder.mkdir()
        (folder / "run.json").write_text('{"identity": {"clip": {"files": 1}}}')
    elif there == "no images":
        images = tmp_path / "none"
    else:
        weights = shutil.copytree(weights_folder, tmp_path / "weights")
        (weights / "prior.safetensors").unlink()
    before = sorted(path.name for path in tmp_path.rglob("*"))
    answer_at_once(Paths(images, weights, folder), None)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_a_prior_of_more_than_a_minutes_work_is_refused_before_a_model_is_loaded(tmp_path):
    (tmp_path / "prior.txt").write_text("\n".join(f"{number} {'x' * 100_000}" for number in range(20)))
    with pytest.raises(UserError, match=r"prior.txt: cannot be read \(more than 1 MiB\); expected a text file"):
        constant_row(tmp_path, refused_model)


def test_prompts_of_a_prior_that_no_model_reads_whole_are_left_out(tmp_path):
    (tmp_path / "prior.txt").write_text("x" * 1001 + "\n")
    with pytest.raises(UserError, match="prior.txt: no phrase left .*'too long': 1"):
        constant_row(tmp_path, refused_model)

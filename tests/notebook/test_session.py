"""The notebook's session with its real children; the notebook itself is executed by the rehearsal's tests."""

import copy
import json
import shutil
import subprocess
import time

import numpy as np
import pytest

from kernel.errors import UserError
from kernel.models.weights_folder import open_weights
from kernel.notebook.children import RUN_TYPE
from kernel.notebook.inputs import COMPETITION
from kernel.notebook.session import RERUN, Session
from kernel.pipeline.submission import check_submission, read_submission
from kernel.system.deadline import seconds_of
from tests import warm
from tests.models.encoders.by_hand import save_encoder

IDS = list("abcdef")

pytestmark = pytest.mark.usefixtures("warm_processes")


def mounted(root, drawn, weights_folder):
    """A folder laid out like /kaggle/input, without wheels (they are installed here)."""
    images = root / "competitions" / COMPETITION / "images"
    images.mkdir(parents=True)
    for name, (picture, _) in zip(IDS, drawn, strict=False):
        picture.save(images / f"{name}.png")
    (root / "datasets" / "someone").mkdir(parents=True)
    (root / "datasets" / "someone" / "weights").symlink_to(weights_folder)
    return root


@pytest.fixture
def input_root(tmp_path, drawn, weights_folder):
    return mounted(tmp_path / "input", drawn, weights_folder)


@pytest.fixture(scope="module")
def started(tmp_path_factory, drawn, weights_folder):
    """A session of the committed run, started, and the folder it works in."""
    base = tmp_path_factory.mktemp("started")
    (base / "working").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base / "working")
        patch.delenv(RERUN, raising=False)
        patch.setenv(RUN_TYPE, "Batch")
        patch.setattr(subprocess, "Popen", warm.Popen)
        return Session(str(mounted(base / "input", drawn, weights_folder))), base / "working"


def working_copy(started, folder):
    """The session as it was just after its start, with images and a working folder of its own."""
    session, working = copy.copy(started[0]), shutil.copytree(started[1], folder / "working")
    session.images = shutil.copytree(session.images, folder / "images")
    session.problems = []
    return session, working


@pytest.fixture
def session(tmp_path, started, monkeypatch):
    own, working = working_copy(started, tmp_path)
    monkeypatch.chdir(working)
    return own


def is_constant(submission):
    return np.ptp(np.stack(list(read_submission(submission).values())), axis=0).max() == 0


def test_a_valid_constant_submission_stands_first(session):
    check_submission(session.submission, IDS)
    assert is_constant(session.submission)


def test_without_weights_nothing_starts(input_root):
    (input_root / "datasets" / "someone" / "weights").unlink()
    with pytest.raises(UserError, match="no weights folder is mounted"):
        Session(str(input_root))


def test_without_a_constant_submission_it_stops(tmp_path, input_root, monkeypatch):
    shutil.rmtree(input_root / "competitions" / COMPETITION / "images")
    (input_root / "competitions" / COMPETITION / "images").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="constant submission was not written"):
        Session(str(input_root))


def test_an_attached_encoder_is_put_into_the_runs_weights(tmp_path, input_root, weights, monkeypatch, capsys):
    save_encoder(input_root / "notebooks" / "someone" / "my-train" / "encoder", weights)
    monkeypatch.chdir(tmp_path)
    session = Session(str(input_root))
    assert session.problems == [] and "encoder my-train" in capsys.readouterr().out
    assert list(open_weights(session.weights).encoders) == ["my-train"]
    assert "encoders" not in {path.name for path in weights.folder.iterdir()}


def test_an_encoder_of_other_weights_is_a_problem_and_stops_nothing(tmp_path, input_root, weights, monkeypatch):
    encoder = save_encoder(input_root / "notebooks" / "someone" / "my-train" / "encoder", weights)
    record = json.loads((encoder / "encoder.json").read_text())
    (encoder / "encoder.json").write_text(json.dumps({**record, "sentences": "0" * 64}))
    monkeypatch.chdir(tmp_path)
    session = Session(str(input_root))
    assert "trained with the MiniLM model 00000000" in session.problems[0]
    check_submission(session.submission, IDS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, started):
    """A session that has run the recipe."""
    own, working = working_copy(started, tmp_path_factory.mktemp("finished"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(working)
        own.run("baseline")
    return own, working


@pytest.fixture
def after_run(finished, monkeypatch):
    session, working = finished
    monkeypatch.chdir(working)
    monkeypatch.setattr(session, "rerun", False)
    (session.inputs.competition / "prompts.csv").unlink(missing_ok=True)
    (session.run_folder / "report.html").unlink(missing_ok=True)
    return session


def test_the_runs_submission_takes_the_constant_ones_place(after_run):
    assert after_run.problems == []
    check_submission(after_run.submission, IDS)
    assert not is_constant(after_run.submission)


def test_the_end_says_for_how_many_images_the_submission_is_valid(after_run, capfd):
    after_run.finish()
    assert "submission.csv is valid for 6 images" in capfd.readouterr().out


def test_without_the_images_prompts_there_is_a_report_and_no_score(after_run, capfd):
    after_run.show()
    assert "prompts.csv does not hold exactly these images' prompts: no score" in capfd.readouterr().out
    assert (after_run.run_folder / "report.html").is_file()


def test_known_prompts_are_scored(after_run, capfd):
    prompts = after_run.inputs.competition / "prompts.csv"
    prompts.write_text("imgId,prompt\n" + "".join(f"{name},a red fish\n" for name in IDS))
    after_run.show()
    assert "mean cosine" in capfd.readouterr().out


def test_the_scoring_rerun_shows_nothing(after_run, monkeypatch, capfd):
    monkeypatch.setattr(after_run, "rerun", True)
    after_run.show()
    assert capfd.readouterr().out == ""
    assert not (after_run.run_folder / "report.html").exists()


def test_a_run_that_fails_leaves_the_constant_and_raises_at_the_end(session):
    session.run("no-such-recipe")
    assert session.problems[0] == "the run did not end well (exit code 1)"
    assert session.problems[1].endswith("expected a submission.csv; the constant submission stands")
    check_submission(session.submission, IDS)
    with pytest.raises(UserError, match="degraded: the run did not end well"):
        session.finish()


def test_a_run_has_a_deadline_that_counts_from_the_notebooks_start(session, monkeypatch):
    asked = []
    monkeypatch.setattr(session, "kernel", lambda *arguments: asked.append(arguments) or 1)
    session.started = time.monotonic() - 3600
    session.run("text")
    assert asked[0][-2] == "--deadline"
    assert seconds_of(asked[0][-1]) == pytest.approx(7.5 * 3600, abs=60)


def test_the_scoring_rerun_does_not_raise_for_a_failed_run(session):
    session.rerun = True
    session.run("no-such-recipe")
    session.finish()
    assert is_constant(session.submission)


def test_the_scoring_rerun_raises_without_a_valid_submission(session):
    session.rerun = True
    session.submission.unlink()
    with pytest.raises(UserError, match="no such file"):
        session.finish()


def test_an_invalid_result_of_the_run_is_not_taken(session, monkeypatch):
    session.run_folder.mkdir()
    (session.run_folder / "submission.csv").write_text("imgId_eId,val\na_0,1.0\n")
    monkeypatch.setattr(session, "kernel", lambda *arguments: 0)
    session.run("baseline")
    assert "has 1 rows, expected 384" in session.problems[0]
    check_submission(session.submission, IDS)


def test_a_bad_image_is_a_problem_outside_the_scoring_rerun(session):
    (session.images / "c.png").write_bytes(b"")
    session.run("baseline")
    assert session.problems == ["1 of 6 rows are less than asked; see run/run.json"]
    assert not is_constant(session.submission)


def test_missing_wheels_are_a_problem(session):
    session.install_wheels()
    assert "no wheels are mounted" in session.problems[0]


def test_wheels_are_installed_beside_the_image_by_hash(session, wheels_copy):
    session.inputs = type(session.inputs)(session.inputs.competition, session.inputs.weights, wheels_copy)
    session.install_wheels()
    assert session.problems == []
    assert (session.scratch / "packages" / "open_clip").is_dir()


def test_a_wheel_taken_away_is_a_problem_even_where_the_package_is_installed(session, wheels_copy):
    next(wheels_copy.glob("ftfy*.whl")).unlink()
    session.inputs = type(session.inputs)(session.inputs.competition, session.inputs.weights, wheels_copy)
    session.install_wheels()
    assert "installing the wheels failed" in session.problems[0]


@pytest.fixture
def wheels_copy(tmp_path):
    from kernel.publish.wheels import fill_wheels
    from tests.conftest import ROOT

    fill_wheels(ROOT)
    return shutil.copytree(ROOT / "wheels", tmp_path / "wheels")

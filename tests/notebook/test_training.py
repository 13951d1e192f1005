"""What the train notebook's cells do, on tiny pairs and the miniature CLIP."""

import pytest

from kernel.errors import UserError
from kernel.models.encoders.record import read_encoder_record
from kernel.notebook import children
from kernel.notebook.training import Training
from kernel.publish.kaggle.staging import stage_pairs
from kernel.system.deadline import seconds_of
from kernel.system.devices import Device
from tests.training.sets import write_tars


@pytest.fixture
def input_root(tmp_path, drawn, weights_folder, monkeypatch):
    """Laid out like /kaggle/input, beside a working folder in which the notebook runs."""
    pairs = [(picture, scene.prompt, index) for index, (picture, scene) in enumerate(drawn)]
    staged = stage_pairs(write_tars(tmp_path / "set", pairs, 12), tmp_path / "staged", "someone").folder
    datasets = tmp_path / "input" / "datasets" / "someone"
    datasets.mkdir(parents=True)
    (datasets / "pairs").symlink_to(staged)
    (datasets / "weights").symlink_to(weights_folder)
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")
    return tmp_path / "input"


def begun(folder):
    """What an earlier version left, read-only as it is mounted."""
    (folder / "training").mkdir(parents=True)
    (folder / "training" / "checkpoint.safetensors").write_bytes(b"a step")
    (folder / "training" / "checkpoint.safetensors").chmod(0o400)
    return folder


def commands(training, monkeypatch, code=0):
    asked = []
    monkeypatch.setattr("kernel.notebook.training.stream", lambda command, environment: asked.append(command) or code)
    return asked


def test_pairs_become_an_encoder_in_the_working_folder(input_root, capfd):
    training = Training(str(input_root))
    training.train("head")
    training.finish()
    assert read_encoder_record(training.encoder).trained_on.pictures == 21
    said = capfd.readouterr().out
    assert "on the validation pairs" in said and "encoder: an encoder, to be attached" in said


@pytest.mark.parametrize(("gpus", "processes"), [(0, "1"), (1, "1"), (2, "2")])
def test_torchrun_starts_a_process_for_each_gpu(input_root, monkeypatch, gpus, processes):
    devices = [Device(f"cuda:{number}") for number in range(gpus)] or [Device("cpu")]
    monkeypatch.setattr("kernel.notebook.training.find_devices", lambda: devices)
    training = Training(str(input_root))
    asked = commands(training, monkeypatch)
    training.train("blocks", settings=["epochs=2", "batch=8"])
    (words,) = asked
    assert words[words.index("--nproc-per-node") + 1] == processes
    assert words[-4:] == ["--set", "epochs=2", "--set", "batch=8"]


def test_it_ends_half_an_hour_before_the_session_counted_from_the_notebooks_start(input_root, monkeypatch):
    training = Training(str(input_root))
    asked = commands(training, monkeypatch)
    training.started -= 3600
    training.train("blocks")
    words = asked[0]
    assert seconds_of(words[words.index("--deadline") + 1]) == pytest.approx(10.5 * 3600, abs=60)


@pytest.mark.parametrize("place", ["notebooks/someone/my-train/encoder", "datasets/someone/my-encoder"])
def test_an_earlier_output_is_copied_into_the_working_folder_checkpoint_included(input_root, place, capsys):
    mounted = begun(input_root / place)
    training = Training(str(input_root))
    copied = training.encoder / "training" / "checkpoint.safetensors"
    assert copied.read_bytes() == b"a step" and copied.stat().st_mode & 0o200
    assert f"goes on with {mounted}" in capsys.readouterr().out


def test_what_stands_in_the_working_folder_is_newer_than_what_is_attached(input_root, tmp_path):
    begun(input_root / "notebooks/someone/my-train/encoder")
    (tmp_path / "working" / "encoder").mkdir()
    assert list(Training(str(input_root)).encoder.iterdir()) == []


def test_two_earlier_outputs_are_refused_by_name(input_root):
    for name in ("one", "two"):
        begun(input_root / "notebooks" / "someone" / name / "encoder")
    with pytest.raises(UserError, match="more than one folder of an unfinished training is mounted: .*one.*two"):
        Training(str(input_root))


def test_without_pairs_nothing_starts(input_root):
    (input_root / "datasets" / "someone" / "pairs").unlink()
    with pytest.raises(UserError, match="no pair set is mounted; .*publish dataset --pairs FOLDER"):
        Training(str(input_root))


def test_a_training_that_fails_keeps_what_the_next_version_goes_on_from(input_root, monkeypatch, capsys):
    begun(input_root / "notebooks/someone/my-train/encoder")
    training = Training(str(input_root))
    commands(training, monkeypatch, code=-9)
    training.train("blocks")
    training.finish()
    said = capsys.readouterr().out
    assert "the training did not end well (killed by SIGKILL" in said and "no encoder yet: push again" in said


def test_a_training_that_fails_before_it_made_anything_fails_the_notebook(input_root, monkeypatch):
    training = Training(str(input_root))
    commands(training, monkeypatch, code=1)
    with pytest.raises(UserError, match="the training did not end well"):
        training.train("blocks")


def test_a_tower_is_an_attached_input(input_root, monkeypatch):
    (input_root / "datasets" / "someone" / "vit-large").mkdir()
    training = Training(str(input_root))
    asked = commands(training, monkeypatch)
    training.train("blocks", "vit-large")
    assert asked[0][asked[0].index("--tower") + 1] == str(input_root / "datasets" / "someone" / "vit-large")
    with pytest.raises(UserError, match="TOWER is 'vit'; expected 'clip' or the name of an input: .*vit-large"):
        training.train("blocks", "vit")


def test_without_wheels_it_stops(input_root):
    with pytest.raises(UserError, match="no wheels are mounted"):
        Training(str(input_root)).install_wheels()


def test_more_than_is_saved_is_refused(input_root, monkeypatch):
    training = Training(str(input_root))
    begun(training.encoder)
    monkeypatch.setattr(children, "SAVED_BYTES", 5)
    with pytest.raises(UserError, match="more than Kaggle saves. Remove encoder/training"):
        training.finish()

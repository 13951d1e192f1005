"""The whole command on tiny models: drawn pictures through the user's own command line, and what is made of it."""

import json
import shutil

import pytest

from kernel.models.weights_folder import open_weights
from kernel.pipeline.folder.run_folder import read_run
from tests.bench.truesize import __main__ as command
from tests.bench.truesize.__main__ import STAGES, TOLERANCE, compared, main

KEYS = {"predicted", "measured", "ratio"}


@pytest.fixture(scope="module")
def done(tmp_path_factory, weights_folder):
    """The command's folder, its exit code and record."""
    out = tmp_path_factory.mktemp("command") / "truesize"
    code = main(["--size", "tiny", "--images", "3", "--out", str(out), "--miniature", str(weights_folder)])
    return out, code, json.loads((out / "truesize.json").read_text())


def test_the_record_holds_prediction_measurement_and_ratio_of_each_stage(done):
    out, _, record = done
    measured = read_run(out / "run")["memory"]
    assert list(record["stages"]) == list(STAGES)
    for name, stage in record["stages"].items():
        assert set(stage) == KEYS
        assert stage["measured"] == measured[name]["host"] > 10**8
        assert stage["ratio"] == stage["predicted"] / stage["measured"]


def test_the_record_says_where_when_and_on_what_it_was_measured(done):
    _, _, record = done
    machine = record["machine"]
    assert machine["cores"] >= 1 and machine["memory_bytes"] > 10**9 and machine["processor"]
    assert len(record["date"]) == 10 and record["versions"]["torch"]
    assert (record["sizes"], record["stored"], record["images"]) == ("tiny", "float32", 3)
    assert record["recipe"] == {"name": "baseline", "clip_batch": 2, "caption_batch": 2}
    assert set(STAGES) <= set(record["seconds"])


def test_every_image_got_captions_of_full_length(done):
    _, _, record = done
    assert (record["counts"]["images"], record["counts"]["degraded_rows"], record["problems"]) == (3, 0, [])
    assert record["captions"] == {"fewest_an_image": 5, "fewest_words": 19, "most_words": 19, "steps": 19}


def test_the_weights_pass_the_manifest_s_checks(done):
    out, _, _ = done
    assert open_weights(out / "weights").captioners == ["blip2"]


def test_the_exit_code_is_the_record_s_verdict(done):
    _, code, record = done
    within = all(abs(stage["ratio"] - 1) <= TOLERANCE for stage in record["stages"].values())
    assert record["within_tolerance"] == within
    assert code == (0 if within else 1)


def test_the_page_shows_the_record_s_figures(done):
    out, _, record = done
    page = (out / "truesize.md").read_text()
    for name, stage in record["stages"].items():
        assert (
            f"| {name} | {stage['predicted'] / 1e9:.2f} | {stage['measured'] / 1e9:.2f} | {stage['ratio']:.3f} |"
            in page
        )
    assert record["date"] in page and record["versions"]["torch"] in page


@pytest.fixture
def without_a_run(done, tmp_path, monkeypatch):
    """The command over the run that stands already."""
    out, _, _ = done
    own = tmp_path / "truesize"
    shutil.copytree(out, own)

    def as_before(line, environment):
        shutil.copytree(out / "run", own / "run")
        return 0

    monkeypatch.setattr(command, "stream", as_before)
    return own


@pytest.mark.parametrize(("factor", "code"), [(0.8, 1), (0.9, 0), (1.1, 0), (1.2, 1)])
def test_a_prediction_too_low_or_too_high_fails_the_command(without_a_run, monkeypatch, factor, code, weights_folder):
    measured = read_run(without_a_run / "run")["memory"]
    monkeypatch.setattr(
        command, "predicted_memory", lambda planned: {name: int(measured[name]["host"] * factor) for name in STAGES}
    )
    options = ["--size", "tiny", "--images", "3", "--out", str(without_a_run), "--miniature", str(weights_folder)]
    assert main(options) == code
    assert json.loads((without_a_run / "truesize.json").read_text())["within_tolerance"] == (code == 0)


def test_half_the_real_prediction_fails_the_command(without_a_run, monkeypatch, weights_folder, capsys):
    real = command.predicted_memory
    monkeypatch.setattr(
        command, "predicted_memory", lambda planned: {name: size // 2 for name, size in real(planned).items()}
    )
    options = ["--size", "tiny", "--images", "3", "--out", str(without_a_run), "--miniature", str(weights_folder)]
    assert main(options) == 1
    assert "Within 15%: NO." in capsys.readouterr().out


def test_a_run_that_fails_is_told_in_one_line(without_a_run, monkeypatch, weights_folder, capsys):
    monkeypatch.setattr(command, "stream", lambda line, environment: 1)
    options = ["--size", "tiny", "--images", "3", "--out", str(without_a_run), "--miniature", str(weights_folder)]
    assert main(options) == 1
    assert "the run ended with exit code 1, so nothing was measured" in capsys.readouterr().err


def test_a_ratio_is_predicted_over_measured():
    stage = compared(dict.fromkeys(STAGES, 300), dict.fromkeys(STAGES, {"host": 200}))["captions"]
    assert stage == {"predicted": 300, "measured": 200, "ratio": 1.5}

"""What a command refuses of `--engine ray` before it looks for a cluster."""

import pytest

from kernel.__main__ import main
from kernel.errors import UserError
from kernel.pipeline.workers.engines import engine_named


@pytest.mark.parametrize("device", ["cpu,cpu", "cuda:0", "cuda", "gpu"])
def test_of_a_cluster_no_device_is_named(device):
    with pytest.raises(
        UserError, match=f"--device {device}: of a cluster expected auto, .* or cpu, one worker on each"
    ):
        with engine_named("ray", device, "127.0.0.1:1"):
            pass


def test_a_run_on_kaggle_joins_no_cluster_and_begins_nothing(image_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    assert main(["run", str(image_folder), "--out", str(tmp_path / "run"), "--engine", "ray"]) == 1
    assert "a run on Kaggle has one machine and no network" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_other_machines_need_a_scratch_folder_that_is_named(image_folder, weights_folder, capsys):
    given = ["describe", str(image_folder), "--weights", str(weights_folder), "--engine", "ray"]
    assert main([*given, "--address", "127.0.0.1:1"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and "--engine ray: expected --scratch DIR too, a folder on the disk that all" in said.err

"""The way up by the commands a user types, each in a process of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kernel.__main__ import main
from kernel.models.weights_folder import open_weights
from kernel.publish.hub.pins import Repository
from tests.models.encoders.by_hand import save_encoder
from tests.publish.kaggle.kaggle_client import environment_for_children, make_project
from tests.publish.kaggle.kaggle_server import CODE, KERNEL, WEIGHTS, Dataset, KaggleServer, answered, refused


@pytest.fixture
def kaggle():
    """The service with the weights dataset in place, where every wait ends at the first look."""
    with KaggleServer() as server:
        server.datasets[WEIGHTS] = Dataset(1, {"manifest.json": b"{}"})
        server.kernel_statuses = ["COMPLETE"]
        server.submission_statuses = server.submission_statuses[-1:]
        yield server


@pytest.fixture
def project(tmp_path) -> Path:
    return make_project(tmp_path / "project")


def publish(kaggle: KaggleServer, project: Path, *arguments: str) -> subprocess.CompletedProcess:
    """`python -m kernel publish ...` in the project; -P takes the package from where it is installed."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "kernel", "publish", *arguments],
        cwd=project,
        env=environment_for_children(kaggle, project.parent),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_from_init_to_the_score(kaggle, project):
    steps = [("init",), ("dataset", "--code"), ("push", "--wait"), ("submit", "-m", "first")]
    finished = [publish(kaggle, project, *step) for step in steps]
    assert [step.returncode for step in finished] == [0, 0, 0, 0], finished
    assert json.loads((project / "submissions.jsonl").read_text())["public"] == 0.5331


def test_results_go_to_stdout_and_nothing_else(kaggle, project):
    publish(kaggle, project, "dataset", "--code")
    assert publish(kaggle, project, "push", "--wait").stdout.splitlines() == [
        f"{KERNEL}: version 1 pushed: https://service/code/{KERNEL}",
        f"{KERNEL}: version 1 is COMPLETE: https://service/code/{KERNEL}",
    ]


def test_only_the_code_is_sent_by_dataset_code(kaggle, project):
    publish(kaggle, project, "dataset", "--code")
    assert (kaggle.datasets[CODE].version, kaggle.datasets[WEIGHTS].version) == (1, 1)


def test_a_push_that_the_service_refuses_ends_with_exit_code_1_and_one_line(kaggle, project):
    kaggle.script("SaveKernel", answered(error="Maximum weekly GPU quota reached"))
    pushed = publish(kaggle, project, "push")
    assert pushed.returncode == 1
    assert pushed.stderr.splitlines()[-1].startswith(f"error: {KERNEL}: the service refused the push: Maximum weekly")
    assert "Traceback" not in pushed.stderr


def test_a_submission_before_the_rules_are_accepted_ends_with_exit_code_1_and_one_line(kaggle, project):
    publish(kaggle, project, "push", "--wait")
    kaggle.script("CreateCodeSubmission", refused(403))
    submitted = publish(kaggle, project, "submit")
    assert submitted.returncode == 1
    assert "accept its rules in the browser" in submitted.stderr.splitlines()[-1]
    assert "Traceback" not in submitted.stderr


def test_a_missing_account_ends_with_exit_code_1_and_init(kaggle, project):
    for name in ("dataset-metadata.json", "kernel-metadata.json"):
        path = project / name
        path.write_text(path.read_text().replace("tester/", "your-kaggle-name/"))
    pushed = publish(kaggle, project, "push")
    assert pushed.returncode == 1
    assert "publish init --user NAME" in pushed.stderr


def test_encoders_are_put_into_weights_that_are_there_and_stay(weights_folder, weights, tmp_path, monkeypatch, capsys):
    def of_these_weights(_: object, names: list[str]) -> dict[str, Repository]:
        pinned = {name: (weights.models[name]["source"], weights.models[name]["revision"]) for name in names}
        return {name: Repository(name, *origin, {}) for name, origin in pinned.items()}

    monkeypatch.setattr("kernel.publish.hub.weights.pinned_repositories", of_these_weights)
    folder = shutil.copytree(weights_folder, tmp_path / "weights", copy_function=os.link)
    vit, ridge = (str(save_encoder(tmp_path / name, weights)) for name in ("vit", "ridge"))
    command = ["publish", "weights", "--recipe", "baseline", "--out", str(folder)]
    assert main([*command, "--encoder", vit, "--encoder", ridge]) == 0
    assert capsys.readouterr().out == f"{folder}\n"
    assert set(open_weights(folder).encoders) == {"vit", "ridge"}
    assert main(command) == 0
    assert set(open_weights(folder).encoders) == {"vit", "ridge"}

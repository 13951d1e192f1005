"""The service's own command line, from the top level, without anything of ours around it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.publish.kaggle.kaggle_client import environment_for_children, make_project
from tests.publish.kaggle.kaggle_server import CODE, KERNEL, WEIGHTS, KaggleServer

KAGGLE = Path(sys.executable).with_name("kaggle")


@pytest.fixture(scope="module")
def sent(tmp_path_factory) -> dict:
    """What `kaggle kernels push -p .` sends."""
    folder = tmp_path_factory.mktemp("bare")
    project = make_project(folder / "project")
    with KaggleServer() as server:
        pushed = subprocess.run(
            [KAGGLE, "kernels", "push", "-p", "."],
            cwd=project,
            env=environment_for_children(server, folder),
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (pushed.returncode, "Kernel version 1 successfully pushed" in pushed.stdout) == (0, True), pushed
    [request] = server.calls("SaveKernel")
    return request.body


def test_the_notebook_is_private(sent):
    assert sent["isPrivate"] is True


def test_the_internet_is_off(sent):
    assert sent["enableInternet"] is False


def test_the_machine_is_two_t4(sent):
    assert (sent["enableGpu"], sent["machineShape"]) == (True, "NvidiaTeslaT4")


def test_both_datasets_and_the_competition_are_attached(sent):
    assert sent["datasetDataSources"] == [WEIGHTS, CODE]
    assert sent["competitionDataSources"] == ["stable-diffusion-image-to-prompts"]


def test_it_is_our_notebook_under_our_name(sent):
    cells = json.loads(sent["text"])["cells"]
    assert (sent["slug"], sent["kernelType"]) == (KERNEL, "notebook")
    assert [cell["source"] for cell in cells] == ["print('image_to_prompts')"]

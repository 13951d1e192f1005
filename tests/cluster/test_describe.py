"""Pictures described by a real Ray cluster of this machine, whatever happens to its machines: what one process says."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kernel.miniature.world.folders import TEST_SEED, draw_folder
from tests import warm
from tests.cluster.disturbed import awaited, environment, gone
from tests.cluster.nodes import ROOT, Nodes
from tests.processes import parent

pytestmark = pytest.mark.slow
# the command line, with shards of 4 pictures
COMMAND = """
import sys
import kernel.__main__ as main
from kernel.pipeline import describe
describe.SHARD = dict.fromkeys(describe.SHARD, 4)
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images") / "images"
    draw_folder(folder, TEST_SEED, 24)
    (folder / "000005.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("features")


def describe(images: Path, weights, features: Path, *more: object) -> subprocess.Popen:
    own = [images, "--weights", weights.folder, "--features", features, "--json", *more]
    return warm.Popen(
        [sys.executable, "-c", COMMAND, "describe", *map(str, own)], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def expected(images, weights, features) -> str:
    """What one process says."""
    said, told = describe(images, weights, features, "--device", "cpu").communicate(timeout=300)
    assert len(said.splitlines()) == 24, told
    return said


@pytest.fixture
def begun(nodes, told, images, weights, features, tmp_path):
    """The command on the cluster, begun; its scratch folder is tmp_path/scratch."""

    def begin() -> subprocess.Popen:
        return describe(images, weights, features, "--engine", "ray", "--address", nodes.address, "--scratch",
                        tmp_path / "scratch")  # fmt: skip

    told.clear()
    return begin


def ended(command: subprocess.Popen) -> tuple[str, str]:
    """What it says on stdout and on stderr; 1 as one picture is none."""
    said, errors = command.communicate(timeout=300)
    assert command.returncode == 1, errors
    return said, errors


def test_what_a_killed_machine_had_in_hand_is_described_by_another(begun, nodes, told, expected, tmp_path):
    told.wait_at("DescriptionsStage", 2)
    command = begun()
    awaited(lambda: told.began("DescriptionsStage", 2), command)
    raylet = parent(told.began("DescriptionsStage", 2)[0])
    assert raylet in nodes.raylets
    nodes.kill(raylet)
    awaited(lambda: len(told.began("DescriptionsStage", 2)) == 2, command)
    told.go()
    said, _ = ended(command)
    nodes.add()
    assert said == expected
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_killed_command_goes_on_and_says_all_of_it(begun, told, expected, tmp_path):
    told.wait_at("DescriptionsStage", 3)
    command = begun()
    awaited(lambda: told.began("DescriptionsStage", 3) and told.began("DescriptionsStage", 5), command)
    at_work = told.began("DescriptionsStage", 3)
    os.kill(command.pid, signal.SIGKILL)
    command.communicate()
    gone(at_work)
    told.go()
    said, _ = ended(begun())
    assert said == expected
    assert [len(told.began("DescriptionsStage", shard)) for shard in (0, 3)] == [1, 2]
    assert len(told.began("CaptionsStage", 0)) == 1
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.fixture(scope="module")
def hidden(tmp_path_factory):
    """A folder that a cluster's machine sees empty, and its cluster."""
    folder = tmp_path_factory.mktemp("hidden")
    around = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs tmpfs {folder} && exec "$@"', "sh")
    if shutil.which("unshare") is None or subprocess.run([*around, "true"], capture_output=True).returncode:
        pytest.skip("this system allows no folder that only some see")
    with Nodes(within=around) as nodes:
        nodes.add()
        yield folder, nodes


@pytest.mark.parametrize("what", ["scratch", "images"])
def test_a_machine_that_does_not_see_a_folder_says_so_and_makes_nothing(
    hidden, images, weights, features, tmp_path, what
):
    folder, nodes = hidden
    scratch = (folder if what == "scratch" else tmp_path) / "scratch"
    if what == "images":
        images = shutil.copytree(images, folder / "images")
    on_cluster = ("--engine", "ray", "--address", nodes.address, "--scratch", scratch, "--mode", "negative")
    said, errors = describe(images, weights, features, *on_cluster).communicate(timeout=300)
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert said == "" and f"does not see {folder}" in line and "as the command does" in line
    assert not list(scratch.glob("describe-*/descriptions/*"))

"""A run by a real Ray cluster of this machine, whatever happens to its machines: the bytes of one process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kernel.miniature.world.folders import TEST_SEED, draw_folder
from tests import warm
from tests.cluster.disturbed import awaited, environment, gone
from tests.cluster.nodes import ROOT
from tests.processes import parent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images") / "images"
    draw_folder(folder, TEST_SEED, 24)
    (folder / "000005.png").write_bytes(b"no picture")
    return folder


def run(images: Path, weights, out: Path, *more: object, **others: str) -> subprocess.Popen:
    own = [images, "--weights", weights.folder, "--out", out, "--recipe", "baseline", "--set", "shard_images=4",
           "--device", "cpu", *more]  # fmt: skip
    return warm.Popen(
        [sys.executable, "-m", "kernel", "run", *map(str, own)], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=environment() | others,
    )  # fmt: skip


def made(out: Path) -> dict[str, bytes]:
    """The submission, and all shards with their seals."""
    paths = [out / "submission.csv", *out.glob("*/*")]
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


def assert_same(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    differing = [name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name)]
    assert not differing, {name: (found.get(name), expected.get(name)) for name in differing[:3]}


def ended(command: subprocess.Popen) -> str:
    """What a command that succeeds says on stderr; on stdout is its result alone."""
    said, errors = command.communicate(timeout=300)
    assert command.returncode == 0, errors
    assert len(said.splitlines()) == 1 and "24 images, 1 of them bad" in said
    return errors


@pytest.fixture(scope="module")
def expected(images, weights, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("expected") / "run"
    ended(run(images, weights, out))
    assert len(list(out.glob("captions/*.json"))) == 6
    return made(out)


@pytest.fixture
def begun(nodes, told, images, weights, tmp_path):
    """The command on the cluster, begun."""
    told.clear()
    return lambda: run(images, weights, tmp_path / "run", "--engine", "ray", "--address", nodes.address)


@pytest.mark.parametrize("stage", ["ClipStage", "CaptionsStage"])
def test_what_a_killed_machine_had_in_hand_is_made_by_another(begun, nodes, told, expected, tmp_path, stage):
    told.wait_at(stage, 2)
    command = begun()
    awaited(lambda: told.began(stage, 2), command)
    raylet = parent(told.began(stage, 2)[0])
    assert raylet in nodes.raylets
    nodes.kill(raylet)
    awaited(lambda: len(told.began(stage, 2)) == 2, command)
    told.go()
    ended(command)
    nodes.add()
    assert_same(made(tmp_path / "run"), expected)


def test_a_killed_command_goes_on_to_the_same_submission(begun, told, expected, tmp_path):
    told.wait_at("CaptionsStage", 3)
    command = begun()
    awaited(lambda: told.began("CaptionsStage", 3) and told.began("CaptionsStage", 5), command)
    at_work = told.began("CaptionsStage", 3)
    os.kill(command.pid, signal.SIGKILL)
    command.communicate()
    gone(at_work)
    told.go()
    assert "going on with the last run" in ended(begun())
    assert [len(told.began("CaptionsStage", shard)) for shard in (0, 3)] == [1, 2]
    assert len(told.began("ClipStage", 0)) == 1
    assert_same(made(tmp_path / "run"), expected)


def test_a_deadline_ends_workers_that_hang_and_the_rest_is_answered(begun, nodes, told, images, weights, tmp_path):
    told.wait_at("CaptionsStage", 3)
    on_cluster = ("--engine", "ray", "--address", nodes.address, "--deadline", "180s")
    said, errors = run(images, weights, tmp_path / "run", *on_cluster).communicate(timeout=300)
    assert "24 images, 1 of them bad" in said, errors
    assert "have no captions" in errors and "the time was over" in errors
    assert not (tmp_path / "run" / "captions" / "00003.json").exists()

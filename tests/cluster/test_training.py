"""`train --engine ray` on a real Ray cluster of this machine, whatever happens to its machines: the steps of one
process."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from kernel.miniature.world.drawing import draw
from kernel.miniature.world.grammar import scene_stream
from tests import warm
from tests.cluster.nodes import ROOT, Nodes
from tests.processes import parent
from tests.training.sets import write_tars

pytestmark = pytest.mark.slow
# three epochs of six steps, with a checkpoint after each of them; what is trained is better than what it began with
SETTINGS = (
    "epochs=3",
    "batch=8",
    "workers=0",
    "learning_rate=3e-5",
    "average=0",
    "augment=false",
    "trained_layers=0.3",
)
# before each of its steps a worker says so, a line "STEP RANK PROCESS" in the file steps, and does what `code` does
SITE = """
import importlib.machinery, os, sys, time
from pathlib import Path
told = Path({told!r})
def wait():
    (told / f"waits-{{os.getpid()}}").touch()
    while not (told / "go").exists():
        time.sleep(0.01)
def disturbed(take):
    def step(loop, *given):
        number, rank = loop.progress.step, loop.own.rank
        with open(told / "steps", "a") as file:
            print(number, rank, os.getpid(), file=file)
        {code}
        return take(loop, *given)
    return step
class Finder:
    def find_spec(self, name, path, target=None):
        if name != "kernel.training.tower.loop":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            module.Loop.step = disturbed(module.Loop.step)
        spec.loader.exec_module = exec_module
        return spec
sys.meta_path.insert(0, Finder())
"""


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    scenes = [(draw(scene, rng), scene.prompt) for scene, rng in scene_stream(7_900_000, 60)]
    return write_tars(tmp_path_factory.mktemp("pairs"), [(*own, index % 12) for index, own in enumerate(scenes)], 60)


@pytest.fixture(scope="module")
def train(pairs, weights_folder) -> Callable[..., subprocess.Popen]:
    """The command, begun."""

    def begin(out: Path, *more: str) -> subprocess.Popen:
        settings = [word for setting in SETTINGS for word in ("--set", setting)]
        words = [sys.executable, "-m", "kernel", "train", str(pairs), "--weights", str(weights_folder), "--out",
                 str(out), "--tier", "blocks", "--device", "cpu", "--json", *settings, *more]  # fmt: skip
        # a machine that is lost is soon given up
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "8"}
        return warm.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                env=environment)  # fmt: skip

    return begin


@pytest.fixture(scope="module")
def alone(train, tmp_path_factory) -> Path:
    """What one process trains."""
    out = tmp_path_factory.mktemp("alone") / "encoder"
    ended(train(out))
    assert json.loads((out / "encoder.json").read_text())["tier"] == "blocks"
    return out


@pytest.fixture
def out(alone, tmp_path) -> Path:
    """The folder for an encoder, with the features that one process made."""
    made = [path for path in (alone / "training").iterdir() if path.is_dir()]
    for folder in made:
        shutil.copytree(folder, tmp_path / "encoder" / "training" / folder.name)
    return tmp_path / "encoder"


@pytest.fixture
def told(tmp_path) -> Path:
    (tmp_path / "told").mkdir()
    return tmp_path / "told"


@pytest.fixture
def site(tmp_path, told) -> Callable[[str], Path]:
    """A folder whose sitecustomize.py disturbs every worker of a cluster that begins with it."""

    def put(code: str = "pass") -> Path:
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(SITE.format(told=str(told), code=code))
        return tmp_path / "site"

    return put


def by_ray(nodes: Nodes, *more: str) -> tuple[str, ...]:
    return ("--engine", "ray", "--address", nodes.address, *more)


def ended(command: subprocess.Popen) -> tuple[dict, str]:
    """The one JSON object that a command which succeeds prints, and what it says on stderr."""
    content, said = command.communicate(timeout=300)
    assert command.returncode == 0, said
    return json.loads(content), said


def awaited(condition: Callable[[], object], command: subprocess.Popen) -> None:
    while not condition():
        assert command.poll() is None, command.communicate()
        time.sleep(0.01)  # waits for an event, not for a time


def waiting(told: Path) -> list[int]:
    """The workers that wait, first of all those that began first."""
    found = sorted(told.glob("waits-*"), key=lambda path: path.stat().st_mtime)
    return [int(path.name.rpartition("-")[2]) for path in found]


def steps(told: Path) -> list[tuple[int, int, int]]:
    """(step, rank, process) of all steps that were begun, in their order."""
    lines = (told / "steps").read_text().splitlines()
    return [(int(step), int(rank), int(process)) for step, rank, process in map(str.split, lines)]


def assert_same(out: Path, alone: Path, content: dict) -> None:
    """The steps, weights and scores of one process, but for what several round otherwise."""
    found, expected = (np.loadtxt(own / "training" / "curve.csv", delimiter=",", skiprows=2) for own in (out, alone))
    assert found[:, 1] == pytest.approx(expected[:, 1], abs=1e-3)
    assert found[:, 2] == pytest.approx(expected[:, 2], abs=1e-4)
    kept, of_one = (load_file(own / "training" / "checkpoint.safetensors") for own in (out, alone))
    assert kept.keys() == of_one.keys()
    assert all(np.allclose(kept[name], of_one[name], atol=1e-3) for name in kept)
    assert json.loads((out / "encoder.json").read_text()) == content and content["tier"] == "blocks"
    score = json.loads((alone / "encoder.json").read_text())["held_out"]["mean"]
    assert content["held_out"]["mean"] == pytest.approx(score, abs=1e-3)


def test_two_machines_train_the_encoder_of_one_process(train, site, told, alone, tmp_path):
    out = tmp_path / "encoder"
    with Nodes(site()) as nodes:
        nodes.add(), nodes.add()
        content, said = ended(train(out, *by_ray(nodes)))
    assert "workers that train: 2" in said
    assert_same(out, alone, content)
    assert {(step, rank) for step, rank, _ in steps(told)} == {(step, rank) for step in range(18) for rank in (0, 1)}
    # nothing of Ray's lies anywhere else
    assert {path.name for path in (out / "training" / "ray").iterdir()} == {".validate_storage_marker", "said.txt"}


def test_with_one_machine_left_it_goes_on_from_the_last_checkpoint(train, site, told, alone, out):
    """The lost one is that of the worker that writes, in the middle of the second epoch."""
    with Nodes(site("if number == 9: wait()")) as nodes:
        nodes.add(), nodes.add()
        command = train(out, *by_ray(nodes))
        awaited(lambda: len(waiting(told)) == 2, command)
        (first,) = [process for step, rank, process in steps(told) if (step, rank) == (9, 0)]
        assert parent(first) in nodes.raylets
        nodes.kill(parent(first))
        os.kill(first, signal.SIGKILL)  # with the machine
        (told / "go").touch()
        content, said = ended(command)
    assert "workers that train: 2" in said and "workers that train: 1" in said
    again = [step for step, _, process in steps(told) if process not in waiting(told)[:2]]
    assert again == list(range(6, 18))
    assert_same(out, alone, content)


def test_a_killed_command_given_again_goes_on(train, site, told, alone, out):
    """On another machine, as Ray keeps the first one's place for a while."""
    with Nodes(site("if number == 9: wait()")) as nodes:
        nodes.add(), nodes.add()
        command = train(out, *by_ray(nodes, "--workers", "1"))
        awaited(lambda: waiting(told), command)
        os.kill(command.pid, signal.SIGKILL)
        command.communicate()
        content, _ = ended_after(told, train(out, *by_ray(nodes, "--workers", "1")))
    again = [step for step, _, process in steps(told) if process != waiting(told)[0]]
    assert again == list(range(6, 18))
    assert_same(out, alone, content)


def ended_after(told: Path, command: subprocess.Popen) -> tuple[dict, str]:
    """As `ended`, of a command for whose worker the way is free once it waits too."""
    awaited(lambda: len(waiting(told)) == 2, command)
    (told / "go").touch()
    return ended(command)


def test_an_interrupted_command_says_so_and_gives_its_places_back(train, site, told, out):
    with Nodes(site("if number == 9: wait()")) as nodes:
        nodes.add()
        command = train(out, *by_ray(nodes))
        awaited(lambda: waiting(told), command)
        command.send_signal(signal.SIGINT)
        content, said = command.communicate(timeout=60)
        assert command.returncode == 1 and content == ""
        assert said.splitlines()[-1].startswith("interrupted; what is finished is kept") and "Traceback" not in said
        again = train(out, *by_ray(nodes))
        awaited(lambda: len(waiting(told)) == 2, again)  # on the only machine that there is
        (told / "go").touch()
        ended(again)


def test_a_head_is_fitted_here_on_what_the_cluster_makes(train, site, told, alone, tmp_path):
    out = tmp_path / "encoder"
    with Nodes(site()) as nodes:
        nodes.add()
        content, said = ended(train(out, "--tier", "head", *by_ray(nodes)))
    assert content["tier"] in ("ridge", "head") and "features: 100%" in said and not (told / "steps").exists()
    made, of_one = (
        {path.relative_to(own): path.read_bytes() for path in own.rglob("0*.safetensors")} for own in (out, alone)
    )
    assert made == of_one and len(made) == 1


def test_what_a_user_has_to_mend_ends_it_in_one_line_and_is_not_tried_again(train, site, told, out):
    code = "from kernel.errors import UserError; raise UserError('the loss is no number. Lower it')"
    with Nodes(site(code)) as nodes:
        nodes.add()
        content, said = (command := train(out, *by_ray(nodes))).communicate(timeout=300)
    assert command.returncode == 1 and content == ""
    assert said.splitlines()[-1] == "error: the loss is no number. Lower it" and "Traceback" not in said
    assert len(steps(told)) == 1


def test_where_nothing_answers_one_line_says_so_and_nothing_is_written(train, tmp_path):
    command = train(tmp_path / "encoder", "--engine", "ray", "--address", "127.0.0.1:9")
    content, said = command.communicate(timeout=120)
    assert command.returncode == 1 and content == ""
    (line,) = said.splitlines()
    assert line.startswith("error: --address 127.0.0.1:9: no Ray cluster") and not (tmp_path / "encoder").exists()

"""`train` as a process: killed by SIGKILL, ended by its deadline, and gone on with to the same weights."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from kernel.miniature.world.drawing import draw
from kernel.miniature.world.grammar import scene_stream
from kernel.models.encoders.encoder import ImageEncoder
from tests import warm
from tests.conftest import ROOT
from tests.training.sets import write_tars

SETTINGS = ("epochs=2", "batch=8", "workers=0", "checkpoint_minutes=0", "trained_layers=0.3")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    scenes = [(draw(scene, rng), scene.prompt) for scene, rng in scene_stream(7_900_000, 60)]
    return write_tars(tmp_path_factory.mktemp("pairs"), [(*own, index % 12) for index, own in enumerate(scenes)], 60)


def command(pairs: Path, weights: Path, out: Path, *more: str) -> list[str]:
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    return [sys.executable, "-m", "kernel", "train", str(pairs), "--weights", str(weights), "--out", str(out),
            "--tier", "blocks", "--device", "cpu", "--json", *settings, *more]  # fmt: skip


def ran(words: list[str]) -> dict:
    done = warm.run(words, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def undisturbed(pairs, weights_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "encoder"
    return out, ran(command(pairs, weights_folder, out))


def weights_of(out: Path) -> dict[str, bytes]:
    """The checkpoint's tensors: the trained weights, their average and the optimizer's moments."""
    tensors = load_file(out / "training" / "checkpoint.safetensors")
    return {name: own.tobytes() for name, own in tensors.items()}


def test_killed_in_the_middle_it_goes_on_and_ends_with_the_same_bytes(undisturbed, pairs, weights_folder, tmp_path):
    whole, content = undisturbed
    words, out = command(pairs, weights_folder, tmp_path / "encoder"), tmp_path / "encoder"
    checkpoint = out / "training" / "checkpoint.safetensors"
    with warm.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT,
                    env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:  # fmt: skip
        while not checkpoint.is_file():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and not (out / "encoder.json").exists()
    again = ran(words)
    assert again["validation"] == content["validation"] and again["held_out"] == content["held_out"]
    assert weights_of(out) == weights_of(whole)
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_deadline_that_is_over_leaves_an_encoder_and_a_second_session_goes_on(
    undisturbed, pairs, weights_folder, tmp_path, cpu
):
    whole, content = undisturbed
    first = ran(command(pairs, weights_folder, tmp_path / "encoder", "--deadline", "1s"))
    # after no step it is what it began with, as the loop itself sees it: of pixels, not of kept features
    begun = max(first["validation"]["ridge"], first["validation"]["head"])
    assert first["validation"]["blocks"] == pytest.approx(begun, abs=1e-4)
    assert ImageEncoder.load(tmp_path / "encoder", cpu).record.held_out.pictures == 5
    again = ran(command(pairs, weights_folder, tmp_path / "encoder"))
    assert again["validation"] == content["validation"]
    assert weights_of(tmp_path / "encoder") == weights_of(whole)


def test_the_curve_is_kept_as_a_table(undisturbed):
    out, content = undisturbed
    lines = (out / "training" / "curve.csv").read_text().splitlines()
    assert lines[0] == "step,validation,loss" and len(lines) == 4
    assert lines[1].startswith("0,") and lines[1].endswith(",")
    best = max(float(line.split(",")[1]) for line in lines[1:])
    assert content["validation"]["blocks"] == pytest.approx(best, abs=1e-6)
    assert (out / "training" / "curve.svg").read_text().count("<polyline") == 2


def test_it_never_hands_out_worse_than_what_it_began_with(undisturbed):
    _, content = undisturbed
    assert content["validation"]["blocks"] >= max(content["validation"]["ridge"], content["validation"]["head"]) - 1e-6


def test_two_processes_under_torchrun_train_the_same_encoder_within_rounding(
    undisturbed, pairs, weights_folder, tmp_path
):
    _, content = undisturbed
    words = command(pairs, weights_folder, tmp_path / "encoder")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*torchrun, *words[1:]], capture_output=True, text=True, cwd=ROOT, timeout=300,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (told,) = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert told["validation"] == pytest.approx(content["validation"], abs=1e-3)
    assert json.loads((tmp_path / "encoder" / "encoder.json").read_text()) == told


@dataclass(frozen=True)
class Machine:
    """What a command on it begins with, its address, and the device by which it reaches the others."""

    begin: tuple[str, ...]
    address: str
    device: str


@pytest.fixture
def machines() -> Iterator[list[Machine]]:
    """Two: network namespaces of this machine with a cable between them, or its loopback where none are allowed."""
    own = os.getpid()
    names, ends = [f"machine-{own}-{end}" for end in "ab"], [f"m{own}{end}" for end in "ab"]
    found = [
        Machine(("ip", "netns", "exec", name), f"198.51.100.{number}", end)
        for number, (name, end) in enumerate(zip(names, ends, strict=True), start=1)
    ]
    lines = [
        *(f"netns add {name}" for name in names),
        f"link add {ends[0]} netns {names[0]} type veth peer name {ends[1]} netns {names[1]}",
        *(f"-n {name} link set lo up" for name in names),
        *(f"-n {machine.begin[-1]} addr add {machine.address}/24 dev {machine.device}" for machine in found),
        *(f"-n {machine.begin[-1]} link set {machine.device} up" for machine in found),
    ]
    if shutil.which("ip") is None:
        yield [Machine((), "127.0.0.1", "lo")] * 2
        return
    connected = all(subprocess.run(["ip", *line.split()]).returncode == 0 for line in lines)
    yield found if connected else [Machine((), "127.0.0.1", "lo")] * 2
    for name in names:
        subprocess.run(["ip", "netns", "del", name])


def test_two_machines_under_torchrun_train_the_same_encoder_within_rounding(
    undisturbed, pairs, weights_folder, tmp_path, machines
):
    _, content = undisturbed
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for number, machine in enumerate(machines):
        words = command(pairs, weights_folder, tmp_path / "encoder")
        where = ["--node-rank", str(number), "--master-addr", machines[0].address, "--master-port", str(port)]
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", *where]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": machine.device}
        started.append(subprocess.Popen([*machine.begin, *torchrun, *words[1:]], stdout=subprocess.PIPE, text=True,
                                        stderr=subprocess.PIPE, cwd=ROOT, env=environment))  # fmt: skip
    said = [own.communicate(timeout=300) for own in started]
    assert [own.returncode for own in started] == [0, 0], "\n".join(own[-3000:] for pair in said for own in pair)
    told = [json.loads(line) for out, _ in said for line in out.splitlines() if line.startswith("{")]
    assert [own["validation"] for own in told] == [pytest.approx(content["validation"], abs=1e-3)]
    assert json.loads((tmp_path / "encoder" / "encoder.json").read_text()) == told[0]

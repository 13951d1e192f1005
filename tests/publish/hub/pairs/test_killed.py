"""`publish pairs` ended at every step of what it does: begun again, it ends with the undisturbed one's bytes."""

import os
import subprocess
import sys

import pytest

from tests import warm
from tests.conftest import ROOT
from tests.publish.hub.hub_server import PROXIES, Hub
from tests.publish.hub.pairs.source_files import OWN, OWN_REVISION, PROMPTS, encoded, picture, sd_tar

# Each time a real process, forked from one that has imported everything and holds MiniLM, that kills itself at its n-th
# step: before anything is opened for writing, renamed or removed in the test's folder, or in the middle of a file.
HARNESS = """
import hashlib, os, shutil, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)  # threads do not live through a fork
import kernel.publish.hub.pairs.publish
from kernel.__main__ import main
from kernel.models.sentences import SentenceEncoder
from kernel.models.weights_folder import open_weights
from kernel.system.devices import Device
from safetensors import numpy

weights, place, source = Path(sys.argv[1]), Path(sys.argv[2]).resolve(), sys.argv[3]
encoder = SentenceEncoder.load(open_weights(weights), Device("cpu"))
SentenceEncoder.load = lambda *_: encoder
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
steps, last, stored = 0, None, 0

def killed_here():
    global steps
    steps += 1
    return steps == last

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def step(event, arguments):
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if (writes or event in CHANGES) and str(arguments[0]).startswith(str(place)) and killed_here():
        kill()

really = Path.write_bytes

def write_bytes(self, content):
    if killed_here():
        really(self, content[: len(content) // 2])
        kill()
    return really(self, content)

Path.write_bytes = write_bytes
sys.addaudithook(step)

import kernel.publish.hub.pairs.tars as tars
add_pair = tars.add_pair

def counted(tar, *arguments):
    global stored
    stored += 1
    if killed_here():
        tar.fileobj.flush()
        kill()
    return add_pair(tar, *arguments)

tars.add_pair = counted

def child(folder, at):
    "The command in a process that dies at step `at`: its status, and of a whole one its steps and pictures."
    global last, steps
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        last, steps = at, 0
        torch.set_num_threads(1)  # again: why, tests/whole/test_kills.py tells
        words = ["--out", folder / "set", "--scratch", folder / "scratch", "--weights", weights, "--device", "cpu"]
        code = main(["publish", "pairs", source, "--size", "32", "--near", "0.99", *map(str, words)])
        last = None
        os.write(writing, f"{steps} {stored}".encode())
        os._exit(code)
    os.close(writing)
    _, status = os.waitpid(pid, 0)
    told = os.read(reading, 20).decode()
    os.close(reading)
    return status, *map(int, told.split())

def left(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [(str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]

place.mkdir()
status, whole, _ = child(place / "whole", None)
assert status == 0, status
expected = left(place / "whole")
assert len(expected) == 4, expected
for at in range(1, whole + 1):
    folder = place / str(at)
    status, *_ = child(folder, at)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (at, status)
    status, *told = child(folder, None)
    same = status == 0 and left(folder) == expected
    print(f"killed at step {at} of {whole}: {'same' if same else 'differs'}, {told[1] if told else 'nothing'} stored")
    shutil.rmtree(folder)
"""


@pytest.fixture(scope="module")
def endings(weights_folder, tmp_path_factory) -> list[tuple[str, int]]:
    """Of a kill at every step in turn: whether the same command ended alike, and how many pictures it had to store."""
    folder = tmp_path_factory.mktemp("killed")
    files = {}
    for name, numbers in (("a.tar", range(5)), ("b.tar", range(5, 9))):
        pairs = [(encoded(picture(number)), PROMPTS[number], number) for number in numbers]
        files[name] = sd_tar(folder / "tars", name, pairs)
    environment = {
        key: own for key, own in os.environ.items() if key not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", *PROXIES)
    }
    with Hub({OWN: files}, {OWN: OWN_REVISION}, frozenset([OWN])) as hub:
        done = warm.run(
            [sys.executable, "-c", HARNESS, str(weights_folder), str(folder / "place"), OWN],
            cwd=ROOT,
            env=environment | {"HF_ENDPOINT": f"http://127.0.0.1:{hub.port}", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("killed at step ")]
    assert len(lines) >= 30, done.stdout
    told = [line.partition(": ")[2].removesuffix(" stored").split(", ") for line in lines]
    return [(verdict, int(stored)) for verdict, stored in told]


def test_killed_anywhere_it_ends_with_the_same_set(endings):
    assert {verdict for verdict, _ in endings} == {"same"}


def test_a_picture_that_was_stored_before_the_kill_is_not_stored_again_but_for_a_tar_on_its_way(endings):
    stored = [count for _, count in endings]
    assert set(range(10)) <= set(stored)
    assert stored[0] == 9 and stored[-1] == 0

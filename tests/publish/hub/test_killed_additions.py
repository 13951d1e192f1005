"""SIGKILL at every step of adding to a weights folder, then the same command again: nothing is made anew."""

import os
import sys
from pathlib import Path

import pytest

from kernel.banks.build import build_bank
from kernel.config import BankSettings
from tests import warm
from tests.conftest import ROOT
from tests.engines import HERE
from tests.models.encoders.by_hand import save_encoder

# Every point is a real process, forked from one that has imported everything, that kills itself at its n-th step:
# before anything is opened for writing, renamed or removed in the test's folder, and in the middle of a file's bytes.
HARNESS = """
import json, os, shutil, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)  # threads do not live through a fork
import open_clip
import kernel.publish.hub.weights
from kernel.__main__ import main
from kernel.models.weights_folder import open_weights
from kernel.models.clip import ClipEncoder
from kernel.errors import UserError
from kernel.publish.hub.pins import Repository
from tests.engines import HERE

weights, out, options = Path(sys.argv[1]), Path(sys.argv[2]).resolve(), sys.argv[3:]
models = json.loads((weights / "manifest.json").read_text())["models"]
kernel.publish.hub.weights.pinned_repositories = lambda pins, names: {
    name: Repository(name, models[name]["source"], models[name]["revision"], {}) for name in names
}

def refuse_to_make(*arguments):
    raise UserError("the folder is made anew: 23 GB come again")

kernel.publish.hub.weights.make_folder = refuse_to_make
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate"}
steps, last, encoded = 0, None, 0

def killed_here():
    global steps
    steps += 1
    return steps == last

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def step(event, arguments):
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if (writes or event in CHANGES) and str(arguments[0]).startswith(str(out)) and killed_here():
        kill()

def torn(name):
    really = getattr(Path, name)
    def write(self, content, *rest, **settings):
        if killed_here():
            really(self, content[: len(content) // 2], *rest, **settings)
            kill()
        return really(self, content, *rest, **settings)
    setattr(Path, name, write)

torn("write_bytes")
torn("write_text")
sys.addaudithook(step)
encode_texts = ClipEncoder.encode_texts

def counted(self, *arguments):
    global encoded
    encoded += 1
    return encode_texts(self, *arguments)

ClipEncoder.encode_texts = counted

def child(folder, at):
    "The command in a process that dies at step `at`: its status, and of a whole one its steps and encodings."
    global last, steps
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        last, steps = at, 0
        torch.set_num_threads(1)  # again: why, tests/whole/test_kills.py tells
        code = main(["publish", "weights", "--recipe", "baseline", "--out", str(folder), *options])
        last = None
        open_weights(folder)
        os.write(writing, f"{steps} {encoded}".encode())
        os._exit(code)
    os.close(writing)
    _, status = os.waitpid(pid, 0)
    told = os.read(reading, 20).decode()
    os.close(reading)
    return status, *map(int, told.split())

def start(name):
    folder = out / name / "weights"
    shutil.copytree(weights, folder, copy_function=os.link)
    (folder / "manifest.json").unlink()
    shutil.copy(weights / "manifest.json", folder)
    return folder

def left(folder):
    return (folder / "manifest.json").read_text(), sorted(path.name for path in folder.parent.iterdir())

status, whole, _ = child(start("whole"), None)
assert status == 0, status
expected = left(out / "whole" / "weights")
for at in range(1, whole + 1):
    folder = start(str(at))
    status, *_ = child(folder, at)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (at, status)
    status, *told = child(folder, None)
    same = status == 0 and left(folder) == expected
    print(f"killed at step {at} of {whole}: {'same' if same else 'differs'}, {told[1] if told else 'nothing'} encoded")
    shutil.rmtree(folder.parent)
"""


def killed(weights_folder: Path, folder: Path, *options: object) -> tuple[list[str], list[str]]:
    """Of a kill at every step in turn: whether the same command ended with the undisturbed one's folder, and how many
    word banks it had to encode."""
    folder.mkdir()
    done = warm.run(
        [sys.executable, "-c", HARNESS, str(weights_folder), str(folder), *map(str, options)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("killed at step ")]
    assert len(lines) >= 8, done.stdout
    verdicts, encodings = zip(*(line.partition(": ")[2].split(", ") for line in lines), strict=True)
    return list(verdicts), [encoding.removesuffix(" encoded") for encoding in encodings]


@pytest.fixture(scope="module")
def killed_encodings(weights_folder, tmp_path_factory) -> tuple[list[str], list[str]]:
    return killed(weights_folder, tmp_path_factory.mktemp("killed") / "encode", "--encode")


def test_encoding_killed_anywhere_ends_with_the_same_folder(killed_encodings):
    verdicts, _ = killed_encodings
    assert set(verdicts) == {"same"}


def test_a_word_bank_that_was_encoded_before_the_kill_is_not_encoded_again(killed_encodings):
    _, encodings = killed_encodings
    assert encodings == sorted(encodings, reverse=True)
    assert set(encodings) == {"3", "2", "1", "0"}


def test_a_bank_put_in_killed_anywhere_ends_with_the_same_folder(weights_folder, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(f"a woodcut of a fish number {number}" for number in range(60)))
    build_bank(BankSettings([tmp_path / "prompts.txt"], near=1.0), weights_folder, tmp_path / "bank", HERE)
    verdicts, _ = killed(weights_folder, tmp_path / "killed", "--bank", tmp_path / "bank")
    assert set(verdicts) == {"same"}


def test_an_encoder_put_in_killed_anywhere_ends_with_the_same_folder(weights_folder, weights, tmp_path):
    verdicts, _ = killed(weights_folder, tmp_path / "killed", "--encoder", save_encoder(tmp_path / "vit", weights))
    assert set(verdicts) == {"same"}

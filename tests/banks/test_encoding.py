"""A bank's worker processes; what they make is tested by whole builds."""

import os
import signal
import subprocess
import sys

import pytest

from kernel.banks.build import BUILDING, IDENTITY, open_building
from kernel.errors import UserError
from kernel.system.devices import Device, worker_environment
from tests.conftest import ROOT


@pytest.mark.parametrize(("visible", "expected"), [(None, "1"), ("", "1"), ("4,7", "7")])
def test_a_gpus_worker_sees_no_other_gpu(monkeypatch, visible, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    environment, seen = worker_environment(Device("cuda:1"), 2)
    assert environment["CUDA_VISIBLE_DEVICES"] == expected and seen.name == "cuda:0"


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"[]"])
def test_a_damaged_record_of_a_build_says_what_to_remove(tmp_path, content):
    (tmp_path / BUILDING).mkdir()
    (tmp_path / BUILDING / IDENTITY).write_bytes(content)
    with pytest.raises(UserError, match=f"{IDENTITY}: not what a build is of .* Remove the folder in which it lies"):
        open_building(tmp_path, {})


PARENT = """
import os, signal, sys
from multiprocessing import get_context
from pathlib import Path
from kernel.banks.encoding import Encoding, work
from kernel.models.weights_folder import open_weights
from kernel.system.devices import Device
if __name__ == "__main__":
    fresh = get_context("spawn")
    ours, its = fresh.Pipe()
    encoding = Encoding(Path(sys.argv[2]), "sentences", open_weights(Path(sys.argv[1])))
    fresh.Process(target=work, args=(its, encoding, Device("cpu"), {})).start()
    its.close()
    ours.send(0)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_ends_when_its_parent_is_gone(tmp_path, weights):
    """A shard is in hand, and its answer would have nobody to read it; the pipe closes when the last process ends."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), str(weights.folder), str(tmp_path)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, timeout=300)
    assert done.returncode == -signal.SIGKILL

"""SIGKILL at random points of a run, then the same command again: the undisturbed run's submission, byte by byte."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests import warm
from tests.conftest import ROOT

# Every point is a real process, forked from one that has imported everything, that kills itself at its n-th step:
# before or after a batch is encoded, before a file is written, and between the writing and the renaming.
HARNESS = """
import os, random, signal, sys
from dataclasses import replace
from pathlib import Path
import numpy as np, torch
import kernel.estimates.constant, kernel.pipeline.run, kernel.pipeline.folder.run_folder
from kernel.models.captioners.captioner import Captioner
from kernel.models.clip import ClipEncoder
from kernel.config import RECIPES, Paths
from kernel.system.deadline import NEVER
from kernel.models.sentences import SentenceEncoder
from kernel.pipeline.submission import read_submission

images, weights, out, points = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
recipe = replace(RECIPES["text"], num_beams=2, captions_per_image=2, shard_images=2, caption_batch=2, clip_batch=2)
steps, last = 0, None

def step():
    global steps
    steps += 1
    if steps == last:
        os.kill(os.getpid(), signal.SIGKILL)

def stepping(owner, name):
    real = getattr(owner, name)
    def stepped(*arguments, **keywords):
        step()
        result = real(*arguments, **keywords)
        step()
        return result
    setattr(owner, name, stepped)

for owner, name in ((ClipEncoder, "encode_images"), (Captioner, "captions"), (SentenceEncoder, "encode"),
                    (Path, "replace"), (Path, "write_bytes"), (os, "fsync")):
    stepping(owner, name)

def child(folder, at):
    "Runs in a process of its own that dies at step `at`; its exit status, and the steps of a whole run on a pipe."
    global last, steps
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        last, steps = at, 0
        # here, not in the parent alone: torch makes the pool of threads that the parent had anew when it is next asked,
        # and the threads that load a captioner, which ask at once, may find none ("Invalid thread pool!")
        torch.set_num_threads(1)
        try:
            content = kernel.pipeline.run.run(recipe, Paths(images, weights, folder), "cpu")
            assert content["counts"]["degraded_rows"] == 0 and not content["problems"], content
            os.write(writing, str(steps).encode())
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(2)
    os.close(writing)
    _, status = os.waitpid(pid, 0)
    told = os.read(reading, 20)
    os.close(reading)
    return status, int(told or 0)

def what_differs(folder):
    "The files of a run folder that are not the whole run's, and by how much its rows differ at most."
    def contents(of):
        return {str(path.relative_to(of)): path.read_bytes() for path in sorted(of.rglob("*"))
                if path.is_file() and path.name != "run.json"}
    here, there = contents(folder), contents(out / "whole")
    files = [name for name in sorted({*here, *there}) if here.get(name) != there.get(name)]
    rows = [np.stack([*read_submission(of / "submission.csv").values()]) for of in (folder, out / "whole")]
    return f"{files}, rows by {np.abs(rows[0] - rows[1]).max()}"

status, whole = child(out / "whole", None)
assert status == 0 and whole > 30, (status, whole)
expected = (out / "whole" / "submission.csv").read_bytes()
draw = random.Random(0)
for point in range(points):
    folder, at = out / str(point), draw.randint(1, whole)
    status, _ = child(folder, at)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (at, status)
    status, _ = child(folder, None)
    same = status == 0 and (folder / "submission.csv").read_bytes() == expected
    said = "same" if same else f"status {status}, {what_differs(folder)}"
    print(f"killed at step {at} of {whole}: {said}", flush=True)
"""


def test_a_run_whose_worker_is_killed_ends_with_the_same_bytes(image_folder, weights_folder, tmp_path):
    """Two real workers on this CPU; one is killed from outside while they write captions."""

    def command(out: str) -> list[str]:
        return [sys.executable, "-c", warm.WITH_WORKERS, "run", str(image_folder), "--weights", str(weights_folder),
                "--out", str(tmp_path / out), "--device", "cpu,cpu", "--set", "shard_images=1", "--set", "num_beams=2",
                "--set", "captions_per_image=2"]  # fmt: skip

    warm.run(command("whole"), cwd=ROOT, check=True, capture_output=True)
    process = warm.Popen(command("killed"), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (tmp_path / "killed" / "captions" / "00000.json").is_file():
        time.sleep(0.01)  # waits for an event, not for a time
    workers = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    os.kill(workers[-1], signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    content = json.loads((tmp_path / "killed" / "run.json").read_text())
    assert content["counts"]["degraded_rows"] == 0 and content["devices"][0]["name"] == "cpu"
    same = [(tmp_path / name / "submission.csv").read_bytes() for name in ("whole", "killed")]
    assert same[0] == same[1]


def test_a_run_killed_at_ten_random_points_goes_on_to_the_same_bytes(image_folder, weights_folder, tmp_path):
    command = [sys.executable, "-c", HARNESS, str(image_folder), str(weights_folder), str(tmp_path), "10"]
    done = warm.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert len(lines) == 10
    assert [line for line in lines if not line.endswith(": same")] == [], done.stdout + done.stderr[-2000:]

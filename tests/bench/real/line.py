"""The whole line on real pictures: an encoder trained, put into a weights folder, asked by a run, scored and shown."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from kernel.evaluation.evaluate import read_prompts
from kernel.miniature.world.folders import write_prompts
from kernel.system.processes import child_environment
from kernel.training.pairs import open_pairs
from kernel.training.split import parts_of, read_split
from tests.bench.linked_weights import with_encoder
from tests.bench.real.material import NEAR


def whole_line(pairs: Path, out: Path, weights: Path, tower: Path, device: str) -> dict[str, Any]:
    """By the commands, as a user would; the score of the pictures that the training held out, and the seconds. What it
    leaves stands in OUT/line; the training goes on with the features that are there."""
    begun = time.perf_counter()
    encoder, held_out, finished = (out / "line" / name for name in ("encoder", "held-out", "run"))
    train = ["train", pairs, "--weights", weights, "--out", encoder, "--tower", tower, "--near", NEAR]
    trained = told(*train, "--device", device, "--json")
    for stale in (held_out, finished):
        shutil.rmtree(stale, ignore_errors=True)
    (held_out / "images").mkdir(parents=True)
    found, prompts = open_pairs(pairs), read_prompts(pairs / "prompts.csv")
    pictures = [found.pictures[place] for place in parts_of(found, read_split(encoder)).held_out.tolist()]
    for picture in pictures:
        os.symlink(Path(picture.path).resolve(), held_out / "images" / Path(picture.path).name)
    write_prompts(held_out / "prompts.csv", {picture.id: prompts[picture.id] for picture in pictures})
    own = with_encoder(weights, out / "line" / "weights", encoder, "real")
    settings = ["--recipe", "pairs", "--set", 'estimates={"encoder": 1}', "--device", device]
    command("run", held_out / "images", "--weights", own, "--out", finished, *settings)
    scored = told("evaluate", finished / "submission.csv", held_out / "prompts.csv", "--weights", own, "--json")
    command("report", finished)
    return {
        "tier": trained["tier"],
        "validation": trained["validation"],
        "trained_on": trained["trained_on"]["pictures"],
        "pictures": len(pictures),
        "mean": scored["mean"],
        "ci95": trained["held_out"]["ci95"],
        "report": str(finished / "report.html"),
        "seconds": time.perf_counter() - begun,
    }


def command(*words: Any) -> str:
    """What `python -m kernel` writes on stdout. Raises CalledProcessError where it fails."""
    done = subprocess.run([sys.executable, "-m", "kernel", *map(str, words)], stdout=subprocess.PIPE, text=True,
                          check=True, env=child_environment())  # fmt: skip
    return done.stdout


def told(*words: Any) -> dict[str, Any]:
    return json.loads(command(*words))

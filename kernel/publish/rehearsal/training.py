"""The train notebook rehearsed: drawn pairs published as a dataset, a session that is cut, and one that goes on."""

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

from kernel.errors import UserError
from kernel.miniature.world.folders import REHEARSAL_SEED, draw_folder
from kernel.models.encoders.record import read_encoder_record
from kernel.notebook.inputs import TRAINED
from kernel.publish.kaggle.metadata import TRAIN_SLUG
from kernel.publish.kaggle.staging import PAIRS_SLUG, stage_pairs
from kernel.publish.rehearsal.execution import NOTEBOOK, OWNER, Killed, Way, executed, told
from kernel.publish.rehearsal.mounts import Mounts, upload_and_unpack
from kernel.system.kaggle_image import read_image

PAIRS, GROUPS, TARS = 96, 24, 2
SEED = REHEARSAL_SEED + 20_000  # far from those of the pictures that the encoder is then asked about
SETTINGS = "epochs=2 batch=8 workers=0 checkpoint_minutes=0 trained_layers=0.3"


def rehearse_training(
    project: Path, out: Path, python: Path, layout: str, mounts: Mounts
) -> tuple[list[dict[str, Any]], Path]:
    """Two sessions of the train notebook, the first one's training killed after its first step, the second one with
    the first one's output attached: what is told of each, and the second one's output."""
    pairs = out / "unpacked" / PAIRS_SLUG
    upload_and_unpack(stage_pairs(draw_pairs(out / "pairs"), out / "pairs-dataset", OWNER).folder, pairs)
    folders = {**mounts, ("dataset", PAIRS_SLUG): pairs}
    notebook = (project / "notebooks" / "train.ipynb").read_text(encoding="utf-8")
    image = read_image(project / "wheels" / "kaggle-image.txt").digest
    scratch, output, results = out / "scratch", out / "trained", []
    killed = Killed(
        out / "working", f"{TRAINED}/training/checkpoint.safetensors", "-m kernel train ", str(scratch.resolve())
    )
    shutil.rmtree(output, ignore_errors=True)
    for name, cut in (("train-killed", killed), ("train", None)):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        settings = {"IMAGE_TO_PROMPTS_SETTINGS": SETTINGS, "TMPDIR": str(scratch.resolve())}
        attached = {("notebook", TRAIN_SLUG): output} if output.is_dir() else {}
        way = Way(killed=cut, settings=settings)
        found = executed(notebook, out, python, image, layout, {**folders, **attached}, way)
        problem = found.problem or unexpected(out / "working", cut is not None)
        results.append(told(f"{name} of {PAIRS} pairs", name, layout, out, found, problem))
        shutil.rmtree(output, ignore_errors=True)
        (out / "working").rename(output)
    return results, output


def draw_pairs(folder: Path) -> Path:
    """A pair set of tars, drawn once."""
    if folder.is_dir():
        return folder
    drawn = folder.with_name(f"{folder.name}-pictures")
    prompts = draw_folder(drawn, SEED, PAIRS)
    unfinished = folder.with_name(f"{folder.name}-unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    for number in range(TARS):
        with tarfile.open(unfinished / f"drawn-{number:03d}.tar", "w") as tar:
            for index, (name, prompt) in enumerate(prompts.items()):
                if index % TARS == number:
                    add(tar, f"{name}.png", (drawn / f"{name}.png").read_bytes())
                    add(tar, f"{name}.txt", prompt.encode())
                    add(tar, f"{name}.json", json.dumps({"cluster": index % GROUPS}).encode())
    unfinished.rename(folder)
    return folder


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def unexpected(working: Path, cut: bool) -> str | None:
    """None when a cut session left what another goes on from, and the other one went on and made an encoder."""
    shown = (working / NOTEBOOK).read_text(encoding="utf-8")
    if cut:
        return None if "the training did not end well" in shown else "the training was not killed in its middle"
    try:
        read_encoder_record(working / TRAINED)
    except UserError as error:
        return str(error)
    return None if "goes on with" in shown else "it did not go on with the output of the first session"

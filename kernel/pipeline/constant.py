"""The answer when nothing is known of an image: the mean vector of the prompts in weights/prior.txt."""

from pathlib import Path

import numpy as np

from kernel.config import Paths
from kernel.errors import UserError
from kernel.estimates.constant import PRIOR, ROW, constant_row
from kernel.models.sentences import SentenceEncoder
from kernel.models.weights_folder import open_weights
from kernel.pipeline.folder.run_folder import RunFolder, read_run
from kernel.pipeline.images import list_images
from kernel.pipeline.preflight import only_run
from kernel.pipeline.submission import write_submission
from kernel.system.devices import Device
from kernel.system.files import writing


def write_constant(images: Path, weights: Path, submission: Path) -> int:
    """Writes a valid submission with the constant in every row and returns the number of images.

    Checks nothing of the weights but the prior and what its row is made with, so that it is there within seconds.
    """
    ids, rows = constant_answer(images, weights)
    with writing(submission, "give --out a file in a folder that you may write into, then run again"):
        write_submission(submission, ids, rows)
    return len(ids)


def constant_answer(images: Path, weights: Path, limit: int | None = None) -> tuple[list[str], np.ndarray]:
    """The ids of the images, the first `limit` where it is given, and the constant for each: (n, 384)."""
    opened = open_weights(weights, parts=(PRIOR, ROW) if brings_row(weights) else (PRIOR, "sentences"))
    ids = [image.id for image in list_images(images)[:limit]]
    row = constant_row(weights, lambda: SentenceEncoder.load(opened, Device("cpu")))
    return ids, np.broadcast_to(row, (len(ids), len(row)))


def brings_row(weights: Path) -> bool:
    return (weights / ROW).is_file()


def answer_at_once(paths: Paths, limit: int | None) -> None:
    """Begins a new run folder with the constant, where nothing has to be loaded for it: a submission stands before the
    libraries of models are imported, however short the time is.

    What is wrong with folders and images is told by what comes next.
    """
    try:
        if not (brings_row(paths.weights) and is_new(paths.run)):
            return
        ids, rows = constant_answer(paths.images, paths.weights, limit)
        with only_run(paths.run):
            RunFolder(paths.run, [], 1).write_run({"identity": {}})  # so that the next run knows the folder as its own
            write_submission(paths.run / "submission.csv", ids, rows)
    except (UserError, OSError):
        return


def is_new(folder: Path) -> bool:
    """Whether nothing is there but what a run began with, if that."""
    record = read_run(folder)
    return not (record["identity"] if record else folder.exists() and any(folder.iterdir()))

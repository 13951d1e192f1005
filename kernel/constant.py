"""The answer when nothing is known of an image: the mean vector of the prompts in weights/prior.txt."""

from pathlib import Path

import numpy as np

from kernel.checkpoints import open_weights
from kernel.config import Recipe
from kernel.devices import Device
from kernel.fusion import unit_rows
from kernel.images import list_images
from kernel.sentences import SentenceEncoder
from kernel.submission import write_submission
from kernel.word_banks import read_phrases

PRIOR = "prior.txt"


def constant_row(encoder: SentenceEncoder, weights: Path, batch: int) -> np.ndarray:
    """The unit mean of the embedded prompts of `weights/prior.txt`, shape (384,)."""
    prompts = read_phrases(weights / PRIOR).phrases
    return unit_rows(encoder.encode(prompts, batch).mean(axis=0, keepdims=True))[0]


def write_constant(images: Path, weights: Path, submission: Path) -> int:
    """Writes a valid submission with the constant in every row and returns the number of images.

    Checks and opens nothing of the weights but the scorer and the prior, so that it is there within seconds.
    """
    opened = open_weights(weights, parts=("sentences", PRIOR))
    ids = [image.id for image in list_images(images)]
    row = constant_row(SentenceEncoder.load(opened, Device("cpu")), weights, Recipe().text_batch)
    write_submission(submission, ids, np.broadcast_to(row, (len(ids), len(row))))
    return len(ids)

"""The answer when nothing is known of an image: the mean vector of the prompts in weights/prior.txt."""

import reprlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kernel.banks.word_banks import read_phrases
from kernel.config import EMBEDDING_DIMENSIONS
from kernel.errors import UserError
from kernel.models.sentences import SentenceEncoder
from kernel.models.vectors import check_finite, unit_rows
from kernel.models.weights_folder import ADVICE, check_header

PRIOR, ROW = "prior.txt", "prior.safetensors"
BATCH = 256  # 400 prompts of the real prior take seconds on any CPU
MOST_BYTES = 2**20  # of prior.txt: a thousand prompts of the longest kind, which take a minute


def constant_row(weights: Path, load: Callable[[], SentenceEncoder]) -> np.ndarray:
    """The unit mean of the embedded prompts of `weights/prior.txt`, shape (384,), by the MiniLM that `load` gives.

    Where the weights folder brings it, that is read and nothing loaded: the manifest vouches that they belong together.
    Raises UserError for a file that holds anything else.
    """
    from safetensors.numpy import load_file

    if (weights / ROW).is_file():
        found = [(own.name, own.dtype, own.shape) for own in check_header(weights / ROW)]
        if found != [("row", "F32", (EMBEDDING_DIMENSIONS,))]:
            raise UserError(
                f"{weights / ROW}: holds {reprlib.repr(found)}; expected one row of {EMBEDDING_DIMENSIONS} numbers. "
                f"{ADVICE}"
            )
        row = load_file(weights / ROW)["row"]
        check_finite(str(weights / ROW), row[None])
        return row
    prompts = read_phrases(weights / PRIOR, MOST_BYTES).phrases
    return unit_rows(load().encode(prompts, BATCH).mean(axis=0, keepdims=True))[0]


def keep_constant_row(weights: Path, load: Callable[[], SentenceEncoder]) -> None:
    """Puts the row into a weights folder that is being made, so that no run has to encode the prior."""
    from safetensors.numpy import save_file

    save_file({"row": constant_row(weights, load)}, weights / ROW)

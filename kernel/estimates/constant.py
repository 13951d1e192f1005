"""The answer when nothing is known of an image: the mean vector of the prompts in weights/prior.txt."""

from pathlib import Path

import numpy as np

from kernel.banks.word_banks import read_phrases
from kernel.models.sentences import SentenceEncoder
from kernel.models.vectors import unit_rows

PRIOR = "prior.txt"


def constant_row(encoder: SentenceEncoder, weights: Path, batch: int) -> np.ndarray:
    """The unit mean of the embedded prompts of `weights/prior.txt`, shape (384,)."""
    prompts = read_phrases(weights / PRIOR).phrases
    return unit_rows(encoder.encode(prompts, batch).mean(axis=0, keepdims=True))[0]

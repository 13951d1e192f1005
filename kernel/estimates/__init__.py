"""What each way of looking at an image says of its prompt: one MiniLM-like row an image, and where it says nothing.

config.ESTIMATES declares every estimate: its file here and what it needs. The function of its name makes it.
"""

from importlib import import_module

import numpy as np

from kernel.config import declared
from kernel.estimates.known import Known, Making


def estimating(name: str, known: Known) -> Making:
    """Yields how many images more are done; returns what `estimate` does. Raises UserError for an unknown name."""
    return getattr(import_module(f"{__name__}.{declared(name).file}"), name)(known)


def estimate(name: str, known: Known) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, 384), and (n,) bool, False where it says nothing of an image. Raises UserError for an unknown name."""
    making = estimating(name, known)
    while True:
        try:
            next(making)
        except StopIteration as made:
            return made.value

"""The miniature pictures' size, pixel coordinates, and what mediums and flavors share."""

import numpy as np
from PIL import Image

SIZE = 160
ROWS, COLUMNS = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)


def blend(pixels: np.ndarray, paint: np.ndarray | tuple[int, int, int], amount: np.ndarray | float) -> np.ndarray:
    """Moves pixels toward `paint` by `amount` in 0..1. Shapes (h, w, 3), amount (h, w) or one number."""
    weight = np.asarray(amount, dtype=np.float32)
    if weight.ndim == 2:
        weight = weight[..., None]
    return (pixels + weight * (np.asarray(paint, dtype=np.float32) - pixels)).clip(0, 255).astype(np.uint8)


def smooth_noise(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Soft random blotches in 0..1, about SIZE / cells pixels wide. Shape (SIZE, SIZE)."""
    coarse = Image.fromarray(rng.integers(0, 256, size=(cells, cells), dtype=np.uint8))
    return np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC), dtype=np.float32) / 255

"""Estimates to one row an image."""

import numpy as np


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1 as float32; a zero row stays zero. Shape (n, d) -> (n, d).

    Example: [[3, 4]] -> [[0.6, 0.8]]
    """
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros(rows.shape), where=lengths > 0).astype(np.float32)


def group_means(rows: np.ndarray, counts: list[int]) -> np.ndarray:
    """Plain mean of each run of rows: counts[i] consecutive rows belong to image i. (sum, d) -> (n, d).

    Example: rows [[1, 0], [0, 1], [2, 2]], counts [2, 1] -> [[0.5, 0.5], [2, 2]]
    Raises ValueError when a count is 0 or the counts do not add up.
    """
    if sum(counts) != len(rows) or min(counts, default=1) < 1:
        raise ValueError(f"counts {counts} do not part {len(rows)} rows into groups of at least one")
    starts = np.cumsum([0, *counts])[:-1]
    sums = np.add.reduceat(rows.astype(np.float64), starts, axis=0)
    return (sums / np.asarray(counts)[:, None]).astype(np.float32)


def fuse(estimate: np.ndarray, usable: np.ndarray, fallback: np.ndarray, normalise: bool) -> np.ndarray:
    """The estimate where it is usable, else the fallback row. (n, d), (n,) bool, (d,) -> (n, d) float32."""
    rows = unit_rows(estimate) if normalise else estimate.astype(np.float32)
    sound = usable & np.isfinite(rows).all(axis=1) & (np.abs(rows).max(axis=1) > 0)
    return np.where(sound[:, None], rows, fallback.astype(np.float32))

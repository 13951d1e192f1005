"""Estimates to one row an image."""

import numpy as np

from kernel.models.vectors import unit_rows


def group_means(rows: np.ndarray, counts: list[int], weights: np.ndarray | None = None) -> np.ndarray:
    """Mean of each run of rows: counts[i] consecutive rows belong to image i. (sum, d) -> (n, d).

    `weights` (sum,), above 0, weigh the rows within their run; without them every row counts alike.

    Example: rows [[1, 0], [0, 1], [2, 2]], counts [2, 1] -> [[0.5, 0.5], [2, 2]]; weights [3, 1, 5] -> [[0.75, 0.25],
    [2, 2]]
    Raises ValueError when a count is 0 or the counts do not add up.
    """
    if sum(counts) != len(rows) or min(counts, default=1) < 1:
        raise ValueError(f"counts {counts} do not part {len(rows)} rows into groups of at least one")
    starts = np.cumsum([0, *counts])[:-1]
    shares = np.ones(len(rows)) if weights is None else weights.astype(np.float64)
    sums = np.add.reduceat(rows.astype(np.float64) * shares[:, None], starts, axis=0)
    return (sums / np.add.reduceat(shares, starts)[:, None]).astype(np.float32)


def fuse(
    estimates: dict[str, np.ndarray],
    usable: dict[str, np.ndarray],
    shares: dict[str, float],
    fallback: np.ndarray,
    normalise: bool,
) -> np.ndarray:
    """One row an image of its usable estimates, the fallback row where none is. (n, d) each -> (n, d) float32.

    One estimate is taken as it is. Of several, each as unit rows, the sum by `shares`; an image that lacks one goes
    without it. `usable` holds (n,) bool for each, `fallback` (d,); `normalise` scales the answer to length 1.

    Example: shares 0.75 and 0.25, rows [[2, 0]] and [[0, 3]] -> [[0.75, 0.25]] before scaling
    """
    sound = {
        name: usable[name] & np.isfinite(rows).all(axis=1) & (np.abs(rows).max(axis=1) > 0)
        for name, rows in estimates.items()
    }
    if len(estimates) == 1:
        (name,) = estimates
        answer = estimates[name].astype(np.float32)
    else:
        answer = np.zeros((len(next(iter(sound.values()))), len(fallback)), dtype=np.float32)
        for name, rows in estimates.items():
            answer += shares[name] * unit_rows(np.where(sound[name][:, None], rows, 0))
    if normalise:
        answer = unit_rows(answer)
    known = np.any(list(sound.values()), axis=0) & (np.abs(answer).max(axis=1) > 0)
    return np.where(known[:, None], answer, fallback.astype(np.float32))

"""Rows of numbers: scaled to length 1, checked."""

import numpy as np

from kernel.errors import UserError

BLOCK = 4096  # rows


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1 as float32; a zero row stays zero. Shape (n, d) -> (n, d).

    Example: [[3, 4]] -> [[0.6, 0.8]]
    """
    unit = np.zeros(rows.shape, dtype=np.float32)
    # float64 of all at once would be the most memory that a run over many images takes
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK].astype(np.float64)
        lengths = np.linalg.norm(part, axis=1, keepdims=True)
        unit[start : start + BLOCK] = np.divide(part, lengths, out=np.zeros(part.shape), where=lengths > 0)
    return unit


def check_finite(name: str, rows: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise UserError(
            f"{name} row {bad[0]} of {len(rows)} holds a number that is not finite ({len(bad)} such rows): nothing "
            "can be computed from it. The model's weights are damaged, or its half precision overflowed: --device cpu"
        )


def check_unit_rows(name: str, rows: np.ndarray) -> None:
    """Raises UserError when a row's length is not 1 within 1 %, as that of NaN."""
    lengths = np.linalg.norm(rows.astype(np.float32), axis=1)
    bad = np.flatnonzero(~(np.abs(lengths - 1) < 0.01))
    if len(bad):
        raise UserError(
            f"{name} row {bad[0]} of {len(rows)} has length {lengths[bad[0]]:.3g}; expected 1 ({len(bad)} such rows): "
            "the model that made it is damaged, or its half precision overflowed. Try --device cpu"
        )

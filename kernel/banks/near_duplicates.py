"""Prompts that say nearly the same as an earlier one, or as a scored one, by the cosine of their MiniLM rows.

Every row is compared with all before it. Rows are kept as float16 and compared as float32, whose sums are rounded at
their ends: what lies within ROUNDING below a threshold counts as near, so that equal rows are near at 1.0 too.
"""

from collections.abc import Iterable, Set

import numpy as np

from kernel.errors import UserError
from kernel.models.vectors import check_unit_rows
from kernel.system.devices import Device

BATCH_ROWS = 1024  # compared at a time: 32 MB with a shard of 8,192
ROUNDING = 1e-6
PART_ROWS = 8192  # that meet a block at once: with one of as many rows 340 MB
CPU = Device("cpu")


class NearDuplicates:
    """Keeps rows that are near to no row kept before: first come, first kept.

    Memory: 2 bytes a number of a row kept (768 bytes for MiniLM), and about 100 MB while it compares.
    Time: grows with the square of the rows kept, at 10 to 14 ns a pair on one core: a million rows kept take 1.4 to 2
    hours of one core, two million four times that. Cores share the work.
    """

    def __init__(self, threshold: float = 0.9, device: Device = CPU) -> None:
        """Rows whose cosine is `threshold` or more are near. Raises UserError unless it is above 0 and at most 1."""
        self.threshold, self.device = checked_threshold(threshold), device
        self.blocks: list[np.ndarray] = []

    def keep(self, rows: np.ndarray) -> np.ndarray:
        """Which rows are kept: those near to none kept in earlier calls or earlier in this one.

        Unit rows (n, d) -> (n,) bool. Example at 0.9: [[1, 0], [0, 1], [1, 0]] -> [True, True, False]
        Raises UserError for rows that are no unit rows (zero, NaN); keeps nothing then.
        """
        check_unit_rows("sentence", rows)
        kept = [np.zeros(0, dtype=bool)]
        for start in range(0, len(rows), BATCH_ROWS):
            batch = rows[start : start + BATCH_ROWS]
            fresh = ~near_any(batch, self.blocks, self.threshold, self.device)
            near = are_near(batch, batch, self.threshold)
            for place in range(len(batch)):
                if fresh[place]:
                    fresh[place + 1 :] &= ~near[place, place + 1 :]
            self.add(batch[fresh])
            kept.append(fresh)
        return np.concatenate(kept)

    def add(self, rows: np.ndarray) -> None:
        """Counts unit rows (n, d) as kept without comparing them: those kept before an interruption."""
        self.blocks.append(rows.astype(np.float16))


def drop_scored(
    prompts: list[str], rows: np.ndarray, scored_prompts: Set[str], scored_rows: np.ndarray, threshold: float = 0.95
) -> tuple[np.ndarray, dict[str, int]]:
    """The leak guard: which prompts may stay in a bank that is measured on the scored ones, and why others may not.

    Prompts with their unit rows (n, d), scored prompts with theirs (m, d) -> (n,) bool, True where the prompt stays,
    and {"equal": ..., "near": ...}: dropped as the same text, and as another text of cosine `threshold` or more.
    Texts are compared as they are, so give both sides as `cleaning.clean` leaves them; MiniLM reads no capitals,
    so the same words in other letters are near. Raises UserError as `NearDuplicates.keep` does.
    """
    checked_threshold(threshold)
    for name, given in (("sentence", rows), ("scored sentence", scored_rows)):
        check_unit_rows(name, given)
    equal = np.array([prompt in scored_prompts for prompt in prompts], dtype=bool)
    blocks = (scored_rows[start : start + BATCH_ROWS] for start in range(0, len(scored_rows), BATCH_ROWS))
    near = ~equal & near_any(rows, blocks, threshold)
    return ~(equal | near), {"equal": int(equal.sum()), "near": int(near.sum())}


def near_any(rows: np.ndarray, blocks: Iterable[np.ndarray], threshold: float, device: Device = CPU) -> np.ndarray:
    """Which unit rows (n, d) are near to any row of any block (m, d) -> (n,) bool."""
    near = np.zeros(len(rows), dtype=bool)
    for block in blocks:
        for start in range(0, len(rows) if len(block) else 0, PART_ROWS):
            left = start + np.flatnonzero(~near[start : start + PART_ROWS])
            near[left] = any_near(rows[left], block, threshold, device)
    return near


def any_near(a: np.ndarray, b: np.ndarray, threshold: float, device: Device) -> np.ndarray:
    """result[i]: whether a[i] is near to any row of b. (n, d), (m, d) -> (n,) bool."""
    if not device.is_gpu:
        return np.any(are_near(a, b, threshold), axis=1)
    import torch

    ours, theirs = (torch.from_numpy(unit_float32(rows)).to(device.name) for rows in (a, b))
    return (ours @ theirs.T >= threshold - ROUNDING).any(dim=1).cpu().numpy()


def are_near(a: np.ndarray, b: np.ndarray, threshold: float) -> np.ndarray:
    """result[i, j]: whether the cosine of a[i] and b[j] is `threshold` or more. (n, d), (m, d) -> (n, m) bool."""
    return unit_float32(a) @ unit_float32(b).T >= threshold - ROUNDING


def unit_float32(rows: np.ndarray) -> np.ndarray:
    """float16 moves a unit row's length by up to 0.0005, which is taken back here."""
    rows = rows.astype(np.float16).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def checked_threshold(threshold: float) -> float:
    if not 0 < threshold <= 1:
        raise UserError(f"a cosine threshold of {threshold}: expected more than 0 and at most 1. Give another one")
    return threshold

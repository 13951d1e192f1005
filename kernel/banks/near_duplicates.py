"""Prompts that say nearly the same as an earlier one, or as a scored one, by the cosine of their MiniLM rows.

Every row is compared with all before it. Rows are kept as float16 and compared as float32, whose sums are rounded at
their ends: what lies within ROUNDING below a threshold counts as near, so that equal rows are near at 1.0 too.

On a CPU most pairs are told apart by less than whole rows, and none is missed. Rows are turned onto orthonormal axes,
the principal ones first, and cut after the first AXES: by Cauchy and Schwarz the cosine of a and b is at most the sum
of a_i b_i over those, and the product of the lengths of what was cut off. Only pairs for which that reaches the
threshold are compared whole: 3 in 100,000 of real prompts at 0.9. The axes are those of the rows at hand; any others
would give the same answers, more slowly.
"""

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass

import numpy as np

from kernel.errors import UserError
from kernel.models.vectors import check_unit_rows
from kernel.system.devices import Device

BATCH_ROWS = 1024  # compared at a time
ROUNDING = 1e-6
PART_ROWS = 8192  # that meet a block at once: on a GPU with one of as many rows 340 MB
AXES = 43  # with 31 fourteen times as many pairs are compared whole, with 55 each bound takes a fifth longer
TILE_ROWS = 256  # whose bounds with a batch, 1 MB, stay in a core's cache
SAMPLE_ROWS = 1024  # that principal axes are made of: four times as many save 3 % of the time
CPU = Device("cpu")


@dataclass(frozen=True)
class Turned:
    """Unit rows (n, d) as float16, and what bounds their cosines: `heads` (n, k + 1) float32, the first k numbers of
    each turned onto the same axes as those that it is compared with, and the length of the rest."""

    rows: np.ndarray
    heads: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: np.ndarray | slice) -> "Turned":
        return Turned(self.rows[chosen], self.heads[chosen])


class NearDuplicates:
    """Keeps rows that are near to no row kept before: first come, first kept.

    Memory: 2 bytes a number of a row kept and 176 bytes beside (944 bytes for MiniLM), and about 100 MB while it
    compares. Time: grows with the square of the rows kept, at 1.9 to 2.9 ns a pair on one core: a million rows kept
    take 16 to 24 minutes of one core, two million four times that. Cores share the work. (40,000 and 12,000 real
    prompts at 0.9; 2 cores AMD EPYC, 2026-11-29. Whole rows take 12 to 14, and so do thresholds of 0.8 and less, where
    most blocks hold pairs that only whole rows tell apart.)
    """

    def __init__(self, threshold: float = 0.9, device: Device = CPU) -> None:
        """Rows whose cosine is `threshold` or more are near. Raises UserError unless it is above 0 and at most 1."""
        self.threshold, self.device = checked_threshold(threshold), device
        self.blocks: list[Turned] = []
        self.axes, self.axes_of = np.zeros((0, 0)), 0  # and the number of rows that they were made of

    def keep(self, rows: np.ndarray) -> np.ndarray:
        """Which rows are kept: those near to none kept in earlier calls or earlier in this one.

        Unit rows (n, d) -> (n,) bool. Example at 0.9: [[1, 0], [0, 1], [1, 0]] -> [True, True, False]
        Raises UserError for rows that are no unit rows (zero, NaN); keeps nothing then.
        """
        check_unit_rows("sentence", rows)
        kept = [np.zeros(0, dtype=bool)]
        for start in range(0, len(rows), BATCH_ROWS):
            batch = rows[start : start + BATCH_ROWS]
            self.choose_axes(batch)
            ours = turned(batch, self.axes)
            fresh = ~near_blocks(ours, self.blocks, self.threshold, self.device)
            near = np.zeros((len(batch), len(batch)), dtype=bool)
            for pairs in near_pairs(ours, ours, self.threshold):
                near[pairs] = True
            for place in np.flatnonzero(near.any(axis=1)):
                if fresh[place]:
                    fresh[place + 1 :] &= ~near[place, place + 1 :]
            self.blocks.append(ours[fresh])
            kept.append(fresh)
        return np.concatenate(kept)

    def add(self, rows: np.ndarray) -> None:
        """Counts unit rows (n, d) as kept without comparing them: those kept before an interruption."""
        self.choose_axes(rows)
        self.blocks.append(turned(rows, self.axes))

    def choose_axes(self, rows: np.ndarray) -> None:
        """Those of the first rows, and of all so far whenever there are twice as many, up to SAMPLE_ROWS."""
        count = sum(map(len, self.blocks)) + len(rows)
        if self.axes_of == 0 or (self.axes_of < SAMPLE_ROWS and count >= 2 * self.axes_of):
            self.axes = principal_axes([*(block.rows for block in self.blocks), rows])
            self.blocks = [turned(block.rows, self.axes) for block in self.blocks]
            self.axes_of = count


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
    axes = principal_axes([rows])
    return near_blocks(turned(rows, axes), (turned(block, axes) for block in blocks), threshold, device)


def near_blocks(ours: Turned, blocks: Iterable[Turned], threshold: float, device: Device) -> np.ndarray:
    """Which of our rows are near to any row of any block -> (n,) bool."""
    near = np.zeros(len(ours), dtype=bool)
    for block in blocks:
        for start in range(0, len(ours) if len(block) else 0, PART_ROWS):
            left = start + np.flatnonzero(~near[start : start + PART_ROWS])
            near[left] = any_near(ours[left], block, threshold, device)
    return near


def any_near(a: Turned, b: Turned, threshold: float, device: Device) -> np.ndarray:
    """result[i]: whether a[i] is near to any row of b -> (n,) bool. A GPU compares whole rows."""
    if not device.is_gpu:
        near = np.zeros(len(a), dtype=bool)
        for places, _ in near_pairs(a, b, threshold):
            near[places] = True
        return near
    import torch

    ours, theirs = (torch.from_numpy(unit_float32(own.rows)).to(device.name) for own in (a, b))
    return (ours @ theirs.T >= threshold - ROUNDING).any(dim=1).cpu().numpy()


def near_pairs(a: Turned, b: Turned, threshold: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The places in `a` and in `b` of all pairs whose cosine is `threshold` or more, part after part. Where `b` is
    `a` each pair once, the earlier place first, and some again."""
    # A sum of n products of float32 is off by at most n eps / 2 times the lengths, which are 1 (Higham, Accuracy and
    # Stability of Numerical Algorithms, 3.1): the bound's and the whole one, of rows whose numbers are rounded before.
    # Half of this would do.
    slack = (a.rows.shape[1] + a.heads.shape[1] + 8) * float(np.finfo(np.float32).eps)
    least = threshold - ROUNDING - slack
    for i in range(0, len(a), BATCH_ROWS):
        for j in range(i if a is b else 0, len(b), BATCH_ROWS):
            own, others = a.heads[i : i + BATCH_ROWS], b.heads[j : j + BATCH_ROWS]
            may_be = np.empty((len(own), len(others)), dtype=bool)
            for start in range(0, len(others), TILE_ROWS):
                tile = slice(start, start + TILE_ROWS)
                np.greater_equal(own @ others[tile].T, least, out=may_be[:, tile])
            if a is b and i == j:
                may_be = np.triu(may_be, 1)
            ours, theirs = i + np.flatnonzero(may_be.any(axis=1)), j + np.flatnonzero(may_be.any(axis=0))
            if len(ours):
                first, second = np.nonzero(are_near(a.rows[ours], b.rows[theirs], threshold))
                yield ours[first], theirs[second]


def principal_axes(parts: list[np.ndarray]) -> np.ndarray:
    """Orthonormal columns, the longest axes of unit rows (n, d) in parts first -> (d, AXES) float64, or (d, d)."""
    step = max(1, sum(map(len, parts)) // SAMPLE_ROWS)
    sample = unit_float32(np.concatenate([part[::step] for part in parts])).astype(np.float64)
    _, axes = np.linalg.eigh(sample.T @ sample)
    return axes[:, ::-1][:, :AXES]


def turned(rows: np.ndarray, axes: np.ndarray) -> Turned:
    """Unit rows (n, d), axes (d, k); in float64, so that only what is kept of it is rounded."""
    rows, heads = rows.astype(np.float16, copy=False), np.empty((len(rows), axes.shape[1] + 1), dtype=np.float32)
    for start in range(0, len(rows), BATCH_ROWS):
        own = slice(start, start + BATCH_ROWS)
        whole = unit_float32(rows[own]).astype(np.float64)
        along = whole @ axes
        heads[own, :-1], heads[own, -1] = along, np.linalg.norm(whole - along @ axes.T, axis=1)
    return Turned(rows, heads)


def are_near(a: np.ndarray, b: np.ndarray, threshold: float) -> np.ndarray:
    """result[i, j]: whether the cosine of a[i] and b[j] is `threshold` or more. (n, d), (m, d) -> (n, m) bool."""
    return unit_float32(a) @ unit_float32(b).T >= threshold - ROUNDING


def unit_float32(rows: np.ndarray) -> np.ndarray:
    """float16 moves a unit row's length by up to 0.0005, which is taken back here."""
    rows = rows.astype(np.float16, copy=False).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def checked_threshold(threshold: float) -> float:
    if not 0 < threshold <= 1:
        raise UserError(f"a cosine threshold of {threshold}: expected more than 0 and at most 1. Give another one")
    return threshold

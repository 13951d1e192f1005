"""Prompts that say nearly the same as an earlier one, or as a scored one, by the cosine of their MiniLM rows.

Every row is compared with all before it. Rows are kept as float16 and compared as float64, on a GPU as float32, whose
sums are rounded at their ends: what lies within ROUNDING below a threshold counts as near, so that equal rows are near
at 1.0 too.

On a CPU most pairs are told apart by less than whole rows, and none is missed. Rows are turned onto orthonormal axes,
the principal ones of the rows at hand, and cut after the first AXES; what remains is rounded to whole numbers of 8
bits, whose products a CPU takes fastest. With a = q_a + e_a + t_a, its whole numbers, what rounding took and what was
cut off, the cosine of a and b is q_a q_b + e_a h_b + h_a e_b - e_a e_b + t_a t_b, where h = q + e is at most 1 long: by
Cauchy and Schwarz at most q_a q_b + |t_a| |t_b| + |e_a| + |e_b| + |e_a| |e_b|. The lengths |t|, rounded up, are whole
numbers beside the others. Only pairs for which that reaches the threshold are compared whole: 2 in 100,000 of real
prompts at 0.9. Any other axes would give the same answers, more slowly.
"""

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from functools import cache

import numpy as np

from kernel.errors import UserError
from kernel.models.vectors import check_unit_rows
from kernel.system.devices import Device

BATCH_ROWS = 1024  # compared at a time
ROUNDING = 1e-6
PART_ROWS = 8192  # that meet a block at once: on a GPU with one of as many rows 340 MB
AXES, CUT = 60, 4  # numbers of a row, and those that tell how long the rest is: 64, as instructions take them
TILE_ROWS = 256  # whose bounds with a batch, 1 MB, stay in a core's cache
SAMPLE_ROWS = 1024  # that principal axes are made of: four times as many save 3 % of the time
MOST = 127  # of 8 bits
ROOM = 1.2  # for rows that are longer along an axis than any of the sample: such a one slows down its whole block
CPU = Device("cpu")


@dataclass(frozen=True)
class Axes:
    """Orthonormal `columns` (d, k) float64, and how many whole numbers a length of 1 along one of them is."""

    columns: np.ndarray
    scale: float


@dataclass(frozen=True)
class Turned:
    """Unit rows (n, d) as float16, and what bounds their cosines: `heads` (n, k + CUT) int8 along the same axes as
    those that they are compared with, of this `scale`, and how far off each is at most: `slack` (n,) float64."""

    rows: np.ndarray
    heads: np.ndarray
    slack: np.ndarray
    scale: float

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: np.ndarray | slice) -> "Turned":
        return Turned(self.rows[chosen], self.heads[chosen], self.slack[chosen], self.scale)

    def followed_by(self, others: "Turned") -> "Turned":
        pairs = ((self.rows, others.rows), (self.heads, others.heads), (self.slack, others.slack))
        rows, heads, slack = (np.concatenate(pair) for pair in pairs)
        return Turned(rows, heads, slack, self.scale)


class NearDuplicates:
    """Keeps rows that are near to no row kept before: first come, first kept.

    Memory: 2 bytes a number of a row kept and 72 bytes beside (840 bytes for MiniLM), and about 100 MB while it
    compares. Time: grows with the square of the rows kept, at 0.6 to 1.2 ns a pair on one core: a million rows kept
    take 5 to 10 minutes of one core, two million four times that. Cores share the work. (40,000 and 2,000 real prompts
    at 0.9; AMD EPYC and Intel Xeon with VNNI, 2026-11-30. Without it, as oneDNN was told there, 1.5. Whole rows take 12
    to 15, and thresholds of 0.8 and less more than that, where most blocks hold pairs that only whole rows tell apart.)
    """

    def __init__(self, threshold: float = 0.9, device: Device = CPU) -> None:
        """Rows whose cosine is `threshold` or more are near. Raises UserError unless it is above 0 and at most 1."""
        self.threshold, self.device = checked_threshold(threshold), device
        self.blocks: list[Turned] = []
        self.axes, self.axes_of = Axes(np.zeros((0, 0)), 1.0), 0  # and the number of rows that they were made of

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
            self.count_in(ours[fresh])
            kept.append(fresh)
        return np.concatenate(kept)

    def add(self, rows: np.ndarray) -> None:
        """Counts unit rows (n, d) as kept without comparing them: those kept before an interruption."""
        self.choose_axes(rows)
        self.count_in(turned(rows, self.axes))

    def count_in(self, kept: Turned) -> None:
        """In blocks that are filled up: many small ones take longer to compare."""
        if self.blocks and len(self.blocks[-1]) + len(kept) <= PART_ROWS:
            kept = self.blocks.pop().followed_by(kept)
        self.blocks.append(kept)

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
    near, left = np.zeros(len(ours), dtype=bool), np.arange(len(ours))
    for block in blocks:
        found = any_near(ours, block, threshold, device)
        if found.any():
            near[left[found]] = True
            ours, left = ours[~found], left[~found]
    return near


def any_near(a: Turned, b: Turned, threshold: float, device: Device) -> np.ndarray:
    """result[i]: whether a[i] is near to any row of b -> (n,) bool. A GPU compares whole rows."""
    near = np.zeros(len(a), dtype=bool)
    if not device.is_gpu:
        for places, _ in near_pairs(a, b, threshold):
            near[places] = True
        return near
    import torch

    theirs = torch.from_numpy(unit_rows_of(b.rows, np.float32)).to(device.name)
    for start in range(0, len(a), PART_ROWS):
        part = slice(start, start + PART_ROWS)
        ours = torch.from_numpy(unit_rows_of(a.rows[part], np.float32)).to(device.name)
        near[part] = (ours @ theirs.T >= threshold - ROUNDING).any(dim=1).cpu().numpy()
    return near


def near_pairs(a: Turned, b: Turned, threshold: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The places in `a` and in `b` of all pairs whose cosine is `threshold` or more, part after part. Where `b` is
    `a` each pair once, the earlier place first, and some again."""
    least = threshold - ROUNDING - 1e-9  # what float64 rounds is far less
    for i in range(0, len(a), BATCH_ROWS):
        for j in range(i if a is b else 0, len(b), BATCH_ROWS):
            rows, near = may_be_near(a[i : i + BATCH_ROWS], b[j : j + BATCH_ROWS], least)
            if a is b and i == j:
                near &= rows[:, None] < np.arange(near.shape[1])
            ours, theirs = i + rows[near.any(axis=1)], j + np.flatnonzero(near.any(axis=0))
            if len(ours):
                first, second = np.nonzero(are_near(a.rows[ours], b.rows[theirs], threshold))
                yield ours[first], theirs[second]


def may_be_near(a: Turned, b: Turned, least: float) -> tuple[np.ndarray, np.ndarray]:
    """The places in `a` (r,) of rows whose cosine with one of `b` may be `least` or more, and with which (r, m)."""
    import torch

    most = float(b.slack.max())
    bounds = np.floor((least - a.slack - most - a.slack * most) * a.scale**2).astype(np.int32)
    ours, theirs, needed = torch.from_numpy(a.heads), torch.from_numpy(b.heads).T, torch.from_numpy(bounds)
    kind, multiply = torch.int32, torch._int_mm
    if not products_of_int8():  # float32 adds whole numbers below 2^24 up exactly
        ours, theirs, kind, multiply = ours.float(), theirs.float(), torch.float32, torch.mm
    largest, tile = torch.empty(len(a), dtype=kind), torch.empty((TILE_ROWS, len(b)), dtype=kind)
    for start in range(0, len(a), TILE_ROWS):
        own = ours[start : start + TILE_ROWS]
        torch.amax(multiply(own, theirs, out=tile[: len(own)]), 1, out=largest[start : start + TILE_ROWS])
    # of the few rows that reach it, once more: a product takes less time than to look at all of it
    rows = (largest >= needed).nonzero()[:, 0]
    return rows.numpy(), (multiply(ours[rows], theirs) >= needed[rows, None]).numpy()


@cache
def products_of_int8() -> bool:
    """Whether this CPU takes products of whole numbers of 8 bits exactly and fast. Where it has no VNNI oneDNN adds two
    of them up in 16 bits, which are too few for the largest; a build without oneDNN takes them one by one."""
    import torch

    largest = torch.full((32, AXES + CUT), MOST, dtype=torch.int8)
    return torch.backends.mkldnn.is_available() and bool(
        (torch._int_mm(largest, largest.T) == largest.shape[1] * MOST**2).all()
    )


def principal_axes(parts: list[np.ndarray]) -> Axes:
    """The longest axes of unit rows (n, d) in parts, AXES or d of them, in directions between which these rows'
    lengths are shared out evenly."""
    step = max(1, sum(map(len, parts)) // SAMPLE_ROWS)
    sample = unit_rows_of(np.concatenate([part[::step] for part in parts]), np.float64)
    _, axes = np.linalg.eigh(sample.T @ sample)
    axes = axes[:, ::-1][:, :AXES]
    evenly, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((axes.shape[1],) * 2))
    axes = axes @ evenly
    along = sample @ axes
    cut = np.linalg.norm(sample - along @ axes.T, axis=1)
    return Axes(axes, MOST / ROOM / max(np.abs(along).max(initial=0.1), cut.max(initial=0) / np.sqrt(CUT)))


def turned(rows: np.ndarray, axes: Axes) -> Turned:
    """Unit rows (n, d); in float64, so that nothing but what is counted as slack is rounded."""
    rows, width = rows.astype(np.float16, copy=False), axes.columns.shape[1]
    heads, slack = np.zeros((len(rows), width + CUT), dtype=np.int8), np.zeros(len(rows))
    for start in range(0, len(rows), BATCH_ROWS):
        own = slice(start, start + BATCH_ROWS)
        whole = unit_rows_of(rows[own], np.float64)
        along = whole @ axes.columns
        cut = np.linalg.norm(whole - along @ axes.columns.T, axis=1) / np.sqrt(CUT)
        heads[own, :width] = np.clip(np.rint(along * axes.scale), -MOST, MOST)
        heads[own, width:] = np.clip(np.ceil(cut * axes.scale), 0, MOST)[:, None]
        rounded = np.linalg.norm(along - heads[own, :width] / axes.scale, axis=1)
        # a longer rest than the whole numbers can tell of counts as slack too
        slack[own] = rounded + np.sqrt(CUT) * np.maximum(cut - heads[own, -1] / axes.scale, 0)
    return Turned(rows, heads, slack, axes.scale)


def are_near(a: np.ndarray, b: np.ndarray, threshold: float) -> np.ndarray:
    """result[i, j]: whether the cosine of a[i] and b[j] is `threshold` or more. (n, d), (m, d) -> (n, m) bool.

    As float64 says, whatever others are compared at once.
    """
    edge = threshold - ROUNDING
    cosines = unit_rows_of(a, np.float32) @ unit_rows_of(b, np.float32).T
    near = cosines >= edge
    # A sum of n products of float32 is off by at most n eps / 2 times the lengths, which are 1 (Higham, Accuracy and
    # Stability of Numerical Algorithms, 3.1), of numbers that are rounded before. Half of this would do.
    unsure = np.abs(cosines - edge) < (a.shape[1] + 8) * np.finfo(np.float32).eps
    if unsure.any():
        ours, theirs = np.flatnonzero(unsure.any(axis=1)), np.flatnonzero(unsure.any(axis=0))
        exact = unit_rows_of(a[ours], np.float64) @ unit_rows_of(b[theirs], np.float64).T
        near[np.ix_(ours, theirs)] = exact >= edge
    return near


def unit_rows_of(rows: np.ndarray, kind: type) -> np.ndarray:
    """float16 moves a unit row's length by up to 0.0005, which is taken back here."""
    rows = rows.astype(np.float16, copy=False).astype(kind)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def checked_threshold(threshold: float) -> float:
    if not 0 < threshold <= 1:
        raise UserError(f"a cosine threshold of {threshold}: expected more than 0 and at most 1. Give another one")
    return threshold

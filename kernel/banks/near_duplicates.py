"""Prompts that say nearly the same as an earlier one, or as a scored one, by the cosine of their MiniLM rows.

Every decision is exact and the same for every batch size, number of cores and machine: rows are rounded to float16,
and the products of float16 numbers, summed over a unit row, fit float64 without any rounding, in whatever order they
are added. A fast float32 search decides only what lies clear of the threshold.
"""

import importlib.util
from collections.abc import Iterator, Set

import numpy as np

from kernel.errors import UserError

BLOCK_ROWS = 8192
BATCH_ROWS = 1024
# float16 moves a unit row's length by less than 2**-11 = 0.0005; the rest is for the encoder that made the row.
LENGTH_TOLERANCE = 0.001
# Two such lengths move a product by up to 0.00201 from the cosine, a float32 sum of 384 products by less than 0.00003.
MARGIN = 0.0025


class NearDuplicates:
    """Keeps rows that are near to no row kept before: first come, first kept.

    Memory: 2 x dimensions bytes a row kept (768 for MiniLM), and about 200 MB while it compares.
    Time: exact at every size, so it grows with the square of the rows kept, at 10 to 14 ns a pair on one core: a
    million rows kept take 1.4 to 2 hours of one core, two million four times that. Cores share the work.
    """

    def __init__(self, dimensions: int, threshold: float = 0.9) -> None:
        """Rows whose cosine is `threshold` or more are near. Raises UserError unless it is above 0 and at most 1."""
        self.dimensions = dimensions
        self.threshold = checked_threshold(threshold)
        self.blocks: list[np.ndarray] = []
        self.count = 0

    def keep(self, rows: np.ndarray) -> np.ndarray:
        """Which rows are kept: those near to none kept in earlier calls or earlier in this one.

        Unit rows (n, d) -> (n,) bool. Any split of the same rows into calls keeps the same rows.
        Example at 0.9: [[1, 0], [0, 1], [1, 0]] -> [True, True, False]
        Raises UserError for rows that are no unit rows (zero, NaN), ValueError for another shape; keeps nothing then.
        """
        rounded = float16_unit_rows(rows, self.dimensions)
        kept = np.zeros(len(rounded), dtype=bool)
        for start in range(0, len(rounded), BATCH_ROWS):
            batch = rounded[start : start + BATCH_ROWS]
            fresh = np.flatnonzero(~near_any(batch, list(self.kept_blocks()), self.threshold))
            first = fresh[first_of_near(batch[fresh], self.threshold)]
            kept[start + first] = True
            self.add(batch[first])
        return kept

    def add(self, rows: np.ndarray) -> None:
        """Counts unit rows (n, d) as kept without comparing them: those kept before an interruption.

        Rows read back from float16 go on exactly where `keep` was. Raises as `keep` does.
        """
        rounded = float16_unit_rows(rows, self.dimensions)
        while len(rounded):
            filled = self.count % BLOCK_ROWS
            if filled == 0:
                self.blocks.append(np.empty((BLOCK_ROWS, self.dimensions), dtype=np.float16))
            part, rounded = np.split(rounded, [BLOCK_ROWS - filled])
            self.blocks[-1][filled : filled + len(part)] = part
            self.count += len(part)

    def kept_blocks(self) -> Iterator[np.ndarray]:
        for start, block in zip(range(0, self.count, BLOCK_ROWS), self.blocks, strict=True):
            yield block[: self.count - start]


def drop_scored(
    prompts: list[str],
    rows: np.ndarray,
    scored_prompts: Set[str],
    scored_rows: np.ndarray,
    threshold: float = 0.95,
) -> tuple[np.ndarray, dict[str, int]]:
    """The leak guard: which prompts may stay in a bank that is measured on the scored ones, and why others may not.

    Prompts with their unit rows (n, d), scored prompts with theirs (m, d) -> (n,) bool, True where the prompt stays,
    and {"equal": ..., "near": ...}: dropped as the same text, and as another text of cosine `threshold` or more.
    Texts are compared as they are, so give both sides as `prompt_files.clean` leaves them; MiniLM reads no capitals,
    so the same words in other letters are near. Raises as `NearDuplicates.keep` does.
    """
    checked_threshold(threshold)
    if len(prompts) != len(rows):
        raise ValueError(f"{len(prompts)} prompts and {len(rows)} rows")
    scored = float16_unit_rows(scored_rows, rows.shape[-1])
    blocks = [scored[start : start + BLOCK_ROWS] for start in range(0, len(scored), BLOCK_ROWS)]
    rounded = float16_unit_rows(rows, rows.shape[-1])
    equal = np.array([prompt in scored_prompts for prompt in prompts], dtype=bool)
    near = ~equal & near_any(rounded, blocks, threshold)
    return ~(equal | near), {"equal": int(equal.sum()), "near": int(near.sum())}


def require_faiss() -> None:
    """Raises UserError where the search cannot run, so that nothing is encoded for it in vain."""
    if importlib.util.find_spec("faiss") is None:
        raise UserError(
            "finding near duplicates needs faiss, which is not installed; nothing was encoded. Install it with "
            "'python -m pip install faiss-cpu', then run again"
        )


def near_any(rows: np.ndarray, blocks: list[np.ndarray], threshold: float) -> np.ndarray:
    """Which rows are near to any row of any block. float16 unit rows (n, d), blocks of (m, d) -> (n,) bool."""
    import faiss

    near = np.zeros(len(rows), dtype=bool)
    for start in range(0, len(rows), BATCH_ROWS):
        batch = rows[start : start + BATCH_ROWS]
        undecided = np.arange(len(batch))
        for block in blocks:
            queries, stored = batch[undecided].astype(np.float32), block.astype(np.float32)
            # float64, as float32 would round the two borders and could leave a gap between them
            best = faiss.knn(queries, stored, 1, faiss.METRIC_INNER_PRODUCT)[0][:, 0].astype(np.float64)
            found = best >= threshold + MARGIN
            close = ~found & (best > threshold - MARGIN)
            found[close] = (cosines(batch[undecided[close]], block) >= threshold).any(axis=1)
            near[start + undecided[found]] = True
            undecided = undecided[~found]
            if not len(undecided):
                break
    return near


def first_of_near(rows: np.ndarray, threshold: float) -> np.ndarray:
    """Which rows are near to no earlier row that is kept itself. float16 unit rows (n, d) -> (n,) bool."""
    near = cosines(rows, rows) >= threshold
    kept = np.ones(len(rows), dtype=bool)
    for place in range(len(rows)):
        if kept[place]:
            kept[place + 1 :] &= ~near[place, place + 1 :]
    return kept


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """result[i, j] = cos(a[i], b[j]), the same bits however it is computed. float16 unit rows (n, d), (m, d) -> (n, m).

    Products of float16 are multiples of 2**-48 and their sum stays below 2: 49 bits of float64's 53. Equal rows give
    exactly 1.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a @ b.T) / np.sqrt(np.outer((a * a).sum(axis=1), (b * b).sum(axis=1)))


def float16_unit_rows(rows: np.ndarray, dimensions: int) -> np.ndarray:
    """Rows rounded to float16. Raises ValueError for another shape than (n, dimensions), UserError for no unit rows."""
    if rows.ndim != 2 or rows.shape[1] != dimensions:
        raise ValueError(f"rows of shape {rows.shape}; expected (n, {dimensions})")
    # a number too large for float16 becomes infinite and is refused with the rest
    with np.errstate(over="ignore"):
        rounded = rows.astype(np.float16)
    lengths = np.linalg.norm(rounded.astype(np.float32), axis=1)
    wrong = np.flatnonzero(~(np.abs(lengths - 1) <= LENGTH_TOLERANCE))
    if len(wrong):
        raise UserError(
            f"{len(wrong)} of {len(rows)} rows are no unit rows: row {wrong[0]} has length {lengths[wrong[0]]:.4g}; "
            "expected 1, so their cosines would mean nothing. Check the model's weights, then encode the prompts again"
        )
    return rounded


def checked_threshold(threshold: float) -> float:
    if not 0 < threshold <= 1:
        raise UserError(f"a cosine threshold of {threshold}: expected more than 0 and at most 1. Give another one")
    return threshold

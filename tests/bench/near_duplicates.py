"""Near duplicates of real prompts: the processor time of a row and of a pair, and how many of them are found."""

import time
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np

from kernel.banks.cleaning import clean_prompts
from kernel.banks.near_duplicates import BATCH_ROWS, CPU, ROUNDING, NearDuplicates, near_blocks, turned
from kernel.banks.prompt_files import read_prompts_from
from kernel.models.sentences import SentenceEncoder
from kernel.models.weights_folder import open_weights

PROMPTS, SHORTENED = 2048, 16  # of each so many one with its last word left out stands beside them
TIMES, ROUNDS = 256, 3  # beside one round more, the first, numpy's threads wait for more to multiply
BATCH = 64
MILLION = 1e6


def first_prompts(file: Path, count: int = PROMPTS) -> list[str]:
    return list(islice(clean_prompts(read_prompts_from([file]), Counter()), count))


def rows_of(prompts: list[str], weights: Path) -> np.ndarray:
    """MiniLM's rows (n, 384) of the prompts, and after them of some without their last word."""
    shortened = [prompt.rpartition(" ")[0] for prompt in prompts[::SHORTENED]]
    encoder = SentenceEncoder.load(open_weights(weights, parts=("sentences",)), CPU)
    return encoder.encode([*prompts, *filter(None, shortened)], BATCH)


def near_duplicates(rows: np.ndarray, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Seconds of one core for a `row`, to prepare it, and for a `pair`, to compare it with another row; `recall`: the
    share of what comparing every pair drops that is dropped. Raises AssertionError where anything else is."""
    import torch

    near = NearDuplicates()
    kept, truth = near.keep(rows), kept_by_every_pair(rows, near.threshold)
    assert not (~kept & truth).any()
    found: dict[str, list[float]] = {"row": [], "pair": [], "recall": [float((~kept & ~truth).sum() / (~truth).sum())]}
    for _ in range(rounds):
        begun = time.process_time()  # of all cores together: numpy takes what there are
        ours = turned(rows[kept], near.axes)
        found["row"].append((time.process_time() - begun) / len(ours))
    half = min(BATCH_ROWS, len(ours) // 2)
    first, second = ours[:half], ours[half : 2 * half]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(1 + rounds):
        begun = time.process_time()
        for _ in range(TIMES):
            near_blocks(first, [second], near.threshold, CPU)
        found["pair"].append((time.process_time() - begun) / TIMES / len(first) / len(second))
    torch.set_num_threads(threads)
    del found["pair"][0]
    return found


def kept_by_every_pair(rows: np.ndarray, threshold: float) -> np.ndarray:
    stored = rows.astype(np.float16).astype(np.float64)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    near = stored @ stored.T >= threshold - ROUNDING
    kept = np.ones(len(rows), dtype=bool)
    for place in range(len(rows)):
        kept[place] = not (near[place, :place] & kept[:place]).any()
    return kept


def minutes_per_million(row: float, pair: float) -> float:
    """Of one core, by these seconds: a million rows, all of them kept, and each pair of them once."""
    return (MILLION * row + MILLION**2 / 2 * pair) / 60

"""95 % intervals of a mean over pictures of which several share a prompt: prompts are drawn, not pictures."""

import numpy as np

RESAMPLES, SEED = 2000, 0


def interval_over_groups(values: np.ndarray, groups: list[str]) -> tuple[float, float]:
    """Percentile interval of the mean over all values, whole groups drawn with replacement (Efron 1979; the cluster
    bootstrap). Pictures of one prompt are no independent draws, and an interval over them alone would be too narrow.

    Example: values [0, 0, 1, 1], groups ["a", "a", "b", "b"] -> (0.0, 1.0)
    """
    names = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    numbers = np.array([names[group] for group in groups])
    sums, counts = np.bincount(numbers, weights=values), np.bincount(numbers)
    draws = np.random.default_rng(SEED).integers(0, len(names), size=(RESAMPLES, len(names)))
    low, high = np.percentile(sums[draws].sum(axis=1) / counts[draws].sum(axis=1), (2.5, 97.5))
    return float(low), float(high)

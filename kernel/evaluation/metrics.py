"""Mean cosine with a bootstrap interval."""

from dataclasses import dataclass

import numpy as np

from kernel.models.vectors import unit_rows


@dataclass(frozen=True)
class Score:
    """`mean` is the competition's score; `flattened` the seed deck's cosine over all rows as one vector."""

    n: int
    mean: float
    ci95: tuple[float, float]
    flattened: float
    per_image: dict[str, float]


def pairwise_cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row-wise cosine: result[i] = cos(a[i], b[i]). Shapes (n, d), (n, d) -> (n,).

    Example: a=[[1, 0]], b=[[1, 1]] -> [0.7071]
    Raises ValueError when the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"shapes {a.shape} and {b.shape} differ")
    return np.einsum("nd,nd->n", unit_rows(a).astype(np.float64), unit_rows(b).astype(np.float64))


def bootstrap_interval(values: np.ndarray, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean (Efron 1979), images drawn with replacement."""
    draws = np.random.default_rng(seed).integers(0, len(values), size=(resamples, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), (2.5, 97.5))
    return float(low), float(high)


def score(ids: list[str], predicted: np.ndarray, truth: np.ndarray) -> Score:
    """Predicted and true rows of the same images, (n, 384) each."""
    cosines = pairwise_cosine(predicted, truth)
    flattened = pairwise_cosine(predicted.reshape(1, -1), truth.reshape(1, -1))[0]
    per_image = {image_id: float(cosine) for image_id, cosine in zip(ids, cosines, strict=True)}
    return Score(len(ids), float(cosines.mean()), bootstrap_interval(cosines), float(flattened), per_image)

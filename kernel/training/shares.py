"""Shares of the estimates, fitted on images whose prompts are known, and judged on images they were not fitted on.

For one image with unit estimates e_1..e_m and its true unit vector t, the cosine of the fused answer is
w.a / sqrt(w.G.w) with a_k = e_k.t and G_kl = e_k.e_l. So images become m and m x m numbers once, and a fit needs no
vector any more. A shrink toward the mean prompt is the share of the estimate `constant`.
"""

from dataclasses import dataclass

import numpy as np

from kernel.errors import UserError
from kernel.evaluation.evaluate import bootstrap_interval

FOLDS = 5
SEED = 0
FEWEST = 2 * FOLDS  # images: each fold holds some out and fits on others


@dataclass(frozen=True)
class Products:
    """dots (n, m): estimate k of image i with its truth; grams (n, m, m): estimates of image i with each other."""

    dots: np.ndarray
    grams: np.ndarray

    def of(self, images: np.ndarray) -> "Products":
        return Products(self.dots[images], self.grams[images])

    def among(self, estimates: list[int]) -> "Products":
        return Products(self.dots[:, estimates], self.grams[:, estimates][:, :, estimates])


@dataclass(frozen=True)
class Fit:
    """Shares fitted on all images; their mean cosine on images held out of the fit, with a 95 % interval."""

    shares: dict[str, float]
    held_out: float
    ci95: tuple[float, float]


def products(estimates: np.ndarray, truth: np.ndarray) -> Products:
    """Unit rows (m, n, d) and (n, d) -> Products. A zero row counts as an estimate that says nothing."""
    rows, true = estimates.astype(np.float64), truth.astype(np.float64)
    return Products(np.einsum("mnd,nd->nm", rows, true), np.einsum("mnd,knd->nmk", rows, rows))


def cosines(shares: np.ndarray, known: Products) -> np.ndarray:
    """Each image's cosine of the fused answer, 0 where the estimates cancel. Shares (m,) -> (n,).

    Example: dots [[1, 0]], grams [[[1, 0], [0, 1]]] (two estimates at right angles, the first right), shares
    [0.5, 0.5] -> [0.7071]
    """
    squares = np.einsum("m,nmk,k->n", shares, known.grams, shares)
    lengths = np.sqrt(np.maximum(squares, 0))
    return np.divide(known.dots @ shares, lengths, out=np.zeros(len(lengths)), where=lengths > 1e-12)


def best_shares(known: Products) -> np.ndarray:
    """Shares on the simplex with the largest mean cosine, by SLSQP from the uniform shares and from each alone."""
    from scipy.optimize import minimize

    count = known.dots.shape[1]

    def loss(shares: np.ndarray) -> tuple[float, np.ndarray]:
        turned = known.grams @ shares
        lengths = np.sqrt(np.maximum(turned @ shares, 1e-12))
        along = known.dots @ shares
        slope = known.dots / lengths[:, None] - (along / lengths**3)[:, None] * turned
        return -float((along / lengths).mean()), -slope.mean(axis=0)

    uniform = np.full(count, 1 / count)
    found = []
    for start in [uniform, *(0.9 * np.eye(count) + 0.1 * uniform)]:
        result = minimize(
            loss,
            start,
            jac=True,
            method="SLSQP",
            bounds=[(0, 1)] * count,
            constraints={"type": "eq", "fun": lambda shares: shares.sum() - 1, "jac": np.ones_like},
            options={"maxiter": 200, "ftol": 1e-10},
        )
        shares = np.clip(result.x, 0, None)
        found.append(shares / shares.sum())
    return max(found, key=lambda shares: cosines(shares, known).mean())


def require_enough(images: int) -> None:
    if images < FEWEST:
        raise UserError(f"{images} images with known prompts; expected {FEWEST} or more to fit shares on. Add images")


def fit_shares(names: list[str], known: Products) -> Fit:
    """Fits on all images; judges by cross-validation over images, each held out once of FOLDS fits.

    Raises UserError for fewer than FEWEST images.
    """
    count = len(known.dots)
    require_enough(count)
    order = np.random.default_rng(SEED).permutation(count)
    held_out = np.empty(count)
    for fold in np.array_split(order, FOLDS):
        rest = np.setdiff1d(order, fold)
        held_out[fold] = cosines(best_shares(known.of(rest)), known.of(fold))
    shares = best_shares(known)
    rounded = dict(zip(names, (float(share) for share in shares.round(4)), strict=True))
    largest = max(rounded, key=lambda name: rounded[name])
    rounded[largest] += 1 - sum(rounded.values())  # rounding must not take the sum off 1
    return Fit(rounded, float(held_out.mean()), bootstrap_interval(held_out))

"""The text-only head: a linear map from CLIP features to MiniLM vectors, fitted on prompts alone.

CLIP's text features of many prompts are regressed on the prompts' MiniLM vectors; the map is then applied to
IMAGE features, so no picture is needed for it (published by the competition's 7th place). The two kinds of
features lie apart, so each is centred by its own mean first; what is left between an image and its prompt counts as
noise that the map must bear. Only the Gram matrices are kept, so memory does not depend on the number of prompts:
(1 + d + 384) squared float64, 16 MB for ViT-g-14's 1,024 dimensions.

The same ridge regression fits an image encoder's head on features of images whose prompts are known, without that
noise.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kernel.errors import UserError
from kernel.models.vectors import check_finite, unit_rows
from kernel.system.files import write_whole
from kernel.system.tensor_files import read_header

# Of the mean squared feature an element, so that it means the same for every d and n. For unit rows this mean is
# 1 / d, never 0, so one prompt and fewer prompts than dimensions have a solution too.
# Largest first: of equal held-out errors the first is taken, which trusts the features least.
REGULARISATIONS = (10.0, 3.0, 1.0, 3e-1, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
HELD_OUT_EVERY = 10
# Squared distance between the unit features of an image and of its prompt once each side's mean is taken off: matched
# cosines of CLIP lie near 0.3, so 2 - 2 * 0.3, less the squared distance of the means, 0.82 (Liang et al. 2022, "Mind
# the Gap"). Training on texts blurred by noise for that reason: Nukrai et al. 2022, "CapDec".
IMAGE_NOISE = 0.7
TENSORS = ("weights", "feature_mean", "embedding_mean")
ADVICE = "Make the bank again: 'python -m kernel bank PROMPTS --weights DIR --out BANK'"


class Gram:
    """Sum of z z' over rows z = (1, x, y), in float64: all that a least-squares fit needs of them.

    Example: x rows [[1], [2]], y rows [[3], [5]] -> [[2, 3, 8], [3, 5, 13], [8, 13, 34]]
    """

    def __init__(self, features: int, embeddings: int) -> None:
        self.x, self.y = slice(1, 1 + features), slice(1 + features, 1 + features + embeddings)
        self.sums = np.zeros((self.y.stop, self.y.stop))

    @property
    def n(self) -> int:
        return int(self.sums[0, 0])

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Takes in rows x (n, d) and y (n, e) of any float type.

        Raises UserError for a number that is not finite, ValueError for another shape.
        """
        expected = (self.y.start - 1, self.y.stop - self.y.start)
        if (x.shape, y.shape) != ((len(x), expected[0]), (len(x), expected[1])):
            raise ValueError(f"shapes {x.shape} and {y.shape}; expected n rows of {expected} numbers each")
        for name, rows in (("feature", x), ("embedding", y)):
            check_finite(name, rows)
        whole = np.hstack([np.ones((len(x), 1)), x, y])
        self.sums += whole.T @ whole

    def __add__(self, other: "Gram") -> "Gram":
        both = Gram(self.y.start - 1, self.y.stop - self.y.start)
        both.sums = self.sums + other.sums
        return both

    def means(self) -> tuple[np.ndarray, np.ndarray]:
        return self.sums[0, self.x] / self.n, self.sums[0, self.y] / self.n

    def moments(self, mean_x: np.ndarray, mean_y: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Mean of x x' (d, d), of x y' (d, e) and of |y|^2, with x and y taken from these means on."""
        own, mean = self.sums[0] / self.n, np.concatenate([[1], mean_x, mean_y])
        about = self.sums / self.n - np.outer(own, mean) - np.outer(mean, own) + np.outer(mean, mean)
        return about[self.x, self.x], about[self.x, self.y], float(np.trace(about[self.y, self.y]))


@dataclass(frozen=True)
class Head:
    """weights (d, e), feature_mean (d,) and embedding_mean (e,) float32, over the rows that it was fitted on."""

    weights: np.ndarray
    feature_mean: np.ndarray
    embedding_mean: np.ndarray
    regularisation: float

    def apply(self, image_features: np.ndarray, image_mean: np.ndarray) -> np.ndarray:
        """Image features (n, d) less their own mean (d,), mapped, plus the embeddings' mean -> (n, e) unit rows.

        `image_mean` is `mean_feature` of many images. A head that was fitted on image features takes its own
        `feature_mean` for it. Raises UserError for a number that is not finite.
        """
        check_finite("image feature", image_features)
        check_finite("image mean", image_mean[None])
        return unit_rows((image_features - image_mean) @ self.weights + self.embedding_mean)

    def save(self, path: Path) -> None:
        from safetensors.numpy import save

        tensors = {name: getattr(self, name) for name in TENSORS}
        write_whole(path, save(tensors, metadata={"regularisation": repr(self.regularisation)}))


def mean_feature(image_features: np.ndarray) -> np.ndarray:
    """Mean of the images' features, (n, d) -> (d,) float32; a bad image's zero row does not count.

    Of a single image it is the image itself, so the head then says no more than the embeddings' mean.
    """
    check_finite("image feature", image_features)
    good = image_features[np.abs(image_features).max(axis=1) > 0]
    return (good.sum(axis=0, dtype=np.float64) / max(len(good), 1)).astype(np.float32)


def stream_grams(batches: Iterable[tuple[np.ndarray, np.ndarray]], features: int, embeddings: int) -> tuple[Gram, Gram]:
    """Batches of rows x (b, d) and y (b, e), once through -> (train, held out): every tenth row is held out.

    Which rows are held out depends on their places in the stream alone, not on the batches' borders.
    """
    train, held_out = Gram(features, embeddings), Gram(features, embeddings)
    start = 0
    for x, y in batches:
        held = np.arange(start, start + len(x)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
        train.add(x[~held], y[~held])
        held_out.add(x[held], y[held])
        start += len(x)
    return train, held_out


def fit_head(train: Gram, held_out: Gram, noise: float) -> Head:
    """Ridge regression, centred on both sides, of the regularisation with the least held-out squared error.

    `noise` is the squared length of what an applied feature carries beside a fitted one: IMAGE_NOISE from prompts to
    images. The chosen regularisation is then fitted on train and held-out rows together. Too few rows to hold any out
    take the largest. Raises UserError when there is no row.
    """
    whole = train + held_out
    if whole.n == 0:
        raise UserError(f"no prompts to fit the text-only head on; expected at least one. {ADVICE}")
    chosen = REGULARISATIONS[0]
    if train.n and held_out.n:
        chosen = REGULARISATIONS[int(np.argmin(held_out_errors(train, held_out, REGULARISATIONS, noise)))]
    return ridge(whole, chosen)


def ridge(whole: Gram, regularisation: float) -> Head:
    """weights = (cov_xx + r m I)^-1 cov_xy, m the mean squared feature an element."""
    mean_x, mean_y = whole.means()
    xx, xy, _ = whole.moments(mean_x, mean_y)
    weights = np.linalg.solve(xx + regularisation * mean_square(whole) * np.eye(len(xx)), xy)
    return Head(weights.astype(np.float32), mean_x.astype(np.float32), mean_y.astype(np.float32), regularisation)


def mean_square(gram: Gram) -> float:
    """Mean squared feature an element; 1 where every feature is 0, so that the fit stays solvable."""
    return float(np.diag(gram.sums)[gram.x].mean()) / gram.n or 1.0


def held_out_errors(train: Gram, held_out: Gram, regularisations: Iterable[float], noise: float) -> list[float]:
    """Mean over the held-out rows of |y - predicted y|^2 for each regularisation, from the Gram matrices alone.

    `noise` is the expected squared length of what is added to each held-out row, alike in all d directions: the error
    grows by noise / d * |weights|^2. One eigendecomposition cov_xx = V diag(s) V' serves all:
    weights = V diag(1 / (s + r m)) V' cov_xy.
    """
    mean_x, mean_y = train.means()
    xx, xy, _ = train.moments(mean_x, mean_y)
    held_xx, held_xy, held_yy = held_out.moments(mean_x, mean_y)
    s, v = np.linalg.eigh(xx)
    turned = v.T @ xy
    quadratic = (v.T @ held_xx @ v) * (turned @ turned.T)
    linear = np.sum(turned * (v.T @ held_xy), axis=1)
    errors = []
    for regularisation in regularisations:
        shrink = 1 / (np.maximum(s, 0) + regularisation * mean_square(train))
        blurred = noise / len(xx) * shrink**2 @ np.sum(turned**2, axis=1)
        errors.append(float(held_yy - 2 * shrink @ linear + shrink @ quadratic @ shrink + blurred))
    return errors


def load_head(path: Path) -> Head:
    """Raises UserError, naming the file, unless it holds the three tensors in float32, fitting, and finite."""
    from safetensors import SafetensorError, safe_open

    try:
        read_header(path)
        with safe_open(path, framework="np") as file:
            tensors = [file.get_tensor(name) for name in TENSORS]
            regularisation = float((file.metadata() or {})["regularisation"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not a text-only head ({error}). {ADVICE}") from error
    weights, feature_mean, embedding_mean = tensors
    shapes = [tensor.shape for tensor in tensors]
    if len(shapes[0]) != 2 or shapes[1:] != [shapes[0][:1], shapes[0][1:]]:
        raise UserError(f"{path}: shapes {shapes} of {', '.join(TENSORS)}; expected (d, e), (d,), (e,). {ADVICE}")
    if any(tensor.dtype != np.float32 or not np.isfinite(tensor).all() for tensor in tensors):
        raise UserError(f"{path}: holds numbers that are not finite float32: the file is damaged. {ADVICE}")
    return Head(weights, feature_mean, embedding_mean, regularisation)

"""The true prompts of images, prompts.csv, and mean cosine against them with a bootstrap interval."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kernel.errors import UserError, first_line, shown
from kernel.models.vectors import unit_rows
from kernel.system.files import file_sha256
from kernel.system.opening import open_file


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


def evaluate(submission: Path, prompts: Path, weights: Path, device: str = "auto") -> Score:
    """A submission's score by a prompts.csv of exactly its images, embedded by the MiniLM of a weights folder.

    Raises UserError when either file is not what it should be, an image is in only one of them, or the run that is to
    write the submission has not answered yet. Warns on stderr where that run had problems, or asked a prompt bank that
    may hold the very prompts.
    """
    from kernel.config import Recipe
    from kernel.evaluation.finished import answered_record
    from kernel.models.sentences import SentenceEncoder
    from kernel.models.weights_folder import open_weights
    from kernel.pipeline.folder.run_folder import read_run
    from kernel.pipeline.submission import read_submission
    from kernel.system.devices import find_device

    known, rows = read_prompts(prompts), read_submission(submission)
    require_prompts(prompts, known, list(rows))
    if foreign := [image_id for image_id in known if image_id not in rows]:
        raise UserError(
            f"{prompts}: {len(foreign)} of {len(known)} prompts are of no image of {submission}, the first is that of "
            f"{foreign[0]!r}; expected exactly its images"
        )
    if read_run(submission.parent):  # where a run wrote the submission, its record lies beside it
        made = answered_record(submission.parent)
        for problem in made["problems"]:
            print(f"warning: {submission.parent}: {problem}", file=sys.stderr)
        if made["bank"]:
            warn_of_leak(made["bank"]["excluded"], prompts)
    encoder = SentenceEncoder.load(open_weights(weights, parts=("sentences",)), find_device(device))
    truth = encoder.encode(list(known.values()), Recipe().text_batch)
    return score(list(known), np.stack([rows[image_id] for image_id in known]), truth)


def require_prompts(path: Path, known: dict[str, str], ids: list[str]) -> None:
    """Raises UserError unless every image has a prompt among the `known` ones, which `path` holds."""
    missing = [image_id for image_id in ids if image_id not in known]
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of {len(ids)} images have no prompt, the first is {missing[0]!r}; expected one "
            "for each image"
        )


def warn_of_leak(excluded: Mapping[str, Any] | None, prompts: Path) -> None:
    """Says on stderr that a bank may hold the scored prompts, unless it was built with `--exclude` of this very file.

    `excluded` is what the bank's record says of that.
    """
    if excluded is None or excluded.get("sha256") != file_sha256(prompts):
        print(
            f"warning: the prompt bank was built without '--exclude {prompts}': where it holds these very prompts, "
            "neighbours look better than they are, and so do scores and shares. Build one with it",
            file=sys.stderr,
        )


def read_prompts(path: Path) -> dict[str, str]:
    """Id -> prompt from a `prompts.csv` (`imgId,prompt`). Raises UserError for anything else."""
    import pandas as pd

    try:
        with open_file(path) as file:
            table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected prompts with the columns imgId,prompt") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: a folder; expected prompts with the columns imgId,prompt, a file") from error
    except (ValueError, OSError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"{path}: not a CSV table ({reason}); expected the columns imgId,prompt") from error
    if list(table.columns) != ["imgId", "prompt"]:
        raise UserError(f"{path}: columns {shown(','.join(map(str, table.columns)))}; expected exactly imgId,prompt")
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes the first of too many values as row labels
        raise UserError(f"{path}: rows hold more than two values; put prompts that contain commas in double quotes")
    repeated = table["imgId"][table["imgId"].duplicated()]
    if len(repeated):
        raise UserError(
            f"{path}: {len(repeated)} ids are repeated, the first is {repeated.iloc[0]!r}; expected each once"
        )
    if table.empty:
        raise UserError(f"{path}: no prompts; expected one row an image")
    return dict(zip(table["imgId"], table["prompt"], strict=True))

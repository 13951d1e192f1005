"""Mean cosine against the true prompts, with a bootstrap interval."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kernel.errors import UserError
from kernel.evaluation.metrics import Score, score
from kernel.evaluation.truth import read_prompts
from kernel.system.files import file_sha256


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

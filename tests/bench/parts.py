"""Single steps beside the ways of others, in turns, in one process: `python -m tests.bench.parts`.

Ranking 100,952 phrases of 1,024 dimensions, the submission of 16,000 images, decoding, training, an own encoder.
"""

import json
import statistics
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np

from kernel.banks.word_banks import rank
from kernel.pipeline.submission import read_submission, write_submission
from tests.bench.contenders.plain import pandas_submission
from tests.bench.encoding import encoding
from tests.bench.stopwatch import in_turns
from tests.bench.training import training

PHRASES, DIMENSIONS, TOP = 100_952, 1024, 3
IMAGES = 256  # ranked at a time; the others' ways take single ones, of which one tells enough in so many rounds
SINGLE = 1
ROWS = 16_000
PICTURES = Path("build/bench/pictures")
ROUNDS = 3
SUBMISSION_ROUNDS = 3
WRITTEN = 2  # times a turn by ours, which a disk makes wait more or less
RANK_ROUNDS = 9  # under a second each: a median of three was once 1.57 where two later ones were 1.04 and 0.97


def unit(rng: np.random.Generator, rows: int) -> np.ndarray:
    found = rng.standard_normal((rows, DIMENSIONS), dtype=np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def ranking(rounds: int = RANK_ROUNDS, phrases: int = PHRASES, images: int = IMAGES) -> dict[str, list[float]]:
    """Seconds an image."""
    import torch
    from clip_interrogator import Config, LabelTable

    rng = np.random.default_rng(0)
    bank, features = unit(rng, phrases), unit(rng, images)
    bank_tensor, features_tensor = torch.from_numpy(bank), torch.from_numpy(features)
    table = LabelTable.__new__(LabelTable)
    table.config, table.chunk_size, table.device = Config(), Config.chunk_size, "cpu"
    table.config.quiet = True
    table.labels, table.embeds = [str(index) for index in range(phrases)], list(bank)
    cosine = torch.nn.CosineSimilarity(dim=1)

    def seed() -> None:
        for row in features_tensor[:SINGLE]:
            cosine(row[None], bank_tensor).topk(TOP)

    def peer() -> None:
        for row in features_tensor[:SINGLE]:
            table.rank(row[None], TOP)

    ways = {
        "ours": (lambda: rank(features, bank, TOP), images),
        "product": (lambda: (features_tensor @ bank_tensor.T).topk(TOP), images),
        "seed": (seed, SINGLE),
        "clip_interrogator": (peer, SINGLE),
    }
    return in_turns(ways, rounds)


def submissions(rounds: int = SUBMISSION_ROUNDS, images: int = ROWS) -> dict[str, list[float]]:
    """Seconds a submission, ours with its check. Raises AssertionError unless ours reads back bit for bit."""
    rows = np.random.default_rng(0).standard_normal((images, 384), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ids = [f"{index:09x}" for index in range(images)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "submission.csv")
        ways = {
            "ours": (lambda: [write_submission(path, ids, rows) for _ in range(WRITTEN)], WRITTEN),
            "pandas": (lambda: pandas_submission(Path(folder, "pandas.csv"), ids, rows), 1),
        }
        seconds = in_turns(ways, rounds)
        found = read_submission(path)
    assert list(found) == ids and np.stack(list(found.values())).tobytes() == rows.tobytes()
    return seconds


def decoding(rounds: int, pictures: Path) -> dict[str, list[float]]:
    """Seconds a picture of 512 px from its file to CLIP's pixels: by threads ahead as the line does, and one by one."""
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from PIL import Image

    from kernel.pipeline.decoding import decoded_batches
    from kernel.pipeline.images import list_images

    files = list_images(pictures)
    preprocess = image_transform_v2(PreprocessCfg(size=224), is_train=False)

    def ours() -> None:
        for batch in decoded_batches(files, 16):
            for _, image in batch:
                preprocess(image)

    def single() -> None:
        for file in files:
            preprocess(Image.open(file.path).convert("RGB"))

    return in_turns({"ours": (ours, len(files)), "single": (single, len(files))}, rounds)


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(each) for name, each in seconds.items()}


def measured(
    pictures: Path, small: bool = False, clock: Callable[[str], AbstractContextManager[None]] = nullcontext
) -> dict[str, dict[str, float]]:
    """Median seconds of every way of every part; `small`: few of everything, that it works. `clock`: around each."""
    parts: dict[str, Callable[[], dict[str, list[float]]]] = {
        "rank": partial(ranking, 1, 5_000, 4) if small else ranking,
        "submission": partial(submissions, 1, 20) if small else submissions,
        "decode": partial(decoding, 1 if small else ROUNDS, pictures),
        "training": partial(training, 1, 2, "test_vit2") if small else training,
        "encoder": partial(encoding, pictures, *((1, 3, "test_vit2") if small else ())),
    }
    found = {}
    for name, part in parts.items():
        with clock(name):
            found[name] = medians(part())
    return found


if __name__ == "__main__":
    print(json.dumps(measured(PICTURES)))

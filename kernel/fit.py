"""`fit`: the shares of recipe `text`, fitted on images with known prompts, kept beside the bank as fusion.json."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kernel.checkpoints import file_sha256, open_weights
from kernel.config import ESTIMATES, RECIPES, Paths
from kernel.devices import find_device
from kernel.errors import UserError
from kernel.evaluation import read_prompts
from kernel.fit_shares import cosines, fit_shares, products
from kernel.fusion import unit_rows
from kernel.images import list_images
from kernel.pipeline import run
from kernel.prompt_bank import FORMAT, RECORD, SHARES, read_record
from kernel.sentences import SentenceEncoder
from kernel.store import RunFolder, write_json


def fit(pairs: Path, weights: Path, bank: Path, out: Path, device: str = "auto") -> dict[str, Any]:
    """Runs every estimate over `pairs/images`, fits their shares to `pairs/prompts.csv`, writes BANK/fusion.json.

    `out` is the run folder; a killed fit goes on there. Bad images are left out. Returns what it wrote.
    """
    prompts = read_prompts(pairs / "prompts.csv")
    images = list_images(pairs / "images")
    if {image.id for image in images} != set(prompts):
        odd = sorted({image.id for image in images} ^ set(prompts))
        raise UserError(
            f"{pairs}: {len(odd)} ids are only among the images or only in prompts.csv, the first is {odd[0]!r}; "
            "expected a prompt for each image. Remove what has no partner"
        )
    warn_of_leak(read_record(bank / RECORD), pairs / "prompts.csv")
    text = RECIPES["text"]
    everything = replace(text, estimates=dict.fromkeys(ESTIMATES, 1 / len(ESTIMATES)))
    content = run(everything, Paths(pairs / "images", weights, out, bank), device)
    folder = RunFolder(out, images, everything.shard_images)
    good = np.array([image.id not in content["bad_images"] for image in images])
    estimates = np.stack([unit_rows(folder.read_estimate(name))[good] for name in ESTIMATES])
    encoder = SentenceEncoder.load(open_weights(weights, parts=("sentences",)), find_device(device))
    truth = encoder.encode([prompts[image.id] for image in images], text.text_batch)[good]
    known = products(estimates, truth)
    fitted = fit_shares(list(ESTIMATES), known)
    published = np.array([text.estimates.get(name, 0) for name in ESTIMATES])
    record = read_record(bank / RECORD)
    result = {
        "format": FORMAT,
        "shares": fitted.shares,
        "images": int(good.sum()),
        "held_out": {"mean": fitted.held_out, "ci95": list(fitted.ci95)},
        "published_shares": float(cosines(published, known).mean()),
        "alone": {name: float(own.mean()) for name, own in zip(ESTIMATES, known.dots.T, strict=True)},
        "clip": record["clip"],
        "sentences": record["sentences"],
    }
    write_json(bank / SHARES, result)
    return result


def warn_of_leak(record: dict[str, Any], prompts: Path) -> None:
    excluded = record["excluded"]
    if excluded is None or excluded["sha256"] != file_sha256(prompts):
        print(
            f"warning: the bank was built without '--exclude {prompts}': where it holds these very prompts, neighbours "
            "look better than they are, and shares fitted so mislead",
            file=sys.stderr,
        )

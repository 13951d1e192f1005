"""The line from images to submission.csv, stage by stage: every image through CLIP, then every image
through the captioner, and so on, with one model resident at a time."""

import importlib.metadata
import os
import platform
import resource
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from kernel import __version__
from kernel.captions import inspect_captioner
from kernel.checkpoints import file_sha256, open_weights
from kernel.config import Paths, Recipe
from kernel.constant import constant_row
from kernel.deadline import NEVER, Deadline, Watchdog
from kernel.devices import Device, find_device
from kernel.images import list_images
from kernel.inventory import captioners_named, opened_bank, with_fitted_shares, word_lists
from kernel.preflight import check_disk, only_run
from kernel.prompt_bank import RECORD, REGRESSION
from kernel.sentences import SentenceEncoder
from kernel.stages import caption_cosines_stage, captions_stage, clip_stage, estimates_stage
from kernel.store import cannot_write, images_sha256, open_run
from kernel.submission import check_submission, write_submission
from kernel.word_banks import features_key

REPORTED_VERSIONS = ("torch", "open_clip_torch", "transformers", "sentence-transformers", "numpy", "pandas", "pillow")


def run(
    recipe: Recipe,
    paths: Paths,
    device_name: str = "auto",
    limit: int | None = None,
    deadline: Deadline = NEVER,
) -> dict[str, Any]:
    """Runs the recipe over every image of `paths.images` and returns what it writes to run.json.

    A valid submission stands from the start on, and is replaced by a better one after each stage that gives one: the
    constant, then what needs no captions, then all. Raises UserError before the first image for anything about weights,
    recipe, device or output folder; after it only when nothing can be written any more. When the deadline passes while
    something hangs, the process ends with exit code 1 and the last submission stands.
    """
    started = time.time()
    images = list_images(paths.images)[:limit]
    weights = open_weights(paths.weights)
    captioners = captioners_named(recipe, weights)
    words = word_lists(recipe, weights)
    bank = opened_bank(recipe, paths, weights)
    recipe, shares_from = with_fitted_shares(recipe, bank)
    device = find_device(device_name)
    inspect_captioner(weights, captioners[0])
    # small, so it stays: whatever is wrong with it shows before the first image, not after the last
    encoder = SentenceEncoder.load(weights, device)
    fallback = constant_row(encoder, weights.folder, recipe.text_batch)
    identity: dict[str, Any] = {
        "recipe": asdict(recipe),
        "images": images_sha256(images),
        "models": {name: weights.sha256(name) for name in ("clip", captioners[0], "sentences")},
        "words": {bank.name: features_key(weights.sha256("clip"), bank.phrases) for bank in words},
        "bank": file_sha256(bank.folder / RECORD) if bank else None,
        "regression": file_sha256(bank.folder / REGRESSION) if bank and recipe.uses("regression") else None,
        "device": device.name,
    }
    with only_run(paths.run):
        check_disk(paths.run, len(images), sum(len(own.phrases) for own in words))
        folder, said = open_run(paths.run, images, recipe.shard_images, identity)
        print(said, file=sys.stderr)

        ids = [image.id for image in images]
        seconds: dict[str, float] = {}
        static: dict[str, Any] = {
            "identity": identity,
            "recipe": asdict(recipe),
            "captioner": captioners[0],
            "shards": folder.borders,
            "images": str(paths.images),
            "weights": str(paths.weights),
            "bank": {"folder": str(bank.folder), "excluded": bank.record["excluded"]} if bank else None,
            "shares_from": shares_from,
            "models": {name: weights.models[name]["source"] for name in identity["models"]},
            "versions": versions(),
            "docker_image": os.environ.get("KAGGLE_DOCKER_IMAGE"),
            "device": device.name,
            "started": started,
            "dropped_phrases": {bank.name: bank.dropped for bank in words},
        }

        def answer(problems: list[str]) -> dict[str, Any]:
            """The submission of all that the folder holds by now, and the record beside it."""
            with Stopwatch(seconds, "estimates"):
                rows, bad = estimates_stage(folder, recipe, encoder, bank, fallback, device)
            with Stopwatch(seconds, "submission"):
                write_checked(paths.run / "submission.csv", ids, rows)
            failed, reduced, missing = folder.read_caption_shortfall() if recipe.needs_captions else ({}, 0, 0)
            counts = {
                "images": len(images),
                "bad_images": len(bad),
                "caption_failures": len(failed),
                "fewer_captions": reduced,
                "no_captions": missing,
                "degraded_rows": len(bad) + len(failed) + reduced + missing,
            }
            content = {
                **static,
                "counts": counts,
                "bad_images": bad,
                "caption_failures": failed,
                "problems": problems,
                "seconds": seconds,
                "images_per_second": {stage: len(images) / spent for stage, spent in seconds.items() if spent},
                "peak_memory_bytes": peak_memory(device),
            }
            folder.write_run(content)
            return content

        try:
            with Watchdog(deadline):
                if not (paths.run / "submission.csv").is_file():
                    write_checked(paths.run / "submission.csv", ids, np.tile(fallback, (len(ids), 1)))
                with Stopwatch(seconds, "clip"):
                    clip_stage(folder, recipe, weights, words, device)
                if not recipe.needs_captions:
                    return answer([])
                before = time.perf_counter()
                answer(["the run ended before captions were made"])
                # the last answer does this again, with `captions_per_image` texts an image instead of one
                ends = deadline.earlier((recipe.captions_per_image + 1) * (time.perf_counter() - before))
                with Stopwatch(seconds, "captions"):
                    problems = captions_stage(folder, recipe, weights, captioners, device, ends)
                if recipe.caption_weighting == "clip":
                    with Stopwatch(seconds, "caption cosines"):
                        problems += caption_cosines_stage(folder, recipe, weights, device, ends)
                return answer(problems)
        except OSError as error:
            raise cannot_write(paths.run, error) from error


def write_checked(path: Path, ids: list[str], rows: np.ndarray) -> None:
    write_submission(path, ids, rows)
    check_submission(path, ids)


class Stopwatch:
    """Adds the seconds that a block took to `seconds[stage]`."""

    def __init__(self, seconds: dict[str, float], stage: str) -> None:
        self.seconds, self.stage = seconds, stage

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        spent = self.seconds.get(self.stage, 0) + time.perf_counter() - self.start
        self.seconds[self.stage] = round(spent, 3)


def versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in REPORTED_VERSIONS}
    return {"kernel": __version__, "python": platform.python_version(), **found}


def peak_memory(device: Device) -> dict[str, int]:
    """Most bytes resident in this process so far, and most allocated on the GPU."""
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS, kibibytes on Linux
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device.name != "cpu":
        import torch

        peak["device"] = torch.cuda.max_memory_allocated(device.name)
    return peak

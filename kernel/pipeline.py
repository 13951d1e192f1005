"""The line from images to submission.csv, stage by stage: every image through CLIP, then every image
through the captioner, and so on, with one model resident at a time."""

import gc
import importlib.metadata
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from kernel import __version__
from kernel.captions import Captioner, inspect_captioner
from kernel.checkpoints import Weights, file_sha256, open_weights
from kernel.clip import ClipEncoder
from kernel.config import OF_BANK, RECIPES, Paths, Recipe
from kernel.constant import constant_row
from kernel.devices import Device, find_device
from kernel.errors import UserError
from kernel.estimates import bank_estimate, said_of, text_estimate
from kernel.fusion import fuse
from kernel.images import BadImage, ImageFile, decoded_batches, list_images
from kernel.prompt_bank import RECORD, PromptBank
from kernel.sentences import SentenceEncoder
from kernel.store import RunFolder, cannot_write, images_sha256, open_run
from kernel.submission import check_submission, write_submission
from kernel.word_banks import Phrases, bank_with_features, features_key, rank, read_phrases

REPORTED_VERSIONS = ("torch", "open_clip_torch", "transformers", "sentence-transformers", "numpy", "pandas", "pillow")


def run(recipe: Recipe, paths: Paths, device_name: str = "auto", limit: int | None = None) -> dict[str, Any]:
    """Runs the recipe over every image of `paths.images` and returns what it writes to run.json.

    Raises UserError before the first image for anything about weights, recipe, device or output folder;
    after it only when nothing can be written any more.
    """
    started = time.time()
    images = list_images(paths.images)[:limit]
    weights = open_weights(paths.weights)
    captioner = captioner_named(recipe, weights)
    words = word_lists(recipe, weights)
    bank = opened_bank(recipe, paths, weights)
    recipe, shares_from = with_fitted_shares(recipe, bank)
    device = find_device(device_name)
    inspect_captioner(weights, captioner)
    # small, so it stays: whatever is wrong with it shows before the first image, not after the last
    encoder = SentenceEncoder.load(weights, device)
    fallback = constant_row(encoder, weights.folder, recipe.text_batch)
    identity: dict[str, Any] = {
        "recipe": asdict(recipe),
        "images": images_sha256(images),
        "models": {name: weights.sha256(name) for name in ("clip", captioner, "sentences")},
        "words": {bank.name: features_key(weights.sha256("clip"), bank.phrases) for bank in words},
        "bank": file_sha256(bank.folder / RECORD) if bank else None,
        "device": device.name,
    }
    folder, said = open_run(paths.run, images, recipe.shard_images, identity)
    print(said, file=sys.stderr)

    seconds: dict[str, float] = {}
    try:
        with Stopwatch(seconds, "clip"):
            clip_stage(folder, recipe, weights, words, device)
        if recipe.uses("prompts", "captions"):
            with Stopwatch(seconds, "captions"):
                captions_stage(folder, recipe, weights, captioner, device)
        with Stopwatch(seconds, "estimates"):
            rows, bad = estimates_stage(folder, recipe, encoder, bank, fallback, device)
        with Stopwatch(seconds, "submission"):
            ids = [image.id for image in images]
            write_submission(paths.run / "submission.csv", ids, rows)
            check_submission(paths.run / "submission.csv", ids)
        content = {
            "identity": identity,
            "recipe": asdict(recipe),
            "captioner": captioner,
            "shards": folder.borders,
            "images": str(paths.images),
            "weights": str(paths.weights),
            "bank": str(bank.folder) if bank else None,
            "shares_from": shares_from,
            "models": {name: weights.models[name]["source"] for name in identity["models"]},
            "versions": versions(),
            "docker_image": os.environ.get("KAGGLE_DOCKER_IMAGE"),
            "device": device.name,
            "started": started,
            "counts": {"images": len(images), "bad_images": len(bad), "degraded_rows": len(bad)},
            "bad_images": bad,
            "dropped_phrases": {bank.name: bank.dropped for bank in words},
            "seconds": seconds,
            "images_per_second": {stage: len(images) / spent for stage, spent in seconds.items()},
            "peak_memory_bytes": peak_memory(device),
        }
        folder.write_run(content)
    except OSError as error:
        raise cannot_write(paths.run, error) from error
    return content


def captioner_named(recipe: Recipe, weights: Weights) -> str:
    """The recipe's captioner, or the first of the weights folder."""
    if recipe.captioner == "auto" and weights.captioners:
        return weights.captioners[0]
    if recipe.captioner not in weights.captioners:
        raise UserError(
            f"{weights.folder}: holds no captioner {recipe.captioner!r}; it has "
            f"{', '.join(weights.captioners) or 'none'}. Set captioner to one of these or make the weights again"
        )
    return recipe.captioner


def opened_bank(recipe: Recipe, paths: Paths, weights: Weights) -> PromptBank | None:
    """The bank given, or the weights folder's, when the recipe has a share for it. Raises UserError without one."""
    if not recipe.uses(*OF_BANK):
        return None
    folder = paths.bank or weights.folder / "prompt_bank"
    if paths.bank is None and not (folder / RECORD).is_file():
        raise UserError(
            f"recipe {recipe.name!r} asks a prompt bank, and none was given. Make one with 'python -m kernel bank "
            "PROMPTS --weights DIR --out BANK' and give --bank BANK, or run --recipe baseline, which needs none"
        )
    bank = PromptBank.open(folder, weights.sha256("clip"), weights.sha256("sentences"))
    if recipe.uses("neighbours") and recipe.neighbours > len(bank.features):
        raise UserError(
            f"{folder}: holds {len(bank.features)} prompts, recipe setting neighbours is {recipe.neighbours}. Set it "
            f"to {len(bank.features)} or less, or build a larger bank with 'python -m kernel bank'"
        )
    return bank


def with_fitted_shares(recipe: Recipe, bank: PromptBank | None) -> tuple[Recipe, str]:
    """The recipe with the shares fitted for this bank, where there are any and no others were set; and their origin."""
    if bank is None or recipe.estimates != RECIPES["text"].estimates:
        return recipe, "recipe"
    shares = bank.fitted_shares()
    return (recipe, "published") if shares is None else (replace(recipe, estimates=shares), "fitted")


def word_lists(recipe: Recipe, weights: Weights) -> list[Phrases]:
    """The recipe's word lists. A name ending in .txt is a user's own file, any other lies in word_banks/."""
    folder = weights.folder / "word_banks"
    lists = []
    for name, count in recipe.modifiers.items():
        own = name.endswith(".txt")
        if count and not own and not (folder / f"{name}.txt").is_file():
            valid = ", ".join(sorted(path.stem for path in folder.glob("*.txt")))
            raise UserError(
                f"unknown word bank {name!r}. Valid: {valid}, or a path ending in .txt to a file of your own"
            )
        if count:
            lists.append(replace(read_phrases(Path(name) if own else folder / f"{name}.txt"), name=name))
    return lists


def clip_stage(folder: RunFolder, recipe: Recipe, weights: Weights, words: list[Phrases], device: Device) -> None:
    """Images to features, shard by shard; then features to modifiers, all at once."""
    clip = ClipEncoder.load(weights, device)
    banks = [
        bank_with_features(
            bank,
            clip,
            weights.sha256("clip"),
            shipped=weights.folder / "word_banks" / "features",
            computed=folder.folder / "features",
            batch=recipe.text_batch,
        )
        for bank in words
    ]
    width = clip.model.text_projection.shape[-1]
    with progress(folder, "clip", ".safetensors") as (shards, bar):
        for shard in shards:
            found, bad = encode_files(folder.shard_files(shard), recipe.clip_batch, clip.encode_images, bar)
            rows = [np.zeros(width, dtype=np.float32) if row is None else row for row in found]
            folder.write_clip(shard, np.stack(rows), bad)
    free(clip)

    image_features, _ = folder.read_clip()
    counts = [count for count in recipe.modifiers.values() if count]
    modifiers: list[list[str]] = [[] for _ in folder.images]
    for bank, count in zip(banks, counts, strict=True):
        indices, _ = rank(image_features, bank.features, count)
        for phrases, row in zip(modifiers, indices.tolist(), strict=True):
            phrases.extend(bank.phrases[index] for index in row)
    folder.write_modifiers(modifiers)


def captions_stage(folder: RunFolder, recipe: Recipe, weights: Weights, name: str, device: Device) -> None:
    """Images to captions, shard by shard; bad images get none."""
    with progress(folder, "captions", ".json") as (shards, bar):
        if not shards:
            return
        captioner = Captioner.load(weights, name, device)
        for shard in shards:
            written, bad = encode_files(
                folder.shard_files(shard),
                recipe.caption_batch,
                lambda images: captioner.captions(images, recipe),
                bar,
            )
            folder.write_captions(shard, [own or [] for own in written], bad)
    free(captioner)


def estimates_stage(
    folder: RunFolder,
    recipe: Recipe,
    encoder: SentenceEncoder,
    bank: PromptBank | None,
    fallback: np.ndarray,
    device: Device,
) -> tuple[np.ndarray, dict[str, str]]:
    """Every estimate with a share, fused to one row an image, (n, 384); and {id: reason} of the bad images."""
    image_features, bad = folder.read_clip()
    captions: list[list[str]] = [[] for _ in folder.images]
    if recipe.uses("prompts", "captions"):
        captions, bad_later = folder.read_captions()
        bad |= bad_later
    modifiers = folder.read_modifiers()
    good = np.array([image.id not in bad for image in folder.images])
    estimates, usable = {}, {}
    for name in [name for name in recipe.estimates if recipe.uses(name)]:
        if name in OF_BANK:
            assert bank is not None  # checked before the first image
            rows, usable[name] = bank_estimate(name, image_features, bank, recipe, device)
        else:
            texts = [
                said_of(name, said, phrases, recipe) if is_good else []
                for said, phrases, is_good in zip(captions, modifiers, good, strict=True)
            ]
            rows, usable[name] = text_estimate(texts, encoder, recipe.text_batch)
        usable[name] &= good
        estimates[name] = np.where(usable[name][:, None], rows, fallback)
        folder.write_estimate(name, estimates[name])
    return fuse(estimates, usable, recipe.estimates, fallback, recipe.normalise), bad


def encode_files(
    files: list[ImageFile], batch: int, encode: Callable[[list[Image]], Iterable[Any]], bar: Any
) -> tuple[list[Any], dict[str, str]]:
    """What `encode` makes of each file's image, in order, None for bad images; and {id: reason} of those."""
    results: list[Any] = []
    bad: dict[str, str] = {}
    for decoded in decoded_batches(files, batch):
        good = [image for _, image in decoded if not isinstance(image, BadImage)]
        made = iter(encode(good) if good else ())
        for file, image in decoded:
            if isinstance(image, BadImage):
                bad[file.id] = image.reason
            results.append(None if isinstance(image, BadImage) else next(made))
        bar.update(len(decoded))
    return results, bad


@contextmanager
def progress(folder: RunFolder, stage: str, suffix: str) -> Iterator[tuple[list[int], Any]]:
    """The shards that this stage has not written yet, and a progress bar that counts images."""
    from tqdm.auto import tqdm

    pending = [shard for shard in range(len(folder.borders)) if not folder.shard_path(stage, shard, suffix).is_file()]
    done = len(folder.images) - sum(len(folder.shard_files(shard)) for shard in pending)
    with tqdm(total=len(folder.images), initial=done, desc=stage, unit="image", file=sys.stderr) as bar:
        yield pending, bar


class Stopwatch:
    """Adds the seconds a block took to `seconds[stage]`."""

    def __init__(self, seconds: dict[str, float], stage: str) -> None:
        self.seconds, self.stage = seconds, stage

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.seconds[self.stage] = round(time.perf_counter() - self.start, 3)


def free(model: Any) -> None:
    """Lets go of a stage's model before the next one loads."""
    import torch

    model.__dict__.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


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

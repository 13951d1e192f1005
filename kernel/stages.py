"""The stages of a run: each reads what the one before wrote into the run folder, and writes its own shards."""

import gc
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any

import numpy as np
from PIL.Image import Image

from kernel.captions import Captioner
from kernel.checkpoints import Weights
from kernel.clip import ClipEncoder
from kernel.config import OF_BANK, Recipe
from kernel.deadline import Deadline, Effort, OutOfTime
from kernel.devices import Device
from kernel.errors import UserError
from kernel.estimates import Said, bank_estimate, said_of, text_estimate, weighed_captions
from kernel.fusion import fuse
from kernel.images import BadImage, ImageFile, decoded_batches
from kernel.prompt_bank import PromptBank
from kernel.sentences import SentenceEncoder
from kernel.store import RunFolder
from kernel.word_banks import Phrases, bank_with_features, rank


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
    size = BatchSize(recipe.clip_batch)
    with progress(folder, "clip", ".safetensors") as (shards, bar):
        for shard in shards:
            files = folder.shard_files(shard)
            try:
                found, bad, failed = encode_files(files, size, clip.encode_images, bar)
                if fails_on_all(files, bad, failed):
                    raise CannotBeUsed(next(iter(failed.values())))
            except CannotBeUsed as error:
                # kept as bad images, a shard of them would stay so when the run goes on
                raise UserError(
                    f"CLIP cannot be used on {device.name} ({error}): images {files[0].id} to {files[-1].id} have no "
                    "features, and the last submission.csv stands. Run again to go on there, or with --device cpu"
                ) from error
            rows = [np.zeros(width, dtype=np.float32) if row is None else row for row in found]
            folder.write_clip(shard, np.stack(rows), bad | failed)
    free(clip)

    image_features, _ = folder.read_clip()
    wanted = [number for number in recipe.modifiers.values() if number]
    modifiers: list[list[str]] = [[] for _ in folder.images]
    for bank, number in zip(banks, wanted, strict=True):
        indices, _ = rank(image_features, bank.features, number)
        for phrases, row in zip(modifiers, indices.tolist(), strict=True):
            phrases.extend(bank.phrases[index] for index in row)
    folder.write_modifiers(modifiers)


def captions_stage(
    folder: RunFolder, recipe: Recipe, weights: Weights, names: list[str], device: Device, ends: Deadline
) -> list[str]:
    """Images to captions, shard by shard; returns what went wrong, for nothing here may end a run.

    A captioner that cannot be used is followed by the next of `names`. When the time `ends` comes near, captions
    get fewer beams, then the remaining shards none.
    """
    problems: list[str] = []
    for name in names:
        try:
            caption_shards(folder, recipe, weights, name, device, ends)
            return problems
        except OutOfTime:
            return [*problems, "the time was over before every image had captions"]
        except OSError:
            raise  # a full disk stops a run
        except Exception as error:
            problems.append(f"captioner {name} was given up ({first_line(error)})")
        release_memory()
    return [*problems, "no captioner is left, so images without captions go without"]


def caption_shards(
    folder: RunFolder, recipe: Recipe, weights: Weights, name: str, device: Device, ends: Deadline
) -> None:
    with progress(folder, "captions", ".json") as (shards, bar):
        if not shards:
            return
        captioner = Captioner.load(weights, name, device)
        most = recipe.num_beams if recipe.caption_decoding == "beams" else recipe.captions_per_image
        effort = Effort(most, sum(len(folder.shard_files(shard)) for shard in shards), ends)
        size = BatchSize(recipe.caption_batch)
        for shard in shards:
            reduced: list[int] = []
            encode = partial(batch_captions, captioner, recipe, batch_seeds(recipe.seed, shard), effort, reduced)
            files = folder.shard_files(shard)
            written, bad, failed = encode_files(files, size, encode, bar)
            if fails_on_all(files, bad, failed):
                raise CannotBeUsed(next(iter(failed.values())))
            captions = [[caption for caption in own or [] if caption] for own in written]
            folder.write_captions(shard, captions, bad, failed, sum(reduced))
    free(captioner)


def batch_captions(
    captioner: Captioner,
    recipe: Recipe,
    seeds: Iterator[int],
    effort: Effort,
    reduced: list[int],
    images: list[Image],
) -> list[list[str]]:
    """Captions with as much effort as the time allows; notes in `reduced` how many images got less than asked."""
    given = effort.next(len(images))
    start = time.perf_counter()
    captions = captioner.captions(images, with_effort(recipe, given), next(seeds))
    effort.took(len(images), given, time.perf_counter() - start)
    if given < effort.most:
        reduced.append(len(images))
    return captions


def with_effort(recipe: Recipe, effort: int) -> Recipe:
    """The recipe with that many beams, or sampled captions, at most."""
    captions = min(recipe.captions_per_image, effort)
    if recipe.caption_decoding == "beams":
        return replace(recipe, num_beams=effort, captions_per_image=captions)
    return replace(recipe, captions_per_image=captions)


def batch_seeds(seed: int, shard: int) -> Iterator[int]:
    """A seed for each batch of a shard, whatever was made before it: a run that goes on draws what it would have."""
    for batch in count():
        yield int(np.random.SeedSequence([seed, shard, batch]).generate_state(1)[0])


def caption_cosines_stage(
    folder: RunFolder, recipe: Recipe, weights: Weights, device: Device, ends: Deadline
) -> list[str]:
    """Captions to their cosines with their own image, by CLIP, shard by shard; returns what went wrong."""
    with progress(folder, "captions", ".cosines.json") as (shards, bar):
        shards = [shard for shard in shards if folder.shard_path("captions", shard, ".json").is_file()]
        if not shards:
            return []
        clip = ClipEncoder.load(weights, device)
        image_features, _ = folder.read_clip()
        captions, _ = folder.read_captions()
        for shard in shards:
            if ends.left() <= 0:
                return ["the time was over before every caption was weighed; the others count alike"]
            start, stop = folder.borders[shard]
            texts = list(dict.fromkeys(text for said in captions[start:stop] for text in said))
            rows = dict(zip(texts, clip.encode_texts(texts, recipe.text_batch), strict=True)) if texts else {}
            cosines = [
                [float(features @ rows[text]) for text in said]
                for features, said in zip(image_features[start:stop], captions[start:stop], strict=True)
            ]
            folder.write_caption_cosines(shard, cosines)
            bar.update(stop - start)
    free(clip)
    return []


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
    said = [Said([], []) for _ in folder.images]
    if recipe.needs_captions:
        captions, bad_later = folder.read_captions()
        bad |= bad_later
        cosines = folder.read_caption_cosines() if recipe.caption_weighting == "clip" else None
        said = weighed_captions(captions, cosines, recipe)
    modifiers = folder.read_modifiers()
    good = np.array([image.id not in bad for image in folder.images])
    estimates, usable = {}, {}
    for name in [name for name in recipe.estimates if recipe.uses(name)]:
        if name in OF_BANK:
            assert bank is not None  # checked before the first image
            rows, usable[name] = bank_estimate(name, image_features, bank, recipe, device)
        else:
            texts = [
                said_of(name, captions, phrases, recipe) if is_good else Said([], [])
                for captions, phrases, is_good in zip(said, modifiers, good, strict=True)
            ]
            rows, usable[name] = text_estimate(texts, encoder, recipe.text_batch)
        usable[name] &= good
        estimates[name] = np.where(usable[name][:, None], rows, fallback)
        folder.write_estimate(name, estimates[name], usable[name])
    return fuse(estimates, usable, recipe.estimates, fallback, recipe.normalise), bad


class CannotBeUsed(Exception):
    """A model fails on everything, or has no memory even for one image."""


def fails_on_all(files: list[ImageFile], bad: dict[str, str], failed: dict[str, str]) -> bool:
    """Whether a model failed on every file that could be decoded; of a single one that says nothing of the model."""
    return len(failed) > 1 and len(failed) + len(bad) == len(files)


@dataclass
class BatchSize:
    """Images encoded at a time; halved whenever the device's memory does not hold them."""

    value: int


def encode_files(
    files: list[ImageFile], size: BatchSize, encode: Callable[[list[Image]], Iterable[Any]], bar: Any
) -> tuple[list[Any], dict[str, str], dict[str, str]]:
    """What `encode` makes of each file's image, in order, None where there is nothing; and {id: reason} twice, of
    images that cannot be decoded and of those on which `encode` failed.

    Raises CannotBeUsed when one image alone does not fit into the device's memory.
    """
    results: list[Any] = []
    bad: dict[str, str] = {}
    failed: dict[str, str] = {}
    for decoded in decoded_batches(files, size.value):
        good = [(file, image) for file, image in decoded if not isinstance(image, BadImage)]
        made = dict(
            zip([file.id for file, _ in good], encoded([image for _, image in good], size, encode), strict=True)
        )
        for file, image in decoded:
            result = image if isinstance(image, BadImage) else made[file.id]
            if isinstance(result, BadImage):
                bad[file.id] = result.reason
            elif isinstance(result, Failed):
                failed[file.id] = result.reason
            results.append(None if isinstance(result, BadImage | Failed) else result)
        bar.update(len(decoded))
    return results, bad, failed


@dataclass(frozen=True)
class Failed:
    """An image on which a model failed, and how."""

    reason: str


def encoded(images: list[Image], size: BatchSize, encode: Callable[[list[Image]], Iterable[Any]]) -> list[Any]:
    """One result an image, a Failed where `encode` raised on that image alone."""
    results: list[Any] = []
    while len(results) < len(images):
        part = images[len(results) : len(results) + size.value]
        try:
            results.extend(encode(part))
            continue
        except (OutOfTime, CannotBeUsed):
            raise
        except Exception as error:  # whatever a model raises on an odd image must not end a run over 16,000
            reason, no_memory = first_line(error), is_out_of_memory(error)
        # out of the except block the error no longer holds the tensors of its frames
        if no_memory and len(part) == 1:
            raise CannotBeUsed(f"one image alone does not fit into memory: {reason}")
        if no_memory:
            size.value = len(part) // 2
            release_memory()
            print(f"out of memory: {size.value} images at a time from here on", file=sys.stderr)
        elif len(part) == 1:
            results.append(Failed(reason))
        else:
            results.extend(own for image in part for own in encoded([image], size, encode))
    return results


def is_out_of_memory(error: Exception) -> bool:
    import torch

    words = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(own in str(error) for own in words)


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def progress(folder: RunFolder, stage: str, suffix: str) -> Iterator[tuple[list[int], Any]]:
    """The shards that this stage has not written yet, and a progress bar that counts images."""
    from tqdm.auto import tqdm

    pending = [shard for shard in range(len(folder.borders)) if not folder.shard_path(stage, shard, suffix).is_file()]
    done = len(folder.images) - sum(len(folder.shard_files(shard)) for shard in pending)
    with tqdm(total=len(folder.images), initial=done, desc=stage, unit="image", file=sys.stderr) as bar:
        yield pending, bar


def free(model: Any) -> None:
    """Lets go of a stage's model before the next one loads."""
    model.__dict__.clear()
    release_memory()


def release_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

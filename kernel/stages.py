"""The stages of a run: each reads what the one before wrote into the run folder, and writes its own shards."""

import gc
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any

import numpy as np
from PIL.Image import Image

from kernel.captions import Captioner
from kernel.checkpoints import Weights
from kernel.clip import ClipEncoder
from kernel.config import OF_BANK, Recipe
from kernel.devices import Device
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
    with progress(folder, "clip", ".safetensors") as (shards, bar):
        for shard in shards:
            found, bad = encode_files(folder.shard_files(shard), recipe.clip_batch, clip.encode_images, bar)
            rows = [np.zeros(width, dtype=np.float32) if row is None else row for row in found]
            folder.write_clip(shard, np.stack(rows), bad)
    free(clip)

    image_features, _ = folder.read_clip()
    wanted = [number for number in recipe.modifiers.values() if number]
    modifiers: list[list[str]] = [[] for _ in folder.images]
    for bank, number in zip(banks, wanted, strict=True):
        indices, _ = rank(image_features, bank.features, number)
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
            encode = partial(batch_captions, captioner, recipe, batch_seeds(recipe.seed, shard))
            written, bad = encode_files(folder.shard_files(shard), recipe.caption_batch, encode, bar)
            folder.write_captions(shard, [own or [] for own in written], bad)
    free(captioner)


def batch_captions(captioner: Captioner, recipe: Recipe, seeds: Iterator[int], images: list[Image]) -> list[list[str]]:
    return captioner.captions(images, recipe, next(seeds))


def batch_seeds(seed: int, shard: int) -> Iterator[int]:
    """A seed for each batch of a shard, whatever was made before it: a run that goes on draws what it would have."""
    for batch in count():
        yield int(np.random.SeedSequence([seed, shard, batch]).generate_state(1)[0])


def caption_cosines_stage(folder: RunFolder, recipe: Recipe, weights: Weights, device: Device) -> None:
    """Captions to their cosines with their own image, by CLIP, shard by shard."""
    with progress(folder, "captions", ".cosines.json") as (shards, bar):
        if not shards:
            return
        clip = ClipEncoder.load(weights, device)
        image_features, _ = folder.read_clip()
        captions, _ = folder.read_captions()
        for shard in shards:
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


def free(model: Any) -> None:
    """Lets go of a stage's model before the next one loads."""
    import torch

    model.__dict__.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

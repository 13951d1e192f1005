"""The models' bare arithmetic: forward passes and `generate` on tensors in memory, each at its best batch, no more."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.contenders.plain import load_blip, load_blip2, load_clip, load_minilm
from tests.bench.jobs import Job
from tests.bench.material import Material
from tests.bench.stopwatch import Stopwatch

# the fastest counts; captions' is all pictures at once, which was the best of 4, 8 and 16 in every job
BATCHES = {"clip": (4, 16), "sentences": (8, 32)}


def run(material: Material, job: Job, images: int, watch: Stopwatch, out: Path) -> None:
    import torch
    from PIL import Image

    pictures = [Image.open(path).convert("RGB") for path in sorted(material.pictures.iterdir())[:images]]
    with torch.inference_mode():
        clip, preprocess = load_clip(material.weights)
        pixels = torch.stack([preprocess(picture) for picture in pictures])
        clip.encode_image(pixels[:1])  # the first is slower, and does not count
        at_best_batch(watch, "clip", clip.encode_image, pixels.split)
        del clip
        load = load_blip2 if job.recipe.captioner == "blip2" else load_blip
        captioner, processor = load(material.weights)
        pixels = processor(images=pictures, return_tensors="pt")["pixel_values"]
        generated(captioner, job, pixels[:1])
        with watch.stage("captions"):
            ids = generated(captioner, job, pixels)
        captions = processor.batch_decode(ids, skip_special_tokens=True)
        # by which the bench sees that the job was the same
        out.with_suffix(".json").write_text(json.dumps([caption.strip() for caption in captions]), encoding="utf-8")
        del captioner, pixels
        sentences = load_minilm(material.weights)
        texts = sorted(
            ", ".join([caption, *words]) for caption, words in zip(captions, some_words(material, job), strict=False)
        )
        tokens = {
            batch: [sentences.preprocess(texts[start : start + batch]) for start in range(0, len(texts), batch)]
            for batch in BATCHES["sentences"]
        }
        at_best_batch(watch, "sentences", sentences, tokens.__getitem__)


def at_best_batch(
    watch: Stopwatch, stage: str, forward: Callable[[Any], Any], in_batches: Callable[[int], Iterable[Any]]
) -> None:
    """The stage's seconds are those of the batch at which it takes least."""
    taken = []
    for batch in BATCHES[stage]:
        with watch.stage(stage):
            for part in in_batches(batch):
                forward(part)
        taken.append(watch.seconds.pop(stage))
    watch.seconds[stage] = min(taken)


def generated(captioner: Any, job: Job, pixels: Any) -> Any:
    recipe = job.recipe
    return captioner.generate(
        pixel_values=pixels, do_sample=False, num_beams=recipe.num_beams,
        num_return_sequences=recipe.captions_per_image, max_length=recipe.max_length, min_length=recipe.min_length,
    )  # fmt: skip


def some_words(material: Material, job: Job) -> Iterator[list[str]]:
    """Phrases as many and as long as the others find, for one caption after the other: features are random, so picks
    are too."""
    from kernel.banks.word_banks import read_phrases

    banks = [(read_phrases(material.weights / "word_banks" / f"{name}.txt").phrases, number)
             for name, number in job.recipe.modifiers.items()]  # fmt: skip
    rng = np.random.default_rng(0)
    while True:
        yield [phrases[index] for phrases, number in banks for index in rng.integers(len(phrases), size=number)]

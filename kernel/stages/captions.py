"""Images to captions, shard by shard, with as much effort as the time allows."""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import count

import numpy as np
from PIL.Image import Image

from kernel.config import Recipe
from kernel.deadline import Effort, OutOfTime
from kernel.devices import Device
from kernel.job import Job
from kernel.models.captioners.captioner import Captioner
from kernel.models.captioners.loading import load_captioner
from kernel.stages import Item
from kernel.stages.batches import BatchSize, Progress, Share, encode_files


class CaptionsStage:
    def __init__(self, job: Job, device: Device, captioner: str) -> None:
        self.job = job
        self.captioner = load_captioner(job.weights, captioner, device)
        self.size = BatchSize(job.recipe.caption_batch)
        self.effort = Effort(most_effort(job.recipe), 0)

    def make(self, item: Item, share: Share, progress: Progress) -> None:
        assert isinstance(item, int)
        folder, recipe = self.job.folder, self.job.recipe
        self.effort.images, self.effort.ends = share.images, share.ends
        reduced: list[int] = []
        encode = partial(batch_captions, self.captioner, recipe, batch_seeds(recipe.seed, item), self.effort, reduced)
        files = folder.shard_files(item)
        made = encode_files(files, self.size, encode, progress)
        if len(made.unmade) < len(files):
            captions = [[caption for caption in own or [] if caption] for own in made.results]
            folder.write_captions(item, captions, made.bad, made.failed, sum(reduced), made.unmade)
        if made.unmade:
            raise OutOfTime


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


def most_effort(recipe: Recipe) -> int:
    return recipe.num_beams if recipe.caption_decoding == "beams" else recipe.captions_per_image


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

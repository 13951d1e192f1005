"""Images to captions, shard by shard, with as much effort as the time allows."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import NamedTuple

import numpy as np
from PIL.Image import Image

from kernel.config import CAPTIONS, Recipe
from kernel.models.captioners.canary import check_sight
from kernel.models.captioners.loading import load_captioner
from kernel.pipeline.folder import results
from kernel.pipeline.folder.results import CaptionShard
from kernel.pipeline.images import ImageFile
from kernel.pipeline.job import Job
from kernel.pipeline.stages import StageDeclaration
from kernel.pipeline.stages.batches import BatchSize, Encoded, encode_files
from kernel.system.deadline import Effort, OutOfTime
from kernel.system.devices import Device
from kernel.system.work import Share


class Said(NamedTuple):
    """An image's captions, and whether they were made with less effort than asked."""

    captions: list[str]
    reduced: bool


class CaptionsStage:
    def __init__(self, job: Job, device: Device, name: str) -> None:
        self.job, self.name = job, name
        self.captioner = load_captioner(job.weights, name, device)
        self.captioner.language = job.language
        check_sight(self.captioner, job.recipe)
        self.size = BatchSize(job.recipe.caption_batch)
        self.effort = Effort(most_effort(job.recipe), 0)

    def make(self, item: int, share: Share) -> Iterator[int]:
        """Captions of a shard; of one that is there already, by a lesser captioner, only the whole in its place."""
        folder, recipe = self.job.folder, self.job.recipe
        self.effort.images, self.effort.ends = share.images, share.ends
        seeds = batch_seeds(recipe.seed, item)

        def said(images: list[Image]) -> list[Said]:
            with self.effort.timed(len(images)) as given:
                captions = self.captioner.captions(images, with_effort(recipe, given), next(seeds))
            return [Said(own, given < self.effort.most) for own in captions]

        files = folder.shard_files(item)
        made = yield from encode_files(files, self.size, said)
        by = self.name if self.name in results.apart(recipe.captioner) else ""
        stands = folder.has_shard(results.CAPTIONS.by(by), item)
        if not made.unmade or (len(made.unmade) < len(files) and not stands):
            content = self.content(files, made)
            if stands:
                content = content.over(results.read_caption_shard(folder, item, by), folder.shard_ids(item))
            results.write_captions(folder, item, content, by)
        if made.unmade:
            raise OutOfTime

    def content(self, files: list[ImageFile], made: Encoded) -> CaptionShard:
        said: list[Said | None] = made.results
        return CaptionShard(
            captions=[[caption for caption in own.captions if caption] if own else [] for own in said],
            captioners=[self.name if own else None for own in said],
            sha256={self.name: self.job.weights.sha256(self.name)},
            bad=made.bad,
            failed=made.failed,
            reduced=[file.id for file, own in zip(files, said, strict=True) if own and own.reduced],
            unmade=made.unmade,
        )


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


STAGE = StageDeclaration(
    "captions",
    CaptionsStage,
    label="captions",
    by="CAPTIONER",
    writes=results.CAPTIONS,
    depends_on=("captioner", "caption_decoding", "num_beams", "captions_per_image", "max_length", "min_length",
                "sampling_top_p", "seed", "caption_batch", "shard_images"),
    wanted=lambda recipe: recipe.needs(CAPTIONS),
    planned_as=("captions",),
    lack="captions",
    aim="every image had captions",
)  # fmt: skip

"""Images to CLIP features, shard by shard."""

import time
from collections.abc import Iterator
from functools import partial

import numpy as np
from PIL.Image import Image

from kernel.models.clip import ClipEncoder
from kernel.pipeline.folder import results
from kernel.pipeline.job import Job
from kernel.pipeline.stages import StageDeclaration
from kernel.pipeline.stages.batches import BatchSize, Share, encode_files
from kernel.system.deadline import Effort, OutOfTime
from kernel.system.devices import Device


class ClipStage:
    def __init__(self, job: Job, device: Device) -> None:
        self.job = job
        self.clip = ClipEncoder.load(job.weights, device)
        self.size = BatchSize(job.recipe.clip_batch)

    def make(self, item: int, share: Share) -> Iterator[int]:
        folder = self.job.folder
        effort = Effort(1, share.images, share.ends)
        encode = partial(timed_features, self.clip, effort)
        files = folder.shard_files(item)
        made = yield from encode_files(files, self.size, encode)
        if len(made.unmade) < len(files):
            width = self.clip.model.text_projection.shape[-1]
            rows = [np.zeros(width, dtype=np.float32) if row is None else row for row in made.results]
            results.write_clip(folder, item, np.stack(rows), made.bad | made.failed, made.unmade)
        if made.unmade:
            raise OutOfTime


def timed_features(clip: ClipEncoder, effort: Effort, images: list[Image]) -> np.ndarray:
    """Features, if the time suffices: of images there are no cheaper ones."""
    effort.next(len(images))
    start = time.perf_counter()
    features = clip.encode_images(images)
    effort.took(len(images), 1, time.perf_counter() - start)
    return features


STAGE = StageDeclaration(
    "clip",
    ClipStage,
    label="clip",
    writes=results.CLIP,
    depends_on=("clip", "clip_batch", "shard_images"),
    planned_as=("clip",),
    lack="features",
    aim="CLIP had seen every image",
)

"""Images to CLIP features, shard by shard."""

from collections.abc import Iterator

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

        def features(images: list[Image]) -> np.ndarray:
            with effort.timed(len(images)):  # of images there are no cheaper features: all, if the time suffices
                return self.clip.encode_images(images)

        files = folder.shard_files(item)
        made = yield from encode_files(files, self.size, features)
        if len(made.unmade) < len(files):
            width = self.clip.model.text_projection.shape[-1]
            rows = [np.zeros(width, dtype=np.float32) if row is None else row for row in made.results]
            results.write_clip(folder, item, np.stack(rows), made.bad | made.failed, made.unmade)
        if made.unmade:
            raise OutOfTime


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

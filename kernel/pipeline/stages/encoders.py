"""Images to MiniLM's space by an image encoder of the weights folder, shard by shard."""

from collections.abc import Iterator

import numpy as np

from kernel.config import EMBEDDING_DIMENSIONS, ENCODERS
from kernel.models.encoders.encoder import ImageEncoder
from kernel.pipeline.folder import results
from kernel.pipeline.job import Job
from kernel.pipeline.stages import StageDeclaration
from kernel.pipeline.stages.batches import BatchSize, Share, rows_of
from kernel.system.deadline import OutOfTime
from kernel.system.devices import Device


class EncodersStage:
    def __init__(self, job: Job, device: Device, name: str) -> None:
        self.job = job
        self.shards = results.encoded(job.weights.encoders[name])
        self.encoder = ImageEncoder.load(job.weights.encoder_folder(name), device)
        self.size = BatchSize(job.recipe.encoder_batch)

    def make(self, item: int, share: Share) -> Iterator[int]:
        """By its own tower, or of what the weights folder's CLIP saw, which then must be there."""
        folder = self.job.folder
        if self.encoder.tower is None:
            features, bad, unmade = results.read_rows(folder, results.CLIP, item)
            seen = np.abs(features).max(axis=1) > 0
            rows = np.where(seen[:, None], self.encoder.head.apply(features), 0).astype(np.float32)
            results.write_rows(folder, self.shards, item, rows, bad, unmade)
            yield len(rows)
            return
        encode = self.encoder.encode_images
        rows, bad, unmade = yield from rows_of(folder.shard_files(item), self.size, encode, share, EMBEDDING_DIMENSIONS)
        if len(unmade) < len(rows):
            results.write_rows(folder, self.shards, item, rows, bad, unmade)
        if unmade:
            raise OutOfTime


STAGE = StageDeclaration(
    "encoders",
    EncodersStage,
    label="encoders",
    by="ENCODER",
    reads=(results.CLIP,),
    depends_on=("clip", "encoder_batch", "shard_images"),
    wanted=lambda recipe: recipe.needs(ENCODERS),
    planned_as=("encoders",),
)

"""Images to MiniLM's space by an image encoder of the weights folder, shard by shard."""

from collections.abc import Iterator

import numpy as np

from kernel.config import ENCODERS
from kernel.models.encoders.encoder import ImageEncoder
from kernel.pipeline.folder import results
from kernel.pipeline.job import Job
from kernel.pipeline.stages import StageDeclaration
from kernel.pipeline.stages.batches import BatchSize, rows_of
from kernel.system.deadline import OutOfTime
from kernel.system.devices import Device
from kernel.system.work import Share


class EncodersStage:
    def __init__(self, job: Job, device: Device, name: str) -> None:
        self.job = job
        self.shards = results.encoded(job.weights.encoders[name])
        self.encoder = ImageEncoder.load(job.weights.encoder_folder(name), device, job.weights)
        self.size = BatchSize(job.recipe.encoder_batch)

    def make(self, item: int, share: Share) -> Iterator[int]:
        """Of what the weights folder's CLIP saw, which then must be there, and of what its own towers see."""
        folder, encoder = self.job.folder, self.encoder
        features: list[np.ndarray] = []
        bad: dict[str, str] = {}
        unmade: list[str] = []
        late: list[str] = []
        if encoder.record.clip_sha256 is not None:
            rows, bad, unmade = results.read_rows(folder, results.CLIP, item)
            features.append(rows)
        if encoder.towers:
            files = folder.shard_files(item)
            rows, failed, late = yield from rows_of(files, self.size, encoder.see, share, encoder.seen)
            features.append(rows)
            bad, unmade = bad | failed, sorted({*unmade, *late})
        else:
            yield len(rows)
        known = np.all([np.abs(own).max(axis=1) > 0 for own in features], axis=0)
        answers = np.where(known[:, None], encoder.head.apply(np.concatenate(features, axis=1)), 0).astype(np.float32)
        if len(late) < len(answers):
            results.write_rows(folder, self.shards, item, answers, bad, unmade)
        if late:
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

"""Images to CLIP features, shard by shard."""

from collections.abc import Iterator

from kernel.models.clip import ClipEncoder
from kernel.pipeline.folder import results
from kernel.pipeline.job import Job
from kernel.pipeline.stages import StageDeclaration
from kernel.pipeline.stages.batches import BatchSize, rows_of
from kernel.system.deadline import OutOfTime
from kernel.system.devices import Device
from kernel.system.work import Share


class ClipStage:
    def __init__(self, job: Job, device: Device) -> None:
        self.job = job
        self.clip = ClipEncoder.load(job.weights, device)
        self.size = BatchSize(job.recipe.clip_batch)

    def make(self, item: int, share: Share) -> Iterator[int]:
        folder = self.job.folder
        width = self.clip.model.text_projection.shape[-1]
        files = folder.shard_files(item)
        rows, bad, unmade = yield from rows_of(files, self.size, self.clip.encode_images, share, width)
        if len(unmade) < len(rows):
            results.write_rows(folder, results.CLIP, item, rows, bad, unmade)
        if unmade:
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

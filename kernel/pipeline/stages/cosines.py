"""Captions to their cosines with their own image, by CLIP, shard by shard."""

from collections.abc import Iterator

from kernel.models.clip import ClipEncoder
from kernel.pipeline.folder import results
from kernel.pipeline.job import Job
from kernel.pipeline.stages import StageDeclaration
from kernel.system.deadline import OutOfTime
from kernel.system.devices import Device
from kernel.system.work import Share


class CosinesStage:
    def __init__(self, job: Job, device: Device) -> None:
        self.job = job
        self.clip = ClipEncoder.load(job.weights, device)

    def make(self, item: int, share: Share) -> Iterator[int]:
        if share.ends.left() <= 0:
            raise OutOfTime
        folder, recipe = self.job.folder, self.job.recipe
        image_features, _, _ = results.read_rows(folder, results.CLIP, item)
        for by in list(results.unscored(folder, results.COSINES, item, recipe.captioner)):
            captions = results.read_caption_shard(folder, item, by).captions
            texts = list(dict.fromkeys(text for said in captions for text in said))
            rows = dict(zip(texts, self.clip.encode_texts(texts, recipe.text_batch), strict=True)) if texts else {}
            cosines = [
                [float(features @ rows[text]) for text in said]
                for features, said in zip(image_features, captions, strict=True)
            ]
            folder.write_json(results.COSINES.by(by), item, cosines)
        yield len(image_features)


STAGE = StageDeclaration(
    "cosines",
    CosinesStage,
    label="caption cosines",
    reads=(results.CLIP, results.CAPTIONS),
    writes=results.COSINES,
    depends_on=(results.CLIP, results.CAPTIONS),
    wanted=lambda recipe: recipe.caption_weighting == "clip",
    planned_as=("caption cosines",),
    aim="every caption was weighed, so the others count alike",
)

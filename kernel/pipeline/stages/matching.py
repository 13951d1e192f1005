"""Captions to how well each says what its own image shows, by image-text matching, shard by shard."""

from collections.abc import Iterator
from itertools import chain

from PIL.Image import Image

from kernel.models.image_text_matching import Matcher
from kernel.pipeline.folder import results
from kernel.pipeline.folder.results import MatchingShard
from kernel.pipeline.job import Job
from kernel.pipeline.stages import StageDeclaration
from kernel.pipeline.stages.batches import BatchSize, encode_files
from kernel.system.deadline import Effort, OutOfTime
from kernel.system.devices import Device
from kernel.system.work import Share


class MatchingStage:
    def __init__(self, job: Job, device: Device) -> None:
        assert job.recipe.matching_head is not None  # else no run wants this stage
        self.job, self.head = job, job.recipe.matching_head
        self.matcher = Matcher.load(job.weights, device)
        self.size = BatchSize(job.recipe.matching_batch)

    def make(self, item: int, share: Share) -> Iterator[int]:
        """Scores of a shard's captions; an image's are all made or none is, as they count beside one another. It is
        looked at once, whoever captioned it."""
        folder = self.job.folder
        asked = results.unscored(folder, results.MATCHING, item, self.job.recipe.captioner)
        said = {by: results.read_caption_shard(folder, item, by).captions for by in asked}
        if not said:  # another worker, taken for lost, has made them
            yield len(folder.shard_files(item))
            return
        every = (list(chain(*own)) for own in zip(*said.values(), strict=True))
        captions = {file.id: own for file, own in zip(folder.shard_files(item), every, strict=True) if own}
        files = [file for file in folder.shard_files(item) if file.id in captions]
        effort = Effort(1, share.images, share.ends)

        def scores(pairs: list[tuple[Image, list[str]]]) -> list[list[float]]:
            with effort.timed(len(pairs)):
                return self.matcher.scores([image for image, _ in pairs], [own for _, own in pairs], self.head)

        made = yield from encode_files(files, self.size, scores, captions)
        yield len(folder.shard_files(item)) - len(files)
        found = dict(zip((file.id for file in files), made.results, strict=True))
        of_image = [found.get(image, []) for image in folder.shard_ids(item)]
        starts = [0] * len(of_image)  # of the captioner's own among an image's scores
        for by, captions_of in said.items() if not made.unmade or len(made.unmade) < len(files) else ():
            ends = [start + len(own) for start, own in zip(starts, captions_of, strict=True)]
            scores_of = [
                own if own is None else own[start:end] for own, start, end in zip(of_image, starts, ends, strict=True)
            ]
            results.write_matching(folder, item, MatchingShard(scores_of, made.bad | made.failed, made.unmade), by)
            starts = ends
        if made.unmade:
            raise OutOfTime


STAGE = StageDeclaration(
    "matching",
    MatchingStage,
    label="image-text matching",
    reads=(results.CAPTIONS,),
    writes=results.MATCHING,
    depends_on=("matching", "matching_batch", results.CAPTIONS),
    wanted=lambda recipe: recipe.matching_head is not None,
    planned_as=("image-text matching",),
    aim="every caption was weighed, so the others count alike",
)

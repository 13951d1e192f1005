"""Images to CLIP features, shard by shard; word lists to features, where the weights folder brings none."""

import time
from functools import partial

import numpy as np
from PIL.Image import Image

from kernel.clip import ClipEncoder
from kernel.deadline import Effort, OutOfTime
from kernel.devices import Device
from kernel.inventory import word_lists
from kernel.job import Job
from kernel.stages import WORDS, Item
from kernel.stages.batches import BatchSize, Progress, Share, encode_files
from kernel.word_banks import encode_missing


class ClipStage:
    def __init__(self, job: Job, device: Device) -> None:
        self.job = job
        self.clip = ClipEncoder.load(job.weights, device)
        self.size = BatchSize(job.recipe.clip_batch)

    def make(self, item: Item, share: Share, progress: Progress) -> None:
        folder = self.job.folder
        if item == WORDS:
            for words in word_lists(self.job.recipe, self.job.weights):
                sha256, batch = self.job.weights.sha256("clip"), self.job.recipe.text_batch
                encode_missing(words, self.clip, sha256, self.job.features_folders, batch)
            return
        assert isinstance(item, int)
        effort = Effort(1, share.images, share.ends)
        encode = partial(timed_features, self.clip, effort)
        files = folder.shard_files(item)
        made = encode_files(files, self.size, encode, progress)
        if len(made.unmade) < len(files):
            width = self.clip.model.text_projection.shape[-1]
            rows = [np.zeros(width, dtype=np.float32) if row is None else row for row in made.results]
            folder.write_clip(item, np.stack(rows), made.bad | made.failed, made.unmade)
        if made.unmade:
            raise OutOfTime


def timed_features(clip: ClipEncoder, effort: Effort, images: list[Image]) -> np.ndarray:
    """Features, if the time suffices: of images there are no cheaper ones."""
    effort.next(len(images))
    start = time.perf_counter()
    features = clip.encode_images(images)
    effort.took(len(images), 1, time.perf_counter() - start)
    return features

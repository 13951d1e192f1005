"""Phrases of word lists to CLIP features, part by part, where no folder holds those of the list."""

from collections.abc import Iterator

import numpy as np

from kernel.banks.word_banks import write_features
from kernel.models.multilingual.loading import AnyClip, load_clip
from kernel.pipeline.job import Job
from kernel.pipeline.stages import StageDeclaration
from kernel.system.deadline import Effort
from kernel.system.devices import Device
from kernel.system.work import Share


class WordsStage:
    def __init__(self, job: Job, device: Device, clip: AnyClip | None = None) -> None:
        self.batch = job.recipe.text_batch
        self.parts = job.word_parts()
        self.clip = clip or load_clip(job.weights, device, job.clip)

    def make(self, item: int, share: Share) -> Iterator[int]:
        part = self.parts[item]
        effort = Effort(1, share.images, share.ends)
        rows = []
        for start in range(0, len(part.phrases), self.batch):
            phrases = part.phrases[start : start + self.batch]
            with effort.timed(len(phrases)):
                rows.append(self.clip.encode_texts(phrases, self.batch))
            yield len(phrases)
        write_features(part.path, np.concatenate(rows))


# a features file is named by model and phrases, so it depends on no run
STAGE = StageDeclaration("words", WordsStage, label="words", planned_as=("word banks",), unit="phrase")

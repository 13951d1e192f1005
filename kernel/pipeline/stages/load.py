"""The table of stages, a stage by its name with what it loads, and a run's stage as work."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kernel.banks.prompt_bank import RECORD
from kernel.errors import UserError, did_you_mean
from kernel.pipeline.images import one_of_each_folder
from kernel.pipeline.job import Job
from kernel.pipeline.stages import (
    StageDeclaration,
    captions,
    clip,
    cosines,
    descriptions,
    encoders,
    estimates,
    matching,
    words,
)
from kernel.system.devices import Device
from kernel.system.work import Maker, plain

# in the order in which a run comes to them
STAGES = {
    own.name: own
    for own in (
        words.STAGE,
        clip.STAGE,
        encoders.STAGE,
        captions.STAGE,
        cosines.STAGE,
        matching.STAGE,
        estimates.STAGE,
        descriptions.STAGE,
    )
}


def kept() -> list[StageDeclaration]:
    """The stages whose outputs a run keeps, so that the next one goes on with them."""
    return [stage for stage in STAGES.values() if stage.depends_on]


def load_stage(name: str, job: Job, device: Device) -> Maker:
    """One of STAGES, followed by what makes it where that is one of several. Raises UserError for any other."""
    kind, _, by = name.partition(" ")
    stage = STAGES.get(kind)
    if stage is None or bool(by) != bool(stage.by):
        valid = [f"{own.name} {own.by}".rstrip() for own in STAGES.values()]
        raise UserError(f"unknown stage {name!r}{did_you_mean(name, valid)}. Valid: {', '.join(valid)}")
    return stage.load(job, device, by) if by else stage.load(job, device)


@dataclass(frozen=True)
class StageWork:
    """A stage of a run as work; `loaded` gives the stage to who has it at hand, in the process that has it."""

    job: Job
    stage: str
    loaded: Callable[[], Maker] | None = None

    def load(self, device: Device) -> Maker:
        return self.loaded() if self.loaded else load_stage(self.stage, self.job, device)

    def folders(self) -> list[Path]:
        """The run's own, and where features of phrases are made that for them, if it is another and there."""
        features = self.job.features if self.stage == words.STAGE.name else None
        return [self.job.folder.folder, *([features] if features and features.is_dir() else [])]

    def inputs(self) -> list[Path]:
        """The weights, the bank, one of the files with features of phrases, which may be in a folder that is only read,
        and of the pictures in each folder one: a picture that is not seen counts as bad."""
        bank = [self.job.bank / RECORD] if self.job.bank else []
        features = sorted(self.job.features.glob("*.safetensors"))[:1] if self.job.features else []
        return [self.job.weights.manifest, *bank, *features, *one_of_each_folder(self.job.folder.images)]

    def as_json(self) -> str:
        return plain([self.stage, self.job.as_json()])

    @classmethod
    def from_json(cls, text: str) -> "StageWork":
        stage, job = json.loads(text)
        return cls(Job.from_json(job), stage)

"""The table of stages, and a stage by its name, with what it loads."""

from kernel.errors import UserError, did_you_mean
from kernel.pipeline.job import Job
from kernel.pipeline.stages import Stage, StageDeclaration, captions, clip, cosines, descriptions, estimates, words
from kernel.system.devices import Device

# in the order in which a run comes to them
STAGES = {
    own.name: own
    for own in (words.STAGE, clip.STAGE, captions.STAGE, cosines.STAGE, estimates.STAGE, descriptions.STAGE)
}


def kept() -> list[StageDeclaration]:
    """The stages whose outputs a run keeps, so that the next one goes on with them."""
    return [stage for stage in STAGES.values() if stage.depends_on]


def load_stage(name: str, job: Job, device: Device) -> Stage:
    """One of STAGES, followed by what makes it where that is one of several. Raises UserError for any other."""
    kind, _, by = name.partition(" ")
    stage = STAGES.get(kind)
    if stage is None or bool(by) != bool(stage.by):
        valid = [f"{own.name} {own.by}".rstrip() for own in STAGES.values()]
        raise UserError(f"unknown stage {name!r}{did_you_mean(name, valid)}. Valid: {', '.join(valid)}")
    return stage.load(job, device, by) if by else stage.load(job, device)

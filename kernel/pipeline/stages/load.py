"""A stage by its name, with what it loads."""

from kernel.errors import UserError, did_you_mean
from kernel.pipeline.job import Job
from kernel.pipeline.stages import Stage
from kernel.system.devices import Device


def words(job: Job, device: Device) -> Stage:
    from kernel.pipeline.stages.words import WordsStage

    return WordsStage(job, device)


def clip(job: Job, device: Device) -> Stage:
    from kernel.pipeline.stages.clip import ClipStage

    return ClipStage(job, device)


def captions(job: Job, device: Device, captioner: str) -> Stage:
    from kernel.pipeline.stages.captions import CaptionsStage

    return CaptionsStage(job, device, captioner)


def cosines(job: Job, device: Device) -> Stage:
    from kernel.pipeline.stages.cosines import CosinesStage

    return CosinesStage(job, device)


def describe(job: Job, device: Device) -> Stage:
    from kernel.pipeline.stages.describe import DescribeStage

    return DescribeStage(job, device)


def answer(job: Job, device: Device) -> Stage:
    from kernel.pipeline.stages.answer import AnswerStage

    return AnswerStage.load(job, device)


LOADERS = {"words": words, "clip": clip, "cosines": cosines, "describe": describe, "answer": answer}
# by the captioner that follows the name
CAPTIONS = "captions"


def load_stage(name: str, job: Job, device: Device) -> Stage:
    """One of LOADERS, or `captions NAME` with the captioner of that name. Raises UserError for any other."""
    kind, _, captioner = name.partition(" ")
    if kind == CAPTIONS and captioner:
        return captions(job, device, captioner)
    if name not in LOADERS:
        valid = [*LOADERS, f"{CAPTIONS} NAME"]
        raise UserError(f"unknown stage {name!r}{did_you_mean(name, valid)}. Valid: {', '.join(valid)}")
    return LOADERS[name](job, device)

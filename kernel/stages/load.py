"""A stage by its name, with what it loads; and why one could not be used."""

import sys
import traceback

from kernel.devices import Device
from kernel.errors import UserError
from kernel.job import Job
from kernel.stages import Stage
from kernel.stages.batches import CannotBeUsed, first_line


def load_stage(name: str, job: Job, device: Device) -> Stage:
    """`clip`, `cosines`, `describe`, `answer`, or `captions NAME` with the captioner of that name."""
    kind, _, captioner = name.partition(" ")
    if kind == "clip":
        from kernel.stages.clip import ClipStage

        return ClipStage(job, device)
    if kind == "captions":
        from kernel.stages.captions import CaptionsStage

        return CaptionsStage(job, device, captioner)
    if kind == "cosines":
        from kernel.stages.cosines import CosinesStage

        return CosinesStage(job, device)
    if kind == "describe":
        from kernel.stages.describe import DescribeStage

        return DescribeStage(job, device)
    from kernel.stages.answer import AnswerStage

    return AnswerStage.load(job, device)


def reason_of(error: Exception) -> str:
    """One line for the run's record; what nobody foresaw is told whole on stderr."""
    if not isinstance(error, UserError | CannotBeUsed):
        traceback.print_exception(error, file=sys.stderr)
    return first_line(error)

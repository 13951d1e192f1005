"""The table of stages, a stage by its name, with what it loads, and what comes of an item in its hands."""

import traceback
from collections.abc import Iterator
from typing import Any

from kernel.errors import UserError, did_you_mean, kind_and_line
from kernel.pipeline.job import Job
from kernel.pipeline.stages import (
    Stage,
    StageDeclaration,
    captions,
    clip,
    cosines,
    descriptions,
    encoders,
    estimates,
    words,
)
from kernel.pipeline.stages.batches import CannotBeUsed, Share
from kernel.system.deadline import OutOfTime
from kernel.system.devices import Device
from kernel.system.terminal.progress import STDERR

# in the order in which a run comes to them
STAGES = {
    own.name: own
    for own in (
        words.STAGE,
        clip.STAGE,
        encoders.STAGE,
        captions.STAGE,
        cosines.STAGE,
        estimates.STAGE,
        descriptions.STAGE,
    )
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


def steps(stage: Stage, item: int, share: Share) -> Iterator[dict[str, Any]]:
    """What comes of one item as plain data, the same for this process and for a worker's parent: `{"progress": images}`
    for each step, and last of all how it ended: `made`, `out_of_time`, `disk` with an OSError's number and words, or
    `given_up` with the reason.

    Only what the stage itself raises is told: whoever reads the steps does so outside, and fails by himself.
    """
    try:
        for images in stage.make(item, share):
            yield {"progress": images}
    except OutOfTime:
        yield {"out_of_time": True}
    except OSError as error:
        yield {"disk": [error.errno, error.strerror or str(error)]}
    except Exception as error:
        yield {"given_up": reason_of(error)}
    else:
        yield {"made": item}


def reason_of(error: Exception) -> str:
    """One line for the run's record; what nobody foresaw is told whole on stderr."""
    if not isinstance(error, UserError | CannotBeUsed):
        traceback.print_exception(error, file=STDERR)
    return kind_and_line(error)

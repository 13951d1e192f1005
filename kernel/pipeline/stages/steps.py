"""What comes of one item in a stage's hands, as plain data: the same for this process and for a worker's parent."""

import traceback
from collections.abc import Iterator
from typing import Any

from kernel.errors import UserError, kind_and_line
from kernel.pipeline.stages import Stage
from kernel.pipeline.stages.batches import CannotBeUsed, Share
from kernel.system.deadline import OutOfTime
from kernel.system.terminal.progress import STDERR


def steps(stage: Stage, item: int, share: Share) -> Iterator[dict[str, Any]]:
    """`{"progress": images}` for each step, and last of all how it ended: `made`, `out_of_time`, `disk` with an
    OSError's number and words, or `given_up` with the reason.

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

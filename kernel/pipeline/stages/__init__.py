"""The stages of a run: each reads what the one before wrote into the run folder, and writes its own outputs.

A stage is loaded on one device and then makes item after item, by their numbers: of shards, of parts of word lists, or
of estimates among those with a share. Its file declares it, and its line in load.py makes it known.
"""

from collections.abc import Callable
from dataclasses import dataclass

from kernel.config import Recipe
from kernel.pipeline.folder.run_folder import Shards
from kernel.system.work import Maker


@dataclass(frozen=True)
class StageDeclaration:
    """What run, run folder, record, plan and report go by, so that a stage is its own file and a line in load.py."""

    name: str  # of its folder too
    load: Callable[..., Maker]  # of job and device, and of who makes it where `by` says so
    label: str  # of progress bars, and in run.json
    by: str = ""  # of a stage that one of several makes: what follows its name
    reads: tuple[Shards, ...] = ()  # besides the images, which every stage may read
    writes: Shards | None = None  # None of outputs that are no shards
    # where a run keeps the outputs: by name what preparation.py knows, as every setting, and shards for all of theirs
    depends_on: tuple[str | Shards, ...] = ()
    wanted: Callable[[Recipe], bool] = lambda recipe: True
    planned_as: tuple[str, ...] = ()  # the rows of a plan that are its cost
    unit: str = "image"
    lack: str = ""  # of an image that it did not come to: no ...
    aim: str = ""  # of a run that ended too early: before ...

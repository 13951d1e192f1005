"""The stages of a run: each reads what the one before wrote into the run folder, and writes its own outputs.

A stage is loaded on one device and then makes item after item, by their numbers: of shards, of parts of word lists, or
of estimates among those with a share.
"""

from collections.abc import Iterator
from typing import Protocol

from kernel.pipeline.stages.batches import Share


class Stage(Protocol):
    def make(self, item: int, share: Share) -> Iterator[int]:
        """Writes the item's outputs; yields how many images, or phrases, more are done.

        Raises OutOfTime when there is no time for the item, CannotBeUsed when the model cannot make it here.
        """
        ...

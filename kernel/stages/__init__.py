"""The stages of a run: each reads what the one before wrote into the run folder, and writes its own shards.

A stage is loaded on one device and then makes item after item: the numbers of shards, or WORDS, or an estimate's name.
"""

from typing import Protocol

from kernel.stages.batches import Progress, Share

Item = int | str
# an item that is no shard: the features of word lists that the weights folder brings none for
WORDS = "words"


class Stage(Protocol):
    """Raises OutOfTime when there is no time for the item, CannotBeUsed when the model cannot make it here."""

    def make(self, item: Item, share: Share, progress: Progress) -> None: ...

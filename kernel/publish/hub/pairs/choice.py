"""Which of a source's pairs are kept: by their texts, file after file, so that no picture is decoded in vain.

Of near prompts the first is kept, as the others would say the same again. A prompt itself may have SAME_PROMPT
pictures: another seed shows what of a picture the prompt decides, which the competition's 6th place found worth 0.005
to 0.010, and the split holds equal prompts together; more of them would only displace other prompts.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from kernel.banks.near_duplicates import NearDuplicates
from kernel.config import EMBEDDING_DIMENSIONS
from kernel.publish.hub.pairs.stored import Stored
from kernel.publish.hub.prompt_filters import PromptSettings, passed

SAME_PROMPT = 2
NEAR, OFTEN = "near duplicate of another prompt", f"prompt with {SAME_PROMPT} pictures already"


@dataclass(frozen=True)
class Choice:
    """Of one source file: the pairs that are kept with their clean prompts; the prompts that are new with their unit
    rows (n, 384), and those that are there again, once a picture."""

    kept: list[tuple[Stored, str]]
    prompts: list[str]
    rows: np.ndarray
    again: list[str]


@dataclass
class Chosen:
    """What is kept of the files before."""

    near: NearDuplicates
    pictures: Counter[str] = field(default_factory=Counter)

    def add(self, prompts: Iterable[str], rows: np.ndarray, again: Iterable[str]) -> None:
        """What was chosen before an interruption."""
        self.near.add(rows)
        self.pictures.update([*prompts, *again])

    def choose(
        self, stored: list[Stored], scored: bool, encode: Callable[[list[str]], np.ndarray], left_out: Counter[str]
    ) -> Choice:
        """`scored`: whether the source has NSFW scores; `left_out` counts by reason what is not kept."""
        good: list[tuple[Stored, str]] = []
        for own in stored:
            verdict = passed(own.prompt, own.score, scored, PromptSettings())
            if isinstance(verdict, str):
                good.append((own, verdict))
            else:
                left_out[verdict.value] += 1
        asked = [prompt for prompt in dict.fromkeys(prompt for _, prompt in good) if prompt not in self.pictures]
        rows = encode(asked) if asked else np.zeros((0, EMBEDDING_DIMENSIONS), np.float32)
        fresh = self.near.keep(rows)
        new = [prompt for prompt, is_fresh in zip(asked, fresh.tolist(), strict=True) if is_fresh]
        unseen, kept, again = set(new), [], []
        for own, prompt in good:
            if prompt not in self.pictures and prompt not in unseen:
                left_out[NEAR] += 1
            elif self.pictures[prompt] == SAME_PROMPT:
                left_out[OFTEN] += 1
            else:
                if prompt in self.pictures:
                    again.append(prompt)
                self.pictures[prompt] += 1
                kept.append((own, prompt))
        return Choice(kept, new, rows[fresh], again)

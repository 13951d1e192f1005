"""clip-interrogator's greedy chain, for many images at once: one more term a round, as long as that helps."""

from dataclasses import dataclass, field

import numpy as np

from kernel.models.text_tower import TextTower


@dataclass
class Chain:
    """One image's: the prompt it is at, the terms that joined its start, the best prompt on the way and how many had
    joined by then, and the terms that are left to it.

    `worth` is what the chain makes large: the cosine to the image, or its negative in a reversed chain.
    """

    prompt: str
    worth: float
    terms: list[str]
    picked: list[tuple[str, float]] = field(default_factory=list)
    best_prompt: str = ""
    best_worth: float = float("-inf")
    best_length: int = 0
    ended: bool = False

    def __post_init__(self) -> None:
        self.start, self.start_worth = self.prompt, self.worth
        self.best_prompt, self.best_worth = self.prompt, self.worth

    def add(self, term: str, worth: float, must: bool) -> None:
        """Takes the term on when it helps or `must` be taken; else the chain ends."""
        prompt = f"{self.prompt}, {term}"
        helps = worth > self.worth
        if helps or must:
            self.prompt, self.worth = prompt, worth
            self.picked.append((term, worth))
            self.terms.remove(term)
        if worth > self.best_worth:
            self.best_prompt, self.best_worth, self.best_length = prompt, worth, len(self.picked)
        self.ended = not (helps or must)


def chains(
    tower: TextTower,
    image_features: np.ndarray,
    starts: list[str],
    worths: list[float],
    terms: list[list[str]],
    most: int,
    least: int = 8,
    reverse: bool = False,
) -> list[Chain]:
    """Of each image (n, d) the chain from its start, whose `worth` is known, over its own terms.

    The rule of clip-interrogator 0.6.0: the best term joins when the prompt comes nearer by it, or is among the first
    `least`; the chain ends otherwise, after `most` terms, or when CLIP's tokens are used up; the answer is the best
    prompt on the way. An empty start takes the best term alone as its start, which does not count among `most`.

    `reverse` looks for the farthest instead, in every comparison. The original forgets to turn the sign of its first
    prompt's similarity, so that nothing after it is ever an improvement where similarities are above 0, as those of
    trained models are: its negative mode returns the first term alone.
    """
    sign = np.float32(-1 if reverse else 1)
    found = [
        Chain(start, worth, list(dict.fromkeys(own)))
        for start, worth, own in zip(starts, worths, terms, strict=True)
    ]  # fmt: skip
    empty = [index for index, start in enumerate(starts) if not start and found[index].terms]
    for index, (row, cosine) in zip(empty, best_terms(tower, image_features, found, empty, sign), strict=True):
        term = found[index].terms.pop(row)
        found[index] = Chain(term, cosine, found[index].terms)
    for number in range(most):
        active = [index for index, own in enumerate(found) if not own.ended and own.prompt and own.terms]
        if not active:
            break
        for index, (row, worth) in zip(active, best_terms(tower, image_features, found, active, sign), strict=True):
            own = found[index]
            own.add(own.terms[row], worth, must=number < least)
            own.ended = own.ended or tower.is_full(own.prompt)
    return found


def best_terms(
    tower: TextTower, image_features: np.ndarray, found: list[Chain], active: list[int], sign: np.float32
) -> list[tuple[int, float]]:
    """Of each of these chains the term that serves it most, by its number, and what the prompt is worth with it."""
    if not active:
        return []
    starts, terms = [found[index].prompt for index in active], [found[index].terms for index in active]
    cosines = tower.similarities(starts, terms, image_features[active])
    rows = [int((sign * own).argmax()) for own in cosines]
    return [(row, float(sign * own[row])) for row, own in zip(rows, cosines, strict=True)]

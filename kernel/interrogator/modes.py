"""clip-interrogator's four modes: an image's caption and its best terms to one prompt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kernel.interrogator.chain import chains
from kernel.interrogator.terms import NEGATIVE, TermTable
from kernel.models.text_tower import TextTower

# one term of each of these behind the caption, then the flavors
CLASSIC = ("mediums", "artists", "trendings", "movements")
Part = tuple[str, str, float]  # a term, its bank, its similarity


@dataclass(frozen=True)
class Description:
    """A prompt, its cosine to the image, and what it is made of: of a chain each term's similarity is that of the
    prompt up to it. `candidates` are the prompts that mode best chose from, with theirs."""

    prompt: str
    similarity: float
    parts: list[Part]
    candidates: dict[str, tuple[str, float]]

    def as_json(self) -> dict[str, Any]:
        parts = [{"term": term, "bank": bank, "similarity": similarity} for term, bank, similarity in self.parts]
        content = {"prompt": self.prompt, "similarity": self.similarity, "parts": parts}
        if self.candidates:
            content["candidates"] = {
                name: {"prompt": prompt, "similarity": similarity}
                for name, (prompt, similarity) in self.candidates.items()
            }
        return content


class Describer:
    """The modes over one table of terms; images come as features (n, d) of rows of length 1, with their captions."""

    def __init__(self, table: TermTable, tower: TextTower) -> None:
        self.table, self.tower = table, tower

    def describe(self, mode: str, image_features: np.ndarray, captions: list[str], most: int) -> list[Description]:
        """One description an image. `most`: terms at most, in mode classic flavors."""
        if mode == "best":
            return self.best(image_features, captions, most)
        if mode == "negative":
            return self.negative(image_features, most)
        made = (self.classic if mode == "classic" else self.fast)(image_features, captions, most)
        cosines = self.tower.cosines([prompt for prompt, _ in made], image_features)
        return [
            Description(prompt, float(cosine), parts, {})
            for (prompt, parts), cosine in zip(made, cosines, strict=True)
        ]  # fmt: skip

    def classic(self, image_features: np.ndarray, captions: list[str], most: int) -> list[tuple[str, list[Part]]]:
        banks = {
            name: self.table.best(image_features, rows, most if name == "flavors" else 1)
            for name, rows in self.table.rows.items()
        }
        made = []
        for number, caption in enumerate(captions):
            found = {name: self.parts(own[number]) for name, own in banks.items()}
            prompt = classic_prompt(caption, {name: [term for term, _, _ in own] for name, own in found.items()})
            made.append((fitting(prompt, self.tower.is_full), [part for own in found.values() for part in own]))
        return made

    def fast(self, image_features: np.ndarray, captions: list[str], most: int) -> list[tuple[str, list[Part]]]:
        made = []
        for caption, best in zip(captions, self.table.best(image_features, self.table.positive, most), strict=True):
            parts = self.parts(best)
            prompt = ", ".join([caption, *(term for term, _, _ in parts)])
            made.append((fitting(prompt, self.tower.is_full), parts))
        return made

    def best(self, image_features: np.ndarray, captions: list[str], most: int) -> list[Description]:
        starts = [float(cosine) for cosine in self.tower.cosines(captions, image_features)]
        shortlists = self.table.shortlist(image_features, self.table.positive)
        terms = [[self.table.phrases[row] for row in own] for own in shortlists]
        found = chains(self.tower, image_features, captions, starts, terms, most)
        classic, fast = (way(image_features, captions, most) for way in (self.classic, self.fast))
        descriptions = []
        for number, (features, chain) in enumerate(zip(image_features, found, strict=True)):
            banks = {self.table.phrases[row]: self.table.bank_of(row) for row in shortlists[number]}
            steps = [(term, banks[term], worth) for term, worth in chain.picked[: chain.best_length]]
            candidates: list[tuple[str, str, list[Part]]] = [
                ("caption", captions[number], []),
                ("classic", *classic[number]),
                ("fast", *fast[number]),
                ("chain", chain.best_prompt, steps),
            ]
            prompts = [prompt for _, prompt, _ in candidates]
            cosines = self.tower.cosines(prompts, np.tile(features, (len(prompts), 1)))
            chosen = int(cosines.argmax())
            descriptions.append(
                Description(
                    prompts[chosen],
                    float(cosines[chosen]),
                    candidates[chosen][2],
                    {name: (prompt, float(own)) for (name, prompt, _), own in zip(candidates, cosines, strict=True)},
                )
            )
        return descriptions

    def negative(self, image_features: np.ndarray, most: int) -> list[Description]:
        always = range(*self.table.part([NEGATIVE]))
        far = self.table.shortlist(image_features, self.table.positive, reverse=True)
        shortlists = [[*rows, *always] for rows in far]
        terms = [[self.table.phrases[row] for row in own] for own in shortlists]
        nothing = [""] * len(terms)
        descriptions = []
        for number, chain in enumerate(
            chains(self.tower, image_features, nothing, [0.0] * len(terms), terms, most, reverse=True)
        ):
            banks = {self.table.phrases[row]: self.table.bank_of(row) for row in reversed(shortlists[number])}
            picked = [(chain.start, chain.start_worth), *chain.picked[: chain.best_length]]
            parts = [(term, banks[term], -worth) for term, worth in picked]
            descriptions.append(Description(chain.best_prompt, -chain.best_worth, parts, {}))
        return descriptions

    def parts(self, rows: Sequence[tuple[int, float]]) -> list[Part]:
        return [(self.table.phrases[row], self.table.bank_of(row), cosine) for row, cosine in rows]


def classic_prompt(caption: str, terms: dict[str, list[str]]) -> str:
    """The caption, the medium unless it begins the caption, the artist, trending, movement, a user's own, flavors.

    Example: ("a fox", {"mediums": ["a photo"], "artists": ["by Ann"], "flavors": ["fog", "dusk"]})
    -> "a fox, a photo by Ann, fog, dusk"
    """
    medium, artist, trending, movement = (terms.get(name, []) for name in CLASSIC)
    own = [term for name, found in terms.items() if name not in (*CLASSIC, "flavors") for term in found]
    first = [caption] if medium and caption.startswith(medium[0]) else [caption, *medium]
    if medium and artist:
        first[-1] += f" {artist[0]}"
        artist = []
    return ", ".join([*first, *artist, *trending, *movement, *own, *terms.get("flavors", [])])


def fitting(prompt: str, is_full: Callable[[str], bool]) -> str:
    """The prompt up to the last comma before which CLIP reads all of it.

    clip-interrogator 0.6.0 tries each part without the comma that will stand before it; so does this, for equal cuts.
    """
    parts = prompt.split(", ")
    fits = parts[0]
    for part in parts[1:]:
        if is_full(fits + part):
            break
        fits += ", " + part
    return fits

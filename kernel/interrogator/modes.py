"""clip-interrogator's four modes: an image's caption and its best terms to one prompt."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kernel.interrogator.chain import chains
from kernel.interrogator.request import NEGATIVE
from kernel.interrogator.terms import TermTable
from kernel.models.text_tower import TextTower

# one term of each of these behind the caption, then the flavors
CLASSIC = ("mediums", "artists", "trendings", "movements")
Part = dict[str, Any]  # a `term`, its `bank`, its `similarity`: of a chain, that of the prompt up to it
Made = list[tuple[str, list[Part]]]  # of each image a prompt, and what it is made of


class Describer:
    """The modes over one table of terms; images come as features (n, d) of rows of length 1, with their captions."""

    def __init__(self, table: TermTable, tower: TextTower) -> None:
        self.table, self.tower = table, tower

    def describe(self, mode: str, image_features: np.ndarray, captions: list[str], most: int) -> list[dict[str, Any]]:
        """One description an image, as plain data: its `prompt`, the `similarity` of that, its `parts`, and in mode
        best the `candidates` that it chose from. `most`: terms at most, in mode classic flavors."""
        if mode == "best":
            return self.best(image_features, captions, most)
        if mode == "negative":
            return self.negative(image_features, most)
        made = (self.classic if mode == "classic" else self.fast)(image_features, captions, most)
        cosines = self.tower.cosines([prompt for prompt, _ in made], image_features)
        return [
            {"prompt": prompt, "similarity": float(cosine), "parts": parts}
            for (prompt, parts), cosine in zip(made, cosines, strict=True)
        ]

    def classic(self, image_features: np.ndarray, captions: list[str], most: int) -> Made:
        banks = {
            name: self.table.best(image_features, rows, most if name == "flavors" else 1)
            for name, rows in self.table.rows.items()
        }
        made = []
        for number, caption in enumerate(captions):
            found = {name: self.parts(own[number]) for name, own in banks.items()}
            prompt = classic_prompt(caption, {name: [part["term"] for part in own] for name, own in found.items()})
            made.append((fitting(prompt, self.tower.is_full), [part for own in found.values() for part in own]))
        return made

    def fast(self, image_features: np.ndarray, captions: list[str], most: int) -> Made:
        made = []
        for caption, best in zip(captions, self.table.best(image_features, self.table.positive, most), strict=True):
            parts = self.parts(best)
            prompt = ", ".join([*filter(None, [caption]), *(part["term"] for part in parts)])
            made.append((fitting(prompt, self.tower.is_full), parts))
        return made

    def best(self, image_features: np.ndarray, captions: list[str], most: int) -> list[dict[str, Any]]:
        starts = [float(cosine) for cosine in self.tower.cosines(captions, image_features)]
        shortlists = self.table.shortlist(image_features, self.table.positive)
        found = chains(self.tower, image_features, captions, starts, self.terms(shortlists), most)
        classic, fast = (way(image_features, captions, most) for way in (self.classic, self.fast))
        descriptions = []
        for number, (features, chain) in enumerate(zip(image_features, found, strict=True)):
            caption, picked = captions[number], chain.picked[: chain.best_length]
            if not caption:  # the chain began with a term
                picked = [(chain.start, chain.start_worth), *picked]
            steps = self.steps(shortlists[number], picked)
            by_name = {"classic": classic[number], "fast": fast[number], "chain": (chain.best_prompt, steps)}
            if caption:
                by_name = {"caption": (caption, []), **by_name}
            made = list(by_name.values())
            cosines = self.tower.cosines([prompt for prompt, _ in made], np.tile(features, (len(made), 1)))
            told = [
                {"prompt": prompt, "similarity": float(cosine)}
                for (prompt, _), cosine in zip(made, cosines, strict=True)
            ]
            chosen = int(cosines.argmax())
            candidates = dict(zip(by_name, told, strict=True))
            descriptions.append({**told[chosen], "parts": made[chosen][1], "candidates": candidates})
        return descriptions

    def negative(self, image_features: np.ndarray, most: int) -> list[dict[str, Any]]:
        always = range(*self.table.part([NEGATIVE]))
        far = self.table.shortlist(image_features, self.table.positive, reverse=True)
        shortlists = [[*rows, *always] for rows in far]
        starts, worths, terms = [""] * len(far), [0.0] * len(far), self.terms(shortlists)
        descriptions = []
        found = chains(self.tower, image_features, starts, worths, terms, most, reverse=True)
        for shortlist, chain in zip(shortlists, found, strict=True):
            picked = [(chain.start, chain.start_worth), *chain.picked[: chain.best_length]]
            parts = self.steps(shortlist, [(term, -worth) for term, worth in picked])
            descriptions.append({"prompt": chain.best_prompt, "similarity": -chain.best_worth, "parts": parts})
        return descriptions

    def terms(self, shortlists: list[list[int]]) -> list[list[str]]:
        return [[self.table.phrases[row] for row in own] for own in shortlists]

    def parts(self, rows: Sequence[tuple[int, float]]) -> list[Part]:
        return [
            {"term": self.table.phrases[row], "bank": self.table.bank_of(row), "similarity": cosine}
            for row, cosine in rows
        ]

    def steps(self, shortlist: list[int], picked: Sequence[tuple[str, float]]) -> list[Part]:
        """What a chain picked; of a phrase that two banks hold, the first in the shortlist."""
        row_of = {self.table.phrases[row]: row for row in reversed(shortlist)}
        return self.parts([(row_of[term], worth) for term, worth in picked])


def classic_prompt(caption: str, terms: dict[str, list[str]]) -> str:
    """The caption, the medium unless it begins the caption, the artist, trending, movement, a user's own, flavors.

    Example: ("a fox", {"mediums": ["a photo"], "artists": ["by Ann"], "flavors": ["fog", "dusk"]})
    -> "a fox, a photo by Ann, fog, dusk"
    """
    medium, artist, trending, movement = (terms.get(name, []) for name in CLASSIC)
    own = [term for name, found in terms.items() if name not in (*CLASSIC, "flavors") for term in found]
    first = [caption] if medium and caption.startswith(medium[0]) else [*filter(None, [caption]), *medium]
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

"""What is measured on: real prompts parted into scored ones and a bank without them, and simulations tied to
published scores.

The scored prompts of all splits, and the prompts that the simulations are set on, are drawn apart from each other and
kept out of the one bank, with whatever is near to them.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kernel.banks.cleaning import clean_prompts
from kernel.banks.near_duplicates import NearDuplicates, drop_scored
from kernel.banks.nearest import nearest, neighbour_estimate
from kernel.banks.prompt_files import read_prompts_from
from kernel.config import EMBEDDING_DIMENSIONS, BankSettings, Recipe
from kernel.errors import UserError
from kernel.evaluation.evaluate import pairwise_cosine
from kernel.evaluation.seed_deck import DECK_CAPTIONS
from kernel.models.sentences import SentenceEncoder
from kernel.models.vectors import unit_rows
from kernel.system.devices import Device
from kernel.system.terminal.progress import progress_bar
from tests.bench.text_side.simulation import (
    Corruption,
    mean_agreement,
    noisy_queries,
    simulated_captions,
    where_it_falls_to,
    words_of,
)

SPLITS = 3
BATCH = 32
PROGRESS = 2048  # texts
# Leaderboard: BLIP captions alone, and nearest prompts of CLIP image features over stored text embeddings.
CAPTION_SCORE, NEIGHBOURS_SCORE = 0.418, 0.553
# Corruptions are set to 1 / 2**STEPS, noise to LARGEST_NOISE / 2**STEPS: finer than the scores they are set on tell.
STEPS = 7
LARGEST_NOISE = 8.0
CAPTIONS = Recipe().captions_per_image
DEFAULT_NEAR = BankSettings(sources=[]).near


@dataclass(frozen=True)
class Sizes:
    """Prompts of each split that are scored, the first of them with 20 captions each, and those to set corruptions."""

    scored: int = 350
    captioned: int = 150
    calibrated: int = 200

    @property
    def held_out(self) -> int:
        return SPLITS * self.scored + self.calibrated


class EachTextOnce(SentenceEncoder):
    """MiniLM that remembers every text, with its progress on stderr."""

    def __init__(self, model: object) -> None:
        super().__init__(model)
        self.known: dict[str, np.ndarray] = {}

    def encode(self, prompts: list[str], batch: int = BATCH) -> np.ndarray:
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.known]
        parts = range(0, len(new), PROGRESS)
        for start in progress_bar(parts, desc=f"{len(new):,} texts", unit="part", leave=False, disable=len(parts) < 2):
            part = new[start : start + PROGRESS]
            self.known.update(zip(part, super().encode(part, batch), strict=True))
        return np.stack([self.known[prompt] for prompt in prompts])


@dataclass(frozen=True)
class Material:
    """Scored prompts with their rows, split after split; the guarded bank before near duplicates are dropped."""

    sizes: Sizes
    scored: list[str]
    truth: np.ndarray
    calibration: list[str]
    calibration_truth: np.ndarray
    bank: list[str]
    bank_rows: np.ndarray
    words: list[str]
    counts: dict[str, int]

    def captioned(self) -> np.ndarray:
        """Places of the scored prompts that get many captions."""
        return np.arange(len(self.scored)).reshape(SPLITS, -1)[:, : self.sizes.captioned].ravel()

    def captions(self, count: int, corruption: Corruption) -> list[list[str]]:
        """Of every scored prompt; each split has its own seed."""
        split = self.sizes.scored
        return [
            own
            for seed in range(SPLITS)
            for own in simulated_captions(
                self.scored[seed * split : (seed + 1) * split], count, corruption, self.words, seed
            )
        ]

    def noisy(self, noise: float) -> np.ndarray:
        splits = self.truth.reshape(SPLITS, -1, EMBEDDING_DIMENSIONS)
        return np.concatenate([noisy_queries(own, noise, seed) for seed, own in enumerate(splits)])


def read_material(path: Path, encoder: EachTextOnce, sizes: Sizes) -> Material:
    """Raises UserError for a file that holds too few prompts."""
    dropped: Counter[str] = Counter()
    prompts = list(clean_prompts(read_prompts_from([path]), dropped))
    if len(prompts) <= sizes.held_out:
        raise UserError(
            f"{path}: {len(prompts)} different clean prompts; expected more than the {sizes.held_out} that are held "
            "out, so that a bank is left. Give more prompts"
        )
    order = np.random.default_rng(0).permutation(len(prompts))
    # in the file's order, as a bank is built
    held_out, rest = order[: sizes.held_out], np.sort(order[sizes.held_out :])
    rows = encoder.encode(prompts)
    chosen = [prompts[place] for place in held_out]
    stays, excluded = drop_scored([prompts[place] for place in rest], rows[rest], set(chosen), rows[held_out])
    rest = rest[stays]
    if not len(rest):
        raise UserError(f"{path}: every other prompt is near to one that is held out. Give more varied prompts")
    bank = [prompts[place] for place in rest]
    border = SPLITS * sizes.scored
    return Material(
        sizes=sizes,
        scored=chosen[:border],
        truth=rows[held_out[:border]],
        calibration=chosen[border:],
        calibration_truth=rows[held_out[border:]],
        bank=bank,
        bank_rows=rows[rest],
        words=words_of(bank),
        counts={
            "read": len(prompts) + sum(dropped.values()),
            "dropped": sum(dropped.values()),
            "scored": border,
            "calibration": sizes.calibrated,
            "too near to these": sum(excluded.values()),
            "bank": len(bank),
        },
    )


def deduped(material: Material, threshold: float) -> np.ndarray:
    """The bank's rows (N, 384) float16, as a bank stores them, of prompts near to none before them."""
    rows = material.bank_rows[NearDuplicates(threshold).keep(material.bank_rows)]
    return rows.astype(np.float16)


def neighbours_answer(queries: np.ndarray, bank: np.ndarray, recipe: Recipe, device: Device) -> np.ndarray:
    """The recipe's answer with the bank's own rows in the place of CLIP's features; fewer neighbours than asked
    where the bank holds fewer."""
    indices, cosines = nearest(queries, bank, min(recipe.neighbours, len(bank)), device)
    return neighbour_estimate(indices, cosines, bank, recipe.neighbour_weighting, recipe.neighbour_temperature)


def corruption_at_published_score(material: Material, encoder: EachTextOnce, drop: float) -> Corruption:
    """With this `drop`, the `replace` at which one caption scores as BLIP's did, then the agreement at which two
    captions are as near to each other as those of one image that are known, from BLIP-2's beams."""
    prompts, truth = material.calibration, material.calibration_truth

    def score(replace: float) -> float:
        said = simulated_captions(prompts, 1, Corruption(drop, replace), material.words, SPLITS)
        return float(pairwise_cosine(encoder.encode([own[0] for own in said]), truth).mean())

    replace = where_it_falls_to(CAPTION_SCORE, score, 0, 1, STEPS)

    def nearness(independence: float) -> float:
        corruption = Corruption(drop, replace, 1 - independence)
        said = simulated_captions(prompts, CAPTIONS, corruption, material.words, SPLITS)
        return mean_agreement(rows_of(said, encoder))

    return Corruption(drop, replace, 1 - where_it_falls_to(deck_nearness(encoder), nearness, 0, 1, STEPS))


def noise_at_published_score(material: Material, bank: np.ndarray, device: Device) -> float:
    """The noise at which the bank's neighbours of noisy queries, by default settings, score as published."""

    def score(noise: float) -> float:
        queries = noisy_queries(material.calibration_truth, noise, SPLITS)
        answer = neighbours_answer(queries, bank, Recipe(), device)
        return float(pairwise_cosine(answer, material.calibration_truth).mean())

    return where_it_falls_to(NEIGHBOURS_SCORE, score, 0, LARGEST_NOISE, STEPS)


def deck_nearness(encoder: EachTextOnce) -> float:
    return mean_agreement(rows_of([DECK_CAPTIONS], encoder))


def rows_of(captions: list[list[str]], encoder: EachTextOnce) -> np.ndarray:
    """As many captions of each image -> (n, count, 384) unit rows."""
    flat = encoder.encode([caption for own in captions for caption in own])
    return unit_rows(flat).reshape(len(captions), -1, EMBEDDING_DIMENSIONS)

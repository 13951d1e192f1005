"""Captions and queries of images that do not exist, made by corrupting the true prompt.

A caption: the prompt is split at its commas into parts, and each part at its spaces into words. The first part with a
letter is the subject and always stays; each other part, a modifier, is dropped with probability `drop`. Each word is
replaced with probability `replace` by a word of other prompts, drawn as often as it occurs there. `agreement` is the
share of parts and words that fare alike in all captions of an image; the others are drawn anew for each caption. It
leaves a single caption as good as it was. `drop` = 1 is what captioners do: they tell of the subject, and of no artist,
medium or quality.

A noisy query: the true unit vector plus normal noise of the same size in all directions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kernel.banks.cleaning import has_letter
from kernel.models.vectors import unit_rows


@dataclass(frozen=True)
class Corruption:
    """Probabilities that a modifier is dropped and a word replaced, and the share of both that captions share."""

    drop: float
    replace: float
    agreement: float = 0.0


@dataclass(frozen=True)
class Draws:
    """Uniform numbers in [0, 1) for each part and each word, and the place of each word's replacement."""

    parts: np.ndarray
    words: np.ndarray
    replacements: np.ndarray


def split_prompt(prompt: str) -> list[list[str]]:
    """Parts as lists of words; joined by spaces and commas they are the prompt again.

    Example: "a cat, oil on canvas" -> [["a", "cat"], ["", "oil", "on", "canvas"]]
    """
    return [part.split(" ") for part in prompt.split(",")]


def words_of(prompts: list[str]) -> list[str]:
    """Every word of the prompts, as often as it occurs."""
    return [word for prompt in prompts for part in split_prompt(prompt) for word in part if word]


def simulated_captions(
    prompts: list[str], count: int, corruption: Corruption, words: list[str], seed: int
) -> list[list[str]]:
    """`count` captions of each prompt, which must be clean, with replacements out of `words`.

    Prompt i depends on (seed, i) alone, and fewer captions are the first of more. What is corrupted at a lower `drop`
    or `replace` is corrupted alike at a higher one, so that settings compare on the same draws.
    """
    return [
        captions_of(prompt, count, corruption, words, np.random.default_rng((seed, place)))
        for place, prompt in enumerate(prompts)
    ]


def captions_of(
    prompt: str, count: int, corruption: Corruption, words: list[str], rng: np.random.Generator
) -> list[str]:
    parts = split_prompt(prompt)
    shape = len(parts), sum(map(len, parts)), len(words)
    common = draw(rng, *shape)
    part_is_common = rng.random(shape[0]) < corruption.agreement
    word_is_common = rng.random(shape[1]) < corruption.agreement
    captions = []
    for _ in range(count):
        own = draw(rng, *shape)
        mixed = Draws(
            np.where(part_is_common, common.parts, own.parts),
            np.where(word_is_common, common.words, own.words),
            np.where(word_is_common, common.replacements, own.replacements),
        )
        captions.append(corrupted(parts, corruption, words, mixed))
    return captions


def draw(rng: np.random.Generator, parts: int, words: int, vocabulary: int) -> Draws:
    return Draws(rng.random(parts), rng.random(words), rng.integers(vocabulary, size=words))


def corrupted(parts: list[list[str]], corruption: Corruption, words: list[str], draws: Draws) -> str:
    subject = next((place for place, part in enumerate(parts) if has_letter(" ".join(part))), 0)
    told, place = [], 0
    for number, part in enumerate(parts):
        # commas and runs of spaces leave empty words, which are no words to replace
        said = [
            words[draws.replacements[place + i]] if word and draws.words[place + i] < corruption.replace else word
            for i, word in enumerate(part)
        ]
        place += len(part)
        if number == subject or draws.parts[number] >= corruption.drop:
            told.append(" ".join(said))
    return ",".join(told).strip()


def noisy_queries(truth: np.ndarray, noise: float, seed: int) -> np.ndarray:
    """True unit rows plus noise of mean length `noise` -> unit rows. (n, d) -> (n, d) float32.

    Row i depends on (seed, i) alone, and its noise points the same way at every size.
    """
    steps = np.stack([np.random.default_rng((seed, place)).normal(size=truth.shape[1]) for place in range(len(truth))])
    return unit_rows(truth + noise / np.sqrt(truth.shape[1]) * steps)


def mean_agreement(rows: np.ndarray) -> float:
    """Mean cosine of two different captions of an image. Unit rows (n, c, d), c above 1.

    Example: one image with [[1, 0], [0, 1], [0, 1]] -> 1/3
    """
    count = rows.shape[1]
    squares = (rows.astype(np.float64).sum(axis=1) ** 2).sum(axis=1)
    return float(((squares - count) / (count * (count - 1))).mean())


def where_it_falls_to(target: float, score: Callable[[float], float], low: float, high: float, steps: int) -> float:
    """Where the falling `score` meets `target`, by bisection; the nearer end where it does not between them.

    Example: where_it_falls_to(0.25, lambda x: 1 - x, 0, 1, 20) -> 0.75
    """
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if score(middle) > target else (low, middle)
    return (low + high) / 2

"""What texts say of images: the mean vector of captions, of modifiers, or of both as prompts."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from kernel.config import EMBEDDING_DIMENSIONS, ITM, Recipe
from kernel.estimates.fusion import group_means
from kernel.estimates.known import Known, Making, Said
from kernel.models.sentences import SentenceEncoder

IMAGES = 256  # whose texts are in memory as vectors at a time


def prompts(known: Known) -> Making:
    """Each caption with the modifiers behind it; the modifiers alone where there is no caption."""
    recipe = known.recipe
    return mean_rows(
        known,
        [
            Said(compose(own.texts, phrases, recipe), own.weights) if own.texts else modifier_prompt(phrases, recipe)
            for own, phrases in zip(known.captions, known.modifiers, strict=True)
        ],
    )


def captions(known: Known) -> Making:
    return mean_rows(known, known.captions)


def modifiers(known: Known) -> Making:
    return mean_rows(known, [modifier_prompt(phrases, known.recipe) for phrases in known.modifiers])


def modifier_prompt(phrases: list[str], recipe: Recipe) -> Said:
    texts = compose([], phrases, recipe)
    return Said(texts, [1.0] * len(texts))


def modifier_line(phrases: list[str], recipe: Recipe) -> str:
    """Example: ["a woodcut", "art nouveau", "whorl"] -> "a woodcut, art nouveau, whorl" """
    return recipe.modifier_separator.join(phrases)


def compose(captions: list[str], phrases: list[str], recipe: Recipe) -> list[str]:
    """One prompt a caption; without captions the modifiers alone, without modifiers the captions alone.

    Example (separator ""): ["a spiral on it"], ["a woodcut", "swirl"] -> ["a spiral on ita woodcut, swirl"]
    """
    line = modifier_line(phrases, recipe)
    if not captions:
        return [line] if line else []
    return [caption + recipe.separator + line if line else caption for caption in captions]


def weighed_captions(
    captions: list[list[str]], scores: Sequence[list[float] | None] | None, recipe: Recipe
) -> list[Said]:
    """Each image's captions with their weights: alike, or by their `scores` where those are given: by the probability
    of a match for log odds of ITM, else by exp(cosine / temperature). The best one's weight is 1.

    Example (distinct_captions, temperature 0.1): ["a", "b", "a"], cosines [0.3, 0.4, 0.3] -> "a" 0.37, "b" 1
    """
    said = []
    for image, texts in enumerate(captions):
        known = [1.0] * len(texts)
        own = None if scores is None else scores[image]
        if own:
            if recipe.caption_weighting == ITM:
                logarithms = [-float(np.logaddexp(0, -score)) for score in own]
            else:
                logarithms = [cosine / recipe.caption_temperature for cosine in own]
            best = max(logarithms)  # taken off first, so that no exponential overflows
            known = [math.exp(logarithm - best) for logarithm in logarithms]
        if recipe.distinct_captions:
            weight_of = dict(zip(texts, known, strict=True))
            texts, known = list(weight_of), list(weight_of.values())
        said.append(Said(texts, known))
    return said


def together(by: Mapping[str, list[Said]], shares: Mapping[str, float]) -> list[Said]:
    """Each image's captions of several captioners, whose weighted means count by their `shares`, alike where none are
    given; who says nothing of an image leaves it to the others. A single captioner's are as they are.

    Example (no shares): blip2 says "a" and "b", alike, coca "c" -> "a" 0.5, "b" 0.5, "c" 1
    """
    if len(by) == 1:
        return next(iter(by.values()))
    said = []
    for image in zip(*by.values(), strict=True):
        texts, weights = list[str](), list[float]()
        for name, own in zip(by, image, strict=True):
            texts += own.texts
            weights += [shares.get(name, 1.0) * weight / sum(own.weights) for weight in own.weights]
        said.append(Said(texts, weights))
    return said


def consensus(captions: list[list[str]], encoder: SentenceEncoder, batch: int) -> list[list[float] | None]:
    """Of each image's captions the mean cosine to its others in MiniLM's space: one that nobody else says is doubted.

    Of a single caption there is nothing to say, so it gets 0. Example: a, a, b with cosine(a, b) = 0.4 -> 0.7, 0.7, 0.4
    """
    scores: list[list[float] | None] = []
    for start in range(0, len(captions), IMAGES):
        part = captions[start : start + IMAGES]
        texts = list(dict.fromkeys(text for own in part for text in own))
        rows = dict(zip(texts, encoder.encode(texts, batch), strict=True)) if texts else {}
        for own in part:
            vectors = np.array([rows[text] for text in own]).reshape(len(own), EMBEDDING_DIMENSIONS)
            # each with itself is 1, and is not counted
            sums = vectors @ vectors.sum(axis=0) - 1
            scores.append((sums / max(len(own) - 1, 1)).tolist())
    return scores


def mean_rows(known: Known, said: list[Said]) -> Making:
    """Weighted means of the texts' vectors: (n, 384), and (n,) bool, False for an image without a text."""
    usable = np.array([bool(own.texts) for own in said], dtype=bool)
    rows = np.zeros((len(said), EMBEDDING_DIMENSIONS), dtype=np.float32)
    for start in range(0, len(said), IMAGES):
        part = [own for own in said[start : start + IMAGES] if own.texts]
        if part:
            vectors = known.encoder.encode([text for own in part for text in own.texts], known.recipe.text_batch)
            weights = np.array([weight for own in part for weight in own.weights])
            counts = [len(own.texts) for own in part]
            rows[start : start + IMAGES][usable[start : start + IMAGES]] = group_means(vectors, counts, weights)
        yield len(said[start : start + IMAGES])
    return rows, usable

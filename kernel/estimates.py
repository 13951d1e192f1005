"""What each way of looking at an image says of its prompt: one MiniLM-like row an image, and where it says nothing."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from kernel.config import EMBEDDING_DIMENSIONS, Recipe
from kernel.devices import Device
from kernel.fusion import group_means, unit_rows
from kernel.neighbours import nearest, neighbour_estimate
from kernel.prompt_bank import PromptBank
from kernel.prompts import compose
from kernel.sentences import SentenceEncoder
from kernel.text_head import mean_feature

IMAGES = 256  # whose texts are in memory as vectors at a time


class Said(NamedTuple):
    """Texts that stand for one image, and how much each counts among them (above 0)."""

    texts: list[str]
    weights: list[float]


def weighed_captions(
    captions: list[list[str]], cosines: Sequence[list[float] | None] | None, recipe: Recipe
) -> list[Said]:
    """Each image's captions with their weights: alike, or by the `cosines` with the image where those are given.

    Example (distinct_captions, temperature 0.1): ["a", "b", "a"], cosines [0.3, 0.4, 0.3] -> "a" 0.37, "b" 1
    """
    said = []
    for image, texts in enumerate(captions):
        known = [1.0] * len(texts)
        own = None if cosines is None else cosines[image]
        if own:
            best = max(own)  # taken off first, so that no exponential overflows
            known = [math.exp((cosine - best) / recipe.caption_temperature) for cosine in own]
        if recipe.distinct_captions:
            weight_of = dict(zip(texts, known, strict=True))
            texts, known = list(weight_of), list(weight_of.values())
        said.append(Said(texts, known))
    return said


def said_of(name: str, captions: Said, phrases: list[str], recipe: Recipe) -> Said:
    """The texts whose weighted mean vector is the estimate: of `prompts`, `captions` or `modifiers`.

    Example (separator ", "): caption "a fish", phrases ["a woodcut", "swirl"] -> "a fish, a woodcut, swirl", "a fish"
    or "a woodcut, swirl"
    """
    if name == "captions":
        return captions
    if name == "modifiers" or not captions.texts:
        texts = compose([], phrases, recipe)
        return Said(texts, [1.0] * len(texts))
    return Said(compose(captions.texts, phrases, recipe), captions.weights)


def text_estimate(said: list[Said], encoder: SentenceEncoder, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Weighted means of the texts' vectors: (n, 384), and (n,) bool, False for an image without a text."""
    usable = np.array([bool(own.texts) for own in said], dtype=bool)
    rows = np.zeros((len(said), EMBEDDING_DIMENSIONS), dtype=np.float32)
    for start in range(0, len(said), IMAGES):
        part = [own for own in said[start : start + IMAGES] if own.texts]
        if part:
            vectors = encoder.encode([text for own in part for text in own.texts], batch)
            weights = np.array([weight for own in part for weight in own.weights])
            counts = [len(own.texts) for own in part]
            rows[start : start + IMAGES][usable[start : start + IMAGES]] = group_means(vectors, counts, weights)
    return rows, usable


def bank_estimate(
    name: str,
    image_features: np.ndarray,
    bank: PromptBank,
    recipe: Recipe,
    device: Device,
    found: Callable[[np.ndarray, np.ndarray], None] = lambda indices, cosines: None,
) -> tuple[np.ndarray, np.ndarray]:
    """What a prompt bank says of image features (n, d), `name` one of OF_BANK -> (n, 384) and (n,) bool.

    `found` is told the nearest prompts, (n, k) int64, and their cosines, (n, k), best first. A bad image's zero row is
    not usable. The head takes the images' own mean off, so it wants many images at once: of one it says nothing.
    """
    usable = np.abs(image_features).max(axis=1) > 0
    if name == "constant":
        return np.tile(unit_rows(bank.head.embedding_mean[None]), (len(image_features), 1)), usable
    if name == "head":
        return bank.head.apply(image_features, mean_feature(image_features)), usable & (usable.sum() > 1)
    if name == "regression":
        fitted = bank.fitted()
        assert fitted is not None  # checked before the first image
        return fitted.regression.apply(image_features, fitted.regression.feature_mean), usable
    indices, cosines = nearest(image_features, bank.features, recipe.neighbours, device)
    found(indices, cosines)
    weighting, temperature = recipe.neighbour_weighting, recipe.neighbour_temperature
    return neighbour_estimate(indices, cosines, bank.embeddings, weighting, temperature), usable

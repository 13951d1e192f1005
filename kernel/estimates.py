"""What each way of looking at an image says of its prompt: one MiniLM-like row an image, and where it says nothing."""

import numpy as np

from kernel.config import EMBEDDING_DIMENSIONS, Recipe
from kernel.devices import Device
from kernel.fusion import group_means, unit_rows
from kernel.neighbours import nearest, neighbour_estimate
from kernel.prompt_bank import PromptBank
from kernel.prompts import compose, modifier_line
from kernel.sentences import SentenceEncoder
from kernel.text_head import mean_feature


def said_of(name: str, captions: list[str], phrases: list[str], recipe: Recipe) -> list[str]:
    """The texts whose mean vector is the estimate: of `prompts`, `captions` or `modifiers`.

    Example (separator ", "): captions ["a fish"], phrases ["a woodcut", "swirl"] -> ["a fish, a woodcut, swirl"],
    ["a fish"] or ["a woodcut, swirl"]
    """
    if name == "captions":
        return captions
    if name == "modifiers":
        return [modifier_line(phrases, recipe)] if phrases else []
    return compose(captions, phrases, recipe)


def text_estimate(texts: list[list[str]], encoder: SentenceEncoder, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Plain means of the texts' vectors: one list an image -> (n, 384) and (n,) bool, False where there is no text."""
    usable = np.array([bool(own) for own in texts], dtype=bool)
    rows = np.zeros((len(texts), EMBEDDING_DIMENSIONS), dtype=np.float32)
    flat = [text for own in texts for text in own]
    if flat:
        rows[usable] = group_means(encoder.encode(flat, batch), [len(own) for own in texts if own])
    return rows, usable


def bank_estimate(
    name: str, image_features: np.ndarray, bank: PromptBank, recipe: Recipe, device: Device
) -> tuple[np.ndarray, np.ndarray]:
    """What a prompt bank says of image features (n, d), `name` one of OF_BANK -> (n, 384) and (n,) bool.

    A bad image's zero row is not usable. The head takes the images' own mean off, so it wants many images at once.
    """
    usable = np.abs(image_features).max(axis=1) > 0
    if name == "constant":
        return np.tile(unit_rows(bank.head.embedding_mean[None]), (len(image_features), 1)), usable
    if name == "head":
        return bank.head.apply(image_features, mean_feature(image_features)), usable
    indices, cosines = nearest(image_features, bank.features, recipe.neighbours, device)
    weighting, temperature = recipe.neighbour_weighting, recipe.neighbour_temperature
    return neighbour_estimate(indices, cosines, bank.embeddings, weighting, temperature), usable

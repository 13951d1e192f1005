"""What is known of images when estimates are made of them."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from kernel.banks.prompt_bank import PromptBank
from kernel.config import Recipe
from kernel.models.sentences import SentenceEncoder
from kernel.system.devices import Device

# Yields how many images more are done; returns rows (n, 384), and (n,) bool, False where nothing is said of an image.
Making = Generator[int, None, tuple[np.ndarray, np.ndarray]]


class Said(NamedTuple):
    """Texts that stand for one image, and how much each counts among them (above 0)."""

    texts: list[str]
    weights: list[float]


@dataclass(frozen=True)
class Known:
    """Of n images: CLIP's features (n, d) float32, a zero row for a bad one; captions and modifiers, none of a bad one.

    `encoded` are the encoders' unit rows by name, (n, 384), a zero row where one says nothing of an image.
    `found` is told the nearest prompts of the bank, (n, k) int64, and their cosines, (n, k), best first, by an estimate
    that seeks them.
    """

    recipe: Recipe
    device: Device
    encoder: SentenceEncoder
    bank: PromptBank | None
    image_features: np.ndarray
    captions: list[Said]
    modifiers: list[list[str]]
    encoded: Mapping[str, np.ndarray] = field(default_factory=dict)
    found: Callable[[np.ndarray, np.ndarray], None] = lambda indices, cosines: None

"""What a prompt bank says of images by their CLIP features: its nearest prompts, its heads, its mean prompt.

Of a bad image, whose features are a zero row, none says anything.
"""

import numpy as np

from kernel.banks.nearest import nearest, neighbour_estimate
from kernel.banks.prompt_bank import PromptBank
from kernel.estimates.known import Known, Making
from kernel.models.linear_head import mean_feature
from kernel.models.vectors import unit_rows


def neighbours(known: Known) -> Making:
    """The weighted sum of the embeddings of an image's nearest prompts."""
    bank, recipe = bank_of(known), known.recipe
    indices, cosines = nearest(known.image_features, bank.features, recipe.neighbours, known.device)
    known.found(indices, cosines)
    weighting, temperature = recipe.neighbour_weighting, recipe.neighbour_temperature
    yield len(known.image_features)
    return neighbour_estimate(indices, cosines, bank.embeddings, weighting, temperature), good(known)


def head(known: Known) -> Making:
    """The text-only head. It takes the images' own mean off, so it wants many at once: of one it says nothing."""
    usable = good(known)
    rows = bank_of(known).head.apply(known.image_features, mean_feature(known.image_features))
    yield len(known.image_features)
    return rows, usable & (usable.sum() > 1)


def constant(known: Known) -> Making:
    """The bank's mean prompt, whose share shrinks the other estimates toward it."""
    mean = unit_rows(bank_of(known).head.embedding_mean[None])
    yield len(known.image_features)
    return np.tile(mean, (len(known.image_features), 1)), good(known)


def bank_of(known: Known) -> PromptBank:
    assert known.bank is not None  # checked before the first image
    return known.bank


def good(known: Known) -> np.ndarray:
    return np.abs(known.image_features).max(axis=1) > 0

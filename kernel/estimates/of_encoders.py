"""What the weights folder's image encoders say of images: they were trained to answer with the prompt's own vector."""

import numpy as np

from kernel.config import EMBEDDING_DIMENSIONS
from kernel.estimates.known import Known, Making


def encoder(known: Known) -> Making:
    """The mean of the encoders' unit rows, by the recipe's shares among them; of an image that one has not come to,
    that of the others."""
    count = len(known.image_features)
    rows, usable = np.zeros((count, EMBEDDING_DIMENSIONS), dtype=np.float32), np.zeros(count, dtype=bool)
    for name, said in known.encoded.items():
        share = known.recipe.encoders.get(name, 0) if known.recipe.encoders else 1
        rows += share * said
        usable |= (share > 0) & (np.abs(said).max(axis=1) > 0)
    yield count
    return rows, usable

"""An image's nearest prompts of a bank, and the vector that they say together."""

import mmap
from typing import Any

import numpy as np

from kernel.errors import UserError
from kernel.models.linear_head import ADVICE
from kernel.models.vectors import check_finite, unit_rows
from kernel.system.devices import Device

BLOCK, IMAGES = 32_768, 1024  # a block of 1,024 dimensions takes 200 MB, its products with 1,024 images 134 MB
GATHERED = 25_600  # neighbours' embeddings at a time: 40 MB


def nearest(
    image_features: np.ndarray, bank_features: np.ndarray, top_k: int, device: Device, block: int = BLOCK
) -> tuple[np.ndarray, np.ndarray]:
    """The `top_k` nearest prompts of every image: indices and cosines, best first, equal cosines by lower index.

    Unit rows (n, d) float32 and (N, d) float16 -> (n, k) int64 and (n, k) float32; exact, in float32 products.
    The bank streams once, `block` rows at a time, past all images; memory is one block and (IMAGES, block) floats.
    Raises UserError when top_k is not 1 to N, or a number is not finite.
    """
    import torch

    if not 1 <= top_k <= len(bank_features):
        raise UserError(
            f"{top_k} neighbours an image asked for, the prompt bank holds {len(bank_features)} prompts; expected 1 to "
            f"{len(bank_features)}. Ask for fewer, or build a larger bank with 'python -m kernel bank'"
        )
    check_finite("image feature", image_features)
    images = torch.from_numpy(image_features).to(device.name, torch.float32)
    cosines = torch.full((len(images), top_k), -torch.inf, device=device.name)
    indices = torch.zeros((len(images), top_k), dtype=torch.int64, device=device.name)
    for start in range(0, len(bank_features), block):
        rows = torch.from_numpy(np.array(bank_features[start : start + block])).to(device.name).float()
        give_back_pages(bank_features)
        if not rows.sum().isfinite():
            last = start + len(rows) - 1
            raise UserError(f"prompt bank: features {start} to {last} are not all finite: it is damaged. {ADVICE}")
        for first in range(0, len(images), IMAGES):
            part = slice(first, first + IMAGES)
            values, found = best(images[part] @ rows.T, top_k)
            # stable, and rows of earlier blocks come first: of equal cosines the lower index stays first
            values, order = torch.cat([cosines[part], values], dim=1).sort(dim=1, descending=True, stable=True)
            found = torch.cat([indices[part], found + start], dim=1).gather(1, order)
            cosines[part], indices[part] = values[:, :top_k], found[:, :top_k]
        del rows  # before the next block comes
    return indices.cpu().numpy(), cosines.cpu().numpy()


def best(products: Any, top_k: int) -> tuple[Any, Any]:
    """The best of each row of a (n, b) tensor: values and indices, (n, min(k, b)), best first, ties by lower index.

    Example: [[0.5, 0.9, 0.5]], 2 -> [[0.9, 0.5]] and [[1, 0]]
    """
    import torch

    k = min(top_k, products.shape[1])
    if 0 < k < products.shape[1]:
        # one more than asked shows whether a tie crosses the border, where topk may keep either side
        values, found = products.topk(k + 1, dim=1)
        for row in (values[:, k - 1] == values[:, k]).nonzero()[:, 0].tolist():
            found[row] = torch.argsort(products[row], descending=True, stable=True)[: k + 1]
    else:
        found = products.topk(k, dim=1).indices
    found = found[:, :k].sort(dim=1).values
    values, order = products.gather(1, found).sort(dim=1, descending=True, stable=True)
    return values, found.gather(1, order)


def give_back_pages(matrix: np.ndarray) -> None:
    """Lets the system take back what was read of a memory map; else the whole bank would count as this process's."""
    mapped = getattr(matrix, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def neighbour_estimate(
    indices: np.ndarray, cosines: np.ndarray, embeddings: np.ndarray, weighting: str, temperature: float
) -> np.ndarray:
    """Weighted sums of the neighbours' embeddings: (n, k), (n, k), (N, 384) float16 -> (n, 384) float32 unit rows.

    A sum of zero, as of two opposite neighbours, stays a zero row. Raises UserError for a number that is not finite.
    """
    import torch

    check_finite("neighbour cosine", cosines)
    weights = neighbour_weights(cosines, weighting, temperature).ravel()
    # as they lie on the disk: of a bank that is larger than the memory every page is read once, not once an image
    order = np.argsort(indices, axis=None, kind="stable")
    sums = torch.zeros((len(indices), embeddings.shape[1]))
    for start in range(0, len(order), GATHERED):
        part = order[start : start + GATHERED]
        rows = embeddings[indices.ravel()[part]].astype(np.float32) * weights[part, None].astype(np.float32)
        sums.index_add_(0, torch.from_numpy(part // indices.shape[1]), torch.from_numpy(rows))
    if not sums.isfinite().all():
        raise UserError(f"prompt bank: an embedding is not finite: it is damaged. {ADVICE}")
    return unit_rows(sums.numpy())


def neighbour_weights(cosines: np.ndarray, weighting: str, temperature: float) -> np.ndarray:
    """Each neighbour's share, (n, k) -> (n, k) float64 whose rows sum to 1.

    "published": 1 / (distance**6 + 1e-4), the competition's public recipe. It leaves open which distance; here
    distance = 1 - cosine, to which the squared L2 distance that faiss returns is proportional (2 - 2 cosine).
    "softmax": exp(cosine / temperature); `temperature` is used by it alone. Raises UserError for other settings.
    """
    if weighting == "published":
        weights = 1 / ((1 - cosines.astype(np.float64)) ** 6 + 1e-4)
    elif weighting == "softmax" and temperature > 0:
        best = cosines.max(axis=1, keepdims=True)  # taken off first, so that no exponential overflows
        weights = np.exp((cosines.astype(np.float64) - best) / temperature)
    else:
        raise UserError(
            f"neighbour weighting {weighting!r} with temperature {temperature}; expected 'published', or 'softmax' "
            "with a temperature above 0"
        )
    return weights / weights.sum(axis=1, keepdims=True)

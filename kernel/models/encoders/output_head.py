"""From a tower's features to MiniLM's space: linear layers with ReLU between them, as plain matrices.

A ridge regression is one layer. Of Linear-BN-ReLU-Linear the normalisation is folded into the first layer, so what is
shipped, and what is trained on from there, are two.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from kernel.config import EMBEDDING_DIMENSIONS
from kernel.models.vectors import unit_rows

PREFIX = "head."


@dataclass(frozen=True)
class OutputHead:
    """Layers (weights (out, in), bias (out,)), float32; the last has 384 outputs."""

    layers: tuple[tuple[np.ndarray, np.ndarray], ...]

    def __post_init__(self) -> None:
        sizes = [weights.shape for weights, _ in self.layers]
        fits = all(after[1] == before[0] for before, after in zip(sizes, sizes[1:], strict=False))
        if not sizes or not fits or sizes[-1][0] != EMBEDDING_DIMENSIONS:
            raise ValueError(f"layers of {sizes}; expected ones that fit, the last to {EMBEDDING_DIMENSIONS}")
        if any(bias.shape != weights.shape[:1] for weights, bias in self.layers):
            raise ValueError("a layer's bias does not fit its weights")

    @property
    def inputs(self) -> int:
        return self.layers[0][0].shape[1]

    def apply(self, features: np.ndarray) -> np.ndarray:
        """(n, d) -> (n, 384) unit rows."""
        rows = features.astype(np.float32)
        for index, (weights, bias) in enumerate(self.layers):
            rows = (np.maximum(rows, 0) if index else rows) @ weights.T + bias
        return unit_rows(rows)

    def reading(self, scales: np.ndarray) -> "OutputHead":
        """The same answers for features that are not yet multiplied by `scales` (inputs,)."""
        (weights, bias), *others = self.layers
        return OutputHead(((weights * scales, bias), *others))

    def tensors(self) -> dict[str, np.ndarray]:
        return {
            f"{PREFIX}{index}.{name}": np.ascontiguousarray(tensor, dtype=np.float32)
            for index, layer in enumerate(self.layers)
            for name, tensor in zip(("weight", "bias"), layer, strict=True)
        }

    @classmethod
    def of(cls, tensors: Mapping[str, Any]) -> "OutputHead":
        """What `tensors` wrote. Raises ValueError where layers are missing or do not fit each other."""
        layers: list[tuple[np.ndarray, np.ndarray]] = []
        for index in count():
            weight, bias = (tensors.get(f"{PREFIX}{index}.{name}") for name in ("weight", "bias"))
            if weight is None or bias is None:
                return cls(tuple(layers))
            layers.append((np.asarray(weight, dtype=np.float32), np.asarray(bias, dtype=np.float32)))
        raise AssertionError

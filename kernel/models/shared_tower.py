"""A vision tower that two models of a weights folder have in common lies there once.

BLIP-2's captioners and its image-text matching were trained on one frozen tower (arXiv 2301.12597), two gigabytes in
half precision. Where its tensors are the same, the matching's file goes without them, and `tower_of` in its record of
the manifest names the captioner whose files have them.
"""

import hashlib
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from kernel.models.weights_folder import Weights, check_header
from kernel.system.tensor_files import Tensor, tensor_blocks, write_tensors

TOWER = "vision_model."  # what the names of its tensors begin with


def same_tower(weights: Weights, name: str, others: Iterable[str]) -> str:
    """Which of the `others` has the very tower of the model `name`, by name, dtype, shape and bytes; "" for none."""
    own = tower_sha256s(weights.model_folder(name))
    return next((other for other in others if own and tower_sha256s(weights.model_folder(other)) == own), "")


def tower_sha256s(folder: Path) -> dict[str, str]:
    """{tensor's name: sha256 of its dtype, shape and bytes} of a model's tower."""
    found = {}
    for path in weights_files(folder):
        for tensor in filter(is_of_tower, check_header(path)):
            digest = hashlib.sha256(f"{tensor.dtype} {tensor.shape}\n".encode())
            for block in tensor_blocks(path, tensor):
                digest.update(block)
            found[tensor.name] = digest.hexdigest()
    return found


def is_of_tower(tensor: Tensor) -> bool:
    return tensor.name.startswith(TOWER)


def weights_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def drop_tower(path: Path) -> str:
    """Writes the file anew without its tower; returns its sha256."""
    rest = [tensor for tensor in check_header(path) if not is_of_tower(tensor)]
    return write_tensors(path, rest, partial(tensor_blocks, path), {"format": "pt"})


def completed(weights: Weights, name: str) -> dict[str, Any] | None:
    """{name: tensor, mapped on the CPU} of a model and the tower that another one's files have; None where its own
    files have all."""
    if "tower_of" not in weights.models[name]:
        return None
    from safetensors import safe_open

    state: dict[str, Any] = {}
    for model, start in ((weights.models[name]["tower_of"], TOWER), (name, "")):
        for path in weights_files(weights.model_folder(model)):
            with safe_open(path, framework="pt") as file:
                state |= {key: file.get_tensor(key) for key in file.keys() if key.startswith(start)}
    return state

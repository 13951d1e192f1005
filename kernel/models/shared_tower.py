"""A vision tower that two models of a weights folder have in common lies there once.

BLIP-2's captioners and its image-text matching were trained on one frozen tower (arXiv 2301.12597), two gigabytes in
half precision. Where its tensors are the same, the matching's file goes without them; in its record of the manifest
`tower_of` names the captioner whose files have them, and `tower_sha256` the tensors themselves.
"""

import hashlib
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from kernel.errors import UserError
from kernel.models.weights_folder import ADVICE, MANIFEST, Weights, check_header, loading
from kernel.system.tensor_files import Tensor, tensor_blocks, write_tensors

TOWER = "vision_model."  # what the names of its tensors begin with


def share_tower(weights: Weights, name: str, others: Iterable[str]) -> bool:
    """Whether one of the `others` has the very tower of the model `name`, whose record then says so; its files are
    still to be written without it."""
    own = tower_sha256(weights.model_folder(name))
    whose = next((other for other in others if own and tower_sha256(weights.model_folder(other)) == own), None)
    if whose is not None:
        weights.models[name] |= {"tower_of": whose, "tower_sha256": own}
    return whose is not None


def tower_sha256(folder: Path) -> str:
    """Names a model's tower by names, dtypes, shapes and bytes of its tensors; "" for none."""
    found = {}
    for path in weights_files(folder):
        for tensor in filter(is_of_tower, check_header(path)):
            digest = hashlib.sha256()
            for block in tensor_blocks(path, tensor):
                digest.update(block)
            found[tensor.name] = f"{tensor.name} {tensor.dtype} {tensor.shape} {digest.hexdigest()}"
    return hashlib.sha256("\n".join(found[name] for name in sorted(found)).encode()).hexdigest() if found else ""


def is_of_tower(tensor: Tensor) -> bool:
    return tensor.name.startswith(TOWER)


def weights_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def write_without_tower(whole: Path, path: Path) -> str:
    """Writes the file `path` of what the file `whole` holds beside the tower; returns its sha256."""
    rest = [tensor for tensor in check_header(whole) if not is_of_tower(tensor)]
    return write_tensors(path, rest, partial(tensor_blocks, whole), {"format": "pt"})


def completed(weights: Weights, name: str) -> dict[str, Any] | None:
    """{name: tensor, mapped on the CPU} of a model and the tower that another one's files have; None where its own
    files have all. Raises UserError where that is another tower."""
    record = weights.models[name]
    if "tower_of" not in record:
        return None
    from safetensors import safe_open

    state: dict[str, Any] = {}
    for model, start in ((record["tower_of"], TOWER), (name, "")):
        folder = weights.model_folder(model)
        with loading(folder, "safetensors"):
            if model != name and tower_sha256(folder) != record["tower_sha256"]:
                raise UserError(
                    f"{folder}: its vision tower is not the one that {weights.model_folder(name)} goes without, as "
                    f"{MANIFEST} says: scores would be of another model. {ADVICE}"
                )
            for path in weights_files(folder):
                with safe_open(path, framework="pt") as file:
                    state |= {key: file.get_tensor(key) for key in file.keys() if key.startswith(start)}
    return state

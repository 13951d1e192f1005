"""Image-text matching with its vision tower in its own file, as a hub has it."""

import shutil
from pathlib import Path

from safetensors.torch import save_file

from kernel.models.image_text_matching import MATCHING
from kernel.models.shared_tower import completed
from kernel.models.weights_folder import Weights


def put_whole_matching(weights: Weights, folder: Path) -> Path:
    """Returns the file of its weights."""
    shutil.copytree(weights.model_folder(MATCHING), folder)
    state = completed(weights, MATCHING)
    save_file({name: tensor.clone() for name, tensor in state.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder / "model.safetensors"

